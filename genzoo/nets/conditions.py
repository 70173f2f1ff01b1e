"""What a network is told beside image and time: raw conditions y become a vector, tokens to attend to, or maps.

y is one tensor whose rows are images, as the data has it. Each condition has a y that says nothing, its null, by which
a share of y is replaced in training; a network that is told y=None is told the null.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Given(NamedTuple):
    """What a network sees of n conditions; None where they give no such thing.

    vector (n, d): added to the time's embedding, or to what a sequence begins with. tokens (n, length, d): attended to.
    maps (n, c, H, W), of any size: stacked on x by `on_grid`.
    """

    vector: Tensor | None = None
    tokens: Tensor | None = None
    maps: Tensor | None = None


class Condition(nn.Module):
    """y -> Given; subclasses write `forward`, and set the widths of what they give: `vector`, `tokens`, `maps`.

    nothing: the null of one image. size: (H, W) of the maps.
    """

    vector = tokens = maps = 0
    size: Sequence[int] = (1, 1)
    remedy = "set condition=none"  # where the data has no such y

    def __init__(self, nothing: Tensor) -> None:
        super().__init__()
        self.register_buffer("nothing", nothing, persistent=False)

    def null(self, n: int) -> Tensor:
        """The y of n images that says nothing, on the module's device."""
        return self.nothing.expand(n, *self.nothing.shape)

    def of(self, x: Tensor, y: Tensor | None) -> Tensor:
        """The conditions of training images x (n, C, H, W) with the data's y. Raises ValueError for a y that does not
        fit."""
        if y is None or y.shape[1:] != self.nothing.shape:
            there = "none" if y is None else rows_of(y.shape[1:])
            needed = f"{type(self).__name__} takes y of shape {rows_of(self.nothing.shape)}"
            raise ValueError(f"{needed}, but the data has {there}: {self.remedy}")
        return y

    def check(self, y: Tensor, n: int) -> None:
        """Raises ValueError for a y that cannot be asked of n images."""
        needed = (n, *self.nothing.shape)
        if y.shape != needed:
            raise ValueError(f"y of shape {tuple(y.shape)}: {n} images take y of shape {needed}, a row an image")


def rows_of(shape: Sequence[int]) -> str:
    """The shape of n rows of a shape, in words: (n, 4, 5)."""
    return f"({', '.join(['n', *map(str, shape)])})" if shape else "(n,)"


class Classes(Condition):
    """Class ids y (n,) -> a vector each; the null is one class more."""

    def __init__(self, classes: int, dim: int) -> None:
        super().__init__(torch.tensor(classes))
        self.classes, self.vector = classes, dim
        self.embedding = nn.Embedding(classes + 1, dim)

    def forward(self, y: Tensor) -> Given:
        return Given(vector=self.embedding(y))

    def check(self, y: Tensor, n: int) -> None:
        super().check(y, n)
        if y.is_floating_point() or (y < 0).any() or (y >= self.classes).any():
            raise ValueError(f"y={y.tolist()}: this model knows the classes 0 to {self.classes - 1}")


class Layout(Condition):
    """Boxes y (n, slots, 5) = (class id, x0, y0, x1, y1) in no order -> a token each; corners in [0, 1], unused slots
    with a class id of -1.

    frequencies: of the corners' Fourier features, doubling from half a period over the image.
    """

    remedy = "take data of boxes, as data=scenes data.ask=layout, with condition.slots as it has them"

    def __init__(self, classes: int, slots: int, dim: int, frequencies: int = 6) -> None:
        super().__init__(torch.tensor([-1.0, 0, 0, 0, 0]).repeat(slots, 1))
        self.classes, self.tokens = classes, dim
        self.register_buffer("frequencies", math.pi * 2.0 ** torch.arange(frequencies), persistent=False)
        self.embedding = nn.Embedding(classes, dim)
        self.mlp = nn.Sequential(nn.Linear(dim + 8 * frequencies, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.unused = nn.Parameter(torch.randn(dim))

    def forward(self, y: Tensor) -> Given:
        kind, corners = y[..., 0].long(), y[..., 1:].to(self.nothing)
        angles = (corners[..., None] * self.frequencies).flatten(2)  # (n, slots, 4 * frequencies)
        h = torch.cat([self.embedding(kind.clamp(min=0)), angles.sin(), angles.cos()], dim=2)
        return Given(tokens=torch.where(kind[..., None] < 0, self.unused, self.mlp(h)))  # (n, slots, dim)

    def check(self, y: Tensor, n: int) -> None:
        super().check(y, n)
        kind, corners = y[..., 0], y[..., 1:]
        if (kind < -1).any() or (kind >= self.classes).any() or (kind != kind.round()).any():
            known = f"0 to {self.classes - 1}, and -1 for an unused slot"
            raise ValueError(f"boxes of the classes {kind.unique().tolist()}: this model knows {known}")
        if not ((corners >= 0) & (corners <= 1)).all():
            raise ValueError("boxes that reach out of the image: corners are shares of its sides, 0 to 1")


def widths(condition: Condition | None, size: Sequence[int] = (1, 1)) -> tuple[int, int, int]:
    """Of the vector, the tokens, and the maps on a grid of `size` (h, w); no condition gives none."""
    if condition is None:
        return 0, 0, 0
    return condition.vector, condition.tokens, condition.maps * folds(condition.size, size) ** 2


def given(condition: Condition | None, y: Tensor | None, n: int, size: Sequence[int] = (1, 1)) -> Given:
    """What n images are told, maps on a grid of `size` (h, w); y=None is the null of all."""
    if condition is None:
        return Given()
    found = condition(condition.null(n) if y is None else y)
    return found if found.maps is None else found._replace(maps=on_grid(found.maps, size))


def folds(size: Sequence[int], grid: Sequence[int]) -> int:
    """How many rows, and columns, of maps of a size (H, W) fall on one of a grid (h, w)."""
    return max(math.ceil(a / b) for a, b in zip(size, grid, strict=True))


def on_grid(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Maps (n, c, H, W) on a grid of `size` (h, w), as of latents: coarse ones repeated, of fine ones the pixels that
    fall on a place as its channels (n, c r^2, h, w), so that none of them is lost."""
    (height, width), (h, w) = maps.shape[-2:], size
    r = folds((height, width), size)
    if r == 1:
        return F.interpolate(maps, (h, w), mode="nearest")
    return F.pixel_unshuffle(F.pad(maps, (0, r * w - width, 0, r * h - height)), r)
