"""Figures as plain values (paths, dots, ticks): where every value lies in a panel, before anything is drawn."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from genzoo.report import units

WIDTH, HEIGHT = 360, 220  # of a panel, in its own units; one is about a pixel
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 8, 26
POINTS = 200  # a line's points: more than a panel has room for only makes the page heavy

NO_BAND = np.zeros((0, 3))

Scale = Callable[[float], float]


class Frame(NamedTuple):
    """A panel's size; right and bottom: the edges of its axes, which begin at LEFT and TOP."""

    width: float = WIDTH
    height: float = HEIGHT

    @property
    def right(self) -> float:
        return self.width - RIGHT

    @property
    def bottom(self) -> float:
        return self.height - BOTTOM


SMALL, LARGE = Frame(), Frame(560, 340)  # large: of many settings


class Series(NamedTuple):
    """A curve to draw: points (k, 2) of images seen and value; colour: index into the palette.

    band: (k, 3) of images seen, the lowest and the highest value; (0, 3) for none.
    """

    name: str
    colour: int
    points: np.ndarray
    band: np.ndarray = NO_BAND


class Line(NamedTuple):
    """A drawn curve: an SVG path, and dots where the points are few enough to be told apart.

    band: the SVG path of the area around it; marks: (x, y, radius, filled) of a setting's own mark, or of each of its
    points, which `joined` then goes through.
    """

    name: str
    colour: int
    path: str
    dots: Sequence[tuple[float, float]] = ()
    band: str = ""
    marks: Sequence[tuple[float, float, float, bool]] = ()
    joined: str = ""


class Fit(NamedTuple):
    """A line through points (k, 2) of 1 / n and value, which meets 1 / n = 0 at `limit`."""

    name: str
    colour: int
    points: np.ndarray
    slope: float
    limit: float


class Tick(NamedTuple):
    at: float
    text: str


@dataclass(frozen=True)
class Panel:
    """A drawn set of axes; log: the y axis is; against: what x counts; level: the height of a horizontal line.

    front: the path of a Pareto front; labels: (x, y, text, anchor) within the axes; leaders: the path of the lines
    from marks to the labels that had no room beside them.
    """

    title: str
    against: str
    lines: list[Line]
    x: list[Tick]
    y: list[Tick]
    log: bool
    level: float | None = None
    front: str = ""
    labels: Sequence[tuple[float, float, str, str]] = ()
    leaders: str = ""
    frame: Frame = SMALL

    @property
    def legend(self) -> list[tuple[str, int]]:
        return list(dict.fromkeys((line.name, line.colour) for line in self.lines))


def panel(title: str, series: Iterable[Series], level: float = math.nan, spread: float = 100) -> Panel | None:
    """Draws the curves against images seen, on a log axis if they span over a decade; None without points.

    level: value of a horizontal line, NaN for none. spread: percentage of the values that sets the y axis;
    below 100 a first few wild losses run out of the panel instead of flattening the rest.
    """
    series = [s for s in series if len(s.points)]
    x_most = max((s.points[-1, 0] for s in series), default=0)
    series = [s._replace(points=_thinned(s.points), band=_thinned(s.band)) for s in series]
    drawn = [part for s in series for part in (s.points[:, 1], s.band[:, 1:].ravel())]
    y = _finite(np.concatenate([*drawn, np.array([level])]))
    if not y.size or not x_most > 0:
        return None
    low, high = np.percentile(y, [(100 - spread) / 2, (100 + spread) / 2])
    log = bool(y.min() > 0 and high > 10 * low)
    to_x, to_y = axis(0, x_most, LEFT, WIDTH - RIGHT), _y_axis(low, high, log)
    return Panel(
        title=title,
        against="images seen",
        lines=[_line(s, to_x, to_y) for s in series],
        x=[Tick(to_x(v), units.short(v)) for v in ticks(0, x_most)],
        y=[Tick(to_y(v), units.short(v)) for v in (log_ticks if log else ticks)(low, high)],
        log=log,
        level=to_y(level) if math.isfinite(level) else None,
    )


