"""Classifiers: frozen, as accurate as their files say, grey or colour, with logits from the features alone."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from genzoo.data.digits import digits
from genzoo.data.idx import fashion_mnist
from genzoo.metrics.classifier import WEIGHTS, Classifier, cifar10, cifar10_file, classifier, load_classifier
from genzoo.metrics.features import extract, pixels
from genzoo.metrics.frozen import file_sha256
from genzoo.metrics.protocol import images_sha256
from genzoo.metrics.train_features import accuracy

FASHION = Path("/usr/share/datasets/fashion-mnist")
SHAPES = [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 32, 48), (2, 1, 1)]
COLOUR = {"size": 8, "channels": [4, 6], "num_features": 5, "num_classes": 3, "name": "FD-hue", "in_channels": 3}


def random_images(n: int, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.randint(0, 256, (n, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def stated_accuracy(name: str) -> float:
    with safe_open(WEIGHTS / f"{name}.safetensors", "pt") as file:
        return json.loads(file.metadata()["genzoo"])["test_accuracy"]


def written(path: Path) -> Path:
    """A file of an untrained colour classifier."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(Classifier(**COLOUR).state_dict(), path, {"genzoo": json.dumps({"architecture": COLOUR})})
    return path


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


@pytest.mark.parametrize(
    "name, printed, d, sha256",
    [("digits", "FD-digits", 32, "bc3f219a63b9"), ("fashion_mnist", "FD-fashion", 64, "642d6a3efd78")],
)
def test_shipped_files(name: str, printed: str, d: int, sha256: str) -> None:
    path = WEIGHTS / f"{name}.safetensors"
    extractor = classifier(name)
    assert (extractor.name, extractor.num_features, extractor.sha256) == (printed, d, file_sha256(path))
    assert extractor.sha256.startswith(sha256)  # published scores name it
    assert path.stat().st_size < 2e6


def test_digits_accuracy() -> None:
    test = digits().test
    assert accuracy(classifier("digits"), test) == pytest.approx(stated_accuracy("digits"), abs=1e-3)
    assert stated_accuracy("digits") >= 0.97


def test_classes_follow_from_the_features() -> None:
    x, y = digits().test
    extractor = classifier("digits")
    logits = extractor.classify(extract(x, extractor))
    assert (logits.shape, logits.dtype) == ((len(x), 10), torch.float64)
    assert (logits.argmax(1) == y).double().mean().item() == pytest.approx(stated_accuracy("digits"), abs=1e-3)
    assert torch.allclose(logits, extractor.logits(extractor.prepare(x)), atol=1e-5)  # float32 features between them
    single = load_classifier(WEIGHTS / "digits.safetensors").float()
    assert torch.allclose(single.classify(extract(x, extractor)), logits, atol=1e-12)


@pytest.mark.skipif(not FASHION.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_fashion_mnist_accuracy() -> None:
    test = fashion_mnist(str(FASHION)).test
    # float32 and a quarter of the 10,000 images: a tenth of the time, with a standard error of half a percent
    found = accuracy(classifier("fashion_mnist").float(), type(test)(test.x[:2500], test.y[:2500]))
    assert found == pytest.approx(stated_accuracy("fashion_mnist"), abs=0.015)
    assert stated_accuracy("fashion_mnist") >= 0.91


def test_no_test_digit_was_trained_on() -> None:
    data = digits()
    train = {image.numpy().tobytes() for image in data.train.x}
    assert not train & {image.numpy().tobytes() for image in data.test.x}
    with safe_open(WEIGHTS / "digits.safetensors", "pt") as file:
        made_from = json.loads(file.metadata()["genzoo"])
    assert made_from["train_images_sha256"] == images_sha256(data.train.x)


def test_grey_nets_see_the_mean_of_the_channels() -> None:
    extractor, grey = classifier("digits"), random_images(5, (1, 8, 8))
    assert torch.allclose(extractor(grey.expand(-1, 3, -1, -1)), extractor(grey), atol=1e-6)


def test_colour_nets_see_colour_and_repeat_grey(tmp_path: Path) -> None:
    net = load_classifier(written(tmp_path / "hue.safetensors"))
    colour, grey = random_images(4, (3, 8, 8)), random_images(4, (1, 8, 8))
    assert torch.allclose(net.prepare(colour), colour.double() / 127.5 - 1, atol=1e-12)  # already 8 x 8
    assert not torch.allclose(net(colour), net(colour.flip(1)))
    assert torch.equal(net(grey), net(grey.repeat(1, 3, 1, 1)))
    with pytest.raises(ValueError, match="FD-hue takes images of 1 or 3 channels, got 2"):
        net(random_images(2, (2, 8, 8)))


def test_unknown_classifier_names_the_shipped_ones() -> None:
    with pytest.raises(FileNotFoundError, match=r"svhn.*digits, fashion_mnist"):
        classifier("svhn")


def test_cifar10_is_looked_for_where_its_command_puts_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=rf"{tmp_path}.*train_features data=cifar10 data.path=FOLDER"):
        cifar10()
    written(cifar10_file())
    assert (cifar10().name, cifar10().sha256) == ("FD-hue", file_sha256(cifar10_file()))
    with pytest.raises(FileNotFoundError, match=r"at elsewhere\.safetensors"):
        cifar10("elsewhere.safetensors")


def test_a_foreign_file_is_refused(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(2)}, tmp_path / "foreign.safetensors")
    (tmp_path / "text.safetensors").write_text("no tensors")
    for name in ("foreign", "text"):
        with pytest.raises(ValueError, match=f"{name}.safetensors is no file of python -m genzoo.metrics"):
            load_classifier(tmp_path / f"{name}.safetensors")


def test_a_file_with_a_flipped_byte_is_refused_or_another_one(tmp_path: Path) -> None:
    whole, path = (WEIGHTS / "digits.safetensors").read_bytes(), tmp_path / "digits.safetensors"
    known = load_classifier(WEIGHTS / "digits.safetensors").sha256
    refused = 0
    for i in range(0, 2000, 37):  # most of them in the header
        path.write_bytes(whole[:i] + bytes([whole[i] ^ 2]) + whole[i + 1 :])
        try:
            assert load_classifier(path).sha256 != known
        except ValueError as error:
            assert str(error) == f"{path} is no file of python -m genzoo.metrics.train_features: make it again."
            refused += 1
    assert refused > 20
