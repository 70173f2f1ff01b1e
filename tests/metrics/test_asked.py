"""Judges of what was asked: real scenes are right, shuffled ones are at chance, and each kind of wrong is seen."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor

from genzoo.data.captions import Claims, claims_of
from genzoo.data.digits import digits
from genzoo.data.scenes import Scenes, draw
from genzoo.metrics.asked import boxes_right, captions_satisfied, class_right, crops, digits_found, share
from genzoo.metrics.classifier import classifier

N = 500


@pytest.fixture(scope="module")
def test_scenes() -> Scenes:
    """Of digits that the classifier has never seen."""
    return draw(digits().test, N, np.random.default_rng(2))


@pytest.fixture(scope="module")
def classify():
    net = classifier("digits")
    return lambda x: net.classify(net(x))


@pytest.fixture(scope="module")
def claims(test_scenes: Scenes) -> list[Claims]:
    return [claims_of(caption) for caption in test_scenes.captions]


def test_real_classes_are_right_and_shuffled_ones_at_chance(classify) -> None:
    x, y = digits().test
    assert class_right(x, y, classify).double().mean() > 0.97
    assert class_right(x, y[torch.randperm(len(y))], classify).double().mean() < 0.15


def test_real_boxes_are_right_and_shuffled_ones_at_chance(test_scenes: Scenes, classify) -> None:
    x, layout, _ = test_scenes
    right = boxes_right(x, layout, classify)
    assert right.shape == (N, 4) and torch.equal(right.isnan(), layout[..., 0] < 0)
    assert share(right).value > 0.97
    low, high = share(boxes_right(x, layout.roll(1, 0), classify)).ci95
    assert low < 0.14 and high < 0.17  # a tenth, and a little where boxes meet by chance


def test_a_single_wrong_box_is_seen(test_scenes: Scenes, classify) -> None:
    x, layout, _ = test_scenes
    asked = layout[:20].clone()
    asked[7, 1, 0] = (asked[7, 1, 0] + 1) % 10
    changed = boxes_right(x[:20], asked, classify) != boxes_right(x[:20], layout[:20], classify)
    changed &= layout[:20, :, 0] >= 0
    assert changed.nonzero().tolist() == [[7, 1]]


def test_nothing_asked_is_nothing_judged(test_scenes: Scenes, classify) -> None:
    nothing = torch.tensor([-1.0, 0, 0, 0, 0]).expand(3, 4, 5)
    assert boxes_right(test_scenes.x[:3], nothing, classify).isnan().all()


def test_an_empty_box_is_of_no_class(classify) -> None:
    asked = torch.tensor([[label, 0.0, 0.0, 0.4, 0.4] for label in range(10)])[:, None]
    for level in (0, 40):
        assert not boxes_right(torch.full((10, 1, 32, 32), level, dtype=torch.uint8), asked, classify).any()


def test_real_captions_are_satisfied_and_shuffled_ones_not(test_scenes: Scenes, claims: list, classify) -> None:
    right = captions_satisfied(test_scenes.x, claims, classify)
    assert right.shape == (N,) and right.dtype == torch.bool and right.double().mean() > 0.95
    shuffled = captions_satisfied(test_scenes.x, claims[1:] + claims[:1], classify)
    assert shuffled.double().mean() < 0.02


def test_reversed_relations_are_not_satisfied(test_scenes: Scenes, claims: list, classify) -> None:
    """Unless a name was given twice: of two sevens either is left of the other."""
    turned = [said._replace(order=tuple((j, axis, i) for i, axis, j in said.order)) for said in claims]
    distinct = torch.tensor([len(set(said.classes)) == len(said.classes) for said in claims])
    right = captions_satisfied(test_scenes.x, turned, classify)
    assert distinct.sum() > N / 2 and not right[distinct].any() and right[~distinct].any()
    only_digits = [Claims(said.classes, ()) for said in turned]
    assert captions_satisfied(test_scenes.x, only_digits, classify).double().mean() > 0.95


def test_exchanging_the_halves_turns_left_and_right_alone(test_scenes: Scenes, claims: list, classify) -> None:
    names_once = [len(set(said.classes)) == len(said.classes) for said in claims]
    chosen = [i for i in range(N) if names_once[i] and in_both_halves(test_scenes.layout[i])]
    still = [all(axis == 1 for _, axis, _ in claims[i].order) for i in chosen]
    right = captions_satisfied(test_scenes.x[chosen].roll(16, 3), [claims[i] for i in chosen], classify)
    assert len(chosen) > 20 and 0 < sum(still) < len(still)
    assert right.tolist() == still


def in_both_halves(layout: Tensor) -> bool:
    """Whether boxes (4, 5) lie in the left and in the right half, none in between; two of one half lie one above the
    other."""
    left, right = (layout[layout[:, 0] >= 0][:, [1, 3]] * 32).T
    inside = (left >= 16) | (right <= 16)
    return bool(inside.all() and (left >= 16).any() and (right <= 16).any())


def test_one_digit_too_many_or_too_few_is_not_satisfied(test_scenes: Scenes, claims: list, classify) -> None:
    fewer, more = test_scenes.x.clone(), [Claims(said.classes[:-1], ()) for said in claims]
    for image, boxes in zip(fewer, test_scenes.layout, strict=True):
        x0, y0, x1, y1 = (boxes[0, 1:] * 32).int().tolist()
        image[:, y0:y1, x0:x1] = 0
    assert not captions_satisfied(fewer, claims, classify).any()
    assert captions_satisfied(test_scenes.x, more, classify).double().mean() < 0.01


def test_found_digits_lie_in_their_boxes(test_scenes: Scenes, classify) -> None:
    found = digits_found(test_scenes.x, classify)
    wrong = 0
    for row, layout in zip(found, test_scenes.layout, strict=True):
        there, asked = row[row[:, 0] >= 0], layout[layout[:, 0] >= 0]
        inside = (there[:, None, 1:3] >= asked[:, 1:3] - 1e-6) & (there[:, None, 3:] <= asked[:, 3:] + 1e-6)
        same = inside.all(2) & (there[:, None, 0] == asked[:, 0])
        wrong += len(there) != len(asked) or not (same.sum(0) == 1).all()
    assert wrong < 0.03 * N


def test_specks_and_noise_are_no_digits(test_scenes: Scenes, claims: list, classify) -> None:
    noisy = (test_scenes.x + 12 * torch.randn(test_scenes.x.shape)).clip(0, 255).byte()
    noisy[:, :, 0, :3] = 255
    assert captions_satisfied(noisy, claims, classify).double().mean() > 0.95
    blank = torch.zeros(2, 1, 32, 32, dtype=torch.uint8)
    assert digits_found(blank, classify).shape == (2, 0, 5)
    assert not captions_satisfied(blank, claims[:2], classify).any()


def test_slots_are_as_many_as_the_most_of_one_image(classify) -> None:
    strokes = torch.zeros(3, 1, 32, 32, dtype=torch.uint8)
    strokes[0, :, 4:16, [2, 30]] = strokes[2, :, 10:22, 1::5] = 255  # two, none, and seven of 12 pixels' height
    layout = digits_found(strokes, classify)
    assert layout.shape == (3, 7, 5) and (layout[..., 0] >= 0).sum(1).tolist() == [2, 0, 7]
    assert torch.equal(layout[0, :2, 1:] * 32, torch.tensor([[2.0, 4, 3, 16], [30, 4, 31, 16]]))
    assert torch.equal(layout[2, :, 1] * 32, torch.arange(1.0, 32, 5))


def test_images_without_digits_stay_in_place(test_scenes: Scenes, claims: list, classify) -> None:
    right = captions_satisfied(test_scenes.x[:6], claims[:6], classify)
    gaps = torch.stack([torch.zeros_like(test_scenes.x[:6]), test_scenes.x[:6]], 1).flatten(0, 1)
    twice = [said for said in claims[:6] for _ in range(2)]
    assert torch.equal(captions_satisfied(gaps, twice, classify)[1::2], right) and right.any()


def test_crops_are_those_of_pooling() -> None:
    x = torch.randint(256, (3, 1, 32, 32), dtype=torch.uint8)
    whole = F.avg_pool2d(x.double(), 4)[:, :, 2:6, 1:5]  # a box of 16 x 16 pixels: one point a pixel, 2 x 2 averaged
    box = torch.tensor([4.0, 8, 20, 24]).expand(3, 4) / 32
    assert torch.allclose(F.avg_pool2d(crops(x, box).double(), 2), whole, atol=0.76)
    assert torch.equal(crops(x, box + 2), torch.zeros(3, 1, 8, 8, dtype=torch.uint8))


def test_the_interval_of_a_share_is_wilsons() -> None:
    right = torch.arange(400) < 300
    want = stats.binomtest(300, 400).proportion_ci(method="wilson")
    score = share(right)
    assert score.value == 0.75 and score.details == {"asked": 400}
    assert score.ci95 == pytest.approx((want.low, want.high), abs=3e-4)  # Student's t of 399 degrees for the normal


def test_boxes_that_succeed_together_count_as_one() -> None:
    rows = torch.rand(1000, 1) < 0.6
    low, high = share(rows.expand(1000, 4)).ci95
    assert (low, high) == pytest.approx(share(rows).ci95, abs=1e-6)
    alone = torch.rand(1000, 4).lt(0.6).double()
    alone[:, 3] = torch.nan
    low, high = share(alone).ci95
    want = stats.binomtest(int(alone.nansum()), 3000).proportion_ci(method="wilson")
    assert high - low == pytest.approx(want.high - want.low, rel=0.15) and share(alone).details == {"asked": 3000}


def test_no_share_of_nothing() -> None:
    for right in (torch.ones(1, 4), torch.full((3, 4), torch.nan)):
        with pytest.raises(ValueError, match="two images or more"):
            share(right)


def test_other_images_are_refused(test_scenes: Scenes, claims: list, classify) -> None:
    x, layout, _ = test_scenes
    with pytest.raises(ValueError, match=r"torch.float32 \(500, 1, 32, 32\): use to_uint8"):
        boxes_right(x / 127.5 - 1, layout, classify)
    with pytest.raises(ValueError, match="2 images were made, but 500 were asked for"):
        captions_satisfied(x[:2], claims, classify)
