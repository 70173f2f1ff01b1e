"""What conditional models are asked for: scored against judges that know real images, and said in a user's words."""

import json
import math
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genzoo import runs
from genzoo.asking import answers, conditions_of, in_turn
from genzoo.data.captions import caption_bytes, claims_of
from genzoo.data.digits import digits
from genzoo.data.scenes import draw
from genzoo.data.splits import Images
from genzoo.generator import Generator, from_uint8
from genzoo.metrics.draw import per_image
from genzoo.metrics.evaluate import chosen, evaluate
from genzoo.metrics.features import classifier, pixels
from genzoo.metrics.intervals import share_interval
from genzoo.nets.conditions import Classes, Condition, Layout
from genzoo.nets.maps import Edges, LowResolution, Maps, Masked
from genzoo.nets.text import Text
from genzoo.score import row_in_words, table

from .conftest import composed

N = 120


class Oracle(Generator):
    """Answers with the real image that is known to be of this condition; of a share `wrong` of them with another."""

    def __init__(self, images: Images, condition: Condition, wrong: float = 0.0) -> None:
        super().__init__(images.x.shape[1:], torch.optim.SGD)
        self.condition, self.images, self.wrong, self.seen = condition, images, wrong, []
        self.classes = condition.classes if isinstance(condition, Classes) else 0

    def sample(self, n: int, y: Tensor | None = None) -> Tensor:
        self.seen.append(n)
        places = torch.tensor([[torch.equal(row, other) for other in self.images.y].index(True) for row in y])
        places = torch.where(torch.rand(n) < self.wrong, (places + 1) % len(self.images.x), places)
        return self.images.x[places] / 127.5 - 1


@pytest.fixture(scope="module")
def scenes() -> dict[str, Images]:
    found = draw(digits().test, N, np.random.default_rng(2))
    return {"layout": Images(found.x, found.layout), "caption": Images(found.x, caption_bytes(found.captions))}


LAYOUT, TEXT = Layout(10, 4, 8), Text(100, 8)


# --- Scores.


@pytest.mark.parametrize(("ask", "condition"), [("layout", LAYOUT), ("caption", TEXT)])
def test_an_oracle_is_as_right_as_real_images(scenes, ask, condition) -> None:
    right, ceiling = answers(Oracle(scenes[ask], condition), scenes[ask], pixels((1, 32, 32)), n=N)
    assert list(right) == {"layout": ["boxes right"], "caption": ["captions right", "digits right"]}[ask]
    assert right == ceiling and all(score.value > 0.95 for score in right.values())


def test_classes_are_judged_by_the_features_that_know_them() -> None:
    x, y = digits().test
    test = Images(*(part[torch.unique(x.flatten(1), dim=0, return_inverse=True)[1].argsort()] for part in (x, y)))
    model = ByClass(test)
    right, ceiling = answers(model, test, classifier("digits"), n=300)
    assert set(right) == {"class right"} and right["class right"].value > 0.97 < ceiling["class right"].value
    assert answers(model, test, pixels((1, 8, 8)), n=300) == ({}, {})
    assert answers(model, test, classifier("fashion_mnist"), n=300) == ({}, {})  # ten classes too, but of clothes
    liar = answers(ByClass(Images(test.x, (test.y + 1) % 10)), test, classifier("digits"), n=300)[0]
    assert liar["class right"].value < 0.05


class ByClass(Generator):
    """A family that takes classes and has no condition: an image of the class that was asked for."""

    def __init__(self, images: Images) -> None:
        super().__init__(images.x.shape[1:], torch.optim.SGD)
        self.images, self.classes = images, 10

    def sample(self, n: int, y: Tensor | None = None) -> Tensor:
        y = torch.randint(10, (n,)) if y is None else y
        first = [(self.images.y == each).nonzero()[0, 0] for each in y]
        return self.images.x[torch.stack(first)] / 127.5 - 1


def test_a_share_of_wrong_answers_shows(scenes) -> None:
    test = scenes["caption"]
    right, _ = answers(Oracle(test, TEXT, wrong=0.5), test, pixels((1, 32, 32)), n=N)
    low, high = right["captions right"].ci95
    assert low < 0.5 < high and right["captions right"].value < right["digits right"].value + 1e-9


def test_the_batch_size_changes_no_answer(scenes) -> None:
    test, extractor = scenes["layout"], pixels((1, 32, 32))
    model = Oracle(test, LAYOUT, wrong=0.5)
    whole, parts = (answers(model, test, extractor, n=50, batch_size=size)[0] for size in (50, 7))
    assert whole == parts and model.seen == [50, *[7] * 7, 1]
    assert answers(model, test, extractor, n=50, seed=1)[0] != whole


