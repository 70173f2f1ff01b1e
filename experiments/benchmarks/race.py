"""A race: two ways to one result, timed in turn in one process."""

import time
from collections.abc import Callable
from statistics import median
from typing import Any, NamedTuple

import numpy as np


class Race(NamedTuple):
    """Two ways to one result. ours, theirs: do the work, and return numbers to compare or None."""

    work: str
    peer: str
    ours: Callable[[], Any]
    theirs: Callable[[], Any]


class Result(NamedTuple):
    """Seconds of each repeat, and the largest relative difference of the numbers found (NaN if not comparable)."""

    ours: list[float]
    theirs: list[float]
    difference: float

    @property
    def ratios(self) -> list[float]:
        return [theirs / ours for ours, theirs in zip(self.ours, self.theirs, strict=True)]


def run(race: Race, repeats: int) -> Result:
    """Both sides in turn, `repeats` times each."""
    times: tuple[list[float], list[float]] = ([], [])
    found: list[Any] = [None, None]
    for _ in range(repeats):
        for side, work in enumerate((race.ours, race.theirs)):
            start = time.perf_counter()
            found[side] = work()
            times[side].append(time.perf_counter() - start)
    return Result(*times, difference=relative(*found))


def relative(a: Any, b: Any) -> float:
    if a is None or b is None:
        return float("nan")
    a, b = np.asarray(a, float), np.asarray(b, float)
    return float(np.max(np.abs(a - b) / np.maximum(np.abs(b), 1e-12)))


def in_words(race: Race, result: Result) -> str:
    """A row of the table in Markdown."""
    ratios = result.ratios
    cells = [
        race.work,
        race.peer,
        f"{median(result.ours):.2f} s",
        f"{median(result.theirs):.2f} s",
        f"**{median(ratios):.1f}** ({min(ratios):.1f} to {max(ratios):.1f})",
        "" if np.isnan(result.difference) else f"{result.difference:.0e}" if result.difference else "equal",
    ]
    return f"| {' | '.join(cells)} |"
