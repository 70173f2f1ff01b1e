"""Figures as plain values (paths, ticks, PNG data); the template draws them and escapes their text too."""

import base64
import io
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from genzoo.report import units

WIDTH, HEIGHT = 360, 220  # of every panel, in its own units; one is about a pixel
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 8, 26
POINTS = 200  # a line's points: more than a panel has room for only makes the page heavy

Scale = Callable[[float], float]


class Series(NamedTuple):
    """A curve to draw: points (k, 2) of images seen and value; colour: index into the palette."""

    name: str
    colour: int
    points: np.ndarray


class Line(NamedTuple):
    """A drawn curve: an SVG path, and dots where the points are few enough to be told apart."""

    name: str
    colour: int
    path: str
    dots: list[tuple[float, float]]


class Tick(NamedTuple):
    at: float
    text: str


@dataclass(frozen=True)
class Panel:
    """A drawn set of axes; log: the y axis is; level: the height of a horizontal line such as the floor."""

    title: str
    lines: list[Line]
    x: list[Tick]
    y: list[Tick]
    log: bool
    level: float | None = None

    @property
    def legend(self) -> list[tuple[str, int]]:
        return list(dict.fromkeys((line.name, line.colour) for line in self.lines))


def panel(title: str, series: Iterable[Series], level: float = math.nan, spread: float = 100) -> Panel | None:
    """Draws the curves against images seen, on a log axis if they span over a decade; None without points.

    level: value of a horizontal line, NaN for none. spread: percentage of the values that sets the y axis;
    below 100 a first few wild losses run out of the panel instead of flattening the rest.
    """
    series = list(series)
    x_most = max((s.points[-1, 0] for s in series), default=0)
    series = [s._replace(points=_thinned(s.points)) for s in series]
    y = _finite(np.concatenate([s.points[:, 1] for s in series] + [np.array([level])]))
    if not y.size or not x_most > 0:
        return None
    low, high = np.percentile(y, [(100 - spread) / 2, (100 + spread) / 2])
    log = bool(y.min() > 0 and high > 10 * low)
    to_x, to_y = _axis(0, x_most, LEFT, WIDTH - RIGHT), _y_axis(low, high, log)
    return Panel(
        title=title,
        lines=[_line(s, to_x, to_y) for s in series],
        x=[Tick(to_x(v), units.short(v)) for v in _ticks(0, x_most)],
        y=[Tick(to_y(v), units.short(v)) for v in (_log_ticks if log else _ticks)(low, high)],
        log=log,
        level=to_y(level) if math.isfinite(level) else None,
    )


def _finite(values: np.ndarray) -> np.ndarray:
    return values[np.isfinite(values)]


def _thinned(points: np.ndarray) -> np.ndarray:
    """At most POINTS points: means of neighbours, so that a noisy loss keeps its level."""
    if len(points) <= POINTS:
        return points
    return np.stack([part.mean(axis=0) for part in np.array_split(points, POINTS)])


def _axis(low: float, high: float, start: float, end: float) -> Scale:
    """Value -> place, from low at start to high at end."""
    scale = (end - start) / ((high - low) or 1)
    return lambda value: round(float(start + (value - low) * scale), 1)


def _y_axis(low: float, high: float, log: bool) -> Scale:
    """Value -> height in the panel, with some air above and below; a log axis when asked."""
    at = math.log10 if log else float
    air = (at(high) - at(low)) * 0.05 or abs(at(high)) * 0.05 or 1.0
    linear = _axis(at(low) - air, at(high) + air, HEIGHT - BOTTOM, TOP)
    return lambda value: linear(at(value))


def _line(series: Series, to_x: Scale, to_y: Scale) -> Line:
    """The path breaks where a value is not finite."""
    parts, pen = [], "M"
    places = [(to_x(x), to_y(y)) if math.isfinite(y) else None for x, y in series.points.tolist()]
    for place in places:
        parts.append(f"{pen}{place[0]:g} {place[1]:g}" if place else "")
        pen = "L" if place else "M"
    dots = [place for place in places if place] if len(places) <= 16 else []
    return Line(series.name, series.colour, "".join(parts), dots)


def _ticks(low: float, high: float) -> list[float]:
    """At most six round numbers from low to high."""
    rough = (high - low) / 5 or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
    return [round(i * step, 12) for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten; within three decades 2 and 5 times these too."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    digits = (1, 2, 5) if len(decades) <= 4 else (1,)
    return [d * 10.0**k for k in decades for d in digits if low * 0.9 <= d * 10.0**k <= high * 1.1]


def grid(images: np.ndarray, side: int = 8) -> str:
    """The first side * side images (k, C, H, W) uint8 as one PNG data URI about 512 pixels wide.

    One channel is drawn grey, three or more by the first three; the gaps between images are transparent.
    """
    images = np.moveaxis(images[: side * side], 1, -1)  # (k, H, W, C)
    images = images[..., :3] if images.shape[-1] >= 3 else images[..., :1]
    k, h, w, c = images.shape
    zoom = max(1, 512 // (side * max(h, w)))
    gap = max(1, zoom * max(h, w) // 16)
    images = images.repeat(zoom, axis=1).repeat(zoom, axis=2)
    rows = -(-k // side)
    sheet = np.zeros((rows * (h * zoom + gap) - gap, side * (w * zoom + gap) - gap, c + 1), np.uint8)
    for i, image in enumerate(images):
        top, left = i // side * (h * zoom + gap), i % side * (w * zoom + gap)
        sheet[top : top + h * zoom, left : left + w * zoom, :c] = image
        sheet[top : top + h * zoom, left : left + w * zoom, c] = 255
    return _png(sheet)


def montage(sets: Sequence[tuple[str, np.ndarray]], side: int = 8, width: int = 256) -> Image.Image:
    """The named sets' first side * side images, one square each in a row, the names below."""
    gap, foot = width // 12, width // 8
    sheet = Image.new("RGB", (len(sets) * (width + gap) + gap, gap + width + foot + gap // 2), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (name, images) in enumerate(sets):
        left = gap + i * (width + gap)
        tile = _square(images, side).resize((width, width), Image.Resampling.NEAREST)
        sheet.paste(tile, (left, gap), tile)
        draw.text((left, gap + width + foot // 5), name, fill="black", font=ImageFont.load_default(foot * 0.6))
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


def fitting(sets: Sequence[np.ndarray], limit: int = 12_000_000) -> tuple[list[str], int]:
    """The sets' grids with the most images a side (8, 6, 4, 2) that fit `limit` characters; that side."""
    for side in (8, 6, 4, 2):
        grids = [grid(images, side) for images in sets]
        if sum(map(len, grids)) <= limit:
            break
    return grids, side
