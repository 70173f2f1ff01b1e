"""What quality costs: the first score against each cost, and quality, coverage and speed in one figure."""

import math
from collections.abc import Sequence

from genzoo.report import calls, scores, units
from genzoo.report.figures import LARGE, SMALL, Panel
from genzoo.report.scatter import Better, Point, scatter
from genzoo.report.scores import Estimate
from genzoo.report.table import Group, Row

COSTS = (  # of the axis; keys of a run's cost, the first that any row knows; how one value is printed
    ("training seconds", ("training_seconds",), units.duration),
    ("images seen in training", ("images_seen",), units.integer),
    ("network calls", ("nfe",), units.integer),
    ("sampling seconds an image", ("latency_seconds", "sampling_seconds_per_image"), units.latency),
)
FEW = 6  # settings whose labels a small figure has room for


def panels(group: Group) -> list[Panel]:
    """The first score against every cost on which the settings differ, then the trilemma."""
    drawn = [_against(group, name, key) for name, key in _axes_of_cost(group)]
    return [panel for panel in [*drawn, trilemma(group)] if panel]


def _axes_of_cost(group: Group) -> list[tuple[str, str]]:
    """(axis, key) of each cost on which the settings differ, but for calls where these have a figure of their own."""
    apart = bool(calls.tracks(group))
    return [(name, key) for name, key, _ in _known(group) if not (_same(group, key) or (apart and key == "nfe"))]


def _known(group: Group) -> list[tuple[str, str, units.Show]]:
    """(axis, key, printer) of each cost that any row knows."""
    found = [(name, [k for k in keys if any(_number(r, k) for r in group.rows)], show) for name, keys, show in COSTS]
    return [(name, keys[0], show) for name, keys, show in found if keys]


def _number(row: Row, key: str) -> float | None:
    """A cost that was measured, as a number above 0."""
    cost = row.cost(key)
    fine = isinstance(cost, (int, float)) and not isinstance(cost, bool) and math.isfinite(cost) and cost > 0
    return float(cost) if fine else None


def _same(group: Group, key: str) -> bool:
    """Whether the rows' costs are equal to a thousandth: an axis would be one place."""
    costs = [cost for row in group.rows if (cost := _number(row, key))]
    return max(costs) <= 1.001 * min(costs)


def _against(group: Group, against: str, key: str) -> Panel | None:
    found = [(i, row, _number(row, key)) for i, row in enumerate(group.rows)]
    points = [
        Point(row.name, i, Estimate(cost), row.scores.get(group.by, Estimate())) for i, row, cost in found if cost
    ]
    way = scores.direction(group.by)
    return scatter(group.by, against, points, Better(-1, way)) if way else None


def trilemma(group: Group) -> Panel | None:
    """Coverage across, precision (or else the first score) upwards, speed as area: Xiao et al. (2022), figure 1.

    None unless two settings know all three. The area grows by the same with every tenfold in speed.
    """
    across, up = _axes(group)
    speeds = [1 / seconds if (seconds := _number(row, "sampling_seconds_per_image")) else 0.0 for row in group.rows]
    if not across or not up or sum(speed > 0 for speed in speeds) < 2:
        return None
    points = [
        Point(
            row.name,
            i,
            row.scores.get(across, Estimate()),
            row.scores.get(up, Estimate()),
            _radius(speed, speeds),
            f"{row.name}, {units.integer(speed) if speed >= 10 else f'{speed:.2g}'}/s",
        )
        for i, (row, speed) in enumerate(zip(group.rows, speeds, strict=True))
        if speed
    ]
    better = Better(scores.direction(across), scores.direction(up))
    frame = LARGE if len(points) > FEW else SMALL
    return scatter(f"Trilemma: {up} and speed", across, points, better, edge=False, frame=frame)


def _axes(group: Group) -> tuple[str, str]:
    """The scores across and upwards; "" where there is none."""
    across = next((name for start in ("coverage", "recall") for name in group.scores if name.startswith(start)), "")
    up = next((name for name in group.scores if name.startswith("precision")), group.by)
    return across, up if up != across else ""


def _radius(speed: float, speeds: Sequence[float], least: float = 4.5, most: float = 13) -> float:
    """Of a mark whose area is linear in log speed, from the slowest to the fastest."""
    logs = [math.log(s) for s in speeds if s]
    share = (math.log(speed) - min(logs)) / ((max(logs) - min(logs)) or 1) if speed else 0
    return round(math.sqrt(least**2 + share * (most**2 - least**2)), 1)


def note(group: Group) -> str:
    """How to read the panels: what the marks are, which settings are on no front, which cost all share."""
    said = []
    if group.by and _axes_of_cost(group) and len(group.rows) > 1:
        higher = "Higher" if scores.direction(group.by) > 0 else "Lower"
        said.append(
            f"{higher} {group.by} is better, and cheaper is further left. A point a setting, with its 95% intervals. "
            "Full marks: the Pareto front, which no other setting beats in both; hollow: another is at least as good "
            "for no more. The steps are the border of what was reached."
        )
    for name, key, show in _known(group):
        if _same(group, key) and len(group.rows) > 1:
            said.append(f"No panel for {name}: {show(_number_of_any(group, key))} for all.")
    return " ".join(said)


def _number_of_any(group: Group, key: str) -> float | None:
    return next((cost for row in group.rows if (cost := _number(row, key))), None)


def trilemma_note(group: Group) -> str:
    """How to read the trilemma, and which settings no other beats in all three."""
    if not trilemma(group):
        return ""
    across, up = _axes(group)
    side = "right" if scores.direction(across) > 0 else "left"
    high = "up" if scores.direction(up) > 0 else "down"
    return (
        f"The trilemma (Xiao et al. 2022): further {high} is better {up}, further {side} better {across}, and a larger "
        "mark is faster sampling (beside it images a second, in batches; every tenfold adds the same area), so good at "
        f"all three is a large mark at the {'upper' if high == 'up' else 'lower'} {side}. Full marks: no other setting "
        "is as good in all three."
    )