def fit_panel(title: str, fits: Sequence[Fit]) -> Panel | None:
    """Draws each fit's points and its line against 1 / n, from n = ∞ at the left; None without finite points."""
    fits = [fit for fit in fits if len(fit.points) and np.isfinite([*fit.points.flat, fit.slope, fit.limit]).all()]
    if not fits:
        return None
    x_most = max(fit.points[:, 0].max() for fit in fits)
    ends = [np.array([[0, fit.limit], [x_most, fit.limit + fit.slope * x_most]]) for fit in fits]
    values = np.concatenate([np.concatenate([fit.points, end])[:, 1] for fit, end in zip(fits, ends, strict=True)])
    to_x, to_y = axis(0, x_most, LEFT + 8, WIDTH - RIGHT - 12), _y_axis(values.min(), values.max(), log=False)
    at = sorted({float(x) for fit in fits for x in fit.points[:, 0]})
    return Panel(
        title=title,
        against="1 / number of images",
        lines=[_fit_line(fit, end, to_x, to_y) for fit, end in zip(fits, ends, strict=True)],
        x=apart([Tick(to_x(0), "∞"), *(Tick(to_x(x), units.short(round(1 / x))) for x in at)]),
        y=[Tick(to_y(v), units.short(v)) for v in ticks(values.min(), values.max())],
        log=False,
    )


def _fit_line(fit: Fit, ends: np.ndarray, to_x: Scale, to_y: Scale) -> Line:
    path = "M" + "L".join(f"{to_x(x):g} {to_y(y):g}" for x, y in ends.tolist())
    return Line(fit.name, fit.colour, path, [(to_x(x), to_y(y)) for x, y in fit.points.tolist()])


def apart(ticks: Sequence[Tick], least: float = 30) -> list[Tick]:
    """Without those that would be printed over the one before."""
    kept: list[Tick] = []
    for tick in ticks:
        if not kept or tick.at >= kept[-1].at + least:
            kept.append(tick)
    return kept


def bars(shares: Sequence[float], most: float, width: float = 120, height: float = 40) -> str:
    """An SVG path of one bar a share, as high as the figure at `most`, from the left."""
    step, gap = width / len(shares), 0.2 * width / len(shares)
    return "".join(
        f"M{i * step:.4g} {height:g}v{-height * share / most:.4g}h{step - gap:.4g}V{height:g}z"
        for i, share in enumerate(shares)
    )


def levels(shares: Sequence[float], most: float, width: float = 120, height: float = 40) -> str:
    """An SVG path of one short horizontal line a share, where the top of its bar would be."""
    step, gap = width / len(shares), 0.2 * width / len(shares)
    return "".join(
        f"M{i * step:.4g} {height * (1 - share / most):.4g}h{step - gap:.4g}" for i, share in enumerate(shares)
    )


def _finite(values: np.ndarray) -> np.ndarray:
    return values[np.isfinite(values)]


def _thinned(points: np.ndarray) -> np.ndarray:
    """At most POINTS points: means of neighbours, so that a noisy loss keeps its level."""
    if len(points) <= POINTS:
        return points
    return np.stack([part.mean(axis=0) for part in np.array_split(points, POINTS)])


def axis(low: float, high: float, start: float, end: float) -> Scale:
    """Value -> place, from low at start to high at end."""
    scale = (end - start) / ((high - low) or 1)
    return lambda value: round(float(start + (value - low) * scale), 1)


def _y_axis(low: float, high: float, log: bool) -> Scale:
    """Value -> height in the panel, with some air above and below; a log axis when asked."""
    at = math.log10 if log else float
    air = (at(high) - at(low)) * 0.05 or abs(at(high)) * 0.05 or 1.0
    linear = axis(at(low) - air, at(high) + air, HEIGHT - BOTTOM, TOP)
    return lambda value: linear(at(value))


def _line(series: Series, to_x: Scale, to_y: Scale) -> Line:
    """The path breaks where a value is not finite."""
    parts, pen = [], "M"
    places = [(to_x(x), to_y(y)) if math.isfinite(y) else None for x, y in series.points.tolist()]
    for place in places:
        parts.append(f"{pen}{place[0]:g} {place[1]:g}" if place else "")
        pen = "L" if place else "M"
    dots = [place for place in places if place] if len(places) <= 16 else []
    return Line(series.name, series.colour, "".join(parts), dots, _band(series.band, to_x, to_y))


def _band(band: np.ndarray, to_x: Scale, to_y: Scale) -> str:
    """Along the highest values and back along the lowest; where one is not finite, the area skips it."""
    known = band[np.isfinite(band).all(axis=1)].tolist()
    there = [f"{to_x(x):g} {to_y(high):g}" for x, _, high in known]
    back = [f"{to_x(x):g} {to_y(low):g}" for x, low, _ in reversed(known)]
    return f"M{'L'.join(there + back)}Z" if known else ""


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """At most so many round numbers from low to high."""
    rough = (high - low) / (most - 1) or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
    return [round(i * step, 12) for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten; within three decades 2 and 5 times these too."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    digits = (1, 2, 5) if len(decades) <= 4 else (1,)
    return [d * 10.0**k for k in decades for d in digits if low * 0.9 <= d * 10.0**k <= high * 1.1]
