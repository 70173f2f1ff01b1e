"""What a source returns: train, validation and test images that share no image."""

import zlib
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

if TYPE_CHECKING:
    from genzoo.data.stream import Stream


class Images(NamedTuple):
    """x: uint8 (N, C, H, W), or float32 in [-1, 1] for toy points; y: what is said of each, a row an image, or None.

    Class ids are int64 (N,); boxes, captions and maps have more dimensions (genzoo.nets.conditions).
    """

    x: Tensor
    y: Tensor | None = None


class Splits(NamedTuple):
    """Three disjoint splits; `train` is a `Stream` when it does not fit in memory.

    `class_names[i]` is the name of class id i; None when the source knows no names.
    """

    train: "Images | Stream"
    val: Images
    test: Images
    class_names: tuple[str, ...] | None = None


def bucket(key: bytes) -> float:
    """A number in [0, 1) that depends on `key` alone, so a share of the data can be held out by content.

    CRC-32 spreads file names and file contents evenly, is the same on every machine, and needs no order.
    """
    return zlib.crc32(key) / 2**32


def held_out(key: bytes, val: float, test: float) -> str:
    """The split that `key` falls into when the shares `val` and `test` are taken out of train."""
    u = bucket(key)
    return "test" if u < test else "val" if u < test + val else "train"
