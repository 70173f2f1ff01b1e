"""Intervals against scipy, and how often they hold a truth that is known: 90 to 99% over 200 repeats."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import gammaln
from torch import Tensor

from genzoo.metrics.frechet import DistanceFrom, Moments, distance_from, infinity_fit
from genzoo.metrics.intervals import (
    errors,
    jackknife,
    repeats_interval,
    replicates_error,
    share_interval,
    t_interval,
)
from genzoo.metrics.kernel import kernel_jackknife
from genzoo.metrics.prdc import prdc_jackknife, radii


class Two(NamedTuple):
    mean: float
    half: float


def two(x: Tensor) -> Two:
    return Two(x.mean().item(), x.mean().item() / 2)


@pytest.mark.parametrize("n_blocks", [6, 60])
def test_jackknife_of_a_mean(n_blocks: int) -> None:
    # Of a mean it is the standard error of the mean of the blocks' means.
    x = torch.randn(60).double()
    expected = stats.sem(x.reshape(n_blocks, -1).mean(1).numpy())
    assert jackknife(lambda v: v.mean().item(), x, n_blocks) == pytest.approx(expected, rel=1e-12)
    assert jackknife(two, x, n_blocks) == pytest.approx((expected, expected / 2), rel=1e-12)
    assert isinstance(jackknife(two, x, n_blocks), Two)
    assert jackknife(lambda v: tuple(two(v)), x, n_blocks) == pytest.approx((expected, expected / 2), rel=1e-12)


def test_t_interval() -> None:
    expected = stats.t.interval(0.95, df=9, loc=2.0, scale=0.3)
    assert t_interval(2.0, 0.3, 9) == pytest.approx(expected, rel=1e-9)


def test_repeats_interval() -> None:
    values = [3.0, 4.5, 2.5, 3.5]
    mean, std, interval = repeats_interval(values)
    assert (mean, std) == pytest.approx((np.mean(values), np.std(values, ddof=1)), rel=1e-12)
    assert interval == pytest.approx(stats.ttest_1samp(values, 0).confidence_interval(), rel=1e-9)


@pytest.mark.parametrize("hits", [0, 1, 20, 40])
def test_share_interval_is_wilsons_for_independent_samples(hits: int) -> None:
    p, many = hits / 40, 10**9  # so many degrees of freedom that t is normal
    expected = stats.binomtest(hits, 40).proportion_ci(method="wilson")
    assert share_interval(p, (p * (1 - p) / 40) ** 0.5, 40, many) == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_share_interval_is_wider_for_dependent_samples() -> None:
    independent = share_interval(0.9, 0.03, 100, 9)
    dependent = share_interval(0.9, 0.06, 100, 9)
    assert dependent == pytest.approx(share_interval(0.9, 0.03, 25, 9), rel=1e-12)
    assert dependent[0] < independent[0] < 0.9 < independent[1] < dependent[1] < 1


def test_refuses_single_values() -> None:
    for function in (replicates_error, repeats_interval):
        with pytest.raises(ValueError, match="two"):
            function([1.0])
    with pytest.raises(ValueError, match="blocks"):
        jackknife(two, torch.zeros(5), 6)


def covered(truth: float, intervals: Iterable[tuple[float, float]]) -> float:
    """The share of intervals that hold the truth."""
    return np.mean([low <= truth <= high for low, high in intervals])


def blocked(value: float, left_out: list[float]) -> tuple[float, float]:
    return t_interval(value, replicates_error(left_out), len(left_out) - 1)


@pytest.mark.slow
def test_kernel_distance_is_held() -> None:
    d, a, y = 8, 0.5, torch.randn(200, 8).double()
    # x ~ N(a, I) against these y, as in test_kernel: E k(x, x') in closed form, E k(x, y) given y likewise.
    m, v = y.sum(1) * a / d + 1, y.square().sum(1) / d**2
    across = (m**3 + 3 * m * v).mean().item()
    mean, mixed = a * a + 1, d * (a**3 + 3 * a) + d * (d - 1) * a * (1 + a**2)
    own = mean**3 + 3 * mean * a**2 / d + 3 * (a * mixed / d + d * (1 + a**2)) / d**2
    kernel = (y @ y.T / d + 1) ** 3
    truth = own - 2 * across + (kernel.sum() - kernel.trace()).item() / (200 * 199)
    found = [kernel_jackknife(torch.randn(150, d) + a, y) for _ in range(200)]
    assert 0.9 <= covered(truth, [blocked(*pair) for pair in found]) <= 0.99


def standard_normal(d: int) -> DistanceFrom:
    return distance_from(Moments(0, torch.zeros(d).double(), torch.eye(d).double()))


def mean_distance(mu: float, sigma: float, n: int, d: int) -> float:
    """E[FD_n] of n samples of N(mu, sigma^2 I) from N(0, I): d (mu^2 + sigma^2/n + sigma^2 + 1) - 2 E tr S^(1/2).

    For d = 1, E s = sigma sqrt(2 / (n - 1)) Gamma(n / 2) / Gamma((n - 1) / 2); else over 20,000 draws of Wishart's S.
    """
    if d == 1:
        root = sigma * (2 / (n - 1)) ** 0.5 * np.exp(gammaln(n / 2) - gammaln((n - 1) / 2))
    else:
        draws = stats.wishart(n - 1, np.eye(d) * sigma**2 / (n - 1)).rvs(20_000, random_state=0)
        root = np.sqrt(np.linalg.eigvalsh(draws)).sum(1).mean()
    return d * (mu**2 + sigma**2 / n + sigma**2 + 1) - 2 * root


CASES = [(0.5, 1.0, 100, 1), (0.2, 1.3, 150, 4), (0.0, 1.0, 150, 4)]  # the last has no distance but the bias


@pytest.mark.parametrize(("mu", "sigma", "n", "d"), CASES)
def test_frechet_distances_are_held(mu: float, sigma: float, n: int, d: int) -> None:
    # All sizes of the fit share the linear part of the noise, and its weights on them add to 1: that of infinitely many
    # has the error of FD_n.
    distance = standard_normal(d)
    sets = (torch.randn(n, d) * sigma + mu for _ in range(120))
    found = [(distance(x), infinity_fit(distance, x).value, distance.jackknife(x).left_out) for x in sets]
    at_n, at_infinity = mean_distance(mu, sigma, n, d), d * (mu**2 + (sigma - 1) ** 2)
    assert 0.9 <= covered(at_n, [blocked(value, left_out) for value, _, left_out in found]) <= 0.99
    assert 0.9 <= covered(at_infinity, [blocked(value, left_out) for _, value, left_out in found]) <= 0.99


def test_repeats_are_held() -> None:
    distance = standard_normal(4)
    sets = [[distance(torch.randn(60, 4) * 1.3 + 0.2) for _ in range(5)] for _ in range(200)]
    assert 0.9 <= covered(mean_distance(0.2, 1.3, 60, 4), [repeats_interval(values)[2] for values in sets]) <= 0.99


def on_a_line(real: Tensor, reach: Tensor, mu: float, sigma: float, m: int) -> tuple[float, float, float]:
    """What precision, density (k = 5) and coverage of m samples of N(mu, sigma^2) are on average, given real (n, 1)."""
    low, high = (stats.norm.cdf((real[:, 0] + s * reach).numpy(), mu, sigma) for s in (-1, 1))
    inside = high - low
    order = np.argsort(low)  # the union of the intervals, from left to right
    ends = np.maximum.accumulate(high[order])
    union = ends[0] - low[order][0] + np.maximum(ends[1:] - np.maximum(low[order][1:], ends[:-1]), 0).sum()
    return union, inside.sum() / 5, (1 - (1 - inside) ** m).mean()


@pytest.mark.slow
def test_neighbourhoods_are_held() -> None:
    mu, sigma, n, m = 1.0, 1.2, 100, 100
    real = torch.randn(n, 1).double()
    reach = radii(real, 5)
    found = [prdc_jackknife(real, torch.randn(m, 1) * sigma + mu, 5) for _ in range(200)]
    truths = dict(zip(("precision", "density", "coverage"), on_a_line(real, reach, mu, sigma, m)))

    def held(name: str, interval: Callable[[float, float], tuple[float, float]]) -> float:
        pairs = [(getattr(value, name), getattr(errors(left_out), name)) for value, left_out in found]
        return covered(truths[name], [interval(*pair) for pair in pairs])

    assert 0.9 <= held("density", partial(t_interval, dof=9)) <= 0.99
    assert 0.9 <= held("precision", partial(share_interval, n=m, dof=9)) <= 0.99
    assert 0.9 <= held("coverage", partial(share_interval, n=m, dof=9)) <= 0.99


@pytest.mark.parametrize("p", [0.9999, 0.998, 0.97])
def test_shares_near_one_are_held(p: float) -> None:
    # The jackknife of a share that is 1 is 0: t_interval held 0.9998 in 4% of cases.
    shares = stats.binom(200, p).rvs(200, random_state=0) / 200
    found = [share_interval(share, (share * (1 - share) / 200) ** 0.5, 200, 9) for share in shares]
    assert covered(p, found) >= 0.9
