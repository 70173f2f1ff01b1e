"""Scenes: what is drawn, and that captions say nothing that is not in the picture."""

import re
from itertools import combinations

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from genzoo.data.captions import LENGTH, NAMES, Claims, caption_bytes, caption_of, caption_strings, claims_of, holds
from genzoo.data.datamodule import DataModule
from genzoo.data.digits import digits
from genzoo.data.scenes import Scenes, draw, scenes
from genzoo.data.splits import Images, Splits

N = 400


@pytest.fixture(scope="module")
def drawn() -> Scenes:
    return draw(digits().test, N, np.random.default_rng(4))


def pixels(scene: torch.Tensor) -> np.ndarray:
    """The boxes (k, 4) of the used slots of a layout (4, 5), in pixels."""
    boxes = scene[scene[:, 0] >= 0, 1:] * 32
    assert torch.equal(boxes, boxes.round())
    return boxes.long().numpy()


def inked(image: np.ndarray, box: np.ndarray) -> tuple[int, int, int, int]:
    """First and last column, first and last row with ink in a box of an image (32, 32)."""
    x0, y0, x1, y1 = box
    alone = np.zeros_like(image)
    alone[y0:y1, x0:x1] = image[y0:y1, x0:x1]
    columns, rows = np.flatnonzero(alone.any(0)), np.flatnonzero(alone.any(1))
    return columns[0], columns[-1], rows[0], rows[-1]


def test_splits_follow_from_the_seed_and_share_no_digit() -> None:
    sizes = {"train": 30, "val": 10, "test": 20}
    first, again, other = scenes(**sizes), scenes(**sizes), scenes(**sizes, scene_seed=1)
    assert [len(part.x) for part in first[:3]] == list(sizes.values())
    for a, b, c in zip(first[:3], again[:3], other[:3], strict=True):
        assert torch.equal(a.x, b.x) and torch.equal(a.y, b.y) and not torch.equal(a.x, c.x)
    assert not torch.equal(first.train.x[:10], first.val.x) and not torch.equal(first.train.x[:20], first.test.x)
    for part, source in zip(first[:3], digits()[:3], strict=True):
        known = [{enlarged(digit, size) for digit in source.x[:, 0].numpy()} for size in range(10, 15)]
        for image, layout in zip(part.x[:, 0].numpy(), part.y, strict=True):
            for x0, y0, x1, y1 in pixels(layout):
                assert image[y0:y1, x0:x1].tobytes() in known[x1 - x0 - 10]  # a digit of this split, pixel for pixel


def test_the_command_line_sets_their_seed(settings) -> None:
    """Which the datamodule's own, of the order of images, is not."""
    sizes = {"train": 6, "val": 2, "test": 2}
    config = settings("data=scenes", "seed=2", "data.scene_seed=1", *[f"+data.{part}={n}" for part, n in sizes.items()])
    data = instantiate(config["data"], _convert_="all")
    assert data.seed == 2 and torch.equal(data.split("train").x, scenes(**sizes, scene_seed=1).train.x)
    with pytest.raises(ValueError, match=r"^data\.scene_seed=-1: give a whole number of at least 0\.$"):
        scenes(scene_seed=-1)


def enlarged(digit: np.ndarray, size: int) -> bytes:
    return np.asarray(Image.fromarray(digit).resize((size, size), Image.Resampling.BICUBIC)).tobytes()


def test_both_ways_of_asking_show_the_same_images() -> None:
    sizes = {"train": 40, "val": 2, "test": 2}
    layout, caption = scenes("layout", **sizes).train, scenes("caption", **sizes).train
    assert torch.equal(layout.x, caption.x) and layout.x.dtype == torch.uint8 and layout.x.shape == (40, 1, 32, 32)
    assert layout.y.shape == (40, 4, 5) and layout.y.dtype == torch.float32
    assert caption.y.shape == (40, LENGTH) and caption.y.dtype == torch.uint8
    for row, text in zip(layout.y, caption_strings(caption.y), strict=True):
        assert tuple(row[row[:, 0] >= 0, 0].long().tolist()) == claims_of(text).classes
    with pytest.raises(ValueError, match=r"'masks'.*layout, caption"):
        scenes("masks")


