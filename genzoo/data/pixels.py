"""Any image file to uint8 pixels of one shape."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

MODES = {1: "L", 3: "RGB"}
CHUNK = 64  # images a thread decodes at a stretch: one by one, handing over costs more than a small image
T = TypeVar("T")


def to_pixels(image: Image.Image, shape: Sequence[int]) -> np.ndarray:
    """uint8 (C, H, W): upright by EXIF, on white where transparent, scaled to cover H x W, centre-cropped.

    shape: (C, H, W) with C = 1 (grey) or 3 (RGB). 16-bit levels are scaled to 8 bits. An image that already
    has the size keeps its pixels. Raises ValueError for floating-point images, whose range is unknown, and
    for other C.
    """
    channels, height, width = shape
    if channels not in MODES:
        raise ValueError(f"Images have 1 (grey) or 3 (RGB) channels, not {channels}.")
    image = flatten(eight_bit(ImageOps.exif_transpose(image))).convert(MODES[channels])
    image = ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)
    return np.asarray(image).reshape(height, width, channels).transpose(2, 0, 1)


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
    """`to_pixels` of what open_image() returns. Raises ValueError naming the image when it cannot be read."""
    try:
        with open_image() as image:
            return to_pixels(image, shape)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"Cannot read the image {name} ({error}); repair or remove it.") from error


def decode_all(items: Sequence[T], read: Callable[[T], np.ndarray], shape: Sequence[int]) -> Tensor:
    """read(item) of every item as one uint8 tensor (n, C, H, W), by threads: PIL releases the lock."""
    out = torch.empty((len(items), *shape), dtype=torch.uint8)
    view = out.numpy()

    def fill(start: int) -> None:
        for i in range(start, min(start + CHUNK, len(items))):
            view[i] = read(items[i])

    with ThreadPoolExecutor() as pool:
        list(pool.map(fill, range(0, len(items), CHUNK)))  # list: an error in a thread is raised here
    return out
