"""Memorisation scores against scipy's rank test, scikit-learn's neighbours and cases counted by hand."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import mannwhitneyu, norm
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from genzoo.metrics.memorisation import authenticity, copying, mann_whitney_z


def line(*points: float) -> Tensor:
    return torch.tensor(points)[:, None]


def test_authenticity_by_hand() -> None:
    # Nearest to 0.4 is 0, at 0.4, and 0's own nearest is 1 away: a copy. Nearest to 5.5 is 3, at 2.5, its own 2 away.
    assert authenticity(line(0, 1, 3), line(0.4, 5.5, 3, -1.1)) == 50
    assert authenticity(line(0, 1, 3), line(0.4, 5.5, 3, -1.1), train_nn=torch.zeros(3)) == 75


def test_authenticity_against_scikit_learn() -> None:
    train, fake = torch.randn(200, 5).double(), torch.randn(150, 5).double()
    tree = NearestNeighbors().fit(train.numpy())
    own = tree.kneighbors(n_neighbors=1)[0][:, 0]
    distances, index = tree.kneighbors(fake.numpy(), 1)
    assert authenticity(train, fake) == pytest.approx(100 * (distances[:, 0] > own[index[:, 0]]).mean(), rel=1e-12)


def scipy_z(a: np.ndarray, b: np.ndarray) -> float:
    found = mannwhitneyu(a, b, alternative="less", method="asymptotic", use_continuity=False)
    return norm.ppf(found.pvalue)


@pytest.mark.parametrize("levels", [3, 20, 10**6])  # few levels, many ties
@pytest.mark.parametrize("shift", [-0.3, 0.0, 0.3])
def test_mann_whitney(levels: int, shift: float) -> None:
    a, b = torch.rand(40) + shift, torch.rand(70)
    a, b = ((x * levels).round().double() for x in (a, b))
    assert mann_whitney_z(a, b) == pytest.approx(scipy_z(a.numpy(), b.numpy()), rel=1e-9, abs=1e-12)


def test_mann_whitney_of_equal_values() -> None:
    assert mann_whitney_z(torch.ones(5), torch.ones(7)) == 0


def test_one_cell() -> None:
    train, test, fake = (torch.randn(n, 3).double() for n in (100, 60, 50))
    tree = NearestNeighbors().fit(train.numpy())
    ours, theirs = (tree.kneighbors(x.numpy(), 1)[0][:, 0] for x in (fake, test))
    assert copying(train, test, fake, cells=1) == pytest.approx(scipy_z(ours, theirs), rel=1e-9)


def test_cells_are_weighted_by_the_test_set() -> None:
    # Three clusters far apart: 30 and 60 test images, and one that has 19 samples, too few to say anything.
    centres = torch.tensor([[0.0, 0.0], [100, 0], [0, 100]])
    train, test, fake = (
        torch.cat([c + torch.randn(n, 2) * s for c, n in zip(centres, sizes)]).double()
        for sizes, s in (((80, 80, 80), 1), ((30, 60, 50), 1), ((40, 20, 19), 0.7))
    )
    tree = NearestNeighbors().fit(train.numpy())
    ours, theirs = (tree.kneighbors(x.numpy(), 1)[0][:, 0] for x in (fake, test))
    first, second = scipy_z(ours[:40], theirs[:30]), scipy_z(ours[40:60], theirs[30:90])
    assert copying(train, test, fake) == pytest.approx((30 * first + 60 * second) / 90, rel=1e-9)


def ring(n: int) -> Tensor:
    """Eight narrow modes."""
    angle = torch.randint(8, (n,)) * math.pi / 4
    return torch.stack([angle.cos(), angle.sin()], 1) + 0.05 * torch.randn(n, 2)


def test_ring() -> None:
    train, test = ring(1000), ring(1000)
    copies = train[torch.randperm(1000)] + 1e-4 * torch.randn(1000, 2)
    assert copying(train, test, copies) < -20
    assert copying(train, test, train) < -20  # exact copies are ties
    assert copying(train, test, ring(1000) * 1.5) > 20
    assert authenticity(train, copies) < 2


def test_null_is_within_a_standard_deviation() -> None:
    found = [copying(torch.randn(300, 2), torch.randn(200, 2), torch.randn(150, 2), seed=i) for i in range(40)]
    assert abs(np.mean(found)) < 3 * np.std(found) / 40**0.5
    assert np.std(found) < 1


def test_refuses() -> None:
    train = torch.randn(30, 2)
    with pytest.raises(ValueError, match="draw more"):
        copying(train, train, torch.randn(19, 2), cells=1)
    with pytest.raises(ValueError, match="train_nn"):
        authenticity(train, train, torch.zeros(2))
