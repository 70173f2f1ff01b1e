"""The table: a row is a setting, its seeds together, and is ranked only against rows of the same protocol."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from typing import Any, NamedTuple

from genzoo.report import protocol as protocols
from genzoo.report import scores, settings, units
from genzoo.report.runs import Run
from genzoo.report.scores import Estimate, estimate

FLOOR = "real test"  # real images scored like a generator: what a perfect one would reach
COPIER = "real train"  # the training images themselves: what a perfect copier would reach
EARLY = "ended early"
Estimates = dict[str, Estimate]


class Cell(NamedTuple):
    """text, its interval as detail, and whether it is the column's best."""

    text: str
    detail: str = ""
    best: bool = False


class Sheet(NamedTuple):
    """A table to print: heads, rows, and rows set apart below (calibration)."""

    head: list[str]
    body: list[list[Cell]]
    foot: list[list[Cell]]


@dataclass(frozen=True)
class Row:
    """A setting's place in its group; rank is None where the score to rank by is missing or NaN.

    runs: of its seeds, in their order; training: the name of what was trained, which `name` says the sampling after
    where a second scoring asked for another; scores: over these runs.
    """

    runs: list[Run]
    training: str
    name: str
    rank: int | None
    scores: Estimates

    @property
    def family(self) -> str:
        return self.runs[0].family

    @property
    def asked(self) -> list[str]:
        """What a second scoring asked of the sampling: ["sampler=heun", "steps=10"]."""
        return settings.resampled(self.runs[0])

    @property
    def seeds(self) -> str:
        return units.counted(len(self.runs), "seed") + (f", {EARLY}" if self.ended_early else "")

    @property
    def ended_early(self) -> bool:
        """Whether a run of it did not spend the budget that it was asked to."""
        return any(run.metrics.get("budget", {}).get("reached") is False for run in self.runs)

    def cost(self, key: str) -> object:
        """The mean over runs, or what the first run has where it is no number; None if nowhere measured."""
        found = [run.metrics["cost"][key] for run in self.runs if run.metrics["cost"].get(key) is not None]
        numbers = all(isinstance(item, (int, float)) for item in found)
        return sum(found) / len(found) if found and numbers else next(iter(found), None)


@dataclass(frozen=True)
class Group:
    """Finished runs of one protocol, best first by the score `by` ("" when none has a direction).

    rows: one for each setting that was trained; again: these sampled in other ways, which have no rank, for the best
    of many, chosen after a look, would flatter itself. scores: names in the order of the table; calibration: name ->
    entries as in metrics.json, the floor first; why: the keys that keep this group apart from the first.
    """

    protocol_id: str
    protocol: dict[str, Any]
    rows: list[Row]
    again: list[Row]
    scores: list[str]
    by: str
    calibration: dict[str, dict[str, Any]]
    why: str = ""

    @property
    def runs(self) -> list[Run]:
        return [run for row in self.rows for run in row.runs]

    @property
    def floor(self) -> Estimates:
        return self.marks.get(FLOOR, {})

    @cached_property
    def marks(self) -> dict[str, Estimates]:
        """The calibration rows' scores."""
        return {name: {key: estimate([entry]) for key, entry in row.items()} for name, row in self.calibration.items()}


def groups(runs: Sequence[Run]) -> list[Group]:
    """Finished runs by protocol_id, the largest group first."""
    finished = [run for run in runs if run.state == "finished"]
    ids = [i for i, _ in Counter(run.metrics["protocol_id"] for run in finished).most_common()]
    members = [[run for run in finished if run.metrics["protocol_id"] == i] for i in ids]
    return [_group(these, members[0][0].metrics["protocol"]) for these in members]


def _group(runs: list[Run], first: dict[str, Any]) -> Group:
    found = scores.in_order(list(dict.fromkeys(name for run in runs for name in run.metrics["scores"])))
    by = next((name for name in found if scores.direction(name)), "")
    protocol, calibration = runs[0].metrics["protocol"], {}
    for run in runs:
        calibration = run.metrics["calibration"] | calibration
    trained, again = _rows(runs, found)
    return Group(
        protocol_id=runs[0].metrics["protocol_id"],
        protocol=protocol,
        rows=_ranked(trained, by),
        again=again,
        scores=found,
        by=by,
        calibration=dict(sorted(calibration.items(), key=lambda row: (row[0] != FLOOR, *_calibration_order(row, by)))),
        why=protocols.differing(protocol, first),
    )


