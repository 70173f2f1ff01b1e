"""The kernel distance against Gaussian moments, a naive sum and torchmetrics."""

import numpy as np
import pytest
import torch
from torchmetrics.image.kid import poly_mmd

from genzoo.metrics import arrays
from genzoo.metrics.kernel import kernel_distance, kernel_jackknife


def shifted_gaussians_mmd2(a: float, d: int) -> float:
    """MMD^2 of N(a, I) and N(0, I) in d dimensions under k = (x.y / d + 1)^3.

    Given x, t = x.y / d + 1 of y ~ N(b, I) is normal with mean m = b s / d + 1, s the sum of x, and variance
    |x|^2 / d^2; E t^3 = m^3 + 3 m |x|^2 / d^2. Over x ~ N(a, I): s ~ N(d a, d), E|x|^2 = d (1 + a^2), E s|x|^2 by
    coordinates.
    """

    def mean_kernel(a: float, b: float) -> float:
        mean, variance = b * a + 1, b**2 / d  # of m
        squares = d * (1 + a**2)  # E|x|^2
        mixed = d * (a**3 + 3 * a) + d * (d - 1) * a * (1 + a**2)  # E s|x|^2
        return mean**3 + 3 * mean * variance + 3 * (b * mixed / d + squares) / d**2

    return mean_kernel(a, a) - 2 * mean_kernel(a, 0) + mean_kernel(0, 0)


def test_population_value_of_shifted_gaussians() -> None:
    assert shifted_gaussians_mmd2(0.5, 8) == pytest.approx(1.1171875, rel=1e-14)
    values = [kernel_distance(torch.randn(100, 8) + 0.5, torch.randn(150, 8)) for _ in range(400)]
    error = np.std(values) / 20
    assert error < 0.02
    assert abs(np.mean(values) - 1.1171875) < 4 * error


def test_unbiased_where_nothing_differs() -> None:
    values = [kernel_distance(torch.randn(30, 5), torch.randn(20, 5)) for _ in range(400)]
    assert min(values) < 0 < max(values)
    assert abs(np.mean(values)) < 4 * np.std(values) / 20


def naive(x: np.ndarray, y: np.ndarray, degree: int) -> float:
    xx, xy, yy = ((a @ b.T / x.shape[1] + 1) ** degree for a, b in ((x, x), (x, y), (y, y)))
    n, m = len(x), len(y)
    return (xx.sum() - np.trace(xx)) / n / (n - 1) + (yy.sum() - np.trace(yy)) / m / (m - 1) - 2 * xy.mean()


@pytest.mark.parametrize("degree", [3, 2, 1])
def test_naive_sum(degree: int) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2500, 6)).astype(np.float32), rng.normal(size=(300, 6)) + 0.2  # two blocks of x
    expected = naive(x.astype(np.float64), y, degree)
    assert kernel_distance(x, y, degree) == pytest.approx(expected, rel=1e-10)
    assert kernel_distance(y, x, degree) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(("offset", "spread"), [(0.0, 1.0), (3.0, 0.5), (300.0, 1.0)])
@pytest.mark.parametrize("degree", [1, 2, 3, 4])
def test_float32_features(offset: float, spread: float, degree: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "TILE", 100)
    x, y = torch.randn(260, 64) * spread + offset + 0.1, torch.randn(230, 64) * spread + offset
    assert arrays.product_dtype(x, y) == torch.float32
    expected = naive(x.double().numpy(), y.double().numpy(), degree)
    assert kernel_distance(x, y, degree) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("scale", [1e5, 1e25])
def test_large_features_do_not_overflow(scale: float) -> None:
    x, y = torch.randn(40, 8) * scale, torch.randn(30, 8) * 2 * scale
    expected = naive(x.double().numpy(), y.double().numpy(), 3)
    assert kernel_distance(x, y) == pytest.approx(expected, rel=1e-9)


def test_torchmetrics() -> None:
    x, y = torch.randn(200, 16).double(), torch.randn(200, 16).double() * 1.2
    assert kernel_distance(x, y) == pytest.approx(poly_mmd(x, y).item(), rel=1e-10)


def test_jackknife_leaves_blocks_out() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(53, 6)), rng.normal(size=(40, 6)) + 0.2
    expected = [naive(np.delete(x, block, 0), y, 3) for block in np.array_split(np.arange(53), 7)]
    value, left_out = kernel_jackknife(x, y, 7)
    assert value == pytest.approx(naive(x, y, 3), rel=1e-10)
    assert left_out == pytest.approx(expected, rel=1e-10)


def test_refuses() -> None:
    with pytest.raises(ValueError, match="one size"):
        kernel_distance(torch.zeros(3, 2), torch.zeros(3, 4))
    with pytest.raises(ValueError, match="two samples"):
        kernel_distance(torch.zeros(3, 2), torch.zeros(1, 2))
    with pytest.raises(ValueError, match="blocks"):
        kernel_jackknife(torch.zeros(3, 2), torch.zeros(3, 2), 2)
