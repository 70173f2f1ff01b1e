"""Nearest neighbours against scipy's tree, and where products of rows would round."""

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from genzoo.metrics import arrays
from genzoo.metrics.neighbours import nearest


@pytest.mark.parametrize(("n", "m", "d", "k"), [(5, 7, 1, 7), (40, 30, 3, 4), (2100, 50, 2, 1), (50, 2100, 20, 6)])
@pytest.mark.parametrize("columns", [8192, 7])
def test_scipy_tree(n: int, m: int, d: int, k: int, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "TILE", columns)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(n, d)), rng.normal(size=(m, d))
    distances, indices = cKDTree(y).query(x, list(range(1, k + 1)))
    found = nearest(x, y, k)
    np.testing.assert_allclose(found.distances, distances, rtol=1e-14)
    np.testing.assert_array_equal(found.indices, indices)


@pytest.mark.parametrize("columns", [8192, 300])
def test_exclude_self(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "TILE", columns)
    x = np.random.default_rng(1).normal(size=(2100, 3))
    x[5] = x[2070]  # a duplicate, in another block, is a neighbour
    found = nearest(x, x, 3, exclude_self=True)
    distances, _ = cKDTree(x).query(x, [2, 3, 4])
    np.testing.assert_allclose(found.distances, distances, rtol=1e-14)
    assert not (found.indices == torch.arange(2100)[:, None]).any()
    assert found.indices[5, 0] == 2070
    assert found.indices[2070, 0] == 5


def test_copies_are_at_zero() -> None:
    y = torch.randn(300, 500) + 30
    found = nearest(y[100:150].clone(), y, 2)
    assert (found.distances[:, 0] == 0).all()
    assert found.indices[:, 0].tolist() == list(range(100, 150))
    assert (found.distances[:, 1] > 1).all()


def test_large_offset_in_float32() -> None:
    y = (torch.randn(200, 4) + 1e4).numpy()
    x = (torch.randn(50, 4) + 1e4).numpy()
    distances, indices = cKDTree(y.astype(np.float64)).query(x.astype(np.float64), [1, 2])
    found = nearest(x, y, 2)
    np.testing.assert_allclose(found.distances, distances, rtol=1e-14)
    np.testing.assert_array_equal(found.indices, indices)


def test_more_ties_than_candidates_in_float32() -> None:
    # Unit vectors but for the last bits of their coordinates: all as far from 0, as float32 products can tell.
    y, x = torch.nn.functional.normalize(torch.randn(100, 300), dim=1), torch.zeros(1, 300)
    expected = y.double().square().sum(1).sqrt().sort().values[:5]
    np.testing.assert_allclose(nearest(x, y, 5).distances[0], expected, rtol=1e-14)


@pytest.mark.parametrize(("k", "exclude_self"), [(0, False), (6, False), (5, True)])
def test_refuses_k(k: int, exclude_self: bool) -> None:
    with pytest.raises(ValueError, match="k is 1 or more"):
        nearest(torch.randn(5, 2), torch.randn(5, 2), k, exclude_self)
