"""Figures show what is in the data: pixels come back out of the PNG, lines break at NaN, ticks are round."""

import base64
import io
import math

import numpy as np
import pytest
from PIL import Image

from genzoo.report import figures
from genzoo.report.figures import Series


def pixels(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))))


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 48)])
def test_a_grid_holds_every_image_in_order(shape: tuple[int, int, int]) -> None:
    c, h, w = shape
    images = np.random.default_rng(0).integers(0, 256, (64, *shape), dtype=np.uint8)
    sheet = pixels(figures.grid(images))
    zoom = 512 // (8 * max(h, w))
    gap = max(1, zoom * max(h, w) // 16)
    for i in (0, 7, 8, 63):
        top, left = i // 8 * (h * zoom + gap), i % 8 * (w * zoom + gap)
        tile = sheet[top : top + h * zoom : zoom, left : left + w * zoom : zoom, :c]
        np.testing.assert_array_equal(np.moveaxis(tile, -1, 0), images[i])


def test_grids_shrink_to_fit_the_page() -> None:
    sets = [np.random.default_rng(0).integers(0, 256, (64, 3, 32, 32), dtype=np.uint8)] * 3
    whole, side = figures.fitting(sets)
    less, smaller = figures.fitting(sets, limit=sum(map(len, whole)) - 1)
    assert (side, smaller) == (8, 6)
    assert sum(map(len, less)) < sum(map(len, whole))


def test_points_are_drawn_upwards() -> None:
    points = np.array([[[[0]], [[0]]], [[[255]], [[255]]]], np.uint8)
    assert figures.is_points(points)
    assert figures.dots(points) == "M0 255h0M255 0h0"


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


@pytest.mark.parametrize(("low", "high"), [(0, 100_000), (-3.2, 7.9), (0.001, 0.0012), (5, 5)])
def test_ticks_are_few_round_and_inside(low: float, high: float) -> None:
    ticks = figures._ticks(low, high)
    assert len(ticks) <= 6
    assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in ticks)
    assert len(set(np.diff(ticks).round(9))) <= 1
