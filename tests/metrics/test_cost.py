"""Costs: multiply-adds against written-out products, the best batch against a known law of time."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from genzoo.metrics import cost
from genzoo.nets.unet import Attention


def test_multiply_adds_of_a_convolution_and_attention() -> None:
    conv, x = nn.Conv2d(3, 16, 3, padding=1), torch.randn(2, 3, 8, 8)
    assert cost.multiply_adds(lambda: conv(x)) == 2 * 64 * 16 * 3 * 9
    attention, h = Attention(64), torch.randn(2, 64, 8, 8)
    projections, products = 64 * 64 * (3 * 64 + 64), 2 * 64 * 64 * 64
    assert cost.multiply_adds(lambda: attention(h)) == 2 * (projections + products)


def test_multiply_adds_of_fused_attention_and_its_gradient() -> None:
    q, k, v = (torch.randn(2, 4, 300, 16, requires_grad=True) for _ in range(3))
    product = 2 * 4 * 300 * 300 * 16
    assert cost.multiply_adds(lambda: functional.scaled_dot_product_attention(q, k, v)) == 2 * product
    # the gradient computes the weights again and four more products
    step = cost.multiply_adds(lambda: functional.scaled_dot_product_attention(q, k, v).sum().backward())
    assert step == (2 + 5) * product


def test_a_gradient_of_a_gradient_is_counted() -> None:
    net, x = nn.Linear(30, 1, bias=False), torch.randn(8, 30, requires_grad=True)

    def penalty() -> None:
        (gradient,) = torch.autograd.grad(net(x).tanh().sum(), x, create_graph=True)
        gradient.square().sum().backward()

    assert cost.multiply_adds(penalty) > 3 * 8 * 30


def test_counting_leaves_the_generator_alone() -> None:
    before = torch.get_rng_state()
    cost.multiply_adds(lambda: torch.randn(3))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.fixture(autouse=True)
def measured(monkeypatch) -> None:
    """As outside of tests."""
    monkeypatch.setattr(cost, "BATCHES", (1, 4, 16, 64, 256, 1024))
    monkeypatch.setattr(cost, "ENOUGH", 0.2)


@pytest.mark.parametrize(
    ("overhead", "each", "slow_from", "batch"),
    [
        (0.1, 0.001, 1000, 256),  # 1024 gains, but 256 took longer than patience asks for
        (0.1, 0.0001, 2000, 1024),
        (0.0, 0.01, 2000, 1),  # batches gain nothing
        (0.1, 0.0001, 64, 16),  # the device is full at 16
    ],
)
def test_best_batch(monkeypatch, overhead: float, each: float, slow_from: int, batch: int) -> None:
    def clock(sample: cost.Sample, n: int, device: torch.device) -> float:
        return overhead + n * each * (1 if n < slow_from else 100)

    monkeypatch.setattr(cost, "clock", clock)
    speed = cost.sampling_speed(torch.randn, torch.device("cpu"), patience=0.2)
    assert speed.batch == batch
    assert speed.latency == pytest.approx(overhead + each)
    assert speed.seconds_per_image == pytest.approx(overhead / batch + each)


def test_a_full_memory_ends_the_search(monkeypatch) -> None:
    def clock(sample: cost.Sample, n: int, device: torch.device) -> float:
        if n > 4:
            raise torch.OutOfMemoryError
        return 0.1

    monkeypatch.setattr(cost, "clock", clock)
    assert cost.sampling_speed(torch.randn, torch.device("cpu")) == cost.Speed(0.1, 0.025, 4)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 64 bytes."),
    ],
)
def test_batches_grow_as_far_as_the_memory(monkeypatch, error: Exception) -> None:
    def clock(sample: cost.Sample, n: int, device: torch.device) -> float:
        sample(n)
        return 0.1 + n * 1e-4

    def sample(n: int, error: Exception = error) -> None:
        if n > 16:
            raise error

    monkeypatch.setattr(cost, "clock", clock)
    assert cost.sampling_speed(sample, torch.device("cpu")).batch == 16
    with pytest.raises(RuntimeError, match="shapes"):
        cost.sampling_speed(lambda n: sample(n, RuntimeError("shapes cannot be multiplied")), torch.device("cpu"))
