"""Quality against cost: the front is what brute force finds, its border passes its members, marks are told apart."""

import itertools
import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from genzoo.report import drawing, figures, palette, scatter, table, tradeoffs
from genzoo.report.drawing import commands
from genzoo.report.runs import find
from genzoo.report.scatter import Better, Point
from genzoo.report.scores import Estimate

from .conftest import COST

Make = Callable[..., Path]


def points(*pairs: tuple[float, float]) -> list[Point]:
    return [Point(str(i), i, Estimate(x), Estimate(y, y * 0.9, y * 1.1)) for i, (x, y) in enumerate(pairs)]


@pytest.mark.parametrize(("x", "y"), itertools.product((1, -1), repeat=2))
def test_the_front_is_what_brute_force_finds(x: int, y: int) -> None:
    pairs = np.random.default_rng(0).integers(1, 8, (30, 2)).astype(float)
    given = points(*map(tuple, pairs))
    signed = pairs * (x, y)
    beaten = [any((other >= own).all() and (other > own).any() for other in signed) for own in signed]
    found = scatter.front(given, Better(x, y))
    assert {p.name for p in found} == {str(i) for i, lost in enumerate(beaten) if not lost}
    assert 0 < len(found) < 30


def test_the_border_steps_from_member_to_member_and_only_they_are_full() -> None:
    panel = scatter.scatter("FD", "seconds", points((1, 9), (2, 4), (4, 5), (8, 1)), Better(-1, -1))
    assert panel is not None
    corners, x, y = set(), 0.0, 0.0
    for letter, numbers in commands(panel.front):
        x = numbers[0] if letter in "MH" else x
        y = numbers[-1] if letter in "MV" else y
        corners.add((x, y))
    places = {line.name: line.marks[0] for line in panel.lines}
    assert [name for name, mark in places.items() if mark[3]] == ["0", "1", "3"]
    assert {places[name][:2] for name in "013"} <= corners
    assert places["2"][:2] not in corners


@pytest.mark.parametrize(("most", "log"), [(5.0, False), (50.0, True)])
def test_the_cost_axis_is_logarithmic_over_a_decade_only(most: float, log: bool) -> None:
    panel = scatter.scatter("FD", "seconds", points((1, 1), (most**0.5, 1), (most, 1)), Better(-1, -1))
    assert panel is not None
    left, middle, right = (line.marks[0][0] for line in panel.lines)
    assert ("log scale" in panel.against) == log
    assert math.isclose(middle, (left + right) / 2, abs_tol=0.2) == log


def test_intervals_span_what_they_state() -> None:
    panel = scatter.scatter("FD", "seconds", points((1, 2), (2, 4)), Better(-1, -1))
    assert panel is not None
    tops, bottoms = zip(*[[numbers[1] for _, numbers in commands(line.path)] for line in panel.lines])
    heights = np.abs(np.subtract(tops, bottoms))
    assert heights[1] / heights[0] == pytest.approx(2, abs=0.05)  # 10% of 4 against 10% of 2


def test_one_point_is_no_comparison() -> None:
    assert scatter.scatter("FD", "s", points((1, 1), (math.nan, 2)), Better(-1, -1)) is None


def test_costs_that_all_share_get_a_sentence_and_no_panel(study: Path) -> None:
    (group,) = table.groups(find([study]))
    against = [panel.against.partition(",")[0] for panel in tradeoffs.panels(group)]
    assert against == ["training seconds", "network calls", "sampling seconds an image", "coverage"]
    assert "No panel for images seen in training: 100,000 for all." in tradeoffs.note(group)


def test_the_trilemma_is_as_fast_as_its_marks_are_large(tmp_path: Path, make_run: Make) -> None:
    for i, (family, seconds) in enumerate((("vae", 1e-4), ("gan", 1e-3), ("ddpm", 1e-2))):
        scores = {"precision": {"value": 0.5 + 0.1 * i}, "coverage": {"value": 0.4 + 0.1 * i}}
        make_run(tmp_path / family, family, scores=scores, cost=COST | {"sampling_seconds_per_image": seconds})
    (group,) = table.groups(find([tmp_path]))
    panel = tradeoffs.trilemma(group)
    assert panel is not None
    areas = {line.name: line.marks[0][2] ** 2 for line in panel.lines}
    assert areas["VAE"] - areas["GAN"] == pytest.approx(areas["GAN"] - areas["DDPM"], rel=0.02)
    assert areas["VAE"] > areas["GAN"]
    assert all(line.marks[0][3] for line in panel.lines)  # each beats the next in speed and loses in both scores
    assert {text for _, _, text, _ in panel.labels} == {"VAE, 10,000/s", "GAN, 1,000/s", "DDPM, 100/s"}


def test_the_trilemma_of_ten_families_names_each_in_a_larger_figure(tmp_path: Path, make_run: Make) -> None:
    for i in range(10):
        scores = {"precision": {"value": 0.5 + 0.001 * i}, "coverage": {"value": 0.4 + 0.002 * (i % 3)}}
        make_run(tmp_path / str(i), f"family{i}", scores=scores)
    panel = tradeoffs.trilemma(table.groups(find([tmp_path]))[0])
    assert panel is not None
    assert panel.frame == figures.LARGE
    assert len({(x, y) for x, y, _, _ in panel.labels}) == len(panel.labels) == len(panel.legend) == 10


def test_no_coverage_no_trilemma(tmp_path: Path, make_run: Make) -> None:
    for family in ("vae", "gan"):
        make_run(tmp_path / family, family)
    (group,) = table.groups(find([tmp_path]))
    assert tradeoffs.trilemma(group) is None
    assert tradeoffs.trilemma_note(group) == ""


def area(path: str) -> float:
    """Gauss's shoelace formula."""
    x, y = np.array([numbers for letter, numbers in commands(path) if letter in "ML"]).T
    return abs(float(x @ np.roll(y, 1) - y @ np.roll(x, 1))) / 2


@pytest.mark.parametrize("index", range(9))
def test_every_mark_has_the_area_of_the_circle(index: int) -> None:
    assert area(palette.mark(index, 50, 50, 20)) == pytest.approx(math.pi * 400, rel=0.01)


def test_settings_differ_in_more_than_colour() -> None:
    shapes = [(re.sub(r"[\d.]+", "", palette.mark(i, 50, 50, 20)), palette.mark(i, 50, 50, 20)) for i in range(7)]
    assert len({place for _, place in shapes}) == 7
    assert len({(palette.series(i), palette.dash(i)) for i in range(28)}) == 28


def luminance(colour: str) -> float:
    """Relative luminance of WCAG 2.2."""
    parts = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))


@pytest.mark.parametrize("scheme", [palette.LIGHT, palette.DARK])
def test_lines_stand_out_from_the_paper_and_words_more_so(scheme: dict[str, str]) -> None:
    for name, least in (*((f"c{i}", 3.0) for i in range(palette.SIZE)), ("soft", 4.5), ("ink", 7.0), ("mark", 4.5)):
        bright, dark = sorted((luminance(scheme[name]), luminance(scheme["paper"])), reverse=True)
        assert (bright + 0.05) / (dark + 0.05) >= least, name


def test_a_moved_path_is_the_same_path_elsewhere() -> None:
    moved = drawing._moved(drawing.Shape("M1 2L3 4H5V6Z"), 10, 20)
    assert commands(moved.path) == [("M", [11, 22]), ("L", [13, 24]), ("H", [15]), ("V", [26]), ("Z", [])]
