"""The table: a row is ranked only against rows of the same protocol."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from genzoo.report import units
from genzoo.report.runs import Run

# Every other score is a distance or a code length: lower is better.
HIGHER_IS_BETTER = ("IS", "precision", "recall", "density", "coverage", "accuracy")
FLOOR = "real test"  # real images scored like a generator: what a perfect one would reach
COSTS = (
    ("Parameters", "parameters", units.count),
    ("Images seen", "images_seen", units.integer),
    ("Training", "training_seconds", units.duration),
    ("Images/s", "images_per_second", units.integer),
    ("Sampling per image", "sampling_seconds_per_image", units.latency),
    ("Network calls", "nfe", units.integer),
)


class Cell(NamedTuple):
    text: str
    best: bool = False


@dataclass(frozen=True)
class Row:
    """A run's place in its group; rank is None where the score to rank by is missing or NaN."""

    run: Run
    name: str
    rank: int | None


@dataclass(frozen=True)
class Group:
    """Finished runs of one protocol, best first by the first of `scores`.

    calibration: name -> scores, the floor first; why: the keys that keep this group apart from the first.
    """

    protocol_id: str
    protocol: dict[str, Any]
    rows: list[Row]
    scores: list[str]
    calibration: dict[str, dict[str, Any]]
    why: str = ""

    @property
    def floor(self) -> dict[str, Any]:
        return self.calibration.get(FLOOR, {})

    def names(self) -> list[str]:
        """The rows' names, each once, in order of rank: seeds of one setting share theirs."""
        return list(dict.fromkeys(row.name for row in self.rows))


def value(scores: dict[str, Any], name: str) -> float:
    """The score's number; NaN when it was not measured."""
    return float(scores.get(name, {}).get("value", math.nan))


def higher_is_better(name: str) -> bool:
    return name.startswith(HIGHER_IS_BETTER)


def groups(runs: Sequence[Run]) -> list[Group]:
    """Finished runs by protocol_id, the largest group first."""
    finished = [run for run in runs if run.state == "finished"]
    ids = [i for i, _ in Counter(run.metrics["protocol_id"] for run in finished).most_common()]
    members = [[run for run in finished if run.metrics["protocol_id"] == i] for i in ids]
    return [_group(these, members[0][0].metrics["protocol"]) for these in members]


def _group(runs: list[Run], first: dict[str, Any]) -> Group:
    names = list(dict.fromkeys(name for run in runs for name in run.metrics["scores"]))
    protocol, calibration = runs[0].metrics["protocol"], {}
    for run in runs:
        calibration = run.metrics["calibration"] | calibration
    by = names[0] if names else ""
    return Group(
        protocol_id=runs[0].metrics["protocol_id"],
        protocol=protocol,
        rows=_ranked(runs, by),
        scores=names,
        calibration=dict(sorted(calibration.items(), key=lambda item: (item[0] != FLOOR, *_order(item[1], by)))),
        why=_differing(protocol, first),
    )


def _order(scores: dict[str, Any], by: str) -> tuple[bool, float]:
    """Sorts the best score first and what has none last."""
    number = value(scores, by)
    return (math.isnan(number), 0.0 if math.isnan(number) else -number if higher_is_better(by) else number)


def _ranked(runs: list[Run], by: str) -> list[Row]:
    names = _names(runs)
    best_first = sorted(runs, key=lambda run: _order(run.metrics["scores"], by))
    ranks = [None if math.isnan(value(run.metrics["scores"], by)) else i for i, run in enumerate(best_first, 1)]
    return [Row(run, names[run.folder, run.variant], rank) for run, rank in zip(best_first, ranks, strict=True)]


def _names(runs: list[Run]) -> dict[Any, str]:
    """(Folder, variant) -> name: the family, what its command set and not all did, its place if that is not enough."""
    overrides = [[str(o) for o in run.provenance.get("overrides") or []] for run in runs]
    shared = set(overrides[0]).intersection(*overrides)
    own = [[o for o in os if o not in shared and not o.startswith(("model=", "seed="))] for os in overrides]
    names = [", ".join([run.family, *os]) for run, os in zip(runs, own, strict=True)]
    twice = Counter((name, str(run.seed)) for name, run in zip(names, runs, strict=True))
    return {
        (run.folder, run.variant): f"{name} ({run.place})" if twice[name, str(run.seed)] > 1 else name
        for name, run in zip(names, runs, strict=True)
    }


