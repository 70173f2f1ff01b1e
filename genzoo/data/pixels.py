"""Any image file to uint8 pixels of one shape, and what becomes of files that are no images."""

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

MODES = {1: "L", 3: "RGB"}
ON_BAD = ("stop", "skip")
CHUNK = 64  # images a thread decodes at a stretch: one by one, handing over costs more than a small image
NAMED = 10  # unreadable images that one line names; each further one has a line of its own
log = logging.getLogger("genzoo")
T = TypeVar("T")


class Unreadable(ValueError):
    """An image that cannot be decoded; the message names it and says why."""


class Decoded(NamedTuple):
    """x: uint8 (n, C, H, W) of the items at the places `kept`; bad: what is wrong with each of the others."""

    x: Tensor
    kept: list[int]
    bad: list[str]


def to_pixels(image: Image.Image, shape: Sequence[int]) -> np.ndarray:
    """uint8 (C, H, W): upright by EXIF, on white where transparent, scaled to cover H x W, centre-cropped.

    shape: (C, H, W) with C = 1 (grey) or 3 (RGB). 16-bit levels are scaled to 8 bits. An image that already
    has the size keeps its pixels. Raises ValueError for floating-point images, whose range is unknown, and
    for other C.
    """
    channels, height, width = shape
    check_channels(channels)
    image = flatten(eight_bit(ImageOps.exif_transpose(image))).convert(MODES[channels])
    image = ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)
    return np.asarray(image).reshape(height, width, channels).transpose(2, 0, 1)


def check_channels(channels: int) -> None:
    if channels not in MODES:
        raise ValueError(f"Images have 1 (grey) or 3 (RGB) channels, not {channels}.")


def eight_bit(image: Image.Image) -> Image.Image:
    """Levels 0..65535 of a 16-bit grey image to 0..255; other integer images unchanged."""
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range")
    if not image.mode.startswith("I"):
        return image
    return Image.fromarray(np.round(np.asarray(image).clip(0, 65535) / 257).astype(np.uint8))


def flatten(image: Image.Image) -> Image.Image:
    """`image` over a white ground, if it has transparency."""
    if not image.has_transparency_data:
        return image
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)


def decode(open_image: Callable[[], Image.Image], shape: Sequence[int], name: str) -> np.ndarray:
    """`to_pixels` of what open_image() returns. Raises Unreadable naming the image when it cannot be read."""
    check_channels(shape[0])
    try:
        with open_image() as image:
            return to_pixels(image, shape)
    except MemoryError:
        raise
    except Exception as error:  # for damaged files Pillow's readers raise many kinds
        raise Unreadable(f"Cannot read the image {printable(name)} ({reason(error)}); repair or remove it.") from error


def reason(error: Exception) -> str:
    """What is wrong with an image, without the name of the file or of its buffer."""
    if isinstance(error, UnidentifiedImageError):
        return "it is in no format that Pillow knows"
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).split("\n")[0]


def printable(name: str) -> str:
    """A name with bytes that are no UTF-8, which Linux lets files have, written out."""
    return name.encode(errors="backslashreplace").decode()


def decode_all(
    items: Sequence[T], read: Callable[[T], np.ndarray], shape: Sequence[int], on_bad: str = "stop"
) -> Decoded:
    """read(item) of every item, by threads: PIL releases the lock.

    on_bad: "stop" raises the first Unreadable, "skip" leaves such items out. Raises ValueError for another one.
    """
    check_channels(shape[0])
    if on_bad not in ON_BAD:
        raise ValueError(f"data.on_bad={on_bad}: choose stop or skip.")
    out = torch.empty((len(items), *shape), dtype=torch.uint8)
    view = out.numpy()

    def fill(start: int) -> dict[int, str]:
        bad = {}
        for i in range(start, min(start + CHUNK, len(items))):
            try:
                view[i] = read(items[i])
            except Unreadable as error:
                if on_bad == "stop":
                    raise
                bad[i] = str(error)
        return bad

    with ThreadPoolExecutor() as pool:
        bad = {i: said for found in pool.map(fill, range(0, len(items), CHUNK)) for i, said in found.items()}
    kept = [i for i in range(len(items)) if i not in bad]
    return Decoded(out[kept] if bad else out, kept, list(bad.values()))


def tell_bad(bad: Sequence[str], n: int, split: str) -> None:
    """List the unreadable ones of n images of a split in the log."""
    if bad:
        log.warning("data.on_bad=skip leaves out %d of %d %s images: %s", len(bad), n, split, " ".join(bad[:NAMED]))
    for said in bad[NAMED:]:
        log.warning("data.on_bad=skip: %s", said)
