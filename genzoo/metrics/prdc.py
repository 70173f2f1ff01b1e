"""Precision, recall, density and coverage: whose samples lie within whose nearest-neighbour balls."""

from functools import cached_property
from typing import NamedTuple

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from genzoo.metrics.arrays import Tile, alike, pair, sweep
from genzoo.metrics.intervals import Replicates
from genzoo.metrics.neighbours import SPARE, Search, least, nearest, paired_distances, search, slack


class PRDC(NamedTuple):
    """precision: share of fakes inside a real ball; recall: of reals inside a fake ball; density: mean number of real
    balls around a fake, over k; coverage: share of real balls with a fake inside."""

    precision: float
    recall: float
    density: float
    coverage: float


def prdc(real: Tensor | ArrayLike, fake: Tensor | ArrayLike, k: int = 5) -> PRDC:
    """The four scores of fake (m, d) against real (n, d), whose balls reach to, and exclude, the k-th neighbour.

    Kynkäänniemi et al. (2019); Naeem et al. (2020). A point on the edge of a ball, where copies of images often lie,
    is outside whatever the rounding. Raises ValueError unless k is less than n and m, for features that do not fit or
    are not finite.
    """
    balls = Balls(*alike(real, fake), k)
    sweep(balls.pair, [balls])
    return balls.scores(None)


def prdc_jackknife(real: Tensor | ArrayLike, fake: Tensor | ArrayLike, k: int = 5, n_blocks: int = 10) -> Replicates:
    """`prdc`, and what it is with each of `n_blocks` runs of consecutive rows of fake left out.

    It takes the distances of `prdc` alone. Rows in random order. Raises ValueError as that does, and for blocks that
    leave k rows or fewer.
    """
    real, fake = alike(real, fake)
    _check_blocks(len(fake), n_blocks, k)
    balls = Balls(real, fake, k, n_blocks)
    sweep(balls.pair, [balls])
    return balls.replicates()


def radii(x: Tensor | ArrayLike, k: int) -> Tensor:
    """(n,) distances, float64, of the rows of x (n, d) to their k-th neighbours among the others."""
    return nearest(x, x, k, exclude_self=True).distances[:, -1]


