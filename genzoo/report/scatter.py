"""Settings as points: one quantity against another, the Pareto front of those that no other beats in both."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from genzoo.report import figures, units
from genzoo.report.figures import LEFT, SMALL, TOP, Frame, Line, Panel, Scale, Tick
from genzoo.report.labels import Box, beads, placed
from genzoo.report.scores import Estimate

RADIUS = 4.2
AIR = 14  # between the axes and the outermost points


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


def scatter(
    title: str, against: str, points: Sequence[Point], better: Better, edge: bool = True, frame: Frame = SMALL
) -> Panel | None:
    """Draws the points, each axis logarithmic where it spans over a decade; None for fewer than two points.

    Points of one name and colour are joined by a line, in the order of x. edge: whether the front is drawn as a line.
    Members of the front have full marks, all others hollow ones.
    """
    points = [p for p in points if math.isfinite(p.x.value) and math.isfinite(p.y.value)]
    if len(points) < 2:
        return None
    x_log, y_log = _is_log([p.x for p in points]), _is_log([p.y for p in points])
    most = round(6 * frame.height / SMALL.height)
    to_x, x = _axis([p.x for p in points], x_log, LEFT + AIR, frame.right - AIR, most)
    to_y, y = _axis([p.y for p in points], y_log, frame.bottom - AIR, TOP + AIR, most)
    best = front(points, better)
    lines = [_line(same, best, to_x, to_y) for same in _together(points)]
    marks = [(to_x(p.x.value), to_y(p.y.value), p.radius, p.label) for p in points]
    bars = [bar for p in points for bar in _bars(p, to_x, to_y)]
    bars += [bar for line in lines for a, b in pairwise(line.marks) for bar in beads((*a[:2], *b[:2]))]
    labels, leaders = placed(marks, bars, (LEFT, TOP, frame.right, frame.bottom))
    return Panel(
        title=title,
        against=against + (", log scale" if x_log else ""),
        lines=lines,
        x=figures.apart([Tick(to_x(v), units.short(v)) for v in x]),
        y=[Tick(to_y(v), units.short(v)) for v in y],
        log=y_log,
        front=_edge(best, better, to_x, to_y, frame) if edge else "",
        labels=labels,
        leaders=leaders,
        frame=frame,
    )


def _together(points: Sequence[Point]) -> list[list[Point]]:
    """The points of each name and colour, in the order of x."""
    found: dict[tuple[str, int], list[Point]] = {}
    for point in sorted(points, key=lambda p: p.x.value):
        found.setdefault((point.name, point.colour), []).append(point)
    return sorted(found.values(), key=lambda same: same[0].colour)


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


def _axis(found: Sequence[Estimate], log: bool, start: float, end: float, most: int) -> tuple[Scale, list[float]]:
    """Value -> place, and the values of the ticks, on a linear axis at most so many."""
    ends = _ends(found, log)
    low, high = min(ends), max(ends)
    at = math.log10 if log else float
    linear = figures.axis(at(low), at(high), start, end)
    values = figures.log_ticks(low, high) if log else figures.ticks(low, high, most)
    return (lambda value: linear(at(max(value, low)))), values


def _line(points: Sequence[Point], best: Sequence[Point], to_x: Scale, to_y: Scale) -> Line:
    """The intervals as crosses behind the marks."""
    crosses = "".join(f"M{a:g} {b:g}L{c:g} {d:g}" for p in points for a, b, c, d in _bars(p, to_x, to_y))
    marks = [(to_x(p.x.value), to_y(p.y.value), p.radius, p in best) for p in points]
    joined = "M" + "L".join(f"{x:g} {y:g}" for x, y, _, _ in marks) if len(marks) > 1 else ""
    return Line(points[0].name, points[0].colour, crosses, marks=marks, joined=joined)


def _edge(best: Sequence[Point], better: Better, to_x: Scale, to_y: Scale, frame: Frame) -> str:
    """The border of what has been reached: a step from each member to the next."""
    places = [(to_x(p.x.value), to_y(p.y.value)) for p in best]
    worst_y = frame.bottom if better.y > 0 else TOP
    worst_x = LEFT if better.x > 0 else frame.right
    steps = "".join(f"H{x:g}V{y:g}" for x, y in places)
    return f"M{places[0][0]:g} {worst_y:g}{steps}H{worst_x:g}"


def _bars(point: Point, to_x: Scale, to_y: Scale) -> list[Box]:
    """The intervals of a point, as boxes without width."""
    x, y = to_x(point.x.value), to_y(point.y.value)
    across = [(to_x(point.x.low), y, to_x(point.x.high), y)] if math.isfinite(point.x.low + point.x.high) else []
    ends = sorted([to_y(point.y.low), to_y(point.y.high)]) if math.isfinite(point.y.low + point.y.high) else []
    return [*across, *([(x, ends[0], x, ends[1])] if ends else [])]
