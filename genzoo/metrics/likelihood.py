"""Bits per dimension of held-out images: one row for each way to the likelihood that a family has."""

import math
from typing import Any

import torch
from torch import Tensor

from genzoo.generator import Generator, HasLikelihood, HasLikelihoods, Likelihood, bits_per_dim, from_uint8
from genzoo.metrics.draw import per_image
from genzoo.metrics.inputs import quantised
from genzoo.metrics.intervals import t_interval
from genzoo.metrics.memory import halving
from genzoo.metrics.ranks import gathered, share

Row = dict[str, Any]  # "value", "ci95", "n", "kind", "method"


def bits_per_dim_rows(
    model: Generator, images: Tensor, batch_size: int = 256, seed: int = 0, estimates: bool = True
) -> list[Row]:
    """Mean bits per dimension with its 95% t interval over the images, by each of the model's ways; [] for none.

    model: in evaluation mode.
    images: uint8 (N, C, H, W), N >= 2, or points in [-1, 1], which are quantised to the same 256 levels.
    seed: of the dequantisation and all other noise, which image i draws for itself whatever the batch size.
    estimates: also where the model has an exact way or a bound.
    Raises ValueError if any image has no finite likelihood: none is left out.
    """
    images = quantised(images)
    if len(images) < 2:
        raise ValueError(f"An interval needs 2 images or more, got {len(images)}: raise metrics.n_likelihood.")
    found = ways(model)
    certain = [way for way in found if way.kind != "estimate"]
    used = found if estimates or not certain else certain
    return [row(way, log_probs(way, images, model, batch_size, seed), images) for way in used]


def ways(model: Generator) -> list[Likelihood]:
    if isinstance(model, HasLikelihoods):
        return model.likelihoods()
    if isinstance(model, HasLikelihood):
        return [Likelihood(model.likelihood, "log p(x)", model.log_prob)]
    return []


@torch.no_grad()
def log_probs(way: Likelihood, images: Tensor, model: Generator, batch_size: int, seed: int) -> Tensor:
    """(N,), or (N, terms), nats in float64 on the host of uint8 images, which the model sees in its own precision.

    Each process of a training computes its share and has all.
    """
    mine = share(len(images))

    def batch(start: int, size: int) -> Tensor:
        first = mine.start + start
        x = from_uint8(images[first : first + size].to(model.device, model.dtype))
        with per_image(seed, first, size):
            return way.log_prob(x).cpu().double()

    return gathered(torch.cat(list(halving(batch, len(mine), batch_size, way.method))))


def row(way: Likelihood, nats: Tensor, images: Tensor) -> Row:
    """The row of the nats (N,) or (N, terms), the latter with the mean bits per dimension of each term, too."""
    log_prob = nats.flatten(1).sum(1) if way.terms else nats
    bad = int((~log_prob.isfinite()).sum())
    if bad:
        raise ValueError(
            f"{way.method}: the likelihood of {bad} of {len(images)} images is NaN or infinite, so the model has no "
            "bits per dimension: train with a smaller learning rate or tighter gradient clipping."
        )
    bits = bits_per_dim(log_prob, images[0].numel())
    mean, error = bits.mean().item(), bits.std().item() / math.sqrt(len(bits))
    low, high = t_interval(mean, error, len(bits) - 1)
    parts = {"terms": terms_of(way, nats, images[0].numel())} if way.terms else {}
    return {"value": mean, "ci95": [low, high], "n": len(bits), "kind": way.kind, "method": way.method, **parts}


def terms_of(way: Likelihood, nats: Tensor, dimensions: int) -> dict[str, float]:
    """Mean bits per dimension of each term; only the last is a density, which the width of a level turns into bits."""
    bits = -nats.mean(0) / (dimensions * math.log(2))
    bits[-1] = bits_per_dim(nats[:, -1].mean(), dimensions)
    return dict(zip(way.terms, bits.tolist(), strict=True))
