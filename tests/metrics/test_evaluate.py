"""One evaluation: its record against independent computations, what must not change it, its calibration rows."""

import json
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.linalg import sqrtm
from scipy.ndimage import convolve
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from genzoo.data.digits import digits
from genzoo.generator import to_uint8
from genzoo.metrics.controls import blurred, control_images
from genzoo.metrics.evaluate import Evaluation, evaluate, neighbours_of
from genzoo.metrics.features import classifier, extract, pixels
from genzoo.metrics.neighbours import nearest
from genzoo.metrics.reference import reference_of
from genzoo.metrics.scores import classes, frechet, kernel, memorisation, neighbourhoods

SHAPE = (1, 8, 8)
DISTANCE = {"frechet": partial(frechet, parts=0)}
EVERYTHING = {
    "frechet": frechet,
    "kernel": kernel,
    "neighbourhoods": neighbourhoods,
    "classes": classes,
    "memorisation": memorisation,
}


class CountingPixels(nn.Module):
    """Pixels that count the images they have seen."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.seen = pixels(SHAPE), 0
        self.num_features, self.name, self.sha256 = self.inner.num_features, "FD-count", "none"

    def forward(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        return self.inner(images)


@pytest.fixture(scope="module")
def splits() -> dict[str, Tensor]:
    data = digits()
    return {"train": data.train.x, "val": data.val.x, "test": data.test.x}


@pytest.fixture(scope="module")
def extractor() -> nn.Module:
    return classifier("digits")


@pytest.fixture(scope="module")
def whole(splits: dict[str, Tensor], extractor: nn.Module) -> Evaluation:
    """Every score of 192 samples: six for each feature, which the extrapolation wants."""
    return scored(splits, extractor, n=192, batch_size=192)


def samples(n: int) -> Tensor:
    return torch.randn(n, *SHAPE).tanh()


def scored(splits: dict[str, Tensor], extractor: nn.Module, **settings) -> Evaluation:
    return evaluate(samples, splits, extractor, "digits", **{"scores": EVERYTHING, **settings})


def values(record: dict) -> dict[str, float]:
    return {name: score["value"] for name, score in record["scores"].items()}


def test_the_distance_is_scipys_and_torchmetrics(
    splits: dict[str, Tensor], extractor: nn.Module, whole: Evaluation
) -> None:
    x, y = (extract(images, extractor).double().numpy() for images in (splits["train"], whole.fakes))
    cov1, cov2 = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(cov1 + cov2 - 2 * sqrtm(cov1 @ cov2).real)
    assert values(whole.record)["FD-digits"] == pytest.approx(expected, rel=1e-6)
    fid = FrechetInceptionDistance(feature=extractor)
    fid.update(splits["train"], real=True)
    fid.update(whole.fakes, real=False)
    fid.orig_dtype = torch.float64
    assert values(whole.record)["FD-digits"] == pytest.approx(fid.compute().item(), rel=1e-6)


def test_record(splits: dict[str, Tensor], whole: Evaluation) -> None:
    record, protocol = whole.record, whole.record["protocol"]
    assert json.loads(json.dumps(record)) == record
    assert list(record["scores"]) == [
        *["FD-digits", "FD∞-digits", "KD-digits", "precision", "recall", "density", "coverage"],
        *["IS-digits", "class entropy", "AuthPct", "C_T"],
    ]
    assert set(record["calibration"]) == {"real test", "real train", "uniform noise", "blurred real"}
    assert all(row.keys() == record["scores"].keys() for row in record["calibration"].values())
    assert protocol["n_fake"] == len(whole.fakes) == 192
    assert protocol["n_real"] == len(splits["train"])
    assert protocol["scores"]["kernel"] == {"function": "kernel"}
    for score in record["scores"].values():
        assert score["n"] == 192
        assert score["repeats"] == [score["value"]]
        assert "ci95" not in score or score["ci95"][0] <= score["value"] <= score["ci95"][1]


@pytest.mark.parametrize("batch_size", [pytest.param(1, marks=pytest.mark.slow), 7])
def test_the_batch_size_changes_nothing(
    splits: dict[str, Tensor], extractor: nn.Module, whole: Evaluation, batch_size: int, tmp_path: Path
) -> None:
    other = scored(splits, extractor, n=192, batch_size=batch_size, cache_dir=tmp_path)
    assert torch.equal(other.fakes, whole.fakes)
    assert other.record["protocol_id"] == whole.record["protocol_id"]
    assert values(other.record) == pytest.approx(values(whole.record), rel=1e-9, abs=1e-9)
    for row, scores in whole.record["calibration"].items():
        found = {name: score["value"] for name, score in other.record["calibration"][row].items()}
        assert found == pytest.approx({name: score["value"] for name, score in scores.items()}, rel=1e-9, abs=1e-9)


def test_the_order_of_images_changes_no_value_but_the_extrapolated_one(
    splits: dict[str, Tensor], extractor: nn.Module, whole: Evaluation
) -> None:
    x = whole.fakes.flip(0).float() / 127.5 - 1
    other = evaluate(lambda n: x, splits, extractor, "digits", EVERYTHING, n=192, batch_size=192)
    expected, found = values(whole.record), values(other.record)
    del expected["FD∞-digits"], found["FD∞-digits"]  # whose line goes through parts of the images
    assert found == pytest.approx(expected, rel=1e-8, abs=1e-8)


def test_disjoint_sets_are_all_kept(splits: dict[str, Tensor], extractor: nn.Module) -> None:
    """Sets of 30 are the images 0..29, 30..59 and 60..89 of the seed; their spread is numpy's and scipy's."""
    record = scored(splits, extractor, scores=DISTANCE, n=30, sets=3).record
    score = record["scores"]["FD-digits"]
    assert record["protocol"]["sets"] == 3
    whole = evaluate(samples, splits, extractor, "digits", DISTANCE, n=90).fakes.float() / 127.5 - 1
    singles = [
        evaluate(lambda n, part=part: part, splits, extractor, "digits", DISTANCE, n=30, batch_size=30)
        for part in whole.split(30)
    ]
    assert score["repeats"] == pytest.approx([values(single.record)["FD-digits"] for single in singles], rel=1e-12)
    assert score["value"] == pytest.approx(np.mean(score["repeats"]))
    assert score["std"] == pytest.approx(np.std(score["repeats"], ddof=1))
    expected = stats.t.interval(0.95, 2, np.mean(score["repeats"]), stats.sem(score["repeats"]))
    assert score["ci95"] == pytest.approx(expected)


def test_n_defaults_to_the_size_of_the_test_split(splits: dict[str, Tensor], tmp_path: Path) -> None:
    few = splits | {"test": splits["test"][:30]}
    assert len(scored(few, pixels(SHAPE), scores=DISTANCE, cache_dir=tmp_path).fakes) == 30


def test_one_image_has_no_distribution(splits: dict[str, Tensor], extractor: nn.Module) -> None:
    with pytest.raises(ValueError, match="1 image has none: raise"):
        scored(splits, extractor, n=1)


def test_a_missing_split_is_named(splits: dict[str, Tensor]) -> None:
    with pytest.raises(ValueError, match=r"split 'test' but got \['train'\]"):
        scored({"train": splits["train"]}, pixels(SHAPE))


def test_likelihoods_become_the_score_of_the_tightest_bound(splits: dict[str, Tensor], extractor: nn.Module) -> None:
    def likelihoods(images: Tensor, batch_size: int, seed: int, estimates: bool) -> list[dict]:
        assert len(images) == 9
        return [{"value": v, "kind": k} for v, k in [(3.0, "lower bound"), (2.5, "lower bound"), (1.0, "estimate")]]

    judge = partial(scored, splits, extractor, scores=DISTANCE, n=30)
    record = judge(likelihoods=likelihoods, n_likelihood=9).record
    assert record["scores"]["bits/dim"] == {"value": 2.5, "kind": "lower bound"}
    assert len(record["likelihoods"]) == 3
    assert "bits/dim" not in judge(likelihoods=likelihoods, n_likelihood=0).record["scores"]


# --- calibration and neighbours


def test_real_images_score_as_the_calibration_says(
    splits: dict[str, Tensor], extractor: nn.Module, tmp_path: Path
) -> None:
    perfect = splits["test"].float() / 127.5 - 1
    result = evaluate(
        lambda n: perfect, splits, extractor, "digits", DISTANCE, batch_size=400, cache_dir=tmp_path
    ).record
    floor = result["calibration"]["real test"]["FD-digits"]
    assert values(result)["FD-digits"] == pytest.approx(floor["value"], rel=1e-9)
    assert floor["n"] == 400


def test_copies_are_seen_and_real_images_are_not_taken_for_them(whole: Evaluation) -> None:
    rows = whole.record["calibration"]
    assert rows["real train"]["AuthPct"]["value"] == 0
    assert rows["real train"]["C_T"]["value"] < -5
    assert abs(rows["real test"]["C_T"]["value"]) < 3
    assert rows["real test"]["AuthPct"]["value"] > 30


def test_calibration_rows_are_kept(splits: dict[str, Tensor], tmp_path: Path) -> None:
    def judge(extractor: nn.Module) -> dict:
        return evaluate(samples, splits, extractor, "digits", DISTANCE, n=40, cache_dir=tmp_path).record

    counting = CountingPixels()
    first = judge(counting)
    real, controls, gallery = sum(map(len, splits.values())), 4 * 40, 40
    assert counting.seen == real + 40 + controls + gallery
    assert judge(counting) == first
    assert counting.seen == real + controls + 2 * (40 + gallery)
    for path in tmp_path.glob("*.json"):
        path.write_text('{"half')
    assert judge(counting) == first


def test_calibration_says_when_it_has_fewer_images(splits: dict[str, Tensor], tmp_path: Path) -> None:
    few = splits | {"test": splits["test"][:30]}
    rows = scored(few, pixels(SHAPE), scores=DISTANCE, n=64, cache_dir=tmp_path).record["calibration"]
    assert {name: row["FD-pixels"]["n"] for name, row in rows.items()} == {
        "real test": 30,
        "real train": 64,
        "uniform noise": 30,
        "blurred real": 30,
    }


def test_points_have_no_blur_and_are_quantised(tmp_path: Path) -> None:
    points = torch.rand(100, 2, 1, 1) * 2 - 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = evaluate(
            lambda n: points,
            {"train": points, "test": points},
            pixels((2, 1, 1)),
            "toy2d",
            EVERYTHING,
            batch_size=100,
            cache_dir=tmp_path,
        )
    assert torch.equal(result.fakes, to_uint8(points))
    assert set(result.record["calibration"]) == {"real test", "real train", "uniform noise"}
    assert values(result.record)["FD-pixels"] == pytest.approx(0, abs=1e-12)


def test_the_neighbour_of_a_training_image_is_itself(splits: dict[str, Tensor], extractor: nn.Module) -> None:
    real = reference_of(splits, extractor)
    images, distances = neighbours_of(splits["train"][5:9], splits["train"], real, extractor)
    assert torch.equal(images, splits["train"][5:9])
    assert distances.tolist() == [0, 0, 0, 0]


def test_neighbours_of_an_evaluation(splits: dict[str, Tensor], extractor: nn.Module, whole: Evaluation) -> None:
    fake, train = (extract(images, extractor) for images in (whole.fakes, splits["train"]))
    expected = torch.cdist(fake.double(), train.double()).min(1)
    assert torch.equal(whole.neighbours, splits["train"][expected.indices])
    assert torch.allclose(whole.distances, expected.values)
    assert torch.equal(nearest(fake, train).indices[:, 0], expected.indices)


def test_control_images_leave_the_generator_alone(splits: dict[str, Tensor]) -> None:
    before = torch.get_rng_state()
    rows = control_images(splits, 50, seed=0)
    assert torch.equal(torch.get_rng_state(), before)
    for name in ("test", "train"):
        chosen = {image.numpy().tobytes() for image in rows[f"real {name}"]}
        assert len(chosen) == 50
        assert chosen < {image.numpy().tobytes() for image in splits[name]}
    assert rows["uniform noise"].float().mean().item() == pytest.approx(127.5, abs=6)


def test_blur_is_scipys(splits: dict[str, Tensor]) -> None:
    image = splits["test"][0, 0].numpy().astype(float)
    kernel = np.outer([1, 2, 1], [1, 2, 1]) / 16
    expected = convolve(image, kernel, mode="mirror")
    assert np.abs(expected - blurred(splits["test"][:1])[0, 0].numpy()).max() <= 0.5


# --- the reference's cache


@pytest.mark.parametrize("damage", [b"", b"not a file of tensors", "half"])
def test_damaged_features_are_computed_again(splits: dict[str, Tensor], tmp_path: Path, damage: bytes | str) -> None:
    counting, total = CountingPixels(), len(splits["train"]) + len(splits["test"])
    read: Callable[[], Tensor] = lambda: reference_of(splits, counting, cache_dir=tmp_path).real
    first = read()
    assert torch.equal(read(), first)
    assert counting.seen == total
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:1000] if damage == "half" else damage)
    assert torch.equal(read(), first)
    assert counting.seen == 2 * total


def test_a_cache_that_cannot_be_written_only_warns(splits: dict[str, Tensor], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.warns(UserWarning, match="cannot be kept"):
        reference = reference_of(splits, pixels(SHAPE), cache_dir=tmp_path / "file" / "cache")
    assert len(reference.held_out) == len(splits["test"])


def test_default_cache_follows_xdg(splits: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    reference_of(splits, pixels(SHAPE)).train_radii(5)
    assert {path.parent for path in tmp_path.rglob("*.safetensors")} == {tmp_path / "genzoo"}
