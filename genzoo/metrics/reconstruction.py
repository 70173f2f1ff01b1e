"""How much of an image survives a model's latents: error, structure, Fréchet distance, codes in use."""

import math
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torchmetrics.functional.image import structural_similarity_index_measure

from genzoo.generator import Able, from_uint8, to_uint8
from genzoo.metrics.classes import entropy
from genzoo.metrics.draw import finite
from genzoo.metrics.features import extract
from genzoo.metrics.frechet import distance_from, moments
from genzoo.metrics.inputs import quantised
from genzoo.metrics.intervals import jackknife, t_interval
from genzoo.metrics.memory import halving
from genzoo.metrics.ranks import gathered, share
from genzoo.metrics.scores import Score, Scores

SMALLEST = 6  # pixels a side for SSIM, whose window of 11 is reflected at the borders


class HasReconstruct(Protocol, metaclass=Able):
    """reconstruct(x) -> x_hat, both (n, C, H, W) in [-1, 1]: an image's way through the latents."""

    def reconstruct(self, x: Tensor) -> Tensor: ...


class HasCodes(Protocol, metaclass=Able):
    """codes(x) -> (n, h, w) int64 in 0, ..., codebook_size - 1; codebook_size 0: this model has none."""

    codebook_size: int

    def codes(self, x: Tensor) -> Tensor: ...


class Reconstructed(NamedTuple):
    """Images uint8 (n, C, H, W), and the codes int64 (n, h, w) that they went through, where there are such."""

    images: Tensor
    codes: Tensor | None = None


def reconstruction(
    model: nn.Module, images: Tensor, extractor: nn.Module, batch_size: int = 256, blocks: int = 10
) -> Scores:
    """The scores of a model's reconstructions of held-out images; {} for a model without.

    images: uint8 (N, C, H, W), or points in [-1, 1], two or more in random order. Every process does its share.
    Raises ValueError for reconstructions that are not finite.
    """
    if not isinstance(model, HasReconstruct):
        return {}
    real = quantised(images)
    again = reconstructed(model, real, batch_size)
    blocks = min(blocks, len(real) // 2)
    scores = {"PSNR": psnr(again.images, real)} | similarity(again.images, real)
    scores |= {f"r{extractor.name}": distance(again.images, real, extractor, batch_size, blocks)}
    if again.codes is None:
        return scores
    return scores | {"codebook perplexity": perplexity(again.codes, model.codebook_size, blocks)}


@torch.no_grad()
def reconstructed(model: HasReconstruct, images: Tensor, batch_size: int = 256) -> Reconstructed:
    """What `model` makes of uint8 images (N, C, H, W), on the host, of which each process computes its share."""
    mine, coded = share(len(images)), isinstance(model, HasCodes) and model.codebook_size > 0

    def batch(start: int, size: int) -> tuple[Tensor, Tensor | None]:
        first = mine.start + start
        x = from_uint8(images[first : first + size].to(model.device, model.dtype))
        return to_uint8(finite(model.reconstruct(x))).cpu(), model.codes(x).cpu() if coded else None

    found, codes = zip(*halving(batch, len(mine), batch_size, "reconstruction"), strict=True)
    return Reconstructed(gathered(torch.cat(found)), gathered(torch.cat(codes)) if coded else None)


def psnr(again: Tensor, real: Tensor, counts: Tensor | None = None) -> Score:
    """Peak signal-to-noise ratio in dB of the mean squared error over all values of uint8 images (n, C, H, W).

    Its interval is that of the error over the images. Equal images count as if one value were off by one level.
    counts: of each image the values that do, bool (n, C, H, W), one or more; None for all.
    """
    squares = (again.double() - real.double()).square()
    counts = torch.ones_like(squares) if counts is None else counts.expand_as(squares).double()
    errors = (squares * counts).flatten(1).sum(1) / counts.flatten(1).sum(1)  # (n,)
    value, least = errors.mean().item(), 1 / real.numel()
    if value < least:
        return Score(decibels(least))
    low, high = t_interval(value, errors.std().item() / math.sqrt(len(errors)), len(errors) - 1)
    return Score(decibels(value), (decibels(high), decibels(max(low, least))))


def decibels(error: float) -> float:
    """PSNR of a mean squared error between 8-bit images."""
    return 10 * math.log10(255**2 / error)


def similarity(again: Tensor, real: Tensor) -> Scores:
    """Structural similarity (Wang et al. 2004), the mean over images (n, C, H, W); none for those of a few pixels."""
    if min(real.shape[2:]) < SMALLEST:
        return {}
    found = torch.cat(
        [
            structural_similarity_index_measure(a.double(), b.double(), data_range=255.0, reduction="none").view(-1)
            for a, b in zip(again.split(256), real.split(256), strict=True)
        ]
    )  # (n,)
    error = found.std().item() / math.sqrt(len(found))
    return {"SSIM": Score(found.mean().item(), t_interval(found.mean().item(), error, len(found) - 1))}


def distance(again: Tensor, real: Tensor, extractor: nn.Module, batch_size: int = 256, blocks: int = 10) -> Score:
    """The Fréchet distance of reconstructions from the very images that they are of: 0 for equal ones.

    Its jackknife leaves out images with their reconstructions, without which they are far from all others.
    """
    pairs = torch.cat([extract(images, extractor, batch_size) for images in (again, real)], 1)  # (n, 2 d)

    def of(pairs: Tensor) -> float:
        fake, originals = pairs.chunk(2, dim=1)
        return distance_from(moments(originals))(fake)

    value = of(pairs)
    return Score(value, t_interval(value, jackknife(of, pairs, blocks), dof=blocks - 1) if blocks > 1 else None)


def perplexity(codes: Tensor, codebook_size: int, blocks: int = 10) -> Score:
    """exp of the entropy of the shares of codes (n, h, w) in all places: `codebook_size` when all are in equal use."""

    def of(ids: Tensor) -> float:
        counts = ids.flatten().bincount(minlength=codebook_size).double()
        return math.exp(entropy(counts / counts.sum()))

    details = {"used": len(codes.unique()), "codebook_size": codebook_size}
    value = of(codes)
    interval = t_interval(value, jackknife(of, codes, blocks), dof=blocks - 1) if blocks > 1 else None
    return Score(value, interval, details)
