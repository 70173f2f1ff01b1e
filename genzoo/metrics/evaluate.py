"""One evaluation: draw images once, push them once through the extractor, give all scores the same features."""

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from genzoo.metrics.cache import cache_folder, keep_rows, rows_in
from genzoo.metrics.controls import control_images
from genzoo.metrics.draw import draw_together
from genzoo.metrics.features import extract, identified
from genzoo.metrics.inputs import quantised
from genzoo.metrics.intervals import repeats_interval
from genzoo.metrics.neighbours import nearest
from genzoo.metrics.protocol import ASKED, Protocol, images_sha256, short_hash
from genzoo.metrics.ranks import agreed, share
from genzoo.metrics.reference import Reference, reference_of
from genzoo.metrics.scores import OnFeatures, ScoreFunction, Scores, every

GALLERY = 256  # generated images that are kept, each with its nearest training image
Splits = Mapping[str, Tensor]
Rows = dict[str, dict[str, Any]]  # printed name -> {"value", "n", "repeats", "ci95", ...}


class Evaluation(NamedTuple):
    """record: what metrics.json holds of it, plain JSON values; fakes: the first set of scored images, uint8
    (n, C, H, W); neighbours: the training images nearest to its first 256, distances: (k,) to these; None where
    no feature was asked for."""

    record: dict[str, Any]
    fakes: Tensor
    neighbours: Tensor | None = None
    distances: Tensor | None = None


def evaluate(
    sample: Callable[[int], Tensor],
    splits: Splits,
    extractor: nn.Module,
    dataset: str,
    scores: Mapping[str, ScoreFunction],
    likelihoods: Callable[..., list[dict[str, Any]]] | None = None,
    reconstructions: Callable[..., Scores] | None = None,
    answers: Callable[..., tuple[Scores, Scores]] | None = None,
    reference: str = "train",
    n: int | None = None,
    sets: int = 1,
    n_likelihood: int = 1000,
    estimates: bool = True,
    batch_size: int = 256,
    seed: int = 0,
    cache_dir: str | Path | None = None,
) -> Evaluation:
    """Draw images with `sample` and score them against the real images of the split `reference`.

    sample: takes a number of images, gives (that many, C, H, W) in [-1, 1].
    splits: "train", "test", perhaps "val"; uint8 images (N, C, H, W), or points in [-1, 1].
    extractor: one of `genzoo.metrics.features` or any module, on the device to compute on.
    scores: functions of `genzoo.metrics.scores`.
    likelihoods: `genzoo.metrics.likelihood.bits_per_dim_rows` of a model, asked for up to n_likelihood test images.
    reconstructions: `genzoo.metrics.reconstruction.reconstruction` of a model, asked for all test images.
    answers: `genzoo.asking.answers` of a model, asked for what the data says of n test images, 1,000 at most.
    n: images of a set; None takes as many as the test split has, at most 10,000. sets: disjoint sets, each scored
    by itself; the value is their mean and every one is kept.
    estimates: of the likelihood, also where there is a bound. batch_size: images at a time. Neither changes a score.
    Raises ValueError for a split that is not there, and for samples, features or densities that are not finite.
    """
    extractor, images = identified(extractor), {name: quantised(split) for name, split in splits.items()}
    protocol = Protocol(
        **described(images, reference),
        dataset=dataset,
        n_fake=min(len(images["test"]), 10_000) if n is None else n,
        sets=sets,
        n_likelihood=min(n_likelihood, len(images["test"])),
        features=extractor.name,
        features_sha256=extractor.sha256,
        scores={name: settings_of(score) for name, score in scores.items()},
        seed=seed,
    )
    compare = partial(compared, extractor=extractor, functions=scores, batch_size=batch_size)
    against = partial(reference_of, images, extractor, reference, cache_dir=cache_dir, batch_size=batch_size)
    real = against(held_out="test")
    fakes = draw_together(sample, sets * protocol.n_fake, batch_size, seed).split(protocol.n_fake)
    held_out = chosen(splits["test"], protocol.n_likelihood, seed)
    densities = likelihoods(held_out, batch_size, seed, estimates) if likelihoods and len(held_out) else []
    originals = chosen(images["test"], len(images["test"]), seed)
    again = reconstructions(originals, extractor, batch_size) if reconstructions else {}
    n_asked = min(protocol.n_fake, len(images["test"]), ASKED)
    right, ceiling = answers(extractor, n_asked, batch_size, seed) if answers else ({}, {})
    distances = combined([compare(fake, real) for fake in fakes], protocol.n_fake)
    asked = combined([right], n_asked)
    controls = calibration(images, compare, against, protocol, cache_dir)
    controls["real test"] |= combined([ceiling], n_asked)
    record = {
        "protocol": json.loads(json.dumps(asdict(protocol))),
        "protocol_id": protocol.protocol_id,
        "scores": distances | asked | combined([again], len(originals)) | tightest(densities),
        "likelihoods": densities,
        "calibration": controls,
    }
    return Evaluation(record, fakes[0], *neighbours_of(fakes[0][:GALLERY], images["train"], real, extractor))