@pytest.mark.parametrize(
    ("condition", "y"),
    [
        (LAYOUT, None),
        (LAYOUT, torch.zeros(N, 100, dtype=torch.uint8)),
        (TEXT, torch.zeros(N, dtype=torch.long)),
        (Maps((1, 32, 32), 1), torch.zeros(N, 1, 32, 32)),
        (TEXT, caption_bytes(["a cat beside a dog"] * N)),
        (LAYOUT, torch.tensor([3.0, 0, 0, 0.1, 0.1]).expand(N, 4, 5)),
    ],
)
def test_what_cannot_be_judged_is_left_out(scenes, condition, y) -> None:
    """No y, one that the model does not take, captions that no judge reads, and boxes of what no judge knows."""
    model = Oracle(scenes["layout"], condition)
    assert answers(model, Images(scenes["layout"].x, y), classifier("digits"), n=N) == ({}, {})
    assert model.seen == []


class Brighter(Generator):
    """Keeps to the maps that it is told but for `more` brightness; what they do not say is noise."""

    def __init__(self, condition: Maps, more: float) -> None:
        super().__init__((1, 8, 8), torch.optim.SGD)
        self.condition, self.more = condition, more

    def sample(self, n: int, y: Tensor) -> Tensor:
        given, known = (F.interpolate(part, (8, 8)) for part in (y[:, :1], y[:, 1:]))
        return torch.where(known > 0, 0.5 * given + self.more, torch.rand(n, 1, 8, 8) * 2 - 1)


@pytest.mark.parametrize("condition", [LowResolution((1, 8, 8), 2), LowResolution((1, 8, 8), 4), Masked((1, 8, 8))])
def test_what_is_kept_of_maps_is_their_error_in_decibels(condition: Maps) -> None:
    """Half the contrast of images of deviation s is an error of s / 2, and b more of brightness one of b."""
    x = digits().test.x
    found, ceiling = answers(Brighter(condition, 0.25), Images(x, None), pixels((1, 8, 8)), n=N)
    with per_image(0, 0, N):
        y = condition.of(from_uint8(chosen(x, N, 0)), None)
    known = y[:, 1:].bool()
    error = (y[:, :1] * 0.5 - 0.25).square()[known].mean() if known.all() else None
    if error is None:  # each image counts once, however much of it is known
        rows = [(row[:1] * 0.5 - 0.25).square()[row[1:] > 0].mean() for row in y if (row[1:] > 0).any()]
        error = torch.stack(rows).mean()
    assert found["PSNR of the given"].value == pytest.approx(20 * math.log10(2) - 10 * math.log10(error), abs=0.05)
    low, high = found["PSNR of the given"].ci95
    assert low < found["PSNR of the given"].value < high and ceiling == {}


def test_edges_are_looked_for_in_samples() -> None:
    class Copies(Brighter):
        def sample(self, n: int, y: Tensor) -> Tensor:
            return from_uint8(chosen(digits().test.x, N, 0)[:n]) * self.more

    right, wrong = (
        answers(Copies(Edges((1, 8, 8)), more), Images(digits().test.x, None), pixels((1, 8, 8)), n=N)[0][
            "PSNR of the given"
        ]
        for more in (1.0, 0.0)
    )
    assert right.value > 50 > 10 > wrong.value


def test_the_record_holds_shares_and_their_ceiling(tmp_path) -> None:
    """Under one protocol with models that have no condition, so that both are ranked."""
    x, y = digits().test
    splits, net = {"train": digits().train.x, "test": x}, classifier("digits")
    model = ByClass(Images(x, y))
    plain = evaluate(model.sample, splits, net, "digits", {}, n=60, cache_dir=tmp_path).record
    judged = partial(answers, model, Images(x, y))
    record = evaluate(model.sample, splits, net, "digits", {}, answers=judged, n=60, cache_dir=tmp_path).record
    assert record["protocol_id"] == plain["protocol_id"] and "class right" not in plain["scores"]
    row = json.loads(json.dumps(record))["scores"]["class right"]
    assert row["n"] == row["asked"] == 60 and row["ci95"][0] < row["value"] <= row["ci95"][1]
    assert record["calibration"]["real test"]["class right"]["value"] > 0.95
    assert "class right" not in record["calibration"]["real train"]


@pytest.mark.parametrize(("right", "told"), [(7, "[0.397, 0.892]"), (10, "[0.722, 1]"), (5, "± 0.26")])
def test_a_skewed_interval_is_told_by_its_ends(right: int, told: str) -> None:
    """Wilson's of shares of 10; the numbers are scipy's, of binomtest(right, 10).proportion_ci(method="wilson")."""
    ci95 = share_interval(right / 10, 0.0, n=10, dof=10**9)
    assert row_in_words("class right", {"value": right / 10, "ci95": ci95, "n": 10}) == (
        f"class right {right / 10:.4g} {told} (n=10)"
    )


