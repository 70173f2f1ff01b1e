"""Samples as pictures: grids, each sample above its nearest training image, the dots of points, a montage."""

import base64
import io
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

Drawing = Callable[[int], str]  # how many images a side -> data URI
ABREAST = 6  # squares of a montage side by side


def grid(images: np.ndarray, side: int = 8, apart: float = 1 / 16) -> str:
    """The first side * side images (k, C, H, W) uint8 as one PNG data URI about 512 pixels wide.

    One channel is drawn grey, three or more by the first three; the gaps between images are transparent, `apart`
    of an image's larger side.
    """
    return _sheet(images[: side * side], side, apart)


def strips(images: np.ndarray, side: int = 8, rows: int | None = None) -> str:
    """Rows of images (rows, steps, C, H, W) uint8 as one picture like `grid`'s: the first `rows` of them (None: as many
    as `side`), and of each `side` steps, evenly taken from the first to the last."""
    steps = images.shape[1]
    taken = np.linspace(0, steps - 1, min(steps, max(side, 2))).round().astype(int)
    chosen = images[: rows or side, taken]  # (rows, columns, C, H, W)
    return _sheet(chosen.reshape(-1, *chosen.shape[2:]), len(taken), 1 / 16)


def _sheet(images: np.ndarray, side: int, apart: float) -> str:
    """Images (k, C, H, W) row by row, `side` in each."""
    images = np.moveaxis(images, 1, -1)  # (k, H, W, C)
    images = images[..., :3] if images.shape[-1] >= 3 else images[..., :1]
    k, h, w, c = images.shape
    zoom = max(1, 512 // (side * max(h, w)))
    gap = max(1, int(zoom * max(h, w) * apart))
    images = images.repeat(zoom, axis=1).repeat(zoom, axis=2)
    rows = -(-k // side)
    sheet = np.zeros((rows * (h * zoom + gap) - gap, side * (w * zoom + gap) - gap, c + 1), np.uint8)
    for i, image in enumerate(images):
        top, left = i // side * (h * zoom + gap), i % side * (w * zoom + gap)
        sheet[top : top + h * zoom, left : left + w * zoom, :c] = image
        sheet[top : top + h * zoom, left : left + w * zoom, c] = 255
    return _png(sheet)


def pairs(fake: np.ndarray, nearest: np.ndarray, distance: np.ndarray | None, side: int = 8) -> str:
    """Each of `grid`'s images above its nearest, the two touching; the closest pairs first where distance is known.

    fake, nearest: (k, C, H, W) uint8; distance: (k,), in whatever unit, or None.
    """
    k = min(side * side, len(fake))
    order = np.arange(k) if distance is None else np.argsort(distance[:k], kind="stable")
    both = np.concatenate([fake[order], nearest[order]], axis=2)  # (k, C, 2 H, W)
    return grid(both, side, apart=1 / 6)


def montage(sets: Sequence[tuple[str, np.ndarray]], side: int = 8, width: int = 256) -> Image.Image:
    """The named sets' first side * side images, a square each, the names below; in even rows of at most ABREAST."""
    gap, foot = width // 12, width // 8
    lines = -(-len(sets) // ABREAST)
    across, high = -(-len(sets) // lines), gap + width + foot
    sheet = Image.new("RGB", (across * (width + gap) + gap, lines * high + gap // 2), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (name, images) in enumerate(sets):
        left, top = gap + i % across * (width + gap), i // across * high + gap
        tile = _square(images, side).resize((width, width), Image.Resampling.NEAREST)
        sheet.paste(tile, (left, top), tile)
        draw.text((left, top + width + foot // 5), name, fill="black", font=ImageFont.load_default(foot * 0.6))
    return sheet


def _square(images: np.ndarray, side: int) -> Image.Image:
    """A grid of images, or the dots of points, as an RGBA picture."""
    if not images.size:
        return Image.new("RGBA", (1, 1))
    if not is_points(images):
        return Image.open(io.BytesIO(base64.b64decode(grid(images, side).partition(",")[2]))).convert("RGBA")
    pixels = np.zeros((256, 256, 4), np.uint8)
    x, y = images[:, :, 0, 0].T
    pixels[255 - y, x, 3] = 255
    return Image.fromarray(pixels).filter(ImageFilter.MaxFilter(3))


def _png(pixels: np.ndarray) -> str:
    """A data URI of (H, W, 2) grey or (H, W, 4) colour pixels with alpha."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def is_points(images: np.ndarray) -> bool:
    """Whether the samples are points of the plane, (k, 2, 1, 1)."""
    return images.shape[1:] == (2, 1, 1)


def dots(points: np.ndarray) -> str:
    """Points (k, 2, 1, 1) uint8 as an SVG path of round dots in a square 256 wide, y upwards."""
    return "".join(f"M{x} {255 - y}h0" for x, y in points[:, :, 0, 0].tolist())


def fitting(drawings: Sequence[Drawing], limit: int = 12_000_000) -> int:
    """The most images a side (8, 6, 4, 2, else 1) with which all drawings together fit `limit` characters."""
    return next((side for side in (8, 6, 4, 2) if sum(len(draw(side)) for draw in drawings) <= limit), 1)
