"""Words beside marks: each where it covers the least, further off at the end of a thin line where marks are crowded."""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

LETTER, HIGH = 5.9, 12.0  # of a label's letters
DROP = 3  # how far letters reach below their baseline
REACHES = (0, 12, 24, 38, 54, 72)  # how far off a label may stand
FAR = 0.3  # area covered that a label would rather cover than stand one unit further off

Box = tuple[float, float, float, float]  # left, top, right, bottom
Mark = tuple[float, float, float, str]  # x, y, radius, label ("" for none)
Label = tuple[float, float, str, str]  # x, y, text, anchor


class Spot(NamedTuple):
    """A place for a label; leader: from the mark's edge to the box, of no length right beside the mark."""

    box: Box
    anchor: str
    reach: float
    leader: Box


def placed(marks: Sequence[Mark], bars: Sequence[Box], within: Box) -> tuple[list[Label], str]:
    """Every label, and the path of all leaders; one after the other, each where it covers the least.

    bars: boxes beside the marks that no label should cover; within: the axes.
    """
    taken = [
        *((x - r, y - r, x + r, y + r) for x, y, r, _ in marks),
        *((a - 1, b - 1, c + 1, d + 1) for a, b, c, d in bars),
    ]
    labels, leaders = [], ""
    for mark in marks:
        if text := mark[3]:
            there = np.array(taken)
            spot = min(_spots(mark), key=lambda each: _cost(each, there, within))
            taken += [spot.box, *beads(spot.leader)]
            labels.append(_label(spot, text))
            leaders += "M{:.1f} {:.1f}L{:.1f} {:.1f}".format(*spot.leader) if spot.reach else ""
    return labels, leaders


def _spots(mark: Mark) -> list[Spot]:
    """Right, left, above and below, then at the corners, near ones first."""
    sides = [(1, 0), (-1, 0), (0, -1), (0, 1), (1, -1), (1, 1), (-1, -1), (-1, 1)]
    return [_spot(mark, across, down, reach) for reach, (across, down) in itertools.product(REACHES, sides)]


def _spot(mark: Mark, across: int, down: int, reach: float) -> Spot:
    x, y, radius, text = mark
    wide, off = LETTER * len(text), reach / math.hypot(across, down)
    left = x - wide / 2 + across * (radius + 4 + off + wide / 2)
    top = y - HIGH / 2 + down * (radius + 1 + off + HIGH / 2)
    box = (left, top, left + wide, top + HIGH)
    end = min(max(x, box[0]), box[2]), min(max(y, box[1]), box[3])
    far = math.dist((x, y), end) or 1
    start = x + (end[0] - x) * radius / far, y + (end[1] - y) * radius / far
    return Spot(box, ("middle", "start", "end")[across], reach, (*start, *end))


def _label(spot: Spot, text: str) -> Label:
    left, _, right, bottom = spot.box
    x = {"start": left, "middle": (left + right) / 2, "end": right}[spot.anchor]
    return round(x, 1), round(bottom - DROP, 1), text, spot.anchor


def _cost(spot: Spot, taken: np.ndarray, within: Box) -> float:
    """The area outside the axes and over what is there (k, 4), by label and leader, and the distance from the mark."""
    area = (spot.box[2] - spot.box[0]) * (spot.box[3] - spot.box[1])
    own = np.array([spot.box, *(beads(spot.leader) if spot.reach else [])])
    inside = common(own[:1], np.array([within]))
    return 2 * (area - inside) + common(own, taken) + FAR * spot.reach


def beads(leader: Box, each: float = 4) -> list[Box]:
    """A line as small boxes along it, without its start, which may touch its mark."""
    x, y, u, v = leader
    count = int(math.dist((x, y), (u, v)) / each)
    at = [(x + (u - x) * i / count, y + (v - y) * i / count) for i in range(1, count)]
    return [(p - 1, q - 1, p + 1, q + 1) for p, q in at]


def common(some: np.ndarray, others: np.ndarray) -> float:
    """The area that boxes (n, 4) share with others (k, 4), over all pairs."""
    low = np.maximum(some[:, None, :2], others[:, :2])  # (n, k, 2)
    high = np.minimum(some[:, None, 2:], others[:, 2:])
    return float((high - low).clip(0).prod(axis=2).sum())
