"""Precision, recall, density and coverage against the package prdc, bit for bit, and what theory says of equals."""

import numpy as np
import pytest
import torch
from prdc import compute_prdc
from scipy.spatial.distance import cdist

from genzoo.metrics import arrays
from genzoo.metrics.prdc import PRDC, prdc, prdc_jackknife, radii


def package(real: np.ndarray, fake: np.ndarray, k: int) -> dict[str, float]:
    return {name: float(value) for name, value in compute_prdc(real, fake, k).items()}


def plain(real: np.ndarray, fake: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return real, fake


def exact(x: np.ndarray) -> np.ndarray:
    """Rounded so that products of rows are exact: the package, which sees copies through them, then rounds no tie."""
    return np.round(x * 128) / 128


def copies(real: np.ndarray, fake: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    real, fake = exact(real), exact(fake)
    return real, np.concatenate([fake[: len(fake) // 2], real[: len(fake) // 2]])


def duplicates(real: np.ndarray, fake: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    real, fake = exact(real), exact(fake)
    return np.concatenate([real, real[:20]]), np.concatenate([fake, fake[:20], real[:9]])


def lattice(real: np.ndarray, fake: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Many equal distances."""
    return np.round(real * 2) / 2, np.round(fake * 2) / 2


@pytest.mark.parametrize("change", [plain, copies, duplicates, lattice])
@pytest.mark.parametrize(("n", "m", "d", "k"), [(60, 80, 2, 5), (100, 50, 64, 3), (33, 33, 5, 1), (2100, 90, 3, 5)])
@pytest.mark.parametrize("seed", [0, 1])
def test_package(change, n: int, m: int, d: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    real, fake = change(rng.normal(size=(n, d)), rng.normal(size=(m, d)) * 0.8 + 0.3)
    assert prdc(real, fake, k)._asdict() == package(real, fake, k)


def test_narrow_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    real, fake = torch.randn(50, 3), torch.randn(40, 3) + 0.5
    expected = prdc(real, fake, 4)
    monkeypatch.setattr(arrays, "TILE", 7)
    assert prdc(real, fake, 4) == expected


@pytest.mark.parametrize("offset", [0, 1e3])
def test_a_perfect_memory(offset: float) -> None:
    # Around a copy lie its own ball and, each sample being in k balls on average, as many as k in all: its own and
    # k - 1 others, the k-th neighbour being on the edge. In another order of rows products round otherwise.
    real = torch.randn(300, 37).double() + offset
    assert prdc(real, real.flip(0), 5) == PRDC(1, 1, 1, 1)


def by_differences(real: np.ndarray, fake: np.ndarray, k: int) -> PRDC:
    own_real, own_fake = (np.sort(cdist(x, x), axis=1)[:, k] for x in (real, fake))
    between = cdist(real, fake)
    in_real, in_fake = between < own_real[:, None], between < own_fake
    scores = in_real.any(0).mean(), in_fake.any(1).mean(), in_real.sum() / k / len(fake), in_real.any(1).mean()
    return PRDC(*map(float, scores))


@pytest.mark.parametrize("spread", [1e-5, 3e-6])
def test_tight_clusters(spread: float) -> None:
    # Squares of distances, 1e-10, are near the rounding of the squares that they are differences of, 1e-14.
    rng = np.random.default_rng(4)
    real, fake = (rng.choice([-1.0, 1.0], (n, 1)) + spread * rng.normal(size=(n, 37)) for n in (300, 250))
    assert prdc(real, fake, 5) == pytest.approx(by_differences(real, fake, 5), rel=1e-14)


def features(n: int, shift: float, offset: float, seed: int) -> torch.Tensor:
    """(n, 200) float32 about a large mean."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 6)) @ np.random.default_rng(9).normal(size=(6, 200)) + 0.2 * rng.normal(size=(n, 200))
    return torch.tensor(x + shift + offset, dtype=torch.float32)


@pytest.mark.parametrize("offset", [0.0, 100.0])
@pytest.mark.parametrize("near", [0.0, 1e-4])  # copies, and pairs whose distances float32 products cannot tell apart
def test_float32_products_decide_as_float64(offset: float, near: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "TILE", 128)
    real, fake = features(400, 0.0, offset, 5), features(330, 0.1, offset, 6)
    fake[:60] = real[:60] + near * torch.randn(60, 200)
    real[100:160] = real[:60] + near * torch.randn(60, 200)
    fake[200:206] = fake[200]
    assert arrays.product_dtype(real, fake) == torch.float32
    expected = by_differences(real.double().numpy(), fake.double().numpy(), 5)
    assert prdc(real, fake, 5) == pytest.approx(expected, rel=1e-14)
    assert radii(fake, 5).tolist() == radii(fake.double(), 5).tolist()
    found, expected = (prdc_jackknife(x, y, 5, n_blocks=4) for x, y in ((real, fake), (real.double(), fake.double())))
    assert found == expected


def test_fakes_in_many_balls() -> None:
    # Fakes near the mean of the reals lie within many balls at once.
    real = features(400, 0.0, 0.0, 5)
    fake = 0.05 * features(300, 0.0, 0.0, 7)
    expected = by_differences(real.double().numpy(), fake.double().numpy(), 5)
    assert expected.density > 2
    assert prdc(real, fake, 5) == pytest.approx(expected, rel=1e-14)


def test_the_other_way_round() -> None:
    real, fake = torch.randn(90, 4), torch.randn(70, 4) * 1.4
    assert prdc(real, fake, 3).recall == prdc(fake, real, 3).precision


def test_coverage_of_equal_distributions() -> None:
    # A real image's N - 1 peers and M fakes come in any order of distance. Its ball is empty of fakes if the first k
    # are all peers: prod over i = 1..k of (N - i) / (M + N - i).
    n, m, k = 40, 30, 3
    expected = 1 - np.prod([(n - i) / (m + n - i) for i in range(1, k + 1)])
    found = [prdc(torch.randn(n, 3), torch.randn(m, 3), k).coverage for _ in range(400)]
    error = np.std(found) / 20
    assert error < 0.01
    assert abs(np.mean(found) - expected) < 3 * error


@pytest.mark.parametrize("change", [plain, copies, duplicates, lattice])
@pytest.mark.parametrize("n_blocks", [2, 7])
def test_jackknife_leaves_blocks_out(change, n_blocks: int) -> None:
    rng = np.random.default_rng(3)
    real, fake = change(rng.normal(size=(50, 2)), rng.normal(size=(45, 2)) + 0.3)
    rest = [np.delete(fake, block, 0) for block in np.array_split(np.arange(len(fake)), n_blocks)]
    value, left_out = prdc_jackknife(real, fake, 4, n_blocks=n_blocks)
    assert value == prdc(real, fake, 4)
    assert left_out == [prdc(real, some, 4) for some in rest]


def test_a_block_with_all_neighbours_is_left_out() -> None:
    # Two rows of the second block lie among the first, whose absence leaves them only neighbours far away.
    rng = np.random.default_rng(8)
    real = 4 * rng.normal(size=(60, 2)) + 3
    fake = rng.normal(size=(80, 2))
    fake[42:] += 9
    _, left_out = prdc_jackknife(real, fake, 4, n_blocks=2)
    assert left_out == [prdc(real, fake[40:], 4), prdc(real, fake[:40], 4)]
    assert left_out[0].recall < 1


def test_refuses() -> None:
    real, fake = torch.randn(9, 2), torch.randn(6, 2)
    with pytest.raises(ValueError, match="nearest of 5"):
        prdc(real, fake, 6)
    with pytest.raises(ValueError, match="more than k"):
        prdc_jackknife(real, fake, 3, n_blocks=2)
