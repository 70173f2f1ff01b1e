"""Generated arrays as pictures: a grid of images, or for 2-D points a picture of their density."""

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from genzoo.files import write_whole


def grid(images: np.ndarray, gap: int = 1) -> np.ndarray:
    """(n, C, H, W) uint8 -> one uint8 picture (rows, columns, 3), as square as n allows; points become a density."""
    n, channels, height, width = images.shape
    if (channels, height, width) == (2, 1, 1):
        return density(images.reshape(n, 2))
    columns = math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    canvas = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, 3), 255, np.uint8)
    for i, image in enumerate(images):
        top, left = (i // columns) * (height + gap) + gap, (i % columns) * (width + gap) + gap
        canvas[top : top + height, left : left + width] = image.transpose(1, 2, 0)
    return canvas


def frames(boxes: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """uint8 (C, H, W): the frames of boxes (k, 5), class and corners in [0, 1], with the numbers of their classes."""
    channels, height, width = shape
    canvas = Image.new("L", (width, height))
    pen = ImageDraw.Draw(canvas)
    for label, *corners in boxes[boxes[:, 0] >= 0].tolist():
        x0, y0, x1, y1 = (round(c * s) for c, s in zip(corners, (width, height) * 2, strict=True))
        pen.rectangle((x0, y0, max(x1 - 1, x0), max(y1 - 1, y0)), outline=128)
        pen.text(((x0 + x1) / 2, (y0 + y1) / 2), f"{label:.0f}", fill=255, anchor="mm")
    return np.repeat(np.array(canvas)[None], channels, 0)


def density(points: np.ndarray, bins: int = 64) -> np.ndarray:
    """(n, 2) uint8 points -> a picture (bins, bins, 3) of how many fall in each cell, dark where many."""
    counts, _, _ = np.histogram2d(255 - points[:, 1], points[:, 0], bins=bins, range=[[0, 256], [0, 256]])
    shade = 255 * (1 - np.sqrt(counts / max(counts.max(), 1)))
    return np.repeat(shade.astype(np.uint8)[:, :, None], 3, axis=2)


def save_grid(images: np.ndarray, path: Path, smallest: int = 512) -> Image.Image:
    """Write `grid(images)` as PNG, small pictures enlarged by whole factors so that pixels stay visible."""
    picture = Image.fromarray(grid(images))
    factor = max(1, round(smallest / picture.width))
    picture = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    write_whole(path, partial(picture.save, format="PNG"))
    return picture
