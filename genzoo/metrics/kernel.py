"""The kernel distance (KID): the squared maximum mean discrepancy under a polynomial kernel, without bias."""

from math import comb
from typing import NamedTuple

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from genzoo.metrics.arrays import Pair, Rows, Tile, alike, pair, sweep
from genzoo.metrics.intervals import Replicates


def kernel_distance(x: Tensor | ArrayLike, y: Tensor | ArrayLike, degree: int = 3) -> float:
    """The U-statistic of MMD^2 under (x.y / d + 1)^degree over all of x (n, d) and y (m, d); it may be negative.

    Binkowski et al. (2018), who average it over subsets of 1,000: same expectation, more noise.
    Of float32 features what is linear in x.y is in float64, and its higher powers, of centred features, in float32.
    Raises ValueError for fewer than two samples, features that do not fit or are not finite.
    """
    x, y = _checked(x, y)
    sums = KernelSums(pair(x, y), degree)
    sweep(sums.pair, [sums])
    return sums.distance()


def kernel_jackknife(x: Tensor | ArrayLike, y: Tensor | ArrayLike, n_blocks: int = 10, degree: int = 3) -> Replicates:
    """`kernel_distance`, and its values with each of `n_blocks` runs of consecutive rows of x left out.

    It costs as much as `kernel_distance` alone, since all come from the sums over pairs of blocks. Rows in random
    order. Raises ValueError as that does, and for blocks of fewer than two samples.
    """
    x, y = _checked(x, y)
    if not 2 <= n_blocks <= len(x) // 2:
        raise ValueError(f"kernel_jackknife takes 2 to n / 2 = {len(x) // 2} blocks, got {n_blocks}.")
    sums = KernelSums(pair(x, y, n_blocks), degree)
    sweep(sums.pair, [sums])
    return sums.replicates()


class Powers(NamedTuple):
    """Of a set's a_i: a_i^s (degree + 1, n); its sums (runs, degree + 1); those of a_i^s times row i (runs, degree, d);
    and what the powers 0 and 1 of c make of row i with itself (runs,). In float64."""

    of_rows: Tensor
    sums: Tensor
    firsts: Tensor
    selves: Tensor


class KernelSums:
    """Sums of (gamma x.y + 1)^degree over pairs of runs of rows, gamma = 1 / d; a visitor of the tiles of `pair`.

    With c the inner product about the mean m, and a_i = gamma m.(x_i - m) + (gamma m.m + 1) / 2, the kernel is
    (gamma c + a_i + a_j)^degree. Of its binomial sum the powers 0 and 1 of c are products of sums over rows; the tiles
    give the others, which are smaller by orders where features have a mean.
    """

    def __init__(self, pair: Pair, degree: int = 3) -> None:
        self.pair, self.degree, self.gamma = pair, degree, 1 / len(pair.shift)
        self.fake, self.real = (
            _powers(rows, pair.shift, places, degree, self.gamma)
            for rows, places in ((pair.fake, pair.fakes), (pair.real, pair.reals))
        )
        self.own_fake = self._linear(self.fake, self.fake) - self.fake.selves.diag().cpu()
        self.own_real = self._linear(self.real, self.real) - self.real.selves.diag().cpu()
        self.both = self._linear(self.fake, self.real)

    def see_fakes(self, tile: Tile) -> None:
        self._own(self.own_fake, self.fake, tile)

    def see_reals(self, tile: Tile) -> None:
        self._own(self.own_real, self.real, tile)

    def see_both(self, tile: Tile) -> None:
        self.both[tile.i, tile.j] += self._curved(self.fake, self.real, tile)

    def distance(self) -> float:
        m, n = len(self.pair.fake.centred), len(self.pair.real.centred)
        return _unbiased(self.own_fake, self.both, self.own_real, m, n)

    def replicates(self) -> Replicates:
        """The distance, and that with each part of the fakes left out."""
        n_real = len(self.pair.real.centred)

        def without(part: int) -> float:
            kept = self.pair.part != part
            n = sum(place.stop - place.start for place, stays in zip(self.pair.fakes, kept, strict=True) if stays)
            return _unbiased(self.own_fake[kept][:, kept], self.both[kept], self.own_real, n, n_real)

        return Replicates(self.distance(), [without(part) for part in range(int(self.pair.part[-1]) + 1)])

    def _linear(self, x: Powers, y: Powers) -> Tensor:
        """(runs of x, runs of y), float64: the powers 0 and 1 of c, pairs of equal rows included."""
        p, total = self.degree, torch.zeros(len(x.sums), len(y.sums), dtype=torch.float64, device=x.sums.device)
        for s in range(p + 1):
            total += comb(p, s) * torch.outer(x.sums[:, s], y.sums[:, p - s])
        for s in range(p):
            total += p * comb(p - 1, s) * self.gamma * x.firsts[:, s] @ y.firsts[:, p - 1 - s].T
        return total.cpu()

    def _own(self, sums: Tensor, x: Powers, tile: Tile) -> None:
        value = self._curved(x, x, tile)
        sums[tile.i, tile.j] += value
        if tile.i != tile.j:
            sums[tile.j, tile.i] += value

    def _curved(self, x: Powers, y: Powers, tile: Tile) -> float:
        """The powers from 2 on of c, (a, b) in `tile`, without pairs of equal rows."""
        c, p = tile.products, self.degree
        power, total = c, 0.0
        for r in range(2, p + 1):
            power = power * c
            if x is y and tile.i == tile.j:
                power.fill_diagonal_(0)
            left, right = x.of_rows[: p - r + 1, tile.rows], y.of_rows[: p - r + 1, tile.columns].flip(0)
            weights = torch.tensor([comb(p - r, s) for s in range(p - r + 1)], dtype=torch.float64, device=c.device)
            within = (power @ right.T.to(c.dtype)).double()  # (a, p - r + 1)
            total += comb(p, r) * self.gamma**r * (left.T * weights * within).sum().item()
        return total


def _powers(x: Rows, shift: Tensor, runs: list[slice], degree: int, gamma: float) -> Powers:
    a, firsts = torch.empty(len(x.squares), dtype=torch.float64, device=shift.device), []
    powers = torch.arange(degree + 1, dtype=torch.float64, device=a.device)[:, None]
    for place in runs:
        block = x.centred[place].double()
        a[place] = gamma * (block @ shift) + (gamma * shift @ shift + 1) / 2
        firsts.append(a[place] ** powers[:-1] @ block)
    of_rows = a**powers
    selves = (2 * a) ** degree + degree * gamma * x.squares * (2 * a) ** (degree - 1)
    return Powers(
        of_rows,
        torch.stack([of_rows[:, place].sum(1) for place in runs]),
        torch.stack(firsts),
        torch.stack([selves[place].sum() for place in runs]),
    )


def _unbiased(own_x: Tensor, both: Tensor, own_y: Tensor, n: int, m: int) -> float:
    return (own_x.sum() / (n * (n - 1)) - 2 * both.sum() / (n * m) + own_y.sum() / (m * (m - 1))).item()


def _checked(x: Tensor | ArrayLike, y: Tensor | ArrayLike) -> tuple[Tensor, Tensor]:
    x, y = alike(x, y)
    if min(len(x), len(y)) < 2:
        raise ValueError(f"A kernel distance needs two samples or more of each, got {len(x)} and {len(y)}.")
    return x, y
