"""Scores of a function that samples images: draw once, quantise, compare with real images."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from tqdm import tqdm

from genzoo.generator import to_uint8
from genzoo.metrics.cache import cache_folder, write_atomically
from genzoo.metrics.controls import control_images
from genzoo.metrics.protocol import Protocol, images_sha256, short_hash

Scores = dict[str, dict[str, float]]  # "FD-digits" -> {"value", "n"}


class Evaluation(NamedTuple):
    """record: what metrics.json holds of it (protocol, protocol_id, scores, calibration), plain JSON values;
    fakes: the scored images, uint8 (n, C, H, W) on the host; seconds: that drawing them took."""

    record: dict[str, Any]
    fakes: Tensor
    seconds: float


def evaluate(
    sample: Callable[[int], Tensor],
    splits: Mapping[str, Tensor],
    extractor: nn.Module,
    dataset: str,
    reference: str = "train",
    n: int | None = None,
    batch_size: int = 256,
    seed: int = 0,
    cache_dir: str | Path | None = None,
) -> Evaluation:
    """Draw n images with `sample` and score them against the real images of the split `reference`.

    sample: takes a number of images, gives (that many, C, H, W) in [-1, 1].
    splits: holds `reference` and "test"; uint8 images (N, C, H, W), or points in [-1, 1].
    extractor: one of `genzoo.metrics.features`, on the device to compute on, which must know float64.
    n: None takes as many as the test split has, at most 10,000. batch_size: images at a time.
    Raises ValueError for a split that is not there, and for non-finite samples.
    """
    if missing := {reference, "test"} - set(splits):
        raise ValueError(f"evaluate needs the split {min(missing)!r} but got {sorted(splits)}.")
    real, test = quantised(splits[reference]), quantised(splits["test"])
    protocol = Protocol(
        dataset=dataset,
        dataset_sha256=images_sha256(real),
        image_shape=tuple(real.shape[1:]),
        reference=reference,
        n_real=len(real),
        n_fake=min(len(test), 10_000) if n is None else n,
        features=extractor.name,
        features_sha256=extractor.sha256,
        seed=seed,
    )
    fakes, seconds = draw(sample, protocol.n_fake, batch_size, seed)
    statistics = reference_statistics(real, extractor, cache_dir, batch_size)
    record = {
        "protocol": json.loads(json.dumps(asdict(protocol))),
        "protocol_id": protocol.protocol_id,
        "scores": scores(fakes, statistics, extractor, batch_size),
        "calibration": calibration(test, statistics, extractor, protocol, cache_dir, batch_size),
    }
    return Evaluation(record, fakes, seconds)


def draw(sample: Callable[[int], Tensor], n: int, batch_size: int, seed: int) -> tuple[Tensor, float]:
    """n samples as uint8 (n, C, H, W) on the host, and the seconds that sampling took.

    torch's global generators are seeded for the draw and left afterwards as they were.
    Raises ValueError if a sample holds NaN or infinity.
    """
    batches = []
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())), torch.no_grad():
        torch.manual_seed(seed)
        start = time.perf_counter()
        for first in tqdm(range(0, n, batch_size), desc="sampling", leave=False, disable=None):
            x = finite(sample(min(batch_size, n - first)))
            batches.append(to_uint8(x).cpu())  # which waits for the device, so that the clock is right
        seconds = time.perf_counter() - start
    return torch.cat(batches), seconds


def finite(x: Tensor) -> Tensor:
    """x (n, ...) itself; raises ValueError if any of its n samples holds NaN or infinity."""
    bad = int((~x.isfinite()).flatten(1).any(1).sum())
    if bad:
        raise ValueError(
            f"{bad} of {len(x)} samples hold NaN or infinity, so they have no score: "
            "train with a smaller learning rate or tighter gradient clipping."
        )
    return x


def quantised(x: Tensor) -> Tensor:
    """uint8 images as they are; points in [-1, 1] the same way as generated ones."""
    return to_uint8(x) if x.is_floating_point() else x


def reference_statistics(
    images: Tensor, extractor: nn.Module, cache_dir: str | Path | None = None, batch_size: int = 256
) -> dict[str, Tensor]:
    """The real half of the state of torchmetrics' FID (float64 sums, count) of uint8 images (N, C, H, W).

    Kept in `cache_folder(cache_dir)` by the content of the images and of the extractor's weights.
    """
    key = short_hash([images_sha256(images), extractor.name, extractor.sha256])
    path = cache_folder(cache_dir) / f"reference-{key}.safetensors"
    try:
        statistics = load(path.read_bytes())
        if statistics["real_features_num_samples"] == len(images):
            return statistics
    except (OSError, SafetensorError, KeyError):
        pass  # absent or damaged: compute it
    fid = new_fid(extractor)
    update(fid, images, real=True, batch_size=batch_size)
    statistics = {name: value.cpu() for name, value in fid.metric_state.items() if name.startswith("real_")}
    write_atomically(path, save(statistics))
    return statistics


def fid_score(fake: Tensor, reference: Mapping[str, Tensor], extractor: nn.Module, batch_size: int = 256) -> float:
    """torchmetrics' Fréchet distance of uint8 images (n, C, H, W) from `reference_statistics`, in float64.

    Raises ValueError for fewer than two images, which have no covariance.
    """
    if len(fake) < 2:
        raise ValueError(f"A Fréchet distance needs 2 images or more, got {len(fake)}: raise metrics.n.")
    fid = new_fid(extractor)
    update(fid, fake, real=False, batch_size=batch_size)
    for name, value in reference.items():
        setattr(fid, name, value.to(fid.device))
    fid.orig_dtype = torch.float64  # else compute() rounds its float64 result to the features' float32
    return fid.compute().item()


def scores(fake: Tensor, reference: Mapping[str, Tensor], extractor: nn.Module, batch_size: int = 256) -> Scores:
    """Every score of uint8 images (n, C, H, W), each under its printed name."""
    value = fid_score(fake, reference, extractor, batch_size)
    return {extractor.name: {"value": value, "n": len(fake)}}


def new_fid(extractor: nn.Module) -> FrechetInceptionDistance:
    """An empty metric around the extractor, on its device, for the images of this process alone."""
    device = next((p.device for p in extractor.parameters()), torch.device("cpu"))
    return FrechetInceptionDistance(feature=extractor, sync_on_compute=False).to(device)


def update(fid: FrechetInceptionDistance, images: Tensor, real: bool, batch_size: int) -> None:
    """Add uint8 images (n, C, H, W) to the real or the fake half of the metric's state."""
    for batch in tqdm(images.split(batch_size), desc="features", leave=False, disable=None, delay=1):
        fid.update(batch.to(fid.device), real=real)


def calibration(
    test: Tensor,
    reference: Mapping[str, Tensor],
    extractor: nn.Module,
    protocol: Protocol,
    cache_dir: str | Path | None = None,
    batch_size: int = 256,
) -> dict[str, Scores]:
    """Scores of `control_images`: held-out real images (the floor), uniform noise, blurred real images.

    test: uint8 (N, C, H, W); n_fake of them are taken, or all. The rows depend on `protocol` and `test`
    alone, so they are kept beside the reference statistics.
    """
    path = cache_folder(cache_dir) / f"calibration-{short_hash([asdict(protocol), images_sha256(test)])}.json"
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        pass  # absent or damaged: compute it
    controls = control_images(test, protocol.n_fake, protocol.seed)
    rows = {row: scores(images, reference, extractor, batch_size) for row, images in controls.items()}
    write_atomically(path, json.dumps(rows).encode())
    return rows
