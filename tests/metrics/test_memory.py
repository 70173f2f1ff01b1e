"""Out of memory: what it is, and that halved batches give what whole ones do, the last time for real."""

import multiprocessing
import os
import resource
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from genzoo.generator import Generator, Likelihood
from genzoo.metrics.draw import draw
from genzoo.metrics.features import classifier, extract
from genzoo.metrics.likelihood import log_probs
from genzoo.metrics.memory import halving, is_out_of_memory

SHAPE = (1, 8, 8)
HOST = "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate"
WINDOWS = "alloc_cpu.cpp:80 data. DefaultCPUAllocator: not enough memory: you tried to allocate 4194304 bytes."
FULL = {
    "CUDA": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "Python or numpy": MemoryError("Unable to allocate 8.00 GiB for an array"),
    "Linux": RuntimeError(HOST),
    "Windows": RuntimeError(WINDOWS),
    "cuBLAS": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    "bare MemoryError": MemoryError(),
}
full = pytest.mark.parametrize("error", FULL.values(), ids=FULL)


def small(inner: Callable, error: Exception, most: int) -> Callable:
    """`inner`, in a memory that holds `most` images."""

    def work(x: int | Tensor) -> Tensor:
        if (x if isinstance(x, int) else len(x)) > most:
            raise error
        return inner(x)

    return work


def samples(n: int) -> Tensor:
    return torch.randn(n, *SHAPE).tanh()


@full
def test_it_is_recognised(error: Exception) -> None:
    assert is_out_of_memory(error)


def test_other_errors_are_not() -> None:
    for other in (ValueError("out of memory"), RuntimeError("mat1 and mat2 shapes cannot be multiplied"), OSError()):
        assert not is_out_of_memory(other)
    with pytest.raises(RuntimeError, match="shapes"):
        draw(small(samples, RuntimeError("shapes"), 3), 8, batch_size=4)


@full
def test_halved_samples_are_the_same(error: Exception) -> None:
    whole, state = draw(samples, 20, batch_size=16, seed=3), torch.get_rng_state()
    told = r"sampling: 16 images at a time do not fit in memory, 4 do: the result is the same.*batch_size=4"
    with pytest.warns(UserWarning, match=told) as caught:
        halved = draw(small(samples, error, 5), 20, batch_size=16, seed=3)
    assert len(caught) == 1
    assert torch.equal(halved, whole)
    assert torch.equal(torch.get_rng_state(), state)


def test_memory_that_shrinks_on_the_way() -> None:
    sizes = []

    def work(start: int, size: int) -> Tensor:
        if size > (8 if start < 16 else 2):
            raise MemoryError
        sizes.append(size)
        return torch.arange(start, start + size)

    with pytest.warns(UserWarning):
        assert torch.cat(list(halving(work, 21, 8, "work"))).tolist() == list(range(21))
    assert sizes == [8, 8, 2, 2, 1]


def test_features_of_halved_batches_are_the_same() -> None:
    images, extractor = draw(samples, 40), classifier("digits")
    whole = extract(images, extractor, batch_size=40)
    forward = extractor.forward
    extractor.forward = small(forward, FULL["CUDA"], 7)
    with pytest.warns(UserWarning, match="features: 40 images"):
        halved = extract(images, extractor, batch_size=40)
    assert torch.equal(halved, extract(images, extractor, batch_size=5))
    assert torch.allclose(halved, whole, rtol=1e-6, atol=1e-6)


def test_likelihoods_of_halved_batches_are_the_same() -> None:
    images, model = draw(samples, 30), Generator(SHAPE, torch.optim.SGD)

    def log_prob(x: Tensor) -> Tensor:
        return (x + torch.randn_like(x)).flatten(1).double().sum(1)

    def ways(function: Callable) -> Tensor:
        return log_probs(Likelihood("exact", "log p(x)", function), images, model, 12, seed=0)

    whole = ways(log_prob)
    with pytest.warns(UserWarning, match=r"log p\(x\): 12 images"):
        assert torch.equal(ways(small(log_prob, FULL["Linux"], 4)), whole)


@full
def test_one_image_too_many_is_told(error: Exception) -> None:
    with pytest.raises(ValueError, match=r"^sampling: not even one image fits in memory: stop") as raised:
        draw(small(samples, error, 0), 4, batch_size=4)
    assert raised.value.__cause__ is error


def test_what_failed_is_freed_before_the_next_attempt() -> None:
    """Counted by tensors that live: the frames of a kept error would hold them."""
    alive: list[int] = []

    class Held(nn.Module):
        living = 0

        def __init__(self) -> None:
            super().__init__()
            Held.living += 1

        def __del__(self) -> None:
            Held.living -= 1

    def work(start: int, size: int) -> Tensor:
        alive.append(Held.living)
        held = Held()
        if size > 2:
            raise MemoryError
        return torch.zeros(size, dtype=torch.long) + isinstance(held, Held)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert torch.cat(list(halving(work, 8, 8, "work"))).sum() == 8
    assert set(alive) == {0}


def large(n: int) -> Tensor:
    """Samples that take 8 MB each on their way."""
    noise = torch.randn(n, 1, 4, 4)
    return (noise[..., None] * torch.ones(2**17)).mean(-1).tanh()


def draw_in_little_memory(whole: Tensor) -> None:
    """Exit with 0 if 40 images in 256 MB are those that were drawn before, and a warning has said how."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, resource.RLIM_INFINITY))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        same = torch.equal(draw(large, 40, batch_size=40), whole)
    told = "40 images at a time do not fit in memory" in str(caught[0].message) if caught else False
    os._exit(0 if same and told else 1)


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS is Linux's")
def test_a_batch_that_does_not_fit_for_real() -> None:
    whole = draw(large, 40, batch_size=4)
    process = multiprocessing.get_context("fork").Process(target=draw_in_little_memory, args=(whole,))
    process.start()
    process.join(60)
    assert process.exitcode == 0
