"""When memory runs out a batch is halved and the work goes on: the batch size changes no score."""

import gc
import warnings
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from tqdm import tqdm

Work = Callable[[int, int], Tensor]
SIGNS = (  # what errors of no class of their own say: the host's allocator, CUDA's libraries, C++
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "failed to allocate memory",
    "std::bad_alloc",
    "alloc_failed",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the host's or an accelerator's memory ran out."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in SIGNS)


def halving(work: Work, n: int, batch_size: int, name: str) -> Iterator[Tensor]:
    """work(start, size) for consecutive runs of n images, in order, each of `batch_size` or of as many as fit.

    Where memory runs out the same images come again in batches of half the size, and so do all that follow; that is
    warned of once. name: of the work, beside the progress bar. Raises ValueError if one image alone does not fit.
    """
    start, fitting = 0, batch_size
    with tqdm(total=n, desc=name, leave=False, disable=None, delay=1) as bar:
        while start < n:
            size = min(fitting, n - start)
            result = attempt(work, start, size, name)
            if result is None:
                fitting = size // 2
                continue
            if fitting < batch_size:
                tell(name, batch_size, fitting)
                batch_size = fitting
            yield result
            start += size
            bar.update(size)


def attempt(work: Work, start: int, size: int, name: str) -> Tensor | None:
    """work(start, size), or None where that took more memory than there is. Raises ValueError where `size` is 1."""
    try:
        return work(start, size)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        if size == 1:
            raise ValueError(
                f"{name}: not even one image fits in memory: stop what else uses it, or take another device."
            ) from error
    gc.collect()  # only here, where the error no longer holds what the batch had taken
    torch.cuda.empty_cache()
    return None


def tell(name: str, asked: int, fitting: int) -> None:
    warnings.warn(
        f"{name}: {asked} images at a time do not fit in memory, {fitting} do: the result is the same, and with "
        f"batch_size={fitting} it comes sooner.",
        stacklevel=3,
    )
