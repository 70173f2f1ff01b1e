"""Pictures hold the pixels they were given: they come back out of the PNG, neighbours below their samples."""

import base64
import io
from functools import partial

import numpy as np
import pytest
from PIL import Image

from genzoo.report import pictures


def pixels(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))))


def noise(k: int, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (k, *shape), dtype=np.uint8)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 48)])
def test_a_grid_holds_every_image_in_order(shape: tuple[int, int, int]) -> None:
    c, h, w = shape
    images = noise(64, shape)
    sheet = pixels(pictures.grid(images))
    zoom = 512 // (8 * max(h, w))
    gap = max(1, zoom * max(h, w) // 16)
    for i in (0, 7, 8, 63):
        top, left = i // 8 * (h * zoom + gap), i % 8 * (w * zoom + gap)
        tile = sheet[top : top + h * zoom : zoom, left : left + w * zoom : zoom, :c]
        np.testing.assert_array_equal(np.moveaxis(tile, -1, 0), images[i])


def test_each_sample_stands_on_its_neighbour_and_the_closest_pair_is_first() -> None:
    fake, nearest = noise(9, (1, 8, 8)), noise(9, (1, 8, 8), seed=1)
    distance = np.array([3.0, 1, 2, 4, 5, 6, 7, 8, 0])  # the last is closest, but not among the four shown
    sheet = pixels(pictures.pairs(fake, nearest, distance, side=2))
    zoom = 512 // (2 * 16)
    np.testing.assert_array_equal(
        sheet[: 16 * zoom : zoom, : 8 * zoom : zoom, 0], np.vstack([fake[1, 0], nearest[1, 0]])
    )
    unsorted = pixels(pictures.pairs(fake, nearest, None, side=2))
    np.testing.assert_array_equal(unsorted[: 8 * zoom : zoom, : 8 * zoom : zoom, 0], fake[0, 0])


def test_pictures_shrink_to_fit_the_page() -> None:
    drawings = [partial(pictures.grid, noise(64, (1, 12, 12)))] * 2
    whole, less = (sum(len(draw(side)) for draw in drawings) for side in (8, 6))
    assert less < whole
    assert pictures.fitting(drawings, limit=whole) == 8
    assert pictures.fitting(drawings, limit=whole - 1) == 6
    assert pictures.fitting(drawings, limit=0) == 1


def test_points_are_drawn_upwards() -> None:
    points = np.array([[[[0]], [[0]]], [[[255]], [[255]]]], np.uint8)
    assert pictures.is_points(points)
    assert pictures.dots(points) == "M0 255h0M255 0h0"


def test_a_strip_goes_from_the_first_step_to_the_last() -> None:
    images = noise(3 * 21, (1, 8, 8)).reshape(3, 21, 1, 8, 8)
    sheet = pixels(pictures.strips(images, side=2))
    zoom = 512 // (2 * 8)
    right = sheet[: 8 * zoom : zoom, -8 * zoom :: zoom, 0]
    np.testing.assert_array_equal(sheet[: 8 * zoom : zoom, : 8 * zoom : zoom, 0], images[0, 0, 0])
    np.testing.assert_array_equal(right, images[0, 20, 0])
    np.testing.assert_array_equal(sheet[-8 * zoom :: zoom, -8 * zoom :: zoom, 0], images[1, 20, 0])


def test_strips_show_as_many_rows_as_asked() -> None:
    images = noise(10 * 8, (1, 8, 8)).reshape(10, 8, 1, 8, 8)
    zoom = 512 // (8 * 8)
    gap = zoom * 8 // 16
    for rows, shown in ((10, 10), (None, 8)):
        sheet = pixels(pictures.strips(images, rows=rows))
        assert sheet.shape[0] == shown * (8 * zoom + gap) - gap
        last = sheet[-8 * zoom :: zoom, : 8 * zoom : zoom, 0]
        np.testing.assert_array_equal(last, images[shown - 1, 0, 0])


@pytest.mark.parametrize(("sets", "shape"), [(5, (1, 5)), (6, (1, 6)), (7, (2, 4)), (11, (2, 6))])
def test_a_montage_of_many_sets_is_in_even_rows(sets: int, shape: tuple[int, int]) -> None:
    image = pictures.montage([(f"Set {i}", noise(64, (1, 8, 8), seed=i)) for i in range(sets)], width=64)
    gap, foot = 64 // 12, 64 // 8
    rows, columns = (image.height - gap // 2) / (gap + 64 + foot), (image.width - gap) / (64 + gap)
    assert (rows, columns) == shape