def test_a_sweeps_table_has_a_column_for_each_share() -> None:
    scores = {name: {"value": 0.5, "ci95": [0.4, 0.6], "n": 9} for name in ("FD", "KD", "boxes right")}
    record = {
        "scores": scores,
        "provenance": {"sampling": "heun"},
        "cost": {"nfe": 7, "sampling_seconds_per_image": 0.1},
    }
    head, line, row = table([record]).splitlines()
    assert head == "| Sampling | Network calls | FD | boxes right | Seconds an image |"
    assert row == "| heun | 7 | 0.5 ± 0.1 | 0.5 ± 0.1 | 0.1 |" and line.count("---:") == 4


# --- In a user's words.


def model_of(condition: Condition | None) -> nn.Module:
    return Oracle(digits().test, condition)


def test_boxes_become_slots() -> None:
    one = conditions_of(model_of(LAYOUT), [[7, 0, 0, 0.5, 0.5], [2, 0.5, 0.5, 1, 1]])
    assert one.shape == (1, 4, 5) and one[0, :, 0].tolist() == [7, 2, -1, -1]
    assert one[0, 1].tolist() == [2, 0.5, 0.5, 1, 1] and torch.equal(one[:, 2:], LAYOUT.null(1)[:, 2:])
    two = conditions_of(model_of(LAYOUT), [[[7, 0, 0, 1, 1]] * 4, [[3, 0, 0, 1, 1]]])
    assert two.dtype == torch.float32 and two[:, :, 0].tolist() == [[7] * 4, [3, -1, -1, -1]]


def test_captions_become_bytes_and_numbers_classes() -> None:
    said = "a seven left of a two, a four below"
    assert torch.equal(conditions_of(model_of(TEXT), said), caption_bytes([said]))
    assert claims_of(said).classes == (7, 2, 4)
    assert len(conditions_of(model_of(TEXT), [said, "an é"])) == 2
    assert conditions_of(model_of(Classes(10, 4)), [3, 9]).tolist() == [3, 9]
    assert conditions_of(model_of(Classes(10, 4)), None) is None


def test_rows_are_taken_in_turn() -> None:
    assert in_turn(torch.tensor([3, 4]), 5).tolist() == [3, 4, 3, 4, 3]
    assert in_turn(None, 5) is None


@pytest.mark.parametrize(
    ("condition", "y", "says"),
    [
        (LAYOUT, 3, "y=3: this model takes boxes"),
        (LAYOUT, "a seven", "this model takes boxes"),
        (LAYOUT, [], "this model takes boxes"),
        (LAYOUT, [[]], "this model takes boxes"),
        (LAYOUT, [[1, 0, 0, 1, "1"]], "this model takes boxes"),
        (LAYOUT, [[-1, 0, 0, 1, 1]], "this model takes boxes"),
        (LAYOUT, [[11, 0, 0, 1, 1]], "0 to 9"),
        (LAYOUT, [[1.5, 0, 0, 1, 1]], "this model knows 0 to 9"),
        (LAYOUT, [[1, 0, 0, 1, 1]] * 5, "y has 5 boxes for one image: this model takes 4 at most"),
        (TEXT, 3, "y=3: this model takes captions"),
        (TEXT, [], "this model takes captions"),
        (TEXT, ["a", 3], "this model takes captions"),
        (TEXT, "a" * 101, "100 fit"),
        (Classes(10, 4), "a seven", "y=a seven: this model knows the classes 0 to 9"),
        (Classes(10, 4), [[1, 0, 0, 1, 1]], "this model knows the classes 0 to 9"),
        (Classes(10, 4), True, "this model knows the classes 0 to 9"),
        (Classes(10, 4), [], "y=[] names no class"),
        (LowResolution((1, 8, 8), 2), 3, "this model is told images (LowResolution): leave out y"),
        (None, 3, "y=3: this model was trained without classes: leave out y"),
    ],
)
def test_what_a_model_does_not_take_is_said(condition, y, says) -> None:
    with pytest.raises(ValueError) as error:
        conditions_of(model_of(condition), y)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_a_latent_models_condition_is_its_generators() -> None:
    overrides = ["model=latent", "condition=layout", "width=8", "blocks=1", "steps=2", "data=scenes"]
    model = runs.build(composed(*overrides)).eval()
    y = conditions_of(model, [[7, 0, 0, 0.5, 0.5]])
    assert model.sample(1, y).shape == (1, 1, 32, 32)
