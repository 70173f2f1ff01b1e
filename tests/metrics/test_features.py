"""Extractors: shapes, frozen, as accurate as their files say, blind to the batch size."""

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn

from genzoo.data.digits import digits
from genzoo.data.idx import fashion_mnist
from genzoo.metrics.features import WEIGHTS, classifier, file_sha256, inception, pixels
from genzoo.metrics.protocol import images_sha256
from genzoo.metrics.train_features import accuracy

FASHION = Path("/usr/share/datasets/fashion-mnist")
SHAPES = [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 32, 48), (2, 1, 1)]


def random_images(n: int, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.randint(0, 256, (n, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def stated_accuracy(name: str) -> float:
    with safe_open(WEIGHTS / f"{name}.safetensors", "pt") as file:
        return json.loads(file.metadata()["genzoo"])["test_accuracy"]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("make", [lambda _: classifier("digits"), lambda _: classifier("fashion_mnist"), pixels])
def test_any_image_shape(make: Callable[..., nn.Module], shape: tuple[int, ...]) -> None:
    extractor = make(shape)
    features = extractor(random_images(3, shape))
    assert features.shape == (3, extractor.num_features)
    assert features.dtype == torch.float32
    assert features.isfinite().all()
    assert not extractor.training
    assert not any(p.requires_grad for p in extractor.parameters())


@pytest.mark.parametrize(("name", "printed", "d"), [("digits", "FD-digits", 32), ("fashion_mnist", "FD-fashion", 64)])
def test_shipped_files(name: str, printed: str, d: int) -> None:
    path = WEIGHTS / f"{name}.safetensors"
    extractor = classifier(name)
    assert (extractor.name, extractor.num_features, extractor.sha256) == (printed, d, file_sha256(path))
    assert path.stat().st_size < 2e6


def test_digits_accuracy() -> None:
    test = digits().test
    assert accuracy(classifier("digits"), test) == pytest.approx(stated_accuracy("digits"), abs=1e-3)
    assert stated_accuracy("digits") >= 0.97


@pytest.mark.skipif(not FASHION.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_fashion_mnist_accuracy() -> None:
    test = fashion_mnist(str(FASHION)).test
    # float32: a third of the time; a handful of the 10,000 images may lie on the border of two classes.
    found = accuracy(classifier("fashion_mnist").float(), test)
    assert found == pytest.approx(stated_accuracy("fashion_mnist"), abs=1e-3)
    assert stated_accuracy("fashion_mnist") >= 0.91


def test_no_test_digit_was_trained_on() -> None:
    data = digits()
    train = {image.numpy().tobytes() for image in data.train.x}
    assert not train & {image.numpy().tobytes() for image in data.test.x}
    with safe_open(WEIGHTS / "digits.safetensors", "pt") as file:
        made_from = json.loads(file.metadata()["genzoo"])
    assert made_from["train_images_sha256"] == images_sha256(data.train.x)


def test_batch_size_does_not_matter() -> None:
    extractor, images = classifier("digits"), random_images(50, (1, 8, 8))
    one_by_one = torch.cat([extractor(image[None]) for image in images])
    assert torch.allclose(one_by_one, extractor(images), rtol=2e-7, atol=1e-9)


def test_grey_is_the_mean_of_the_channels() -> None:
    extractor, grey = classifier("digits"), random_images(5, (1, 8, 8))
    assert torch.allclose(extractor(grey.expand(-1, 3, -1, -1)), extractor(grey), atol=1e-6)


def test_pixels_are_the_image() -> None:
    images = random_images(4, (1, 8, 8))
    expected = torch.from_numpy(images.numpy().reshape(4, 64) / 127.5 - 1).float()
    assert torch.allclose(pixels((1, 8, 8))(images), expected, atol=1e-6)
    with pytest.raises(ValueError, match=r"\(1, 8, 8\).*\(3, 8, 8\)"):
        pixels((1, 8, 8))(random_images(1, (3, 8, 8)))


def test_unknown_classifier_names_the_shipped_ones() -> None:
    with pytest.raises(FileNotFoundError, match=r"svhn.*digits, fashion_mnist"):
        classifier("svhn")


@pytest.mark.skipif(find_spec("torch_fidelity") is not None, reason="torch-fidelity is installed")
def test_inception_names_the_extra() -> None:
    with pytest.raises(ImportError, match="pip install torch-fidelity"):
        inception()
