"""Small scales beside the tables: where a score lies between real images and the worst row, and where its seeds lie."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from genzoo.report.scores import Estimate
from genzoo.report.table import COPIER, Group, Row, spread


class Place(NamedTuple):
    """Per cent of the scale's length: the value, its interval (width 0 if unknown), and every seed."""

    at: float
    low: float
    width: float
    seeds: list[float]


class Span(NamedTuple):
    """What a scale spans, on a log scale when that is asked."""

    low: float
    high: float
    log: bool

    def position(self, value: float) -> float:
        """0 at low, 100 at high; what lies beyond an end is put at the end."""
        at = math.log if self.log else float
        share = (at(min(max(value, self.low), self.high)) - at(self.low)) / (at(self.high) - at(self.low))
        return round(100 * share, 1)

    def place(self, found: Estimate | None, seeds: Sequence[float] = ()) -> Place | None:
        """None for NaN, and where there is but one value to span."""
        if found is None or not math.isfinite(found.value) or self.low == self.high:
            return None
        at = self.position(found.value)
        low, high = (self.position(end) if math.isfinite(end) else at for end in (found.low, found.high))
        return Place(at, low, round(high - low, 1), [self.position(seed) for seed in seeds])


def whole(group: Group) -> Span:
    """From the best to the worst of rows and calibration; not the copier, whose distance may be none at all."""
    marks = [found[group.by].value for name, found in group.marks.items() if name != COPIER and group.by in found]
    return _span([*marks, *(row.scores[group.by].value for row in group.rows if group.by)], log=True)


def rows(group: Group) -> Span:
    """All seeds and intervals of the rows, enlarged."""
    found = [row.scores[group.by] for row in group.rows if group.by]
    ends = [end for estimate in found for end in (estimate.low, estimate.high)]
    return _span([*ends, *(seed for row in group.rows for seed in spread(group, row))], log=False)


def place_of_seeds(group: Group, row: Row) -> Place | None:
    """A setting's mean, interval and seeds among those of the other rows."""
    return rows(group).place(row.scores.get(group.by), spread(group, row))


def _span(values: Sequence[float], log: bool) -> Span:
    """Log only of positive values."""
    finite = [value for value in values if math.isfinite(value)] or [0.0]
    return Span(min(finite), max(finite), log and min(finite) > 0)
