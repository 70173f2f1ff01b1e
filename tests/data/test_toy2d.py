"""The toy densities: they integrate to one, and the samples follow them."""

import pytest
import torch

from genzoo.data.toy2d import KINDS, log_density, sample, toy2d

KINDS_ = sorted(KINDS)


def grid(cells: int, per_cell: int) -> torch.Tensor:
    """Midpoints of squares that tile [-1, 1]^2: (cells, per_cell, cells, per_cell, 2)."""
    n = cells * per_cell
    line = (torch.arange(n, dtype=torch.float64) + 0.5) * 2 / n - 1
    points = torch.cartesian_prod(line, line)
    return points.view(cells, per_cell, cells, per_cell, 2)


@pytest.mark.parametrize("kind", KINDS_)
def test_samples_follow_the_density(kind: str) -> None:
    cells, per_cell, n = 16, 64, 100_000
    points = grid(cells, per_cell)
    mass = log_density(kind, points.view(-1, 2)).exp().view(points.shape[:4]) * (2 / (cells * per_cell)) ** 2
    assert abs(mass.sum() - 1) < 2e-3
    expected = mass.sum((1, 3)) * n  # (cells, cells)
    x, _ = sample(kind, n, seed=7)
    index = ((x[:, :, 0, 0] + 1) / 2 * cells).long().clip(0, cells - 1)
    seen = torch.bincount(index[:, 0] * cells + index[:, 1], minlength=cells**2).view(cells, cells)
    assert seen[expected < 1e-6].sum() == 0
    busy = expected > 20
    chi2, freedom = ((seen - expected) ** 2 / expected)[busy].sum(), busy.sum()
    assert chi2 < freedom + 5 * (2 * freedom) ** 0.5


@pytest.mark.parametrize("kind", KINDS_)
def test_points_are_like_images_and_parts_equally_likely(kind: str) -> None:
    splits = toy2d(kind, train=8000, val=80, test=400)
    x, y = splits.train
    assert x.shape == (8000, 2, 1, 1) and x.dtype == torch.float32 and y.dtype == torch.int64
    assert x.abs().max() <= 1
    parts = KINDS[kind].parts
    assert y.max() == parts - 1 and (y.bincount() - 8000 / parts).abs().max() < 5 * (8000 / parts) ** 0.5
    rows = torch.cat([part.x for part in splits[:3]]).flatten(1)
    assert len(rows.unique(dim=0)) == 8480  # no point twice
    assert torch.equal(sample(kind, 80, seed=1).x, splits.val.x)


def test_an_unknown_kind_is_named() -> None:
    with pytest.raises(ValueError, match=r"'spiral'.*rings, moons"):
        toy2d("spiral")