def _differing(protocol: dict[str, Any], first: dict[str, Any]) -> str:
    """n_fake is 200 instead of 400; ...: over the keys that differ from the first's."""
    keys = [key for key in {**first, **protocol} if protocol.get(key) != first.get(key)]
    return "; ".join(f"{key} is {_brief(protocol.get(key))} instead of {_brief(first.get(key))}" for key in keys)


def _brief(item: object) -> str:
    """A hash by its first 12 digits, a shape as 1 × 8 × 8, all else as it is."""
    if isinstance(item, list):
        return " × ".join(map(str, item))
    text = "unset" if item is None else str(item)
    return text[:12] if len(text) == 64 else text


def in_words(group: Group) -> str:
    """The protocol as a sentence, then what pins it down."""
    if not group.protocol:
        return "Not scored: these runs were asked for samples alone."
    p = {key: _brief(item) for key, item in group.protocol.items()}
    n_fake, n_real = (units.integer(group.protocol.get(key)) for key in ("n_fake", "n_real"))
    return (
        f"{n_fake} generated images against {n_real} real ones from the {p.get('reference', 'unknown')} "
        f"split of {p.get('dataset', 'an unnamed data set')}, {p.get('image_shape', 'of unknown shape')}, "
        f"compared in the features “{p.get('features', 'unknown')}”; "
        f"{p.get('quantisation', 'quantisation unknown')}."
    )


def header(group: Group) -> list[str]:
    """The column heads: rank, run, seed, then scores with the direction that is better, then costs."""
    arrows = [f"{name} {'↑' if higher_is_better(name) else '↓'}" for name in group.scores]
    return ["Rank", "Run", "Seed", *arrows, *(head for head, _, _ in COSTS)]


def cells(group: Group, row: Row) -> list[Cell]:
    """A run's row under `header`, formatted; the best of each score is marked."""
    lead = [Cell(units.integer(row.rank)), Cell(row.name), Cell(str(row.run.seed))]
    cost = row.run.metrics["cost"]
    return (
        lead
        + score_cells(group, row.run.metrics["scores"], ranked=True)
        + [Cell(show(cost.get(key))) for _, key, show in COSTS]
    )


def score_cells(group: Group, scores: dict[str, Any], ranked: bool = False) -> list[Cell]:
    """One cell a score, "12.3 ± 0.4" where a standard deviation is known; only ranked rows can be best."""
    return [Cell(_score(group, scores, name), ranked and _is_best(group, scores, name)) for name in group.scores]


def column(group: Group, name: str) -> list[float]:
    """All values of a score, ranked rows and calibration."""
    every = [row.run.metrics["scores"] for row in group.rows] + list(group.calibration.values())
    return [value(scores, name) for scores in every]


def _score(group: Group, scores: dict[str, Any], name: str) -> str:
    show = units.fixed(column(group, name))
    score = scores.get(name, {})
    text = show(score.get("value"))
    if isinstance(score.get("ci95"), list):
        return f"{text} [{', '.join(show(end) for end in score['ci95'])}]"
    return f"{text} ± {show(score['std'])}" if "std" in score else text


def _is_best(group: Group, scores: dict[str, Any], name: str) -> bool:
    """Whether none of the group's rows does better; a row alone is never best."""
    every = [row.run.metrics["scores"] for row in group.rows]
    number = value(scores, name)
    known = [_order(s, name) for s in every if not math.isnan(value(s, name))]
    return len(known) > 1 and not math.isnan(number) and _order(scores, name) == min(known)


def is_log(group: Group) -> bool:
    """Whether the first score's values are all positive, so that they fit on a log scale."""
    return bool(group.scores) and min(_known(group), default=0) > 0


def _known(group: Group) -> list[float]:
    return [number for number in column(group, group.scores[0]) if math.isfinite(number)]


def position(group: Group, scores: dict[str, Any]) -> float | None:
    """Where the first score lies from the group's least (0) to its greatest (100) value; None for NaN."""
    values, number = (_known(group), value(scores, group.scores[0])) if group.scores else ([], math.nan)
    if not math.isfinite(number) or min(values) == max(values):
        return None
    at = math.log if is_log(group) else float
    low, high = at(min(values)), at(max(values))
    return round(100 * (at(number) - low) / (high - low), 1)
