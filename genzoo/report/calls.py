"""Quality against network calls: checkpoints sampled in several ways, as lines over their steps and as a table."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from genzoo.report import scores, settings, units
from genzoo.report.figures import LARGE, Panel
from genzoo.report.scatter import RADIUS, Better, Point, scatter
from genzoo.report.scores import Estimate
from genzoo.report.table import Cell, Group, Row, Sheet

AGAINST = "network calls an image"
OWN = "Its own steps"


class Track(NamedTuple):
    """The records of one training that differ in their steps alone, in the order of these: (steps or None, record)."""

    training: str
    name: str
    records: list[tuple[int | None, Row]]

    @property
    def words(self) -> str:
        """The name without the training's: heun."""
        return self.name.removeprefix(f"{self.training}, ")


def tracks(group: Group) -> list[Track]:
    """In the order of the ranked rows, then by name; [] where nothing was sampled in a second way."""
    every = [*(row for row in group.rows if row.asked), *group.again] if group.again else []
    found: dict[tuple[str, str], list[tuple[int | None, Row]]] = {}
    for row in every:
        found.setdefault((row.training, _name(row)), []).append((steps(row), row))
    order = [row.training for row in group.rows]
    keys = sorted(found, key=lambda key: (order.index(key[0]), key[1]))
    return [Track(*key, sorted(found[key], key=lambda record: record[0] or 0)) for key in keys]


def steps(row: Row) -> int | None:
    """The steps that a second scoring asked for; None where it left them as they were."""
    asked = [override.removeprefix("steps=") for override in row.asked if override.startswith("steps=")]
    return int(asked[-1]) if asked and asked[-1].isdigit() else None


def _name(row: Row) -> str:
    """DDPM, heun: what the records of a track share."""
    shared = settings.words([override for override in row.asked if not override.startswith("steps=")])
    return ", ".join([row.training, *(shared or ["its own sampler"])])


def panel(group: Group) -> Panel | None:
    """The first score over network calls: a line a track, a mark for each row's own sampling; None without tracks."""
    found, way = tracks(group), scores.direction(group.by) if group.by else 0
    if not found or not way:
        return None
    points = [_point(group, row, row.name, i, row.name) for i, row in enumerate(group.rows) if not row.asked]
    alone = len({track.training for track in found}) == 1
    for i, track in enumerate(found, len(group.rows)):
        label = track.words if alone else track.name
        rows = [row for _, row in track.records]
        points += [_point(group, row, track.name, i, "" if row is not rows[0] else label) for row in rows]
    known = [point for point in points if point.x.known]
    return scatter(group.by, AGAINST, known, Better(-1, way), edge=False, frame=LARGE)


def _point(group: Group, row: Row, name: str, colour: int, label: str = "") -> Point:
    return Point(name, colour, Estimate(_calls(row)), row.scores[group.by], RADIUS, label)


def _calls(row: Row) -> float:
    """NaN where they were not counted."""
    calls = row.cost("nfe")
    return float(calls) if isinstance(calls, (int, float)) and calls > 0 else math.nan


def sheet(group: Group) -> Sheet | None:
    """The first score, tracks by steps, each training's own sampling above them; None without tracks."""
    found = tracks(group)
    if not found or not group.by:
        return None
    lines = [line for row in group.rows for line in _with_own(row, [t for t in found if t.training == row.training])]
    columns = sorted({n for track in lines for n, _ in track.records}, key=lambda n: n or math.inf)
    show = scores.printer([row.scores[group.by] for track in lines for _, row in track.records])
    heads = [units.counted(n, "step") if n else OWN for n in columns]
    return Sheet(["Run", *heads], [_line(group, track, columns, show) for track in lines], [])


def _with_own(row: Row, found: list[Track]) -> list[Track]:
    """A training's tracks below its own sampling, if it has any and that is known."""
    own = Track(row.training, f"{row.name} ({row.runs[0].provenance.get('sampling') or 'as trained'})", [(None, row)])
    return [own, *found] if found and not row.asked else found


def _line(group: Group, track: Track, columns: Sequence[int | None], show: units.Show) -> list[Cell]:
    cells = {n: _cell(row.scores[group.by], _calls(row), show) for n, row in track.records}
    return [Cell(track.name), *(cells.get(n, Cell("")) for n in columns)]


def _cell(found: Estimate, calls: float, show: units.Show) -> Cell:
    """1.58 ± 0.17, 19 calls."""
    text, detail = scores.text(found, show)
    number = f"{calls:,.4g} call{'s' * (calls != 1)}" if calls > 0 else ""
    return Cell(text, ", ".join(filter(None, [detail, number])))


def note(group: Group) -> str:
    """How to read figure and table, and why nothing of them is ranked."""
    higher = "Higher" if scores.direction(group.by) > 0 else "Lower"
    return (
        f"{higher} {group.by} is better; with its 95% interval. A line joins the records of one checkpoint that differ "
        "in their steps alone; a mark alone is a setting's own sampling. Full marks: no other record is as good "
        f"for as few calls. These {units.counted(len(group.again), 'record')} have no rank: the best of many, chosen "
        "after a look, flatters itself, so the tables above hold each run as it was asked to sample before. table.csv "
        "has all their scores."
    )


def commands(group: Group, row: Row) -> list[str]:
    """Each command once that sampled the row's training in other ways."""
    runs = [run for other in group.again if other.training == row.training for run in other.runs]
    return list(dict.fromkeys(str(run.provenance.get("command", "command unknown")) for run in runs))
