"""Nearest neighbours by Euclidean distance: searched block by block, measured directly."""

from typing import NamedTuple

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from genzoo.metrics.arrays import ROWS, alike, blocks, mean_of

COLUMNS = 8192  # of y at a time: with `arrays.ROWS` of x a tile of 128 MB


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
    if not 1 <= k <= len(y) - exclude_self:
        raise ValueError(f"{k} nearest of {len(y) - exclude_self} rows: k is 1 or more and at most their number.")
    shift = mean_of(y)  # squares of distances are differences of larger squares: keep these small
    found = [_search(place, block, y, shift, k, exclude_self) for place, block in blocks(x, shift)]
    return _measured(x, y, torch.cat(found))


def _search(place: slice, x: Tensor, y: Tensor, shift: Tensor, k: int, exclude_self: bool) -> Tensor:
    """The indices (b, k) of the rows of y nearest to a block x of rows, in no order."""
    best, indices = x.new_empty(len(x), 0), x.new_empty(len(x), 0, dtype=torch.long)
    for columns, block in blocks(y, shift, COLUMNS):
        squares = squared_distances(x, block)
        if exclude_self:
            _diagonal(squares, place.start - columns.start).fill_(torch.inf)
        values, order = squares.topk(min(k, len(block)), largest=False)
        best, indices = torch.cat([best, values], 1), torch.cat([indices, order + columns.start], 1)
        best, order = best.topk(min(k, best.shape[1]), largest=False)
        indices = indices.gather(1, order)
    return indices


def _diagonal(tile: Tensor, offset: int) -> Tensor:
    """A view of tile[i, i + offset] for all i where that lies inside; empty if nowhere."""
    inside = -tile.shape[0] < offset < tile.shape[1]
    return tile.diagonal(offset) if inside else tile[:0, 0]


def _measured(x: Tensor, y: Tensor, indices: Tensor) -> Neighbours:
    """The distances of the found rows, and both by distance."""
    columns = [paired_distances(x, y, torch.arange(len(x), device=x.device), column) for column in indices.T]
    distances, order = torch.stack(columns, 1).sort(dim=1, stable=True)
    return Neighbours(distances, indices.gather(1, order))


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """|x_i - y_j|^2 (a, b) of float64 rows as |x|^2 - 2 x.y + |y|^2: fast, right to `d eps (|x|^2 + |y|^2)`."""
    return torch.addmm(y.square().sum(1), x, y.T, alpha=-2).add_(x.square().sum(1, keepdim=True))


def paired_distances(x: Tensor, y: Tensor, i: Tensor, j: Tensor) -> Tensor:
    """|x_i - y_j| (p,) of pairs of rows by their differences: right to the last bits, and the same for equal rows."""
    pairs = zip(i.split(ROWS), j.split(ROWS), strict=True)
    return torch.cat([(x[a].double() - y[b].double()).square().sum(1).sqrt() for a, b in pairs])
