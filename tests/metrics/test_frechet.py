"""The Fréchet distance against closed forms, scipy's general matrix square root and numpy's nuclear norm."""

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from genzoo.metrics.frechet import (
    Moments,
    distance_from,
    distance_of,
    frechet_distance,
    infinity_fit,
    merged,
    moments,
    root_of,
)


def covariance(d: int, seed: int) -> np.ndarray:
    a = np.random.default_rng(seed).normal(size=(d, 2 * d))
    return a @ a.T / (2 * d)


def test_one_dimension() -> None:
    # (mu1 - mu2)^2 + (sigma1 - sigma2)^2
    distance = frechet_distance(np.zeros(1), np.full((1, 1), 4.0), np.full(1, 3.0), np.full((1, 1), 25.0))
    assert distance == pytest.approx(9 + 9, rel=1e-14)


def test_diagonal() -> None:
    rng = np.random.default_rng(0)
    mu1, mu2, var1, var2 = rng.normal(size=5), rng.normal(size=5), rng.random(5), rng.random(5)
    expected = ((mu1 - mu2) ** 2).sum() + ((np.sqrt(var1) - np.sqrt(var2)) ** 2).sum()
    assert frechet_distance(mu1, np.diag(var1), mu2, np.diag(var2)) == pytest.approx(expected, rel=1e-12)


def test_commuting() -> None:
    q, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(6, 6)))
    a, b = np.arange(1.0, 7), np.arange(6.0, 0, -1)
    expected = ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    distance = frechet_distance(np.zeros(6), q * a @ q.T, np.zeros(6), q * b @ q.T)
    assert distance == pytest.approx(expected, rel=1e-12)


def test_scipy_sqrtm() -> None:
    c1, c2, mu = covariance(20, 2), covariance(20, 3), np.linspace(-1, 1, 20)
    expected = (mu**2).sum() + np.trace(c1 + c2 - 2 * sqrtm(c1 @ c2).real)
    assert frechet_distance(mu, c1, np.zeros(20), c2) == pytest.approx(expected, rel=1e-10)


def test_symmetric_and_zero_for_equal() -> None:
    c1, c2, mu = covariance(8, 4), covariance(8, 5), np.ones(8)
    zero = np.zeros(8)
    assert frechet_distance(mu, c1, zero, c2) == pytest.approx(frechet_distance(zero, c2, mu, c1), rel=1e-12)
    assert frechet_distance(mu, c1, mu, c1) == pytest.approx(0, abs=1e-12)


def test_singular_covariances() -> None:
    # Two lines at right angles: the product of the covariances is zero.
    distance = frechet_distance(np.zeros(2), np.diag([1.0, 0]), np.zeros(2), np.diag([0, 4.0]))
    assert distance == pytest.approx(5, rel=1e-12)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_refuses_non_finite(bad: float) -> None:
    eye = torch.eye(2)
    with pytest.raises(ValueError, match="NaN or infinite"):
        frechet_distance(torch.tensor([0, bad]), eye, torch.zeros(2), eye)


def test_refuses_shapes_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="shapes"):
        frechet_distance(torch.zeros(2), torch.eye(3), torch.zeros(2), torch.eye(2))


def commuting(a: np.ndarray, b: np.ndarray, seed: int) -> tuple[float, float]:
    """Our distance of Q diag(a) Q^T and Q diag(b) Q^T, and its closed form."""
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(a), len(a))))
    zero = np.zeros(len(a))
    return frechet_distance(zero, q * a @ q.T, zero, q * b @ q.T), ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()


@pytest.mark.parametrize(("a", "b"), [(slice(0, 40), slice(20, 60)), (slice(0, 400), slice(0, 3)), (slice(0, 2),) * 2])
def test_rank_deficient(a: slice, b: slice) -> None:
    values = np.linspace(0.5, 2, 400)
    first, second = np.zeros(400), np.zeros(400)
    first[a], second[b] = values[a], values[::-1][b]
    distance, expected = commuting(first, second, seed=6)
    assert distance == pytest.approx(expected, rel=1e-9)


def test_spectrum_over_twelve_decades() -> None:
    # A root of an eigenvalue that is lost to rounding, 1e-16 of the largest, is 1e-8 of the largest root.
    distance, expected = commuting(np.logspace(0, -12, 50), np.logspace(-2, -8, 50), seed=7)
    assert distance == pytest.approx(expected, rel=1e-6)


def test_root_has_the_rank() -> None:
    a = np.random.default_rng(14).normal(size=(60, 7))
    root = root_of(torch.tensor(a @ a.T))
    assert root.shape == (60, 7)
    np.testing.assert_allclose(root @ root.T, a @ a.T, atol=1e-12)


def test_zero_covariances() -> None:
    zero = np.zeros((3, 3))
    assert frechet_distance(np.ones(3), zero, np.zeros(3), zero) == 3


def samples(n: int, d: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) @ (rng.normal(size=(d, d)) / d**0.5) + rng.normal(size=d)


