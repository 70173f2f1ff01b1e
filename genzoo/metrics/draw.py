"""Drawing samples: image i follows from (seed, i) alone, whatever the batch size or the processes; on another
device alike but for rounding."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode

from genzoo.generator import to_uint8
from genzoo.metrics.memory import halving
from genzoo.metrics.ranks import gathered, share


class PerImage(TorchDispatchMode):
    """Inside, row i of every random array with n rows is drawn on the host from a stream of image i's own.

    So a family may go on drawing from torch's global generator. A random array of another length is drawn from
    that generator as ever.
    """

    def __init__(self, states: list[Tensor]) -> None:
        """states: of the host's generator, one for each of the n images of a batch."""
        super().__init__()
        self.states = states

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        n = len(self.states)
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **kwargs)
        whole = func(*args, **kwargs)
        if not isinstance(whole, Tensor) or whole.dim() == 0 or len(whole) != n or "randperm" in str(func):
            return whole
        shared = "multinomial" in str(func) and args[0].dim() == 1  # weights of all images
        rows = [self.row(i, func, args, kwargs, shared) for i in range(n)]
        return whole.copy_(torch.cat(rows))

    def row(self, i: int, func: Any, args: tuple, kwargs: dict[str, Any], shared: bool) -> Tensor:
        """What `func` would draw for image i alone, (1, ...) on the host."""
        n = len(self.states)

        def alone(argument: Any) -> Any:
            if isinstance(argument, Tensor):
                mine = argument[i : i + 1] if argument.dim() and len(argument) == n and not shared else argument
                return mine.cpu().clone()  # a clone, since normal_ and its like write into it
            if isinstance(argument, list | tuple) and argument and argument[0] == n:
                return [1, *argument[1:]]
            return 1 if shared and argument == n and not isinstance(argument, bool) else argument

        kwargs = {key: torch.device("cpu") if key == "device" else alone(value) for key, value in kwargs.items()}
        torch.set_rng_state(self.states[i])
        drawn = func(*map(alone, args), **kwargs)
        self.states[i] = torch.get_rng_state()
        return drawn


@contextmanager
def per_image(seed: int, first: int, n: int) -> Iterator[None]:
    """Random numbers for the images first, ..., first + n - 1 of the seed; torch's generators are left as they were."""
    # Streams are told apart by the 32 bits that torch's host generator is started with: counted, they never meet.
    start = int.from_bytes(hashlib.sha256(str(seed).encode()).digest()[:4])
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        streams = [torch.Generator().manual_seed((start + i) % 2**32) for i in range(first, first + n)]
        torch.manual_seed(seed)
        with PerImage([stream.get_state() for stream in streams]):
            yield


@contextmanager
def set_aside() -> Iterator[None]:
    """Leave `per_image` for a while: under it a network would not run compiled. Only for what draws nothing."""
    mode = _get_current_dispatch_mode()
    if not isinstance(mode, PerImage):
        yield
        return
    mode.__exit__(None, None, None)
    try:
        yield
    finally:
        mode.__enter__()


@torch.no_grad()
def draw(
    sample: Callable[..., Tensor],
    n: int,
    batch_size: int = 256,
    seed: int = 0,
    first: int = 0,
    y: Tensor | None = None,
) -> Tensor:
    """The images first, ..., first + n - 1 of a seed, uint8 (n, C, H, W) on the host.

    sample: takes a number of images, gives (that many, C, H, W) in [-1, 1] with torch's global generator.
    y: conditions (n, ...) that `sample` also takes, a row an image; None asks for nothing.
    batch_size: images at a time, or as many as fit in memory.
    Raises ValueError if a sample holds NaN or infinity.
    """

    def batch(start: int, size: int) -> Tensor:
        asked = () if y is None else (y[start : start + size],)
        with per_image(seed, first + start, size):
            return to_uint8(finite(sample(size, *asked))).cpu()

    return torch.cat(list(halving(batch, n, batch_size, "sampling")))


def draw_together(
    sample: Callable[..., Tensor], n: int, batch_size: int = 256, seed: int = 0, y: Tensor | None = None
) -> Tensor:
    """The first n images of a seed, of which each process of a training draws its share and has all."""
    mine = share(n)
    asked = None if y is None else y[mine.start : mine.stop]
    return gathered(draw(sample, len(mine), batch_size, seed, mine.start, asked))


def finite(x: Tensor) -> Tensor:
    """x (n, ...) itself; raises ValueError if any of its n samples holds NaN or infinity."""
    bad = int((~x.isfinite()).flatten(1).any(1).sum())
    if bad:
        raise ValueError(
            f"{bad} of {len(x)} samples hold NaN or infinity, so they have no score: "
            "train with a smaller learning rate or tighter gradient clipping."
        )
    return x
