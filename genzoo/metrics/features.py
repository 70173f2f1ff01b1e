"""Feature extractors: frozen modules that turn uint8 images into the vectors a distance is measured in.

Each takes uint8 images (N, C, H, W) and returns float32 features (N, d), and carries `name` (how a Fréchet
distance in its features is printed), `num_features` (d) and `sha256` (of the file that holds its weights).
"""

import hashlib
import json
import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

WEIGHTS = Path(__file__).parent / "weights"
INCEPTION_SHA256 = "6726825d"  # its first digits
INCEPTION_FILE = f"weights-inception-2015-12-05-{INCEPTION_SHA256}.pth"
INCEPTION_URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{INCEPTION_FILE}"


def block(c_in: int, c_out: int, stride: int) -> nn.Sequential:
    """A 3x3 convolution that keeps the size (stride 1) or halves it, rounding up (stride 2)."""
    conv = nn.Conv2d(c_in, c_out, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(c_out), nn.SiLU())


class Classifier(nn.Module):
    """A small convolutional classifier of grey images; its features are what the last layer decides from.

    The features are standardised on the training images: unit variance in each of the d dimensions, so a
    generator that always draws the mean has a distance of about d. They are computed in the precision of the
    parameters: `classifier` loads them in float64, so neither the batch size nor the device shows in a score.
    """

    def __init__(self, size: int, channels: Sequence[int], num_features: int, num_classes: int, name: str) -> None:
        """Images are resized to size x size; each entry of `channels` after the first halves that once."""
        super().__init__()
        self.size, self.num_features, self.name, self.sha256 = size, num_features, name, ""
        body = [block(1, channels[0], 1)]
        for c_in, c_out in pairwise(channels):
            body += [block(c_in, c_out, 2), block(c_out, c_out, 1)]
        side = math.ceil(size / 2 ** (len(channels) - 1))
        self.body = nn.Sequential(*body, nn.Flatten())
        self.project = nn.Linear(channels[-1] * side**2, num_features, bias=False)
        self.standardise = nn.BatchNorm1d(num_features, affine=False)
        self.head = nn.Sequential(nn.SiLU(), nn.Linear(num_features, num_classes))

    def embed(self, x: Tensor) -> Tensor:
        """Grey images (N, 1, size, size) in [-1, 1] to features (N, d)."""
        return self.standardise(self.project(self.body(x)))

    def logits(self, x: Tensor) -> Tensor:
        """Grey images (N, 1, size, size) in [-1, 1] to class scores (N, num_classes)."""
        return self.head(self.embed(x))

    def prepare(self, images: Tensor) -> Tensor:
        """uint8 (N, C, H, W) to grey (N, 1, size, size) in [-1, 1]: mean over channels, plain bilinear."""
        x = images.to(self.project.weight.dtype).mean(1, keepdim=True) / 127.5 - 1  # (N, 1, H, W)
        return F.interpolate(x, (self.size, self.size), mode="bilinear", align_corners=False)

    def forward(self, images: Tensor) -> Tensor:
        # 64 at a time stay in a CPU's cache: 256 take 1.7 times as long.
        return torch.cat([self.embed(self.prepare(x)) for x in images.split(64)]).float()  # (N, d)


class Pixels(nn.Module):
    """The image itself as its features, in [-1, 1]."""

    def __init__(self, image_shape: Sequence[int]) -> None:
        super().__init__()
        self.image_shape = tuple(image_shape)
        self.num_features, self.name, self.sha256 = math.prod(image_shape), "FD-pixels", "none"

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[1:] != self.image_shape:
            raise ValueError(f"features=pixels was made for {self.image_shape} images, got {tuple(images.shape[1:])}.")
        return images.flatten(1).float() / 127.5 - 1  # (N, C * H * W)


class Inception(nn.Module):
    """The 2,048 pooled features of the Inception-v3 of Heusel et al. (2017), images of any size."""

    def __init__(self, net: nn.Module, sha256: str) -> None:
        super().__init__()
        self.net, self.num_features, self.name, self.sha256 = net, 2048, "FID", sha256

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[1] not in (1, 3):
            raise ValueError(f"features=inception takes 1 or 3 channels, got {images.shape[1]}: use features=pixels.")
        return self.net(images.expand(-1, 3, -1, -1))[0]  # (N, 2048)


def file_sha256(path: str | Path) -> str:
    """The sha256 of a file's bytes, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def frozen(extractor: nn.Module) -> nn.Module:
    """The same module in eval mode and without gradients."""
    return extractor.eval().requires_grad_(False)


def load_classifier(path: str | Path) -> Classifier:
    """A `Classifier` from a file of `genzoo.metrics.train_features`, which describes its own architecture."""
    with safe_open(path, "pt") as file:
        net = Classifier(**json.loads(file.metadata()["genzoo"])["architecture"])
    net.load_state_dict(load_file(path))
    net.sha256 = file_sha256(path)
    return frozen(net.double())


def classifier(name: str) -> nn.Module:
    """A classifier that genzoo ships: "digits" (32 features of 8x8) or "fashion_mnist" (64 of 28x28).

    Raises FileNotFoundError for any other name.
    """
    path = WEIGHTS / f"{name}.safetensors"
    if not path.is_file():
        shipped = ", ".join(sorted(p.stem for p in WEIGHTS.glob("*.safetensors")))
        raise FileNotFoundError(f"No classifier {name!r} is shipped: choose {shipped}, or put one at {path}.")
    return load_classifier(path)


def pixels(image_shape: Sequence[int]) -> nn.Module:
    """The flattened image in [-1, 1], for points in the plane and for small images."""
    return frozen(Pixels(image_shape))


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
    if not sha256.startswith(INCEPTION_SHA256):
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
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(url, str(path), hash_prefix=INCEPTION_SHA256)
    except OSError as error:  # URLError is one
        raise FileNotFoundError(f"The Inception weights cannot be fetched ({error}): put {url} at {path}.") from error
