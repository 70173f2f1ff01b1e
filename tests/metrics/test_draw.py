"""Drawing samples: reproducible, quantised, finite, and no trace in torch's global generator."""

import pytest
import torch
from torch import Tensor

from genzoo.metrics.evaluate import draw

SHAPE = (1, 8, 8)


def samples(n: int) -> Tensor:
    return torch.randn(n, *SHAPE).tanh()


def test_draw_is_reproducible_and_leaves_the_generator_alone() -> None:
    before = torch.get_rng_state()
    first, seconds = draw(samples, 10, batch_size=4, seed=3)
    again, _ = draw(samples, 10, batch_size=4, seed=3)
    other, _ = draw(samples, 10, batch_size=4, seed=4)
    assert torch.equal(torch.get_rng_state(), before)
    assert first.shape == (10, *SHAPE)
    assert first.dtype == torch.uint8
    assert seconds > 0
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_draw_asks_for_no_more_than_n_and_needs_no_gradient() -> None:
    asked = []

    def sample(n: int) -> Tensor:
        asked.append((n, torch.is_grad_enabled()))
        return samples(n)

    draw(sample, 10, batch_size=4, seed=0)
    assert asked == [(4, False), (4, False), (2, False)]


def test_draw_quantises_every_level_back_to_itself() -> None:
    levels = torch.arange(256, dtype=torch.uint8).view(4, *SHAPE)
    fakes, _ = draw(lambda n: levels.float() / 127.5 - 1, 4, batch_size=4, seed=0)
    assert torch.equal(fakes, levels)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_draw_refuses_non_finite_samples(bad: float) -> None:
    def sample(n: int) -> Tensor:
        x = torch.zeros(n, *SHAPE)
        x[1, 0, 0, 0] = x[3, 0, 1, :2] = bad
        return x

    with pytest.raises(ValueError, match="2 of 5 samples hold NaN or infinity"):
        draw(sample, 5, batch_size=5, seed=0)
