"""Scores against numpy and scipy; what must not change them; caches and calibration rows."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from scipy.ndimage import convolve
from torch import Tensor, nn

from genzoo.data.digits import digits
from genzoo.generator import to_uint8
from genzoo.metrics.controls import blurred, control_images
from genzoo.metrics.evaluate import evaluate, fid_score, reference_statistics
from genzoo.metrics.features import classifier, pixels

SHAPE = (1, 8, 8)


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
    return {"train": data.train.x, "test": data.test.x}


@pytest.fixture(scope="module")
def extractor() -> nn.Module:
    return classifier("digits")


@pytest.fixture(scope="module")
def reference(
    splits: dict[str, Tensor], extractor: nn.Module, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Tensor]:
    return reference_statistics(splits["train"], extractor, tmp_path_factory.mktemp("cache"))


def noisy(images: Tensor, sigma: float) -> Tensor:
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    return (images + sigma * noise).clip(0, 255).to(torch.uint8)


def samples(n: int) -> Tensor:
    return torch.randn(n, *SHAPE).tanh()


def numpy_distance(x: np.ndarray, y: np.ndarray) -> float:
    cov1, cov2 = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    return ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(cov1 + cov2 - 2 * sqrtm(cov1 @ cov2).real)


# --- fid_score


@pytest.mark.parametrize("sigma", [0, 40])
def test_fid_score_is_numpys(
    splits: dict[str, Tensor], extractor: nn.Module, reference: dict[str, Tensor], sigma: float
) -> None:
    fake = noisy(splits["test"], sigma)
    expected = numpy_distance(extractor(splits["train"]).double().numpy(), extractor(fake).double().numpy())
    assert fid_score(fake, reference, extractor) == pytest.approx(expected, rel=1e-6)


def test_batch_size_and_order_do_not_matter(
    splits: dict[str, Tensor], extractor: nn.Module, reference: dict[str, Tensor], tmp_path: Path
) -> None:
    fake = noisy(splits["test"], 20)[:100]
    whole = fid_score(fake, reference, extractor, batch_size=100)
    assert fid_score(fake, reference, extractor, batch_size=1) == pytest.approx(whole, rel=1e-9)
    assert fid_score(fake.flip(0), reference, extractor, batch_size=7) == pytest.approx(whole, rel=1e-9)
    other = reference_statistics(splits["train"], extractor, tmp_path, batch_size=31)
    assert fid_score(fake, other, extractor) == pytest.approx(whole, rel=1e-9)


def test_grows_with_noise_and_with_lost_classes(
    splits: dict[str, Tensor], extractor: nn.Module, reference: dict[str, Tensor]
) -> None:
    by_noise = [fid_score(noisy(splits["test"], s), reference, extractor) for s in (0, 8, 16, 32, 64, 128)]
    y = digits().test.y
    by_classes = [fid_score(splits["test"][y < k], reference, extractor) for k in (10, 9, 7, 5, 3, 1)]
    assert by_noise == sorted(by_noise)
    assert by_classes == sorted(by_classes)
    assert by_classes[1] > 5 * by_classes[0]


def test_one_image_has_no_covariance(
    splits: dict[str, Tensor], extractor: nn.Module, reference: dict[str, Tensor]
) -> None:
    with pytest.raises(ValueError, match="2 images or more, got 1"):
        fid_score(splits["test"][:1], reference, extractor)


# --- reference_statistics and its cache


def test_reference_is_computed_once(splits: dict[str, Tensor], tmp_path: Path) -> None:
    counting = CountingPixels()
    first = reference_statistics(splits["train"], counting, tmp_path)
    again = reference_statistics(splits["train"].clone(), counting, tmp_path)
    assert counting.seen == len(splits["train"])
    assert all(torch.equal(first[name], again[name]) for name in first)
    reference_statistics(splits["test"], counting, tmp_path)
    assert counting.seen == len(splits["train"]) + len(splits["test"])


@pytest.mark.parametrize("damage", [b"", b"not a file of tensors", "half"])
def test_damaged_cache_is_recomputed(splits: dict[str, Tensor], tmp_path: Path, damage: bytes | str) -> None:
    counting = CountingPixels()
    first = reference_statistics(splits["train"], counting, tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:1000] if damage == "half" else damage)
    again = reference_statistics(splits["train"], counting, tmp_path)
    assert counting.seen == 2 * len(splits["train"])
    assert all(torch.equal(first[name], again[name]) for name in first)
    reference_statistics(splits["train"], counting, tmp_path)
    assert counting.seen == 2 * len(splits["train"])


def test_a_cache_that_cannot_be_written_only_warns(splits: dict[str, Tensor], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.warns(UserWarning, match="cannot be kept"):
        statistics = reference_statistics(splits["test"], pixels(SHAPE), tmp_path / "file" / "cache")
    assert statistics["real_features_num_samples"] == len(splits["test"])


def test_default_cache_follows_xdg(splits: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    reference_statistics(splits["test"], pixels(SHAPE))
    assert [path.parent for path in tmp_path.rglob("*.safetensors")] == [tmp_path / "genzoo"]


# --- evaluate and its calibration rows


def test_evaluate_record(
    splits: dict[str, Tensor], extractor: nn.Module, reference: dict[str, Tensor], tmp_path: Path
) -> None:
    result = evaluate(samples, splits, extractor, "digits", n=50, batch_size=20, cache_dir=tmp_path)
    record = result.record
    assert json.loads(json.dumps(record)) == record
    assert set(record["calibration"]) == {"real test", "uniform noise", "blurred real"}
    assert record["scores"]["FD-digits"]["n"] == len(result.fakes) == record["protocol"]["n_fake"] == 50
    assert record["protocol"]["n_real"] == len(splits["train"])
    assert record["scores"]["FD-digits"]["value"] == pytest.approx(
        fid_score(result.fakes, reference, extractor), rel=1e-9
    )


def test_evaluate_defaults_to_the_size_of_the_test_split(splits: dict[str, Tensor], tmp_path: Path) -> None:
    splits = {"train": splits["train"], "test": splits["test"][:30]}
    result = evaluate(samples, splits, pixels(SHAPE), "digits", cache_dir=tmp_path)
    assert len(result.fakes) == 30


def test_real_images_score_as_the_calibration_says(
    splits: dict[str, Tensor], extractor: nn.Module, tmp_path: Path
) -> None:
    perfect = splits["test"].float() / 127.5 - 1
    result = evaluate(lambda n: perfect, splits, extractor, "digits", batch_size=400, cache_dir=tmp_path)
    floor = result.record["calibration"]["real test"]["FD-digits"]
    assert result.record["scores"]["FD-digits"]["value"] == pytest.approx(floor["value"], rel=1e-9)
    assert floor["n"] == 400


def test_protocol_id_ignores_the_batch_size_and_sees_n(splits: dict[str, Tensor], tmp_path: Path) -> None:
    results = [
        evaluate(samples, splits, pixels(SHAPE), "digits", n=n, batch_size=b, cache_dir=tmp_path)
        for n, b in [(20, 20), (20, 7), (21, 7)]
    ]
    ids = [result.record["protocol_id"] for result in results]
    assert ids[0] == ids[1] != ids[2]


def test_calibration_rows_are_kept(splits: dict[str, Tensor], tmp_path: Path) -> None:
    counting = CountingPixels()
    first = evaluate(samples, splits, counting, "digits", n=40, cache_dir=tmp_path)
    assert counting.seen == len(splits["train"]) + 40 + 3 * 40
    again = evaluate(samples, splits, counting, "digits", n=40, cache_dir=tmp_path)
    assert counting.seen == len(splits["train"]) + 2 * 40 + 3 * 40
    assert again.record == first.record
    for path in tmp_path.glob("*.json"):
        path.write_text('{"half')
    assert evaluate(samples, splits, counting, "digits", n=40, cache_dir=tmp_path).record == first.record


def test_calibration_records_a_smaller_n_when_the_test_split_is_smaller(
    splits: dict[str, Tensor], tmp_path: Path
) -> None:
    splits = {"train": splits["train"], "test": splits["test"][:30]}
    rows = evaluate(samples, splits, pixels(SHAPE), "digits", n=64, cache_dir=tmp_path).record["calibration"]
    assert {row["FD-pixels"]["n"] for row in rows.values()} == {30}


def test_points_have_no_blur_and_are_quantised(tmp_path: Path) -> None:
    points = torch.rand(100, 2, 1, 1) * 2 - 1
    splits = {"train": points, "test": points}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = evaluate(lambda n: points, splits, pixels((2, 1, 1)), "toy2d", cache_dir=tmp_path, batch_size=100)
    assert torch.equal(result.fakes, to_uint8(points))
    assert set(result.record["calibration"]) == {"real test", "uniform noise"}
    assert result.record["scores"]["FD-pixels"]["value"] == pytest.approx(0, abs=1e-12)


def test_missing_split_is_named(splits: dict[str, Tensor]) -> None:
    with pytest.raises(ValueError, match=r"split 'test' but got \['train'\]"):
        evaluate(samples, {"train": splits["train"]}, pixels(SHAPE), "digits")


def test_control_images_leave_the_generator_alone(splits: dict[str, Tensor]) -> None:
    before = torch.get_rng_state()
    rows = control_images(splits["test"], 50, seed=0)
    assert torch.equal(torch.get_rng_state(), before)
    chosen = {image.numpy().tobytes() for image in rows["real test"]}
    assert len(chosen) == 50
    assert chosen < {image.numpy().tobytes() for image in splits["test"]}
    assert rows["uniform noise"].float().mean().item() == pytest.approx(127.5, abs=6)


def test_blur_is_scipys(splits: dict[str, Tensor]) -> None:
    image = splits["test"][0, 0].numpy().astype(float)
    kernel = np.outer([1, 2, 1], [1, 2, 1]) / 16
    expected = convolve(image, kernel, mode="mirror")
    assert np.abs(expected - blurred(splits["test"][:1])[0, 0].numpy()).max() <= 0.5
