"""Drawing samples: image i follows from (seed, i), quantised, finite, and no trace in torch's global generator."""

from collections.abc import Callable

import pytest
import torch
from scipy import stats
from torch import Tensor

from genzoo.metrics.draw import draw, per_image

SHAPE = (1, 8, 8)
WAYS: dict[str, Callable[[int], Tensor]] = {
    "randn": lambda n: torch.randn(n, 3),
    "randn_like": lambda n: torch.randn_like(torch.zeros(n, 40)),
    "rand": lambda n: torch.rand(n, 2, 2, dtype=torch.float64),
    "randint": lambda n: torch.randint(10**6, (n,)),
    "normal": lambda n: torch.normal(torch.zeros(n, 3), 2.0),
    "normal_": lambda n: torch.zeros(n, 3).normal_(),
    "uniform_": lambda n: torch.zeros(n, 3).uniform_(-1, 1),
    "bernoulli": lambda n: torch.bernoulli(torch.full((n, 60), 0.5)),
    "shared weights": lambda n: torch.multinomial(torch.ones(1000), n, replacement=True),
    "as many weights as images": lambda n: torch.multinomial(torch.arange(n) + 1.0, n, replacement=True),
    "weights of each": lambda n: torch.multinomial(torch.ones(n, 1000), 2),
    "distribution": lambda n: torch.distributions.Laplace(0.0, 1.0).sample((n, 2)),
    "two draws": lambda n: torch.randn(n, 2) + torch.rand(n, 1),
}


def samples(n: int) -> Tensor:
    return torch.randn(n, *SHAPE).tanh()


def drawn(way: Callable[[int], Tensor], first: int, n: int, seed: int = 3) -> Tensor:
    with per_image(seed, first, n):
        return way(n)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_an_image_depends_on_its_index_alone(way: Callable[[int], Tensor]) -> None:
    whole = drawn(way, 0, 12)
    assert torch.equal(drawn(way, 0, 12), whole)
    if way is not WAYS["as many weights as images"]:  # which are other weights for another n
        assert torch.equal(drawn(way, 4, 5), whole[4:9])
        assert torch.equal(drawn(way, 11, 1), whole[11:])
    assert len(whole.unique(dim=0)) > 1
    assert not torch.equal(drawn(way, 0, 12, seed=4), whole)


def test_rows_are_independent_normals() -> None:
    x = drawn(lambda n: torch.randn(n, 20), 0, 2000)
    assert stats.kstest(x.flatten(), "norm").pvalue > 0.01
    # the largest of 1999 correlations of neighbouring rows, each N(0, 1/20) if they are independent
    neighbours = (x[1:] * x[:-1]).mean(1) * 20**0.5
    assert abs(neighbours.mean()) < 4 / 1999**0.5
    assert neighbours.std().item() == pytest.approx(1, abs=0.1)


def test_other_lengths_are_drawn_as_ever() -> None:
    torch.manual_seed(3)
    expected = torch.randn(7, 2)
    assert torch.equal(drawn(lambda n: torch.randn(7, 2), 0, 12), expected)
    permutation = drawn(lambda n: torch.randperm(n), 0, 12)
    assert permutation.sort().values.tolist() == list(range(12))


def test_draw_leaves_the_generator_alone() -> None:
    before = torch.get_rng_state()
    first = draw(samples, 10, batch_size=4, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    assert first.shape == (10, *SHAPE)
    assert first.dtype == torch.uint8
    assert torch.equal(first, draw(samples, 10, batch_size=4, seed=3))
    assert not torch.equal(first, draw(samples, 10, batch_size=4, seed=4))


@pytest.mark.parametrize("batch_size", [1, 3, 10])
def test_neither_batch_size_nor_start_matters(batch_size: int) -> None:
    whole = draw(samples, 10, batch_size=10, seed=3)
    assert torch.equal(draw(samples, 10, batch_size, seed=3), whole)
    assert torch.equal(draw(samples, 6, batch_size, seed=3, first=4), whole[4:])


def test_draw_asks_for_no_more_than_n_and_needs_no_gradient() -> None:
    asked = []

    def sample(n: int) -> Tensor:
        asked.append((n, torch.is_grad_enabled()))
        return samples(n)

    draw(sample, 10, batch_size=4, seed=0)
    assert asked == [(4, False), (4, False), (2, False)]


def test_draw_quantises_every_level_back_to_itself() -> None:
    levels = torch.arange(256, dtype=torch.uint8).view(4, *SHAPE)
    assert torch.equal(draw(lambda n: levels.float() / 127.5 - 1, 4, batch_size=4, seed=0), levels)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_draw_refuses_non_finite_samples(bad: float) -> None:
    def sample(n: int) -> Tensor:
        x = torch.zeros(n, *SHAPE)
        x[1, 0, 0, 0] = x[3, 0, 1, :2] = bad
        return x

    with pytest.raises(ValueError, match="2 of 5 samples hold NaN or infinity"):
        draw(sample, 5, batch_size=5, seed=0)