def by_nuclear_norm(x: np.ndarray, y: np.ndarray) -> float:
    """With A = centred x / sqrt(n - 1) and B likewise, tr (cov_x cov_y)^(1/2) is the nuclear norm of A B^T."""
    a, b = ((v - v.mean(0)) / (len(v) - 1) ** 0.5 for v in (x, y))
    difference = x.mean(0) - y.mean(0)
    return (difference**2).sum() + (a**2).sum() + (b**2).sum() - 2 * np.linalg.norm(a @ b.T, "nuc")


@pytest.mark.parametrize("n_real", [20, 300])
@pytest.mark.parametrize("n", [2, 35, 40, 41, 200])
def test_distance_of_samples(n: int, n_real: int) -> None:
    real, fake = samples(n_real, 40, seed=8), samples(n, 40, seed=9)
    assert distance_of(moments(real), fake) == pytest.approx(by_nuclear_norm(real, fake), rel=1e-8)


def test_moments() -> None:
    x = (samples(5000, 6, seed=10) + 100).astype(np.float32)  # three blocks of rows
    n, mean, cov = moments(x)
    assert n == 5000
    np.testing.assert_allclose(mean, x.mean(0, dtype=np.float64), rtol=1e-12)
    np.testing.assert_allclose(cov, np.cov(x.astype(np.float64).T), rtol=1e-9)


def test_merged_moments() -> None:
    x = samples(100, 5, seed=11)
    whole = merged([moments(x[:20]), moments(x[20:22]), moments(x[22:])])
    assert whole.n == 100
    np.testing.assert_allclose(whole.mean, x.mean(0), rtol=1e-12)
    np.testing.assert_allclose(whole.cov, np.cov(x.T), rtol=1e-12)


@pytest.mark.parametrize("n", [23, 150])  # fewer than d, by Gram matrices; more, by moments
def test_leave_out(n: int) -> None:
    real, fake = samples(90, 30, seed=12), samples(n, 30, seed=13)
    expected = [by_nuclear_norm(real, np.delete(fake, block, 0)) for block in np.array_split(np.arange(n), 7)]
    assert distance_from(moments(real)).jackknife(fake, 7).left_out == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("n", [23, 150])
def test_jackknife_holds_the_distance(n: int) -> None:
    real, fake = samples(90, 30, seed=12), samples(n, 30, seed=13) + 50
    found = distance_from(moments(real)).jackknife(fake, 7)
    assert found.value == pytest.approx(by_nuclear_norm(real, fake), rel=1e-9)
    expected = [by_nuclear_norm(real, np.delete(fake, block, 0)) for block in np.array_split(np.arange(n), 7)]
    assert found.left_out == pytest.approx(expected, rel=1e-9)


def test_infinity_fit_finds_a_line() -> None:
    fit = infinity_fit(lambda x: 3 + 70 / len(x), torch.zeros(60, 2))
    assert (fit.value, fit.slope, fit.r2) == pytest.approx((3, 70, 1), rel=1e-12)
    assert fit.n == [60, 30, 20, 15, 12]


def test_infinity_fit_is_weighted_by_size() -> None:
    x = torch.randn(120, 1)
    fit = infinity_fit(lambda part: part.square().mean().item() ** 2, x, parts=4)
    n = np.array([120, 60, 40, 30])
    parts = [x.numpy().reshape(m, -1) for m in (1, 2, 3, 4)]
    assert fit.values == pytest.approx([((part**2).mean(1) ** 2).mean() for part in parts], rel=1e-5)
    slope, value = np.polyfit(1 / n, fit.values, 1, w=np.sqrt(n))  # numpy squares its weights
    assert (fit.value, fit.slope) == pytest.approx((value, slope), rel=1e-9)
    left, total = (
        np.average((fit.values - c) ** 2, weights=n) for c in (value + slope / n, np.average(fit.values, weights=n))
    )
    assert fit.r2 == pytest.approx(1 - left / total, rel=1e-9)


def test_infinity_fit_removes_the_bias() -> None:
    # Of equal distributions FD_n is d / n + d (d + 1) / 4n = 0.13; the mean of twenty fits has an error of 0.005.
    distance = distance_from(Moments(0, torch.zeros(8).double(), torch.eye(8).double()))
    sets = torch.randn(4000, 8).split(200)
    assert np.mean([distance(x) for x in sets]) == pytest.approx(0.13, abs=0.02)
    assert np.mean([infinity_fit(distance, x).value for x in sets]) == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize("bad", [torch.zeros(5), torch.full((5, 2), torch.nan), torch.full((5, 2), torch.inf)])
def test_refuses_features(bad: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="Features"):
        moments(bad)


def test_refuses_too_few() -> None:
    distance = distance_from(moments(torch.randn(5, 2)))
    with pytest.raises(ValueError, match="two samples"):
        moments(torch.zeros(1, 2))
    with pytest.raises(ValueError, match="blocks"):
        distance.jackknife(torch.zeros(5, 2), 3)
    with pytest.raises(ValueError, match="parts"):
        infinity_fit(distance, torch.zeros(5, 2), 3)
