"""Precision, recall, density and coverage: whose samples lie within whose nearest-neighbour balls."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from genzoo.metrics.arrays import alike, blocks, mean_of
from genzoo.metrics.intervals import Replicates
from genzoo.metrics.neighbours import COLUMNS, nearest, paired_distances, squared_distances

EPS = torch.finfo(torch.float64).eps


class PRDC(NamedTuple):
    """precision: share of fakes inside a real ball; recall: of reals inside a fake ball; density: mean number of real
    balls around a fake, over k; coverage: share of real balls with a fake inside."""

    precision: float
    recall: float
    density: float
    coverage: float


def prdc(
    real: Tensor | ArrayLike, fake: Tensor | ArrayLike, k: int = 5, real_radii: Tensor | ArrayLike | None = None
) -> PRDC:
    """The four scores of fake (m, d) against real (n, d), whose balls reach to, and exclude, the k-th neighbour.

    real_radii: `radii(real, k)`, to compute it once for several sets of fakes.
    Kynkäänniemi et al. (2019); Naeem et al. (2020). A point on the edge of a ball, where copies of images often lie,
    is outside whatever the rounding. Raises ValueError unless k is less than n and m, for radii or features that do
    not fit or are not finite.
    """
    real, fake, real_radii = _checked(real, fake, k, real_radii)
    around, covered, recalled = _contained(real, fake, real_radii, radii(fake, k)[None])
    return _scores(around, covered, recalled[0], k)


def prdc_jackknife(
    real: Tensor | ArrayLike,
    fake: Tensor | ArrayLike,
    k: int = 5,
    real_radii: Tensor | ArrayLike | None = None,
    n_blocks: int = 10,
) -> Replicates:
    """`prdc`, and what it is with each of `n_blocks` runs of consecutive rows of fake left out.

    It takes the distances of `prdc` alone. Rows in random order. Raises ValueError as that does, and for blocks that
    leave k rows or fewer.
    """
    real, fake, real_radii = _checked(real, fake, k, real_radii)
    parts = torch.arange(len(fake), device=fake.device).tensor_split(n_blocks)
    if n_blocks < 2 or len(fake) - len(parts[0]) <= k:
        raise ValueError(f"{n_blocks} blocks of {len(fake)} samples: take 2 or more, that leave more than k = {k}.")
    fake_radii = torch.stack(_radii_without(fake, parts, k))  # (1 + blocks, m)
    found = [_contained(real, fake[part], real_radii, fake_radii[:, part]) for part in parts]
    around, covered, recalled = zip(*found, strict=True)
    recalled = torch.stack(recalled).any(0)  # (1 + blocks, n)

    def scores(without: int | None) -> PRDC:
        kept = [i for i in range(n_blocks) if i != without]
        some = torch.stack([covered[i] for i in kept]).any(0)
        return _scores(torch.cat([around[i] for i in kept]), some, recalled[0 if without is None else without + 1], k)

    return Replicates(scores(None), [scores(i) for i in range(n_blocks)])


def radii(x: Tensor | ArrayLike, k: int) -> Tensor:
    """(n,) distances, float64, of the rows of x (n, d) to their k-th neighbours among the others."""
    return nearest(x, x, k, exclude_self=True).distances[:, -1]


def _checked(
    real: Tensor | ArrayLike, fake: Tensor | ArrayLike, k: int, real_radii: Tensor | ArrayLike | None
) -> tuple[Tensor, Tensor, Tensor]:
    real, fake = alike(real, fake)
    real_radii = radii(real, k) if real_radii is None else torch.as_tensor(real_radii).to(real.device, torch.float64)
    if real_radii.shape != (len(real),):
        raise ValueError(f"real_radii are {tuple(real_radii.shape)} for {len(real)} rows: give radii(real, k).")
    if not real_radii.isfinite().all():
        raise ValueError("real_radii hold NaN or infinity: give radii(real, k).")
    return real, fake, real_radii


def _radii_without(x: Tensor, parts: Sequence[Tensor], k: int) -> list[Tensor]:
    """`radii(x, k)`, then with each part (rows of x) left out; there the part's own balls are empty."""
    own = torch.arange(len(x), device=x.device)[:, None]
    lists = []
    for part in parts:
        distances, index = nearest(x, x[part], min(k + 1, len(part)))  # one more, since one may be the row itself
        lists.append(distances.masked_fill(part[index] == own, torch.inf))
    results = [_kth(lists, k)]
    for i, part in enumerate(parts):
        results.append(_kth(lists[:i] + lists[i + 1 :], k).index_fill(0, part, 0.0))
    return results


def _kth(lists: Sequence[Tensor], k: int) -> Tensor:
    """(m,) the k-th smallest of each row over lists of distances (m, some)."""
    return torch.cat(list(lists), 1).kthvalue(k).values


def _contained(real: Tensor, fake: Tensor, real_radii: Tensor, fake_radii: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Real balls around each fake (m,); is a fake in this real ball (n,); is this real in some fake ball (r, n).

    fake_radii: (r, m), of r alternative sets of balls around the same fakes.
    """
    around = torch.zeros(len(fake), dtype=torch.long, device=real.device)
    covered = torch.zeros(len(real), dtype=torch.bool, device=real.device)
    recalled = torch.zeros(len(fake_radii), len(real), dtype=torch.bool, device=real.device)
    shift = mean_of(real)
    for rows, x in blocks(real, shift):
        for columns, y in blocks(fake, shift, COLUMNS):
            inside = partial(_inside, *_bounds(x, y), partial(paired_distances, real[rows], fake[columns]))
            in_real = inside(real_radii[rows, None])
            around[columns] += in_real.sum(0)
            covered[rows] |= in_real.any(1)
            for found, reach in zip(recalled, fake_radii[:, None, columns], strict=True):
                found[rows] |= inside(reach).any(1)
    return around, covered, recalled


def _bounds(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """What the squared distances (a, b) are at least and at most, given how `squared_distances` rounds."""
    squares = squared_distances(x, y)
    eps = (x.shape[1] + 8) * EPS
    slack = torch.add(eps * x.square().sum(1, keepdim=True), eps * y.square().sum(1))
    return squares - slack, slack.add_(squares)


def _inside(low: Tensor, high: Tensor, distances: Callable[[Tensor, Tensor], Tensor], reach: Tensor) -> Tensor:
    """(a, b) is the distance less than the radius `reach`, (a, 1) or (1, b); measured where rounding could decide."""
    inside = high < reach.square()
    i, j = (low <= reach.square()).logical_and_(~inside).nonzero(as_tuple=True)
    if len(i):
        inside[i, j] = distances(i, j) < reach.expand_as(inside)[i, j]
    return inside


def _scores(around: Tensor, covered: Tensor, recalled: Tensor, k: int) -> PRDC:
    precision, recall, coverage = (flags.sum().item() / len(flags) for flags in (around > 0, recalled, covered))
    return PRDC(precision, recall, 1 / k * (around.sum().item() / len(around)), coverage)