class Balls:
    """Who lies in whose ball, real (n, d) and fake (m, d); a visitor of the tiles of `pair`.

    n_blocks: of fakes, of which each will be left out in turn; 1 for none.
    Raises ValueError as `prdc` and `prdc_jackknife` do.
    """

    def __init__(self, real: Tensor, fake: Tensor, k: int, n_blocks: int = 1) -> None:
        self.real, self.fake, self.k, self.pair = real, fake, k, pair(fake, real, n_blocks)
        m, n, sets = len(fake), len(real), n_blocks + (n_blocks > 1)
        rows = torch.arange(m, device=fake.device)
        self.block = torch.cat([torch.full_like(part, i) for i, part in enumerate(rows.tensor_split(n_blocks))])
        wide = k if n_blocks == 1 else min(2 * k + SPARE, m - 1)
        self.fakes = Search(self.pair.fake, self.pair.fake, max(k, wide), rows)
        self.reals = Search(self.pair.real, self.pair.real, k, torch.arange(n, device=real.device))
        self.around = torch.zeros(m, dtype=torch.long, device=real.device)  # real balls around each fake
        self.covered = torch.zeros(n_blocks, n, dtype=torch.bool, device=real.device)  # by a fake of this block
        self.recalled = torch.zeros(sets, n, dtype=torch.bool, device=real.device)  # by all balls, or without a block's

    def see_fakes(self, tile: Tile) -> None:
        self.fakes.see_half(tile)

    def see_reals(self, tile: Tile) -> None:
        self.reals.see_half(tile)

    @cached_property
    def real_radii(self) -> Tensor:
        """(n,)"""
        return self.reals.found(self.real, self.real).distances[:, -1]

    @cached_property
    def fake_radii(self) -> Tensor:
        """(1, m), or (1 + blocks, m): of all, then with each block left out, where its own balls are empty."""
        distances, indices = self.fakes.found(self.fake, self.fake)
        whole = distances[:, self.k - 1]
        blocks = range(len(self.recalled) - 1)
        return torch.stack([whole, *(self._radii_without(block, distances, indices) for block in blocks)])

    def _radii_without(self, block: int, distances: Tensor, indices: Tensor) -> Tensor:
        left = self.block != block
        radii = distances.masked_fill(~left[indices], torch.inf).kthvalue(self.k).values
        few = (radii.isinf() & left).nonzero()[:, 0]  # too many of the neighbours that were found are in the block
        if len(few):
            own = left.cumsum(0)[few] - 1
            rest = self.fake[left]
            radii[few] = search(self.fake[few], rest, self.pair.fake.centred.dtype, self.k, own).distances[:, -1]
        return radii.masked_fill(~left, 0.0)

    def see_both(self, tile: Tile) -> None:
        low = least(self.pair.fake, self.pair.real, tile)
        high = slack(self.pair.fake, self.pair.real, tile).add_(low)
        block = self.pair.part[tile.i]
        in_real = self._in_real(low, high, tile)
        self.around[tile.rows] += in_real.float().sum(1).long()
        self.covered[block, tile.columns] |= in_real.any(0)
        reach = self.fake_radii[:, tile.rows]  # (1 + blocks, a)
        square = reach.square().to(low.dtype)
        surely = high < square[0, :, None]
        others = torch.arange(len(self.recalled)) != block + 1
        self.recalled[others, tile.columns] |= surely.any(0)
        i, j = (low <= square.amax(0)[:, None]).logical_and_(~surely).nonzero(as_tuple=True)
        inside = self._inside(low[i, j], high[i, j], reach[:, i], tile, i, j)  # (1 + blocks, pairs)
        which, place = inside.nonzero(as_tuple=True)
        self.recalled[which, tile.columns.start + j[place]] = True

    def _in_real(self, low: Tensor, high: Tensor, tile: Tile) -> Tensor:
        """(a, b) is the fake in the real's ball."""
        reach = self.real_radii[tile.columns]
        square = reach.square().to(low.dtype)
        inside = high < square
        i, j = (low <= square).logical_and_(~inside).nonzero(as_tuple=True)
        inside[i, j] = self._inside(low[i, j], high[i, j], reach[None, j], tile, i, j)[0]
        return inside

    def _inside(self, low: Tensor, high: Tensor, reach: Tensor, tile: Tile, i: Tensor, j: Tensor) -> Tensor:
        """(r, pairs) is the distance less than the radius, for r radii of each pair; measured where bounds do not say.

        low, high: (pairs,) bounds of squares; reach: (r, pairs); i, j: (pairs,) rows and columns in the tile.
        """
        square = reach.square().to(low.dtype)
        inside = high < square
        unsure = (low <= square).logical_and_(~inside)
        some = unsure.any(0).nonzero()[:, 0]
        if len(some):
            distances = paired_distances(self.fake[tile.rows], self.real[tile.columns], i[some], j[some])
            inside[:, some] |= unsure[:, some] & (distances < reach[:, some])
        return inside

    def scores(self, without: int | None) -> PRDC:
        """Of all fakes, or with a block left out."""
        covered = [flags for block, flags in enumerate(self.covered) if block != without]
        around = self.around if without is None else self.around[self.block != without]
        recalled = self.recalled[0 if without is None else without + 1]
        return _scores(around, torch.stack(covered).any(0), recalled, self.k)

    def replicates(self) -> Replicates:
        """The scores, and those with each block left out."""
        return Replicates(self.scores(None), [self.scores(block) for block in range(len(self.covered))])


def _check_blocks(m: int, n_blocks: int, k: int) -> None:
    if n_blocks < 2 or m - -(-m // n_blocks) <= k:
        raise ValueError(f"{n_blocks} blocks of {m} samples: take 2 or more, that leave more than k = {k}.")


def _scores(around: Tensor, covered: Tensor, recalled: Tensor, k: int) -> PRDC:
    precision, recall, coverage = (flags.sum().item() / len(flags) for flags in (around > 0, recalled, covered))
    return PRDC(precision, recall, 1 / k * (around.sum().item() / len(around)), coverage)
