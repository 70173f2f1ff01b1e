"""Feature extractors: frozen modules that turn uint8 images into the vectors a distance is measured in.

Each takes uint8 images (N, C, H, W) and returns float32 features (N, d), and carries `name` (how a Fréchet
distance in its features is printed), `num_features` (d) and `sha256` (of its weights). Any other nn.Module that
does the first is one after `identified`. Those of this package are listed in __all__.
"""

import hashlib
import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from genzoo.generator import Able, from_uint8
from genzoo.metrics.classifier import WEIGHTS, Classifier, cifar10, classifier, load_classifier
from genzoo.metrics.frozen import file_sha256, frozen, state_sha256
from genzoo.metrics.memory import halving
from genzoo.metrics.pretrained import dinov2, efficientnet, inception

__all__ = [
    "WEIGHTS",
    "Classifier",
    "HasClasses",
    "Pixels",
    "cifar10",
    "classifier",
    "device_of",
    "dinov2",
    "efficientnet",
    "extract",
    "file_sha256",
    "frozen",
    "identified",
    "inception",
    "load_classifier",
    "pixels",
]


class HasClasses(Protocol, metaclass=Able):
    """classify(features (N, d)) -> class scores (N, K) before the softmax, from the features alone."""

    def classify(self, features: Tensor) -> Tensor: ...


class Pixels(nn.Module):
    """The image itself as its features, in [-1, 1]."""

    def __init__(self, image_shape: Sequence[int]) -> None:
        super().__init__()
        self.image_shape = tuple(image_shape)
        self.num_features, self.name, self.sha256 = math.prod(image_shape), "FD-pixels", "none"

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[1:] != self.image_shape:
            raise ValueError(f"features=pixels was made for {self.image_shape} images, got {tuple(images.shape[1:])}.")
        return from_uint8(images.flatten(1).float())  # (N, C * H * W)


def pixels(image_shape: Sequence[int]) -> nn.Module:
    """The flattened image in [-1, 1], for points in the plane and for small images."""
    return frozen(Pixels(image_shape))


def identified(extractor: nn.Module) -> nn.Module:
    """The same module, frozen, with the `name` and the `sha256` that it lacks; `extract` adds `num_features`.

    name: "FD-" and the class in small letters. sha256: over the class's full name and the state of the module, so
    one whose features also depend on something else (an option, a file) carries a sha256 of its own.
    Raises ValueError for what is no nn.Module.
    """
    if not isinstance(extractor, nn.Module):
        raise ValueError(f"Features come from a torch.nn.Module, not from {extractor!r}: wrap it in one.")
    kind = type(extractor)
    if not isinstance(getattr(extractor, "name", None), str):
        extractor.name = f"FD-{kind.__name__.lower()}"
    if not isinstance(getattr(extractor, "sha256", None), str):
        state = f"{kind.__module__}.{kind.__qualname__} {state_sha256(extractor)}"
        extractor.sha256 = hashlib.sha256(state.encode()).hexdigest()
    return frozen(extractor)


@torch.no_grad()
def extract(images: Tensor, extractor: nn.Module, batch_size: int = 256) -> Tensor:
    """Features, float32 (N, d) on the host, of uint8 images (N, C, H, W), computed where the extractor is.

    batch_size: images at a time, or as many as fit in memory.
    Raises ValueError for images that are not uint8 (N, C, H, W), and for features that are not finite (N, d).
    """
    if images.dtype != torch.uint8 or images.dim() != 4:
        raise ValueError(f"Features are of uint8 images (N, C, H, W), got {images.dtype} {tuple(images.shape)}.")
    device = device_of(extractor)

    def batch(start: int, size: int) -> Tensor:
        return checked(extractor(images[start : start + size].to(device)), size, extractor).cpu()

    # Convolutions in float32 proper: by default a GPU rounds them to TF32, whose 10 bits show in a score.
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        features = torch.cat(list(halving(batch, len(images), batch_size, "features")))
    if not hasattr(extractor, "num_features"):
        extractor.num_features = features.shape[1]
    return features  # (N, d)


def checked(features: Tensor, n: int, extractor: nn.Module) -> Tensor:
    """`features` of n images in float32; raises ValueError unless they are finite and (n, d)."""
    name = getattr(extractor, "name", type(extractor).__name__)
    if not isinstance(features, Tensor) or features.dim() != 2 or len(features) != n:
        found = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise ValueError(f"The extractor {name} must give a tensor (N, d), but for N = {n} images gave {found}.")
    features = features.float()
    if bad := int((~features.isfinite()).any(1).sum()):
        raise ValueError(f"The extractor {name} gave NaN or infinity for {bad} of {n} images: look at its weights.")
    return features


def device_of(module: nn.Module) -> torch.device:
    """Where the parameters of a module are; the host for a module without any."""
    return next((p.device for p in module.parameters()), torch.device("cpu"))
