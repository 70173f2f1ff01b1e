"""Small classifiers trained by genzoo itself: what the last layer decides from are the features."""

import json
import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from genzoo.metrics.cache import cache_folder
from genzoo.metrics.frozen import file_sha256, frozen
from genzoo.metrics.inputs import rgb

WEIGHTS = Path(__file__).parent / "weights"


def block(c_in: int, c_out: int, stride: int) -> nn.Sequential:
    """A 3x3 convolution that keeps the size (stride 1) or halves it, rounding up (stride 2)."""
    conv = nn.Conv2d(c_in, c_out, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(c_out), nn.SiLU())


class Classifier(nn.Module):
    """A small convolutional classifier of grey or of colour images.

    The features are standardised on the training images: unit variance in each of the d dimensions, so a
    generator that always draws the mean has a distance of about d. They are computed in the precision of the
    parameters: `load_classifier` loads them in float64, so neither the batch size nor the device shows in a score.
    """

    def __init__(
        self,
        size: int,
        channels: Sequence[int],
        num_features: int,
        num_classes: int,
        name: str,
        in_channels: int = 1,
    ) -> None:
        """Images are resized to size x size; each entry of `channels` after the first halves that once.

        in_channels: 1 (grey) or 3 (colour).
        """
        super().__init__()
        self.size, self.in_channels = size, in_channels
        self.num_features, self.name, self.sha256 = num_features, name, ""
        body = [block(in_channels, channels[0], 1)]
        for c_in, c_out in pairwise(channels):
            body += [block(c_in, c_out, 2), block(c_out, c_out, 1)]
        side = math.ceil(size / 2 ** (len(channels) - 1))
        self.body = nn.Sequential(*body, nn.Flatten())
        self.project = nn.Linear(channels[-1] * side**2, num_features, bias=False)
        self.standardise = nn.BatchNorm1d(num_features, affine=False)
        self.head = nn.Sequential(nn.SiLU(), nn.Linear(num_features, num_classes))

    def prepare(self, images: Tensor) -> Tensor:
        """uint8 (N, C, H, W) to (N, in_channels, size, size) in [-1, 1], plain bilinear.

        For a grey net the mean over channels; for a colour net grey repeated, and ValueError for C not 1 or 3.
        """
        x = images.to(self.project.weight.dtype)
        x = (x.mean(1, keepdim=True) if self.in_channels == 1 else rgb(x, self.name)) / 127.5 - 1
        return F.interpolate(x, (self.size, self.size), mode="bilinear", align_corners=False)

    def embed(self, x: Tensor) -> Tensor:
        """Prepared images (N, in_channels, size, size) to features (N, d)."""
        return self.standardise(self.project(self.body(x)))

    def logits(self, x: Tensor) -> Tensor:
        """Prepared images (N, in_channels, size, size) to class scores (N, num_classes)."""
        return self.head(self.embed(x))

    def forward(self, images: Tensor) -> Tensor:
        # 64 at a time stay in a CPU's cache: 256 take 1.7 times as long.
        return torch.cat([self.embed(self.prepare(x)) for x in images.split(64)]).float()  # (N, d)

    def classify(self, features: Tensor) -> Tensor:
        """Features (N, d) to class scores (N, num_classes), in float64 on the device of the parameters."""
        weight, bias = (p.double() for p in self.head[1].parameters())
        return F.linear(F.silu(features.to(weight)), weight, bias)


def load_classifier(path: str | Path) -> Classifier:
    """A `Classifier` from a file of `genzoo.metrics.train_features`, which describes its own architecture.

    Raises ValueError for any other file.
    """
    try:
        with safe_open(path, "pt") as file:
            net = Classifier(**json.loads(file.metadata()["genzoo"])["architecture"])
        net.load_state_dict(load_file(path))
    except (SafetensorError, TypeError, KeyError, ValueError, RuntimeError) as error:  # of header, JSON, shapes
        raise ValueError(f"{path} is no file of python -m genzoo.metrics.train_features: make it again.") from error
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


def cifar10_file() -> Path:
    """Where `train_features` puts the classifier of CIFAR-10 and where `cifar10` looks for it."""
    return cache_folder(None) / "features" / "cifar10.safetensors"


def cifar10(path: str | Path | None = None) -> nn.Module:
    """The colour classifier of CIFAR-10 (128 features of 32x32) in the file `path`; None is `cifar10_file()`.

    genzoo does not ship it. Raises FileNotFoundError, naming the command that trains it, if it is not there.
    """
    path = Path(path).expanduser() if path else cifar10_file()
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no classifier of CIFAR-10 at {path}: train it once by "
            "python -m genzoo.metrics.train_features data=cifar10 data.path=FOLDER (with its parquet files), "
            "or set features.path to such a file."
        )
    return load_classifier(path)