def _calibration_order(row: tuple[str, dict[str, Any]], by: str) -> tuple[bool, bool, float]:
    entry = row[1].get(by)
    return (row[0] != COPIER, *_order(estimate([entry] if entry else []), by))


def _order(found: Estimate, by: str) -> tuple[bool, float]:
    """Sorts the best score first and what has none last."""
    return (not found.known, -scores.direction(by) * found.value if found.known else 0.0)


def _rows(runs: list[Run], found: list[str]) -> tuple[list[Row], list[Row]]:
    """Every setting that was trained, and these sampled in other ways; not yet ranked."""
    trained, again = settings.trained(settings.settings(runs))
    names = settings.names(trained)
    of = {run.folder: name for same, name in zip(trained, names, strict=True) for run in same}

    def row(same: list[Run]) -> Row:
        training = next(of[run.folder] for run in same if run.folder in of)
        name = ", ".join([training, *settings.words(settings.resampled(same[0]))])
        return Row(same, training, name, None, {score: over(same, score) for score in found})

    return [row(same) for same in trained], [row(same) for same in again]


def _ranked(rows: list[Row], by: str) -> list[Row]:
    """The best first."""
    rows = sorted(rows, key=lambda row: _order(row.scores.get(by, Estimate()), by))
    return [replace(row, rank=i if row.scores.get(by, Estimate()).known else None) for i, row in enumerate(rows, 1)]


def over(runs: Sequence[Run], name: str) -> Estimate:
    """A score over those of the runs that have it."""
    return estimate([run.metrics["scores"][name] for run in runs if name in run.metrics["scores"]])


def heads(group: Group) -> list[tuple[str, int]]:
    """(family, number of columns) over the scores."""
    return [(head, len(list(names))) for head, names in groupby(group.scores, key=scores.family)]


def score_sheet(group: Group) -> Sheet:
    """Rank, run, seeds, then the scores with the direction that is better; calibration rows below."""
    body = [
        [Cell(units.integer(row.rank)), Cell(row.name), Cell(row.seeds), *score_cells(group, row.scores, row)]
        for row in group.rows
    ]
    foot = [[Cell(""), Cell(label(name)), Cell(""), *score_cells(group, found)] for name, found in group.marks.items()]
    return Sheet(["Rank", "Run", "Seeds", *(name + scores.arrow(name) for name in group.scores)], body, foot)


def label(calibration: str) -> str:
    """A calibration row's name and what it stands for."""
    return calibration + {FLOOR: " (floor)", COPIER: " (a perfect copier)"}.get(calibration, "")


def score_cells(group: Group, found: Estimates, row: Row | None = None) -> list[Cell]:
    """One cell a score, "12.3" and "± 0.4"; only a ranked row has a best."""
    return [_cell(group, found.get(name, Estimate()), name, row) for name in group.scores]


def _cell(group: Group, found: Estimate, name: str, row: Row | None) -> Cell:
    unknown = "n/a" if name == scores.BITS and row and not has_density(row) else units.MISSING
    show = printer(group, name)
    text, detail = scores.text(found, show if row else scores.mark_printer(found, show), unknown)
    if row and found.runs not in (0, len(row.runs)):
        detail = f"{detail}, {units.counted(found.runs, 'seed')}".removeprefix(", ")
    best = row is not None and not row.ended_early and _is_best(group, found, name)
    return Cell(text, detail, best)


def has_density(row: Row) -> bool:
    """Whether any likelihood was measured; a GAN has none."""
    return any(run.metrics.get("likelihoods") or scores.BITS in run.metrics["scores"] for run in row.runs)


def printer(group: Group, name: str) -> units.Show:
    """The printer of a score's column, ranked rows and calibration."""
    rows, marks = ([row[name] for row in part if name in row] for part in (_scores(group), group.marks.values()))
    return scores.printer(rows, marks)


def _scores(group: Group) -> list[Estimates]:
    return [row.scores for row in group.rows]


def _is_best(group: Group, found: Estimate, name: str) -> bool:
    """Whether it is better than every other row's, and its interval meets none of theirs.

    False for a row alone, for a score without direction, and where bounds stand beside exact values.
    """
    known = [row.scores[name] for row in group.rows if row.scores[name].known]
    others = [other for other in known if other is not found]
    fair = scores.direction(name) and found.known and others and len({e.kind for e in known}) == 1
    return bool(fair) and all(_order(found, name) < _order(o, name) and not found.overlaps(o) for o in others)


def spread(group: Group, row: Row) -> list[float]:
    """Every seed's value of the score to rank by."""
    found = (over([run], group.by).value for run in row.runs)
    return [value for value in found if math.isfinite(value)]
