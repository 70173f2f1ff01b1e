"""What samples are compared with: the features of the real images, and what follows from these alone."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from torch import Tensor, nn

from genzoo.metrics.cache import cache_folder, kept
from genzoo.metrics.features import HasClasses, device_of, extract
from genzoo.metrics.frechet import DistanceFrom, distance_from, moments
from genzoo.metrics.prdc import radii
from genzoo.metrics.protocol import images_sha256, short_hash


@dataclass(frozen=True)
class Reference:
    """Features (N, d) of real images in one extractor, on one device.

    real: of the split that samples are compared with; train: of all training images; held_out: of images that no
    model saw. name: of the extractor. classify: features (n, d) -> logits (n, K), where the extractor has classes.
    """

    real: Tensor
    train: Tensor
    held_out: Tensor
    name: str
    classify: Callable[[Tensor], Tensor] | None = None
    cache_dir: str | Path | None = None

    @cached_property
    def distance(self) -> DistanceFrom:
        """The Fréchet distance of features (n, d) from `real`, whose covariance is factorised once."""
        return distance_from(moments(self.real))

    def train_radii(self, k: int) -> Tensor:
        """(N,) distances of each of `train` to its k-th neighbour among them.

        Kept on disk, since they take N^2 distances and are the same for every model.
        """
        path = cache_folder(self.cache_dir) / f"radii-{short_hash([images_sha256(self.train), k])}.safetensors"
        return kept(path, lambda: radii(self.train, k)).to(self.train.device)


def reference_of(
    splits: Mapping[str, Tensor],
    extractor: nn.Module,
    reference: str = "train",
    held_out: str = "test",
    cache_dir: str | Path | None = None,
    batch_size: int = 256,
) -> Reference:
    """The features of real images, splits of uint8 (N, C, H, W), each split's kept in `cache_folder(cache_dir)`.

    Raises ValueError for a split that is not there.
    """
    if missing := {reference, held_out} - set(splits):
        raise ValueError(f"metrics.reference={min(missing)} is no split of these images: choose {', '.join(splits)}.")
    device = device_of(extractor)

    def features(split: str) -> Tensor:
        key = short_hash([images_sha256(splits[split]), extractor.name, extractor.sha256])
        path = cache_folder(cache_dir) / f"features-{key}.safetensors"
        return kept(path, lambda: extract(splits[split], extractor, batch_size)).to(device)

    found = {split: features(split) for split in {reference, held_out, "train" if "train" in splits else reference}}
    return Reference(
        real=found[reference],
        train=found.get("train", found[reference]),
        held_out=found[held_out],
        name=extractor.name,
        classify=extractor.classify if isinstance(extractor, HasClasses) else None,
        cache_dir=cache_dir,
    )
