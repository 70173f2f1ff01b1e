"""A race: two ways to one result, timed in turn in one process."""

import time
from collections.abc import Callable
from statistics import median
from typing import Any, NamedTuple

import numpy as np


class Cost(NamedTuple):
    """Of one side: learned numbers, and multiply-adds of what is timed."""

    parameters: int
    multiply_adds: float


class Seconds(float):
    """What a side has measured by itself, where its work needs preparations that are not to be timed."""


class Race(NamedTuple):
    """Two ways to one result. ours, theirs: do the work, and return numbers to compare or None.

    costs: of ours and of theirs, where both are networks; comparable: the numbers should be equal.
    """

    work: str
    peer: str
    ours: Callable[[], Any]
    theirs: Callable[[], Any]
    costs: tuple[Cost, Cost] | None = None
    comparable: bool = True

    @property
    def handicap(self) -> float:
        """What the ratio of times is multiplied by: our multiply-adds in theirs, where they differ by over 5%."""
        if self.costs is None:
            return 1.0
        quotient = self.costs[0].multiply_adds / self.costs[1].multiply_adds
        return quotient if abs(quotient - 1) > 0.05 else 1.0


class Joint(NamedTuple):
    """A race that times both sides itself: measured(repeats) -> Result."""

    work: str
    peer: str
    measured: Callable[[int], "Result"]
    costs: None = None
    handicap: float = 1.0


class Absent(NamedTuple):
    """A race without its peer, and why."""

    work: str
    peer: str
    why: str


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
            took = time.perf_counter() - start
            times[side].append(found[side] if isinstance(found[side], Seconds) else took)
    return Result(*times, difference=relative(*found) if race.comparable else float("nan"))


def relative(a: Any, b: Any) -> float:
    if a is None or b is None or isinstance(a, Seconds):
        return float("nan")
    a, b = np.asarray(a, float), np.asarray(b, float)
    return float(np.max(np.abs(a - b) / np.maximum(np.abs(b), 1e-12)))


def row(race: Race | Joint | Absent, repeats: int) -> str:
    """Run it, and a row of the table in Markdown."""
    if isinstance(race, Absent):
        return f"| {race.work} | {race.peer} | | | {race.why} | | | |"
    return in_words(race, race.measured(repeats) if isinstance(race, Joint) else run(race, repeats))


def in_words(race: Race | Joint, result: Result) -> str:
    """A row of the table in Markdown."""
    ratios = [ratio * race.handicap for ratio in result.ratios]
    cells = [
        race.work,
        race.peer,
        clock(median(result.ours)),
        clock(median(result.theirs)),
        f"**{median(ratios):.2f}** ({min(ratios):.2f} to {max(ratios):.2f})",
        *sizes(race),
        "" if np.isnan(result.difference) else f"{result.difference:.0e}" if result.difference else "equal",
    ]
    return f"| {' | '.join(cells)} |"


def clock(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.0f} ms"


def sizes(race: Race | Joint) -> tuple[str, str]:
    """Parameters and multiply-adds of ours / of theirs."""
    if race.costs is None:
        return "", ""
    (p, work), (q, other) = race.costs
    per = "" if race.handicap == 1 else ", ratio per multiply-add"
    return f"{p:,} / {q:,}", f"{work / 1e9:.3g}G / {other / 1e9:.3g}G{per}"
