"""The smaller tables: what a setting costs, how likely it finds held-out images, how sure its rank is."""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from genzoo.report import scores, units
from genzoo.report.scale import Place, place_of_seeds
from genzoo.report.scores import Estimate, estimate
from genzoo.report.statistics import bootstrap_interval, improvement, interquartile_mean, luck
from genzoo.report.table import Cell, Group, Row, Sheet, printer, spread

WORDS = ("Run", "Kind", "Method")  # columns of words, set to the left
COSTS = (
    ("Parameters", "parameters", units.count),
    ("Images seen", "images_seen", units.integer),
    ("Training", "training_seconds", units.duration),
    ("Images/s", "images_per_second", units.integer),
    ("Multiply-adds, training", "training_multiply_adds_per_image", units.work),
    ("Multiply-adds, sampling", "sampling_multiply_adds_per_image", units.work),
    ("Network calls", "nfe", units.integer),
    ("Sampling one image alone", "latency_seconds", units.latency),
    ("Sampling an image in a batch", "sampling_seconds_per_image", units.latency),
    ("Best batch", "sampling_batch", units.integer),
    ("Peak memory", "peak_memory_bytes", units.memory),
)


def cost_sheet(group: Group) -> Sheet:
    """The costs that any row knows; the mean over a row's runs."""
    measured = [cost for cost in COSTS if any(row.cost(cost[1]) is not None for row in group.rows)]
    body = [
        [Cell(units.integer(row.rank)), Cell(row.name), *(Cell(show(row.cost(key))) for _, key, show in measured)]
        for row in group.rows
    ]
    return Sheet(["Rank", "Run", *(head for head, _, _ in measured)], body, [])


def likelihood_sheet(group: Group) -> Sheet | None:
    """Every way in which a setting's likelihood was measured, a line each; None if no row has any."""
    found = [(row, likelihoods(row)) for row in group.rows]
    show = scores.printer([way for _, ways in found for _, way, _ in ways])
    body = [line for row, ways in found for line in (_likelihood_lines(row, ways, show))]
    return Sheet(["Run", "bits/dim", "Kind", "Method", "Images"], body, []) if any(ways for _, ways in found) else None


def likelihoods(row: Row) -> list[tuple[str, Estimate, object]]:
    """(method, bits/dim over the row's runs, images each) of every way."""
    every = [way for run in row.runs for way in run.metrics.get("likelihoods") or []]
    methods = dict.fromkeys((str(way.get("method", "")), str(way.get("kind", ""))) for way in every)
    ways = {m: [w for w in every if (str(w.get("method", "")), str(w.get("kind", ""))) == m] for m in methods}
    return [(method, estimate(same), same[0].get("n")) for (method, _), same in ways.items()]


def _likelihood_lines(row: Row, ways: list[tuple[str, Estimate, object]], show: units.Show) -> list[list[Cell]]:
    if not ways:
        return [[Cell(row.name), Cell("n/a"), Cell(f"{row.family} gives no density"), Cell(""), Cell("")]]
    names = [row.name, *[""] * (len(ways) - 1)]
    return [
        [
            Cell(name),
            Cell(*scores.text(found, show)),
            Cell(scores.WORDS.get(found.kind, found.kind)),
            Cell(method),
            Cell(units.integer(n)),
        ]
        for name, (method, found, n) in zip(names, ways, strict=True)
    ]


def order_sheet(group: Group) -> Sheet | None:
    """Interquartile means over seeds, and each row against the next; None unless two rows have several seeds."""
    rows = [row for row in group.rows if row.rank]
    if sum(len(spread(group, row)) > 1 for row in rows) < 2:
        return None
    against = [*(_against(group, *pair) for pair in pairwise(rows)), Cell("")]
    show = printer(group, group.by)
    body = [
        [Cell(units.integer(row.rank)), Cell(row.name), Cell(row.seeds), _middle(spread(group, row), show), beside]
        for row, beside in zip(rows, against, strict=True)
    ]
    return Sheet(["Rank", "Run", "Seeds", f"Interquartile mean of {group.by}", "Better than the next"], body, [])


def strips(group: Group) -> list[Place | None]:
    """The seeds of every row of `order_sheet` on one scale."""
    return [place_of_seeds(group, row) for row in group.rows if row.rank]


def _middle(seeds: Sequence[float], show: units.Show) -> Cell:
    """The interquartile mean over seeds with its bootstrap interval."""
    if len(seeds) < 2:
        return Cell(units.MISSING)
    values = np.array(seeds)
    low, high = bootstrap_interval(interquartile_mean, values)
    return Cell(show(float(interquartile_mean(values))), f"[{show(low)}, {show(high)}]")


def _against(group: Group, row: Row, other: Row) -> Cell:
    """The probability that a run of `row` is better than one of `other`, with its bootstrap interval."""
    x, y = (np.array(spread(group, r)) * scores.direction(group.by) for r in (row, other))
    if min(len(x), len(y)) < 2:
        return Cell("unknown", "1 seed")
    low, high = bootstrap_interval(improvement, x, y)
    return Cell(f"{improvement(x, y):.2f}", f"[{low:.2f}, {high:.2f}]")


def order_note(group: Group) -> str:
    """What the order is worth: how often luck alone would make it, or, of single seeds, which intervals overlap."""
    rows = [row for row in group.rows if row.rank]
    if len(rows) < 2:
        return ""
    pairs = list(pairwise(rows))
    several = [len(spread(group, row)) > 1 for row in rows]
    sure = [pair for pair, both in zip(pairs, pairwise(several), strict=True) if all(both)]
    unsure = [pair for pair in pairs if pair not in sure]
    return " ".join(filter(None, [_seeds_note(group, sure), _luck_note(group, unsure)]))


def _seeds_note(group: Group, pairs: Sequence[tuple[Row, Row]]) -> str:
    """How to read the probabilities of improvement."""
    if not pairs:
        return ""
    n, m = min(((len(spread(group, a)), len(spread(group, b))) for a, b in pairs), key=lambda sizes: luck(*sizes))
    return (
        "Better than the next: the share of pairs of seeds, one of each row, in which this row's is better "
        "(0.5: no order); in brackets 95% intervals of a bootstrap over seeds, which few seeds make too narrow: "
        f"two equal settings, {n} seeds against {m}, still reach 1.00 once in {luck(n, m):,.4g} comparisons."
    )


def _luck_note(group: Group, pairs: Sequence[tuple[Row, Row]]) -> str:
    """Of neighbours with a single seed: that another may turn them round, and whether even sampling noise may."""
    if not pairs:
        return ""
    said = ["An order in which a row has one seed may be luck: another seed may turn it round."]
    known = [pair for pair in pairs if not any(math.isnan(row.scores[group.by].low) for row in pair)]
    for verb, meet in (("overlap", True), ("lie apart", False)):
        found = [pair for pair in known if _meet(group, *pair) is meet]
        said += [f"The intervals of {_listed(found)} {verb}."] if found else []
    return " ".join(said)


def _meet(group: Group, row: Row, other: Row) -> bool:
    return row.scores[group.by].overlaps(other.scores[group.by])


def _listed(pairs: Sequence[tuple[Row, Row]]) -> str:
    return ", ".join(f"{row.name} and {other.name}" for row, other in pairs)
