"""No number is made of NaN or infinity: whatever holds some ends in one sentence, and records are strict JSON."""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from genzoo.generator import Generator, Likelihood
from genzoo.metrics.evaluate import compared, evaluate
from genzoo.metrics.features import classifier, extract, pixels
from genzoo.metrics.inputs import quantised
from genzoo.metrics.likelihood import bits_per_dim_rows
from genzoo.metrics.memorisation import authenticity
from genzoo.metrics.prdc import radii
from genzoo.metrics.reference import Reference
from genzoo.metrics.scores import Score, classes, frechet, kernel, memorisation, neighbourhoods

SHAPE = (1, 8, 8)
BAD = pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
SCORES = (frechet, kernel, neighbourhoods, classes, memorisation)
EVERYTHING = {score.__name__: score for score in SCORES}
REAL = torch.randint(256, (120, *SHAPE), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
SPLITS = {"train": REAL[:60], "val": REAL[60:80], "test": REAL[80:]}


def features(n: int, bad: float | None = None) -> Tensor:
    x = torch.randn(n, 3)
    if bad is not None:
        x[n // 2, 1] = bad
    return x


def reference(**bad: float) -> Reference:
    sets = {name: features(40, bad.get(name)) for name in ("real", "train", "held_out")}
    return Reference(**sets, name="FD-test", classify=lambda x: x)


def numbers(record: object) -> Iterator[float]:
    """All that are in plain containers."""
    if isinstance(record, dict | list):
        for value in record.values() if isinstance(record, dict) else record:
            yield from numbers(value)
    elif isinstance(record, float):
        yield record


@BAD
@pytest.mark.parametrize("score", SCORES)
def test_a_score_of_bad_features_is_refused(score: Callable, bad: float) -> None:
    with pytest.raises(ValueError, match="NaN or infinity"):
        score(features(40, bad), reference())


@BAD
@pytest.mark.parametrize(
    ("score", "part"),
    [
        (frechet, "real"),
        (kernel, "real"),
        (neighbourhoods, "real"),
        (memorisation, "train"),
        (memorisation, "held_out"),
    ],
)
def test_a_score_against_bad_features_is_refused(score: Callable, part: str, bad: float) -> None:
    with pytest.raises(ValueError, match="NaN or infinity"):
        score(features(40), reference(**{part: bad}))


@BAD
def test_given_radii_are_looked_at(bad: float) -> None:
    real, fake = features(40), features(40)
    spoilt = radii(real, 5).index_fill(0, torch.tensor([3]), bad)
    with pytest.raises(ValueError, match="hold NaN or infinity: give radii"):
        authenticity(real, fake, spoilt)


@BAD
def test_bad_weights_of_an_extractor_give_no_features(bad: float) -> None:
    net = classifier("digits")
    net.project.weight.data[0, 0] = bad
    with pytest.raises(ValueError, match=r"FD-digits gave NaN or infinity for \d+ of 60 images"):
        extract(SPLITS["train"], net)


@BAD
def test_bad_samples_are_not_scored(bad: float, tmp_path: Path) -> None:
    def sample(n: int) -> Tensor:
        x = torch.randn(n, *SHAPE).tanh()
        x[-1, 0, 0, 0] = bad
        return x

    with pytest.raises(ValueError, match="1 of 40 samples hold NaN or infinity"):
        evaluate(sample, SPLITS, pixels(SHAPE), "test", EVERYTHING, cache_dir=tmp_path)


@BAD
def test_bad_points_have_no_level(bad: float) -> None:
    points = torch.zeros(5, 2, 1, 1)
    points[3, 1] = bad
    model = Generator((2, 1, 1), torch.optim.SGD)
    for use in (lambda: quantised(points), lambda: bits_per_dim_rows(model, points)):
        with pytest.raises(ValueError, match="The data hold NaN or infinity"):
            use()


@BAD
def test_bad_terms_of_a_likelihood_are_refused(bad: float) -> None:
    model = Generator(SHAPE, torch.optim.SGD)
    terms = torch.zeros(40, 2, dtype=torch.float64)
    terms[5, 0] = bad
    model.likelihoods = lambda: [Likelihood("lower bound", "A", lambda x: terms[: len(x)], ("a", "b"))]
    with pytest.raises(ValueError, match="A: the likelihood of 1 of 40 images is NaN or infinite"):
        bits_per_dim_rows(model, SPLITS["test"])


@BAD
def test_a_score_that_is_no_number_has_no_row(bad: float) -> None:
    def of(score: Score) -> dict[str, Score]:
        real = Reference(*[SPLITS["test"].flatten(1).float()] * 3, name="FD-pixels")
        return compared(SPLITS["test"], real, pixels(SHAPE), {"odd": lambda fake, reference: {"odd": score}})

    with pytest.raises(ValueError, match=rf"^odd is {bad}, which says nothing"):
        of(Score(bad))
    assert of(Score(1.0, (0.5, bad)))["odd"] == Score(1.0)
    assert of(Score(1.0, (0.5, 1.5)))["odd"] == Score(1.0, (0.5, 1.5))


COLLAPSED = {
    "one image": lambda n: torch.zeros(n, *SHAPE),
    "two images": lambda n: (torch.arange(n) % 2).view(n, 1, 1, 1).expand(n, *SHAPE).float(),
    "training images": lambda n: SPLITS["train"][torch.arange(n) % 60] / 127.5 - 1,
    "far out of range": lambda n: torch.full((n, *SHAPE), 3e38),
}


@pytest.mark.parametrize("sample", COLLAPSED.values(), ids=COLLAPSED)
@pytest.mark.parametrize("extractor", [pixels(SHAPE), classifier("digits")], ids=["pixels", "digits"])
@pytest.mark.parametrize("n", [2, 10, 40])
def test_records_of_collapsed_models_are_strict_json(sample: Callable, extractor: nn.Module, n: int) -> None:
    record = evaluate(sample, SPLITS, extractor, "test", EVERYTHING, n=n, sets=2).record
    json.dumps(record, allow_nan=False)
    assert all(map(math.isfinite, numbers(record)))
    assert len(list(numbers(record))) > 20
