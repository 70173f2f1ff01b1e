"""The contract of extractors: any module can be one, and features depend on the image alone."""

import hashlib
import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hydra.utils import get_method
from torch import nn

from genzoo.command import conf_folder
from genzoo.metrics.features import HasClasses, classifier, device_of, extract, identified, pixels
from genzoo.metrics.frozen import file_sha256, state_sha256
from genzoo.metrics.inputs import resized, rgb


def random_images(n: int, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.randint(0, 256, (n, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


class Means(nn.Module):
    """A user's extractor, without name, sha256 or num_features: weighted means of the channels."""

    def __init__(self, weight: float = 1.0, kept: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([weight, weight]))
        self.register_buffer("offset", torch.zeros(1), persistent=kept)
        self.dropout = nn.Dropout(0.5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.dropout(images.double().mean((2, 3))[:, :2] * self.weight + self.offset)


class Sums(Means):
    pass


class Returns(nn.Module):
    """An extractor that returns what it is told to."""

    def __init__(self, features: Any) -> None:
        super().__init__()
        self.features = features

    def forward(self, images: torch.Tensor) -> Any:
        return self.features


def test_any_module_is_an_extractor() -> None:
    extractor, images = identified(Means()), random_images(7, (3, 5, 4))
    features = extract(images, extractor, batch_size=3)
    assert extractor.name == "FD-means"
    assert extractor.num_features == 2
    assert not extractor.training
    assert not any(p.requires_grad for p in extractor.parameters())
    assert (features.dtype, features.device.type, features.requires_grad) == (torch.float32, "cpu", False)
    expected = torch.from_numpy(images.numpy().mean((2, 3))[:, :2]).float()
    assert torch.allclose(features, expected, rtol=1e-6)


def test_what_a_module_says_of_itself_stays() -> None:
    module = Means()
    module.name, module.sha256, module.num_features = "FD-mine", "abc", 2
    extract(random_images(2, (3, 4, 4)), identified(module))
    assert (module.name, module.sha256, module.num_features) == ("FD-mine", "abc", 2)
    shipped = classifier("digits")
    before = shipped.name, shipped.sha256
    assert identified(shipped) is shipped
    assert (shipped.name, shipped.sha256) == before


def test_sha256_is_that_of_names_types_shapes_and_bytes() -> None:
    module = nn.Linear(1, 1, bias=False)
    module.weight = nn.Parameter(torch.tensor([[2.0]]))
    two = bytes([0, 0, 0, 0x40])  # 2.0 as a little-endian float32
    assert state_sha256(module) == hashlib.sha256(b"weight torch.float32 (1, 1) " + two).hexdigest()


def test_sha256_tells_weights_buffers_and_classes_apart() -> None:
    shifted, hidden = Means(), Means(kept=False)
    shifted.offset += 1
    hidden.offset += 1
    modules = [Means(), Means(2.0), Means().double(), shifted, Sums()]
    assert len({identified(module).sha256 for module in modules}) == len(modules)
    assert identified(Means()).sha256 == identified(Means()).sha256
    assert identified(hidden).sha256 == identified(shifted).sha256  # a buffer that is not saved counts too
    half = nn.Linear(2, 2).to(torch.bfloat16)  # which numpy does not know
    assert len(identified(half).sha256) == 64


def test_layout_in_memory_is_no_part_of_the_sha256() -> None:
    conv = nn.Conv2d(3, 4, 3)
    before = state_sha256(conv)
    assert state_sha256(conv.to(memory_format=torch.channels_last)) == before


def test_a_function_is_no_extractor() -> None:
    with pytest.raises(ValueError, match=r"torch.nn.Module, not from .*len"):
        identified(len)


@pytest.mark.parametrize("name", ["digits", "fashion_mnist"])
def test_neither_batch_size_nor_order_matters(name: str) -> None:
    extractor, images = classifier(name), random_images(70, (1, 8, 8))
    features = extract(images, extractor)
    order = torch.randperm(70)
    for batch_size in (1, 3, 64):
        assert (extract(images, extractor, batch_size) - features).abs().max() <= 1e-9
    assert (extract(images[order], extractor, 32) - features[order]).abs().max() <= 1e-9


@pytest.mark.parametrize(
    "features, found",
    [(torch.zeros(4, 2, 1), r"\(4, 2, 1\)"), (torch.zeros(4), r"\(4,\)"), (torch.zeros(3, 2), r"\(3, 2\)"),
     ((torch.zeros(4, 2),), "tuple")],
)  # fmt: skip
def test_features_are_vectors(features: Any, found: str) -> None:
    with pytest.raises(ValueError, match=rf"FD-returns must give a tensor \(N, d\).* N = 4 images gave {found}"):
        extract(random_images(4, (1, 2, 2)), identified(Returns(features)))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300])
def test_features_are_finite(value: float) -> None:
    features = torch.zeros(4, 2, dtype=torch.float64)
    features[1, 0] = features[2, 1] = value  # 1e300 is infinite in float32
    with pytest.raises(ValueError, match="FD-returns gave NaN or infinity for 2 of 4 images"):
        extract(random_images(4, (1, 2, 2)), identified(Returns(features)))


@pytest.mark.parametrize("images", [torch.zeros(2, 1, 4, 4), torch.zeros(1, 4, 4, dtype=torch.uint8)])
def test_images_are_uint8_and_four_dimensional(images: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"uint8 images \(N, C, H, W\), got torch"):
        extract(images, identified(Means()))


def test_classes_are_an_ability() -> None:
    assert isinstance(classifier("digits"), HasClasses)
    assert not isinstance(pixels((1, 8, 8)), HasClasses)
    assert not isinstance(identified(Means()), HasClasses)


def test_a_module_without_parameters_computes_on_the_host() -> None:
    assert device_of(pixels((1, 2, 2))) == torch.device("cpu")


def test_tf32_is_off_inside_and_as_before_outside() -> None:
    seen = []

    class Spy(Means):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            seen.append((torch.backends.cudnn.allow_tf32, torch.backends.cudnn.enabled))
            return super().forward(images)

    before = torch.backends.cudnn.allow_tf32
    extract(random_images(2, (3, 4, 4)), identified(Spy()))
    assert seen == [(False, True)]
    assert torch.backends.cudnn.allow_tf32 == before


def test_pixels_are_the_image() -> None:
    images = random_images(4, (1, 8, 8))
    expected = torch.from_numpy(images.numpy().reshape(4, 64) / 127.5 - 1).float()
    assert torch.allclose(pixels((1, 8, 8))(images), expected, atol=1e-6)
    with pytest.raises(ValueError, match=r"\(1, 8, 8\).*\(3, 8, 8\)"):
        pixels((1, 8, 8))(random_images(1, (3, 8, 8)))


@pytest.mark.parametrize("size", [20, 48, 5])
def test_resized_is_pillows_bicubic(size: int) -> None:
    from PIL import Image

    images = random_images(2, (1, 12, 17))
    for image, ours in zip(images, resized(images, size)):
        theirs = Image.fromarray(image[0].numpy()).convert("F").resize((size, size), Image.Resampling.BICUBIC)
        expected = torch.frombuffer(bytearray(theirs.tobytes()), dtype=torch.float32).view(1, size, size)
        assert torch.allclose(ours, expected.clamp(0, 255), atol=2e-3)


def test_rgb_repeats_grey_and_refuses_the_rest() -> None:
    grey, colour = random_images(2, (1, 3, 3)), random_images(2, (3, 3, 3))
    assert torch.equal(rgb(grey, "it")[:, 2], grey[:, 0])
    assert torch.equal(rgb(colour, "it"), colour)
    with pytest.raises(ValueError, match="FD-x takes images of 1 or 3 channels, got 2"):
        rgb(random_images(2, (2, 3, 3)), "FD-x")


def test_file_sha256(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, B.1
    assert file_sha256(tmp_path / "file") == expected


@pytest.mark.parametrize("path", sorted(Path(conf_folder(), "features").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_configuration_fits_its_extractor(path: Path) -> None:
    arguments = yaml.safe_load(path.read_text())
    make = get_method(arguments.pop("_target_"))
    inspect.signature(make).bind(**arguments)
