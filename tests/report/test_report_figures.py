"""Figures show what is in the data: lines break at NaN, ticks are round, a fit runs through its points."""

import math
import re

import numpy as np
import pytest

from genzoo.report import figures, panels
from genzoo.report.figures import Fit, Series


def test_a_line_breaks_where_the_loss_is_nan() -> None:
    points = np.array([[0, 1.0], [1, 2.0], [2, math.nan], [3, 2.0], [4, 1.5]])
    panel = figures.panel("loss", [Series("a", 0, points)])
    assert panel is not None
    assert panel.lines[0].path.count("M") == 2
    assert len(panel.lines[0].dots) == 4


def test_long_curves_keep_their_level() -> None:
    points = np.stack([np.arange(10_000.0), np.tile([1.0, 3.0], 5000)], axis=1)
    thin = figures._thinned(points)
    assert len(thin) == figures.POINTS
    np.testing.assert_allclose(thin[:, 1], 2.0)


def test_the_axis_is_logarithmic_over_a_decade_only() -> None:
    near, far = (np.array([[1, 1.0], [2, top]]) for top in (5.0, 1000.0))
    panels = [figures.panel("", [Series("a", 0, points)]) for points in (near, far)]
    assert [panel.log for panel in panels if panel] == [False, True]
    far_panel = panels[1]
    assert far_panel is not None
    assert [tick.text for tick in far_panel.y] == [
        "1",
        "2",
        "5",
        "10",
        "20",
        "50",
        "100",
        "200",
        "500",
        "1 k",
    ]


def test_nothing_to_draw_is_no_panel() -> None:
    assert figures.panel("", []) is None
    assert figures.panel("", [Series("a", 0, np.array([[5, math.nan]]))]) is None
    assert figures.fit_panel("", []) is None
    assert figures.fit_panel("", [Fit("a", 0, np.array([[0.1, 1.0]]), math.nan, 1.0)]) is None


@pytest.mark.parametrize(("low", "high"), [(0, 100_000), (-3.2, 7.9), (0.001, 0.0012), (5, 5)])
def test_ticks_are_few_round_and_inside(low: float, high: float) -> None:
    ticks = figures.ticks(low, high)
    assert len(ticks) <= 6
    assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in ticks)
    assert len(set(np.diff(ticks).round(9))) <= 1


def numbers(path: str) -> list[float]:
    return [float(number) for number in re.findall(r"-?[\d.]+", path)]


def test_a_fit_runs_through_its_points_to_infinity_at_the_left() -> None:
    x = 1 / np.array([400, 200, 100])
    panel = figures.fit_panel("FD∞", [Fit("a", 0, np.stack([x, 2 + 30 * x], axis=1), slope=30.0, limit=2.0)])
    assert panel is not None
    (line,) = panel.lines
    left, start, right, end = numbers(line.path)
    for dot_x, dot_y in line.dots:  # collinear with the drawn line, to the rounding of its places
        assert start + (end - start) * (dot_x - left) / (right - left) == pytest.approx(dot_y, abs=0.2)
    assert [tick.text for tick in panel.x] == ["∞", "400", "200", "100"]
    assert panel.x[0].at == left
    assert start > end  # on the screen lower values have the greater y


def test_bars_are_as_high_as_their_shares() -> None:
    height, shares = 40, [0.5, 0.25, 0.0]
    bars = numbers(figures.bars(shares, most=0.5, width=30, height=height).replace("z", " "))
    assert [-rise / height for rise in bars[2::5]] == [1, 0.5, 0]
    tops = numbers(figures.levels(shares, most=0.5, width=30, height=height))[1::3]
    assert [1 - top / height for top in tops] == [1, 0.5, 0]
    assert bars[0::5] == [0, 10, 20]


def test_seeds_are_drawn_as_their_mean_within_a_band_as_far_as_all_go() -> None:
    one, two = np.array([[100, 4.0], [200, 2.0], [300, 1.0]]), np.array([[100, 8.0], [200, 4.0]])
    series = panels._over_seeds("a", 0, [one, two])
    np.testing.assert_array_equal(series.points, [[100, 6], [200, 3]])
    np.testing.assert_array_equal(series.band, [[100, 4, 8], [200, 2, 4]])
    panel = figures.panel("", [series])
    assert panel is not None
    (line,) = panel.lines
    there = numbers(line.band.replace("L", " "))
    assert there[0::2] == [*there[0:4:2], *there[2::-2]]  # along the top, and back below
    (x, mean), band = line.dots[0], there[1::2]
    assert (x, band[0] < mean < band[3]) == (there[0], True)


def test_seeds_judged_after_other_numbers_of_images_are_read_off_their_lines() -> None:
    one, two = np.array([[0, 0.0], [50, 5.0], [100, 10.0]]), np.array([[0, 0.0], [100, 30.0]])
    np.testing.assert_allclose(panels._over_seeds("a", 0, [one, two]).points, [[0, 0], [50, 10], [100, 20]])


def test_seeds_without_a_common_stretch_are_no_obstacle() -> None:
    apart = panels._over_seeds("a", 0, [np.array([[100, 1.0]]), np.array([[200, 1.0]])])
    assert figures.panel("", [apart]) is None
