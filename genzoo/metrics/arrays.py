"""Features as the metrics take them: tensors or arrays (n, d), read block by block in float64."""

from collections.abc import Iterator

import torch
from numpy.typing import ArrayLike
from torch import Tensor

ROWS = 2048  # of a block: large enough for a full-speed product, 32 MB at d = 2048


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
    return sum(block.sum(0) for _, block in blocks(x)) / len(x)