def test_boxes_lie_on_the_canvas_and_keep_two_pixels_apart(drawn: Scenes) -> None:
    for layout in drawn.layout:
        boxes = pixels(layout)
        assert boxes.min() >= 0 and boxes.max() <= 32
        sides = boxes[:, 2:] - boxes[:, :2]
        assert (sides[:, 0] == sides[:, 1]).all() and sides.min() >= 10 and sides.max() <= 14
        for a, b in combinations(boxes, 2):
            assert max(b[0] - a[2], a[0] - b[2], b[1] - a[3], a[1] - b[3]) >= 2
    assert (drawn.layout[drawn.layout[..., 0] < 0] == torch.tensor([-1.0, 0, 0, 0, 0])).all()


def test_nothing_is_drawn_outside_of_the_boxes(drawn: Scenes) -> None:
    for image, layout in zip(drawn.x[:, 0].clone(), drawn.layout, strict=True):
        for x0, y0, x1, y1 in pixels(layout):
            assert image[y0:y1, x0:x1].max() > 128
            image[y0:y1, x0:x1] = 0
        assert image.max() == 0


def test_numbers_of_digits_and_classes_are_even(drawn: Scenes) -> None:
    counts = (drawn.layout[..., 0] >= 0).sum(1)
    assert ((counts.bincount(minlength=5)[2:] - N / 3).abs() < 4 * (N * 2 / 9) ** 0.5).all()
    shares = drawn.layout[drawn.layout[..., 0] >= 0][:, 0].long().bincount(minlength=10) / counts.sum()
    assert ((shares - 0.1).abs() < 0.04).all()


def test_every_word_of_a_caption_is_true_of_the_ink(drawn: Scenes) -> None:
    """Read by another parser than `claims_of`, and held against the pixels rather than the boxes."""
    true_of_ink = {
        "left": lambda a, b: a[1] < b[0],
        "right": lambda a, b: b[1] < a[0],
        "above": lambda a, b: a[3] < b[2],
        "below": lambda a, b: b[3] < a[2],
    }
    kinds = set()
    for image, layout, caption in zip(drawn.x[:, 0].numpy(), drawn.layout, drawn.captions, strict=True):
        ink = [inked(image, box) for box in pixels(layout)]
        named: list[str] = []
        for part in caption.split(", "):
            words = re.findall(r"\w+", part)
            where = next(word for word in words if word in true_of_ink)
            if not named:
                named, others, me = [words[1], words[-1]], [1], 0
            elif words[-1] in NAMES:
                me, same = len(named), [i for i, name in enumerate(named) if name == words[-1]]
                ordinal = {"first": 0, "second": 1, "third": 2}.get(words[-2])
                assert (ordinal is None) == (len(same) == 1)
                others, named = [same[ordinal or 0]], [*named, words[1]]
                kinds |= {words[-2]}
            else:
                me, others, named = len(named), list(range(len(named))), [*named, words[1]]
                kinds |= {part.partition(" ")[2].partition(" ")[2]}
            assert all(true_of_ink[where](ink[me], ink[other]) for other in others), caption
        assert [NAMES.index(name) for name in named] == layout[layout[:, 0] >= 0, 0].tolist(), caption
    assert kinds >= {"the", "first", "second", "above", "below", "to the left", "to the right"}


def test_claims_are_those_of_the_grammar() -> None:
    assert claims_of("a seven left of a two, a four below") == Claims((7, 2, 4), ((0, 0, 1), (0, 1, 2), (1, 1, 2)))
    assert claims_of("an eight below a one") == Claims((8, 1), ((1, 1, 0),))
    assert claims_of("a two above a two, a five right of the second two, a two left of the five") == Claims(
        (2, 2, 5, 2), ((0, 1, 1), (1, 0, 2), (3, 0, 2))
    )