def described(images: Splits, reference: str) -> dict[str, Any]:
    """What a protocol holds of the real images. Raises ValueError for a split that is not there."""
    if missing := {reference, "train", "test"} - set(images):
        raise ValueError(f"evaluate needs the split {min(missing)!r} but got {sorted(images)}.")
    return {
        "dataset_sha256": images_sha256(images[reference]),
        "train_sha256": images_sha256(images["train"]),
        "test_sha256": images_sha256(images["test"]),
        "image_shape": tuple(images["test"].shape[1:]),
        "reference": reference,
        "n_real": len(images[reference]),
    }


def settings_of(score: Callable[..., Scores]) -> dict[str, Any]:
    """A score function's name and the settings that `functools.partial` has bound to it."""
    function = getattr(score, "func", score)
    return {"function": function.__name__, **getattr(score, "keywords", {})}


def chosen(images: Tensor, n: int, seed: int) -> Tensor:
    """n of the images at random, since some sources list theirs class by class; torch's generators are left alone."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    return images[order[:n]]


def compared(
    images: Tensor, real: Reference, extractor: nn.Module, functions: Mapping[str, ScoreFunction], batch_size: int = 256
) -> Scores:
    """Every score of uint8 images (n, C, H, W), the features of which the processes of a training share out.

    Raises ValueError for fewer than two images, which have no covariance.
    """
    if len(images) < 2:
        raise ValueError(f"Scores compare distributions, and {len(images)} image has none: raise metrics.n.")
    mine = share(len(images))
    features = extract(images[mine.start : mine.stop], extractor, batch_size).to(real.real.device)
    metric = OnFeatures(partial(every, list(functions.values())), real).to(features.device)
    metric.update(features)
    return metric.compute()


def combined(sets: Sequence[Scores], n: int) -> Rows:
    """The mean of each score over disjoint sets of n images and every repeat; of a single set its own interval."""
    rows = {}
    for name, score in sets[0].items():
        repeats = [found[name].value for found in sets]
        row = {"value": statistics.fmean(repeats), "n": n, "repeats": repeats, "ci95": score.ci95, **score.details}
        if len(sets) > 1:
            _, row["std"], row["ci95"] = repeats_interval(repeats)
        rows[name] = {key: list(part) if key == "ci95" else part for key, part in row.items() if part is not None}
    return rows


def tightest(densities: Sequence[dict[str, Any]]) -> Rows:
    """The best bound or the exact value as the score bits/dim; an estimate only where there is nothing else."""
    bounds = [row for row in densities if row["kind"] != "estimate"] or densities
    return {"bits/dim": min(bounds, key=lambda row: row["value"])} if bounds else {}


def calibration(
    images: Splits,
    compare: Callable[[Tensor, Reference], Scores],
    against: Callable[..., Reference],
    protocol: Protocol,
    cache_dir: str | Path | None = None,
) -> dict[str, Rows]:
    """Scores of `control_images`, which follow from the protocol and the images and so are kept on disk.

    Test images are held against validation images where a sample is held against test images.
    """
    unlike = {"sets": 1, "n_likelihood": 0}  # what these rows do not depend on
    others = [images_sha256(images[name]) for name in sorted(images)]
    path = cache_folder(cache_dir) / f"calibration-{short_hash([asdict(protocol) | unlike, others])}.json"
    if (rows := agreed(rows_in(path))) is not None:
        return rows
    held_out = {"real test": "val"} if "val" in images else {}
    rows = {
        row: combined([compare(control, against(held_out=held_out.get(row, "test")))], len(control))
        for row, control in control_images(images, protocol.n_fake, protocol.seed).items()
    }
    keep_rows(path, rows)
    return rows


def neighbours_of(fakes: Tensor, train: Tensor, real: Reference, extractor: nn.Module) -> tuple[Tensor, Tensor]:
    """The training image (k, C, H, W) nearest to each of the fakes, uint8 (k, C, H, W), and its distance (k,)."""
    distances, index = nearest(extract(fakes, extractor).to(real.train.device), real.train)
    return train[index[:, 0].cpu()], distances[:, 0].cpu()
