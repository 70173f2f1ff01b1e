"""The Fréchet distance against closed forms and against scipy's general matrix square root."""

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from genzoo.metrics.frechet import frechet_distance


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
