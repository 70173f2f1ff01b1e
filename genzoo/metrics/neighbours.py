"""Nearest neighbours by Euclidean distance: searched among products of rows, measured directly."""

from typing import NamedTuple

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from genzoo.metrics.arrays import Rows, Tile, alike, centred, halves, mean_of, product_dtype, runs, tiles

SPARE = 8  # candidates beyond k: the more, the fewer rows are searched again in float64
PAIRS = 128  # measured at a time: their differences stay in the processor's cache


class Neighbours(NamedTuple):
    """Distances (n, k), ascending, and the rows of y they lead to (n, k)."""

    distances: Tensor
    indices: Tensor


def nearest(x: Tensor | ArrayLike, y: Tensor | ArrayLike, k: int = 1, exclude_self: bool = False) -> Neighbours:
    """The k nearest rows of y (m, d) of each row of x (n, d), in float64; the distance of a copy is exactly 0.

    exclude_self: row i of y is no neighbour of row i of x, for x among themselves.
    Neighbours whose distances differ by less than 1e-8 of the features' spread may come in each other's place.
    Raises ValueError for k beyond the rows there are, features that do not fit or are not finite.
    """
    x, y = alike(x, y)
    own = torch.arange(len(x), device=x.device) if exclude_self else None
    return search(x, y, product_dtype(x, y), k, own)


class Search:
    """The k nearest rows of y of each row of x, among tiles of their products.

    own: (n,) for each row of x the row of y that is no neighbour of it.
    Raises ValueError for k beyond the rows there are.
    """

    def __init__(self, x: Rows, y: Rows, k: int, own: Tensor | None = None) -> None:
        self.x, self.y, self.k, self.own = x, y, k, own
        self.others = len(y.centred) - (own is not None)
        if not 1 <= k <= self.others:
            raise ValueError(f"{k} nearest of {self.others} rows: k is 1 or more and at most their number.")
        self.low = x.squares.new_full((len(x.centred), min(k + SPARE, self.others)), torch.inf)  # in no order
        self.indices = torch.zeros_like(self.low, dtype=torch.long)

    def see(self, tile: Tile) -> None:
        """Takes the candidates for a tile's rows from its columns."""
        low = least(self.x, self.y, tile)
        if self.own is not None:
            column = self.own[tile.rows] - tile.columns.start
            row = ((column >= 0) & (column < low.shape[1])).nonzero()[:, 0]
            low[row, column[row]] = torch.inf
        values, order = low.topk(min(self.low.shape[1], low.shape[1]), largest=False)
        values = torch.cat([self.low[tile.rows], values], 1)
        order = torch.cat([self.indices[tile.rows], order + tile.columns.start], 1)
        self.low[tile.rows], best = values.topk(self.low.shape[1], largest=False)
        self.indices[tile.rows] = order.gather(1, best)

    def see_half(self, tile: Tile) -> None:
        """A tile of `halves`, x being y."""
        self.see(tile)
        if tile.i != tile.j:
            self.see(Tile(tile.j, tile.i, tile.columns, tile.rows, tile.products.T.contiguous()))

    def found(self, x: Tensor, y: Tensor) -> Neighbours:
        """The neighbours, by the distances of the features x (n, d) and y (m, d) themselves.

        Where float32 leaves open whether a row that is no candidate is nearer, those of x are searched in float64.
        """
        result = self._measured(x, y)
        if self.low.dtype == torch.float64 or self.low.shape[1] == self.others:
            return result
        open_ = (self.low.amax(1) <= result.distances[:, -1].square()).nonzero()[:, 0]
        if len(open_):
            own = None if self.own is None else self.own[open_]
            again = search(x[open_], y, torch.float64, self.k, own)
            for values, better in zip(result, again, strict=True):
                values[open_] = better
        return result

    def _measured(self, x: Tensor, y: Tensor) -> Neighbours:
        """The k nearest of the candidates, of which only those are measured that may be."""
        high = self.low + 2 * self.x.eps * (self.x.squares[:, None] + self.y.squares[self.indices])
        i, place = (self.low <= high.kthvalue(self.k, 1, keepdim=True).values).nonzero(as_tuple=True)
        distances = torch.full_like(self.low, torch.inf, dtype=torch.float64)
        distances[i, place] = paired_distances(x, y, i, self.indices[i, place])
        distances, order = distances.sort(dim=1, stable=True)
        return Neighbours(distances[:, : self.k].contiguous(), self.indices.gather(1, order[:, : self.k]))


def search(x: Tensor, y: Tensor, dtype: torch.dtype, k: int, own: Tensor | None) -> Neighbours:
    """The k nearest rows of y (m, d) of each row of x (n, d) by products in `dtype`; `own` as for `Search`."""
    shift = mean_of(y)  # squares of distances are differences of larger squares: keep these small
    theirs = centred(y, shift, dtype)
    seen = Search(theirs if x is y else centred(x, shift, dtype), theirs, k, own)
    if x is y:
        for tile in halves(theirs, runs(len(y))):
            seen.see_half(tile)
    else:
        for tile in tiles(seen.x, runs(len(x)), theirs, runs(len(y))):
            seen.see(tile)
    return seen.found(x, y)


def least(x: Rows, y: Rows, tile: Tile) -> Tensor:
    """What the squared distances (a, b) of a tile are at least, however its products were rounded."""
    kept = 1 - x.eps
    return torch.add(kept * x.squares[tile.rows, None], kept * y.squares[tile.columns]).sub_(tile.products, alpha=2)


def slack(x: Rows, y: Rows, tile: Tile) -> Tensor:
    """By how much (a, b) the squared distances of a tile may be more than their `least`."""
    return torch.add(2 * x.eps * x.squares[tile.rows, None], 2 * x.eps * y.squares[tile.columns])


def paired_distances(x: Tensor, y: Tensor, i: Tensor, j: Tensor) -> Tensor:
    """|x_i - y_j| (p,) of pairs of rows by their differences: right to the last bits, and the same for equal rows."""
    pairs = zip(i.split(PAIRS), j.split(PAIRS), strict=True)
    return torch.cat([(x[a].double() - y[b].double()).square().sum(1).sqrt() for a, b in pairs])
