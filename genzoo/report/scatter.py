"""Settings as points: one quantity against another, the Pareto front of those that no other beats in both."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from genzoo.report import figures, units
from genzoo.report.figures import HEIGHT, LEFT, RIGHT, TOP, WIDTH, Line, Panel, Scale, Tick
from genzoo.report.scores import Estimate

BOTTOM = HEIGHT - figures.BOTTOM
RADIUS = 4.2
LETTER, HIGH = 5.9, 12.0  # of a label's letter

Box = tuple[float, float, float, float]  # left, top, right, bottom
Mark = tuple[float, float, float, bool]  # x, y, radius, filled


class Point(NamedTuple):
    """A setting: two estimates, of which each may have an interval; label: printed beside its mark."""

    name: str
    colour: int
    x: Estimate
    y: Estimate
    radius: float = RADIUS
    label: str = ""


class Better(NamedTuple):
    """Which way is better: 1 upwards, -1 downwards."""

    x: int
    y: int


def scatter(title: str, against: str, points: Sequence[Point], better: Better, edge: bool = True) -> Panel | None:
    """Draws the points, each axis logarithmic where it spans over a decade; None for fewer than two points.

    edge: whether the front is drawn as a line. Members of the front have full marks, all others hollow ones.
    """
    points = [p for p in points if math.isfinite(p.x.value) and math.isfinite(p.y.value)]
    if len(points) < 2:
        return None
    x_log, y_log = _is_log([p.x for p in points]), _is_log([p.y for p in points])
    to_x, x = _axis([p.x for p in points], x_log, LEFT + 14, WIDTH - RIGHT - 14)
    to_y, y = _axis([p.y for p in points], y_log, BOTTOM - 14, TOP + 14)
    best = front(points, better)
    lines = [_line(p, p in best, to_x, to_y) for p in points]
    bars = [bar for p in points for bar in _bars(p, to_x, to_y)]
    return Panel(
        title=title,
        against=against + (", log scale" if x_log else ""),
        lines=lines,
        x=figures.apart([Tick(to_x(v), units.short(v)) for v in x]),
        y=[Tick(to_y(v), units.short(v)) for v in y],
        log=y_log,
        front=_edge(best, better, to_x, to_y) if edge else "",
        labels=_labels([(line.marks[0], p.label) for line, p in zip(lines, points, strict=True)], bars),
    )


def front(points: Sequence[Point], better: Better) -> list[Point]:
    """Points that no other equals in x, y and radius (larger is better) and beats in one, from the best x on."""
    good = [(p, (better.x * p.x.value, better.y * p.y.value, p.radius)) for p in points]
    kept = [(p, at) for p, at in good if not any(_beats(other, at) for _, other in good)]
    return [p for p, _ in sorted(kept, key=lambda pair: -pair[1][0])]


def _beats(one: Sequence[float], other: Sequence[float]) -> bool:
    return one != other and all(a >= b for a, b in zip(one, other, strict=True))


def _is_log(found: Sequence[Estimate]) -> bool:
    values = [e.value for e in found]
    return min(values) > 0 and max(values) > 10 * min(values)


def _ends(found: Sequence[Estimate], log: bool) -> list[float]:
    """The values and the ends of their intervals; on a log axis those above 0."""
    ends = [end for e in found for end in (e.value, e.low, e.high) if math.isfinite(end)]
    return [end for end in ends if end > 0 or not log]


def _axis(found: Sequence[Estimate], log: bool, start: float, end: float) -> tuple[Scale, list[float]]:
    """Value -> place, and the values of the ticks."""
    ends = _ends(found, log)
    low, high = min(ends), max(ends)
    at = math.log10 if log else float
    linear = figures.axis(at(low), at(high), start, end)
    return (lambda value: linear(at(max(value, low)))), (figures.log_ticks if log else figures.ticks)(low, high)


def _line(point: Point, best: bool, to_x: Scale, to_y: Scale) -> Line:
    """The intervals as a cross behind the mark."""
    cross = "".join(f"M{a:g} {b:g}L{c:g} {d:g}" for a, b, c, d in _bars(point, to_x, to_y))
    mark = (to_x(point.x.value), to_y(point.y.value), point.radius, best)
    return Line(point.name, point.colour, cross, marks=[mark])


def _edge(best: Sequence[Point], better: Better, to_x: Scale, to_y: Scale) -> str:
    """The border of what has been reached: a step from each member to the next."""
    places = [(to_x(p.x.value), to_y(p.y.value)) for p in best]
    worst_y = BOTTOM if better.y > 0 else TOP
    worst_x = LEFT if better.x > 0 else WIDTH - RIGHT
    steps = "".join(f"H{x:g}V{y:g}" for x, y in places)
    return f"M{places[0][0]:g} {worst_y:g}{steps}H{worst_x:g}"


def _labels(marks: Sequence[tuple[Mark, str]], bars: Sequence[Box]) -> list[tuple[float, float, str, str]]:
    """(x, y, text, anchor) of every label: right, left, above or below its mark, where it covers the least."""
    boxes = [(x - r, y - r, x + r, y + r) for (x, y, r, _), _ in marks]
    taken = [*boxes, *((a - 1, b - 1, c + 1, d + 1) for a, b, c, d in bars)]
    found = []
    for box, (_, text) in zip(boxes, marks, strict=True):
        if text:
            place, label = max(_places(box, text), key=lambda each: _fit(each[0], taken))
            taken.append(place)
            found.append(label)
    return found


def _bars(point: Point, to_x: Scale, to_y: Scale) -> list[Box]:
    """The intervals of a point, as boxes without width."""
    x, y = to_x(point.x.value), to_y(point.y.value)
    across = [(to_x(point.x.low), y, to_x(point.x.high), y)] if math.isfinite(point.x.low + point.x.high) else []
    ends = sorted([to_y(point.y.low), to_y(point.y.high)]) if math.isfinite(point.y.low + point.y.high) else []
    return [*across, *([(x, ends[0], x, ends[1])] if ends else [])]


def _places(mark: Box, text: str) -> list[tuple[Box, tuple[float, float, str, str]]]:
    left, top, right, bottom = mark
    x, y, wide = (left + right) / 2, (top + bottom) / 2, LETTER * len(text)
    spots = [(right + 4, y + 4, "start"), (left - 4, y + 4, "end"), (x, top - 4, "middle"), (x, bottom + 11, "middle")]
    starts = {"start": 0.0, "end": -wide, "middle": -wide / 2}
    boxes = [(at + starts[a], base - HIGH + 3, at + starts[a] + wide, base + 3) for at, base, a in spots]
    return [(box, (round(at, 1), round(base, 1), text, a)) for box, (at, base, a) in zip(boxes, spots, strict=True)]


def _fit(box: Box, taken: Sequence[Box]) -> float:
    """Minus the area outside the axes and over what is there."""
    inside = _common(box, (LEFT, TOP, WIDTH, BOTTOM))
    return inside - (box[2] - box[0]) * (box[3] - box[1]) - sum(_common(box, other) for other in taken)


def _common(a: Box, b: Box) -> float:
    """The area that two boxes share."""
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
