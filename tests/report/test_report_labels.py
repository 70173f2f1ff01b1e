"""Labels lie within the axes and never on each other or on a mark; a leader joins its mark with its label."""

import itertools
import math

import numpy as np
import pytest

from genzoo.report import labels
from genzoo.report.drawing import commands
from genzoo.report.labels import Box, Label, Mark

WITHIN = (46.0, 8.0, 550.0, 314.0)
RADIUS = 5.0


def crowd(spread: float, seed: int = 0) -> list[Mark]:
    """Ten marks around the middle of the axes."""
    places = np.random.default_rng(seed).normal((300, 160), spread, (10, 2)).tolist()
    return [(x, y, RADIUS, f"Family {i}, {i},000/s") for i, (x, y) in enumerate(places)]


def box(label: Label) -> Box:
    """As wide as its letters and as high."""
    x, base, text, anchor = label
    wide = labels.LETTER * len(text)
    left = x - {"start": 0.0, "middle": wide / 2, "end": wide}[anchor]
    return left, base + labels.DROP - labels.HIGH, left + wide, base + labels.DROP


def area(one: Box, other: Box) -> float:
    sides = [min(one[i + 2], other[i + 2]) - max(one[i], other[i]) for i in (0, 1)]
    return math.prod(max(side, 0) for side in sides)


@pytest.mark.parametrize("spread", [0.0, 8.0, 60.0])
@pytest.mark.parametrize("seed", range(3))
def test_ten_labels_are_apart_however_close_the_marks(spread: float, seed: int) -> None:
    marks = crowd(spread, seed)
    found, _ = labels.placed(marks, [], WITHIN)
    boxes = [box(label) for label in found]
    assert [text for _, _, text, _ in found] == [text for *_, text in marks]
    assert max(area(a, b) for a, b in itertools.combinations(boxes, 2)) < 0.5  # to the rounding of places
    assert max(area(a, (x - 4, y - 4, x + 4, y + 4)) for a in boxes for x, y, _, _ in marks) < 3
    assert all(area(a, WITHIN) == pytest.approx((a[2] - a[0]) * (a[3] - a[1]), abs=1) for a in boxes)


def test_a_mark_alone_has_its_label_at_its_right_without_a_leader() -> None:
    found, leaders = labels.placed([(100, 100, RADIUS, "VAE")], [], WITHIN)
    assert (found, leaders) == ([(109.0, 103.0, "VAE", "start")], "")


def test_marks_without_words_have_no_label_but_take_their_room() -> None:
    silent = [(118.0, 100.0, RADIUS, ""), (118.0, 100.0, RADIUS, "")]
    found, _ = labels.placed([*silent, (100, 100, RADIUS, "VAE")], [], WITHIN)
    assert [(text, anchor) for _, _, text, anchor in found] == [("VAE", "end")]


def test_a_leader_goes_from_the_edge_of_its_mark_to_its_label() -> None:
    marks = crowd(0.0)
    found, leaders = labels.placed(marks, [], WITHIN)
    ends = [(x, y) for _, (x, y) in commands(leaders)]
    assert len(ends) >= 2
    for start, end in zip(ends[::2], ends[1::2]):
        assert min(math.dist(start, mark[:2]) for mark in marks) == pytest.approx(RADIUS, abs=0.2)
        assert any(a - 0.2 <= end[0] <= c + 0.2 and b - 0.2 <= end[1] <= d + 0.2 for a, b, c, d in map(box, found))


def test_a_bar_is_not_written_over() -> None:
    bar = (105.0, 99.0, 170.0, 99.0)
    ((_, _, _, anchor),), _ = labels.placed([(100, 100, RADIUS, "VAE")], [bar], WITHIN)
    assert anchor == "end"


def test_a_label_rather_touches_something_than_stand_far_off() -> None:
    mark = (100.0, 100.0, RADIUS, "VAE")
    corners = [
        (left, top, left, top) for left, top, _, _ in (spot.box for spot in labels._spots(mark) if not spot.reach)
    ]
    assert len(corners) == 8
    assert labels.placed([mark], corners, WITHIN)[1] == ""