@pytest.mark.parametrize(
    ("caption", "culprit"),
    [
        ("seven left of two", "seven left of two"),
        ("a seven near a two", "near"),
        ("a cat left of a two", "cat"),
        ("a seven left of a two, a four beside the two", "beside"),
        ("a seven left of a two, a four below the three", "the three"),
        ("a two left of a two, a four below the two", "the two"),
        ("a two left of a two, a four below the third two", "the third two"),
        ("a six left of a two, a four below the first two", "the first two"),
        ("", "''"),
    ],
)
def test_another_caption_is_refused(caption: str, culprit: str) -> None:
    with pytest.raises(ValueError, match=culprit):
        claims_of(caption)


BOXES = [(0, 0, 4, 4), (10, 1, 14, 5), (2, 10, 6, 14), (12, 12, 16, 16)]  # a square of four


@given(st.lists(st.integers(0, 9), min_size=2, max_size=4), st.permutations(BOXES), st.integers(0, 99))
def test_what_is_said_is_read_back_and_fits(classes: list[int], boxes: list[tuple], seed: int) -> None:
    caption = caption_of(classes, boxes[: len(classes)], np.random.default_rng(seed))
    claims = claims_of(caption)
    assert claims.classes == tuple(classes) and len(caption) <= LENGTH
    assert {i for triple in claims.order for i in triple[::2]} == set(range(len(classes)))  # each has its place
    assert all(boxes[i][axis + 2] <= boxes[j][axis] for i, axis, j in claims.order)


def test_no_caption_is_longer_than_the_longest() -> None:
    longest = "an eight right of an eight, an eight right of the second eight, an eight right of the second eight"
    assert len(longest) == 98 and claims_of(longest).classes == (8, 8, 8, 8)


def test_touching_columns_are_neither_left_nor_right() -> None:
    a, b = (0, 0, 5, 5), (4, 10, 9, 15)
    assert not holds(a, "left of", b) and not holds(a, "right of", b) and not holds(b, "left of", a)
    assert holds(a, "above", b) and holds(b, "below", a) and not holds(b, "above", a)


@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=15)))
def test_bytes_and_strings_are_the_same_captions(captions: list[str]) -> None:
    y = caption_bytes(captions, 60)
    assert y.shape == (len(captions), 60) and y.dtype == torch.uint8
    assert caption_strings(y) == captions


def test_a_caption_that_does_not_fit_is_refused() -> None:
    assert caption_strings(caption_bytes(["une sève à gauche d’un 二"], 30)) == ["une sève à gauche d’un 二"]
    for bad in ("二" * 10, "a\0b"):
        with pytest.raises(ValueError, match="29 fit"):
            caption_bytes(["fine", bad], 29)
    assert not caption_bytes([""], 5).any()  # the caption that says nothing


@pytest.mark.parametrize("ask", ["layout", "caption"])
def test_what_is_asked_for_is_not_taken_for_a_class(ask: str) -> None:
    data = DataModule(scenes, "scenes", (1, 32, 32), 8, ask=ask, train=20, val=4, test=4)
    x, y = data.on_after_batch_transfer(next(data.epoch()), 0)
    assert data.num_classes == 0 and data.class_names is None
    assert x.min() == -1 and x.max() == 1 and len(y) == 8 and y.dtype == data.split("train").y.dtype


def test_classes_are_counted_as_before() -> None:
    images = Images(torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 4, 1]))

    def labelled(names: tuple[str, ...] | None) -> DataModule:
        return DataModule(lambda: Splits(images, images, images, names), "three", (1, 2, 2), 1)

    assert labelled(None).num_classes == 5 and labelled(tuple("abcdefg")).num_classes == 7
