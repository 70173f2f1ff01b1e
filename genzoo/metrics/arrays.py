"""Features as the metrics take them: tensors or arrays (n, d), read by blocks of rows, multiplied by tiles of pairs."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import torch
from numpy.typing import ArrayLike
from torch import Tensor

ROWS = 2048  # of a block: large enough for a full-speed product, 32 MB at d = 2048
FEW = 128  # rows of what is read once, in the processor's cache
LARGE = 1e4  # features beyond are multiplied in float64
TILE = 1024  # rows and columns of products at a time: they stay in the processor's cache for what follows


class Rows(NamedTuple):
    """Features (n, d) minus a shift, in the dtype that they are multiplied in, and the squares of their norms (n,)."""

    centred: Tensor
    squares: Tensor

    @property
    def eps(self) -> float:
        """How far |x|^2 - 2 x.y + |y|^2 may be from |x - y|^2, in units of |x|^2 + |y|^2.

        The worst case of d products summed in any order, rows rounded beforehand and a few sums after; Higham (2002),
        section 3.1.
        """
        return (self.centred.shape[1] / 2 + 8) * torch.finfo(self.centred.dtype).eps


class Tile(NamedTuple):
    """The inner products (a, b) of run i of the rows of one set and run j of another's."""

    i: int
    j: int
    rows: slice
    columns: slice
    products: Tensor


class Pair(NamedTuple):
    """Fakes and reals about the mean (d,) of the reals, their rows in runs; part: (runs,) which block of fakes."""

    fake: Rows
    real: Rows
    shift: Tensor
    fakes: list[slice]
    reals: list[slice]
    part: Tensor


class Visitor(Protocol):
    """What a score takes from the tiles of fakes with fakes, reals with reals, and then fakes with reals."""

    def see_fakes(self, tile: Tile) -> None: ...

    def see_reals(self, tile: Tile) -> None: ...

    def see_both(self, tile: Tile) -> None: ...


def pair(fake: Tensor, real: Tensor, parts: int = 1) -> Pair:
    """Fakes (m, d), in `parts` blocks, and reals (n, d), ready to be swept."""
    shift, dtype = mean_of(real), product_dtype(fake, real)
    fakes = [runs(block.numel(), int(block[0])) for block in torch.arange(len(fake)).tensor_split(parts)]
    part = torch.tensor([i for i, some in enumerate(fakes) for _ in some])
    x, y = centred(fake, shift, dtype), centred(real, shift, dtype)
    return Pair(x, y, shift, [place for some in fakes for place in some], runs(len(real)), part)


def sweep(pair: Pair, visitors: Sequence[Visitor]) -> None:
    """Shows every tile of inner products to all visitors, so that they are computed once; a symmetric one is halved."""
    for tile in halves(pair.fake, pair.fakes):
        for visitor in visitors:
            visitor.see_fakes(tile)
    for tile in halves(pair.real, pair.reals):
        for visitor in visitors:
            visitor.see_reals(tile)
    for tile in tiles(pair.fake, pair.fakes, pair.real, pair.reals):
        for visitor in visitors:
            visitor.see_both(tile)


def runs(n: int, start: int = 0) -> list[slice]:
    """n rows from `start` on, TILE at a time at most."""
    return [slice(at, min(at + TILE, start + n)) for at in range(start, start + n, TILE)]


def tiles(x: Rows, rows: Sequence[slice], y: Rows, columns: Sequence[slice]) -> Iterator[Tile]:
    """The products of all pairs of a run of x and one of y."""
    for i, a in enumerate(rows):
        for j, b in enumerate(columns):
            yield Tile(i, j, a, b, products(x.centred[a], y.centred[b]))


def halves(x: Rows, rows: Sequence[slice]) -> Iterator[Tile]:
    """The products of the runs of x among themselves, i <= j only."""
    for i, a in enumerate(rows):
        for j, b in enumerate(rows[i:], start=i):
            yield Tile(i, j, a, b, products(x.centred[a], x.centred[b]))


def products(x: Tensor, y: Tensor) -> Tensor:
    """x y^T (a, b) of (a, d) and (b, d)."""
    # On AMD's processors numpy's BLAS is a quarter faster than torch's, and takes half the time for x x^T.
    return torch.from_numpy(x.numpy() @ y.numpy().T) if x.device.type == "cpu" else x @ y.T


def product_dtype(x: Tensor, y: Tensor) -> torch.dtype:
    """float32, twice as fast, for features of that precision whose cubed products do not overflow; else float64.

    Also float64 where torch is told to round the factors of float32 products further.
    """
    single = torch.promote_types(x.dtype, y.dtype).itemsize <= 4 and torch.get_float32_matmul_precision() == "highest"
    return torch.float32 if single and max(x.abs().max(), y.abs().max()) <= LARGE else torch.float64


def centred(x: Tensor, shift: Tensor, dtype: torch.dtype) -> Rows:
    """The rows of x minus `shift` (d,)."""
    rows = torch.empty(x.shape, dtype=dtype, device=x.device)
    squares = torch.empty(len(x), dtype=dtype, device=x.device)
    for place, block in blocks(x, shift, FEW):
        rows[place] = block
        squares[place] = rows[place].double().square().sum(1)
    return Rows(rows, squares)


def as_features(x: Tensor | ArrayLike) -> Tensor:
    """The features (n, d) as a tensor of their own dtype, where they lie.

    Raises ValueError for another shape, no rows, or features that are not finite.
    """
    x = torch.as_tensor(x)
    if x.ndim != 2 or 0 in x.shape:
        raise ValueError(f"Features are (n, d) with n and d of 1 or more, got {tuple(x.shape)}: flatten each sample.")
    if not all(extreme.isfinite() for extreme in x.aminmax()):
        raise ValueError("Features hold NaN or infinity: look for non-finite samples.")
    return x


def alike(x: Tensor | ArrayLike, y: Tensor | ArrayLike) -> tuple[Tensor, Tensor]:
    """Both as features, y on x's device. Raises ValueError if they differ in d."""
    x, y = as_features(x), as_features(y)
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"Both sets need features of one size, got {x.shape[1]} and {y.shape[1]}: use one extractor.")
    return x, y.to(x.device)


def blocks(x: Tensor, shift: Tensor | float = 0.0, size: int = ROWS) -> Iterator[tuple[slice, Tensor]]:
    """The rows of x minus `shift`, `size` at a time, in float64, each with its place in x."""
    for start in range(0, len(x), size):
        place = slice(start, start + size)
        yield place, x[place].double() - shift


def mean_of(x: Tensor) -> Tensor:
    """The mean (d,) of the rows, in float64."""
    return sum(block.sum(0) for _, block in blocks(x, size=FEW)) / len(x)
