"""Scores of 10,000 generated against 10,000 real images in 2,048 features, beside the packages that have them."""

from collections.abc import Iterator
from functools import partial
from tempfile import TemporaryDirectory

import numpy as np
import torch
from scipy.linalg import sqrtm
from torch import Tensor, nn
from torchmetrics.image.kid import KernelInceptionDistance

from experiments.benchmarks.race import Race
from genzoo.metrics.arrays import sweep
from genzoo.metrics.frechet import distance_of, moments
from genzoo.metrics.kernel import KernelSums, kernel_distance
from genzoo.metrics.prdc import Balls, prdc
from genzoo.metrics.reference import Reference
from genzoo.metrics.scores import Scores, frechet, memorisation, pairwise

N, D, K = 10_000, 2048, 5


def features(seed: int, shift: float, n: int = N, d: int = D) -> Tensor:
    """(n, d) float32 of correlated, skewed features, as a network's are."""
    generator = torch.Generator().manual_seed(seed)
    latent = torch.randn(n, 64, generator=generator)
    mix = torch.randn(64, d, generator=torch.Generator().manual_seed(0)) / 8
    return torch.relu(latent @ mix + 0.3 * torch.randn(n, d, generator=generator) + shift)


def races(n: int = N, d: int = D) -> Iterator[Race]:
    """Of n fakes and reals in d features: n of 1,000 or more, which torchmetrics' subsets have."""
    real, fake = features(1, 0.0, n, d), features(2, 0.1, n, d)
    yield Race(
        "Fréchet distance", "scipy.linalg.sqrtm", lambda: distance_of(moments(real), fake), lambda: by_sqrtm(real, fake)
    )
    yield Race(
        "kernel distance",
        "torchmetrics' KID, 100 subsets of 1,000",
        lambda: alone(kernel_distance(fake, real)),
        lambda: alone(subsets(real, fake)),
    )
    yield Race("precision, recall, density, coverage", "prdc", lambda: prdc(real, fake, K), lambda: package(real, fake))
    yield Race("the three", "the three", lambda: three(real, fake), lambda: peers(real, fake))
    yield Race(
        "metrics=standard with its intervals",
        "the three, without",
        lambda: alone(standard(real, fake)),
        lambda: alone(peers(real, fake)),
    )


def alone(_: object) -> None:
    """A result that the other side has no number to compare with."""


def three(real: Tensor, fake: Tensor) -> tuple[float, ...]:
    """Kernel distance and balls from one sweep over the inner products."""
    balls = Balls(real, fake, K)
    sums = KernelSums(balls.pair)
    sweep(balls.pair, [sums, balls])
    sums.distance()
    return (distance_of(moments(real), fake), *balls.scores(None))


def peers(real: Tensor, fake: Tensor) -> tuple[float, ...]:
    subsets(real, fake)
    return (by_sqrtm(real, fake), *package(real, fake))


def standard(real: Tensor, fake: Tensor) -> Scores:
    """The scores of conf/metrics/standard.yaml, of features without classes, nothing kept from earlier calls."""
    with TemporaryDirectory() as folder:
        reference = Reference(real, real, features(3, 0.0, *real.shape), "FD-random", cache_dir=folder)
        scores: Scores = {}
        for function in (frechet, partial(pairwise, k=K), memorisation):
            scores |= function(fake, reference)
    return scores


def by_sqrtm(real: Tensor, fake: Tensor) -> float:
    """As pytorch-fid computes it."""
    x, y = real.double().numpy(), fake.double().numpy()
    cov1, cov2 = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    difference = x.mean(0) - y.mean(0)
    return difference @ difference + np.trace(cov1) + np.trace(cov2) - 2 * np.trace(sqrtm(cov1 @ cov2).real)


class Given(nn.Module):
    """Features (n, d) that are already there."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.num_features = d

    def forward(self, x: Tensor) -> Tensor:
        return x


def subsets(real: Tensor, fake: Tensor) -> float:
    kid = KernelInceptionDistance(feature=Given(real.shape[1]))
    kid.update(real, real=True)
    kid.update(fake, real=False)
    return kid.compute()[0].item()


def package(real: Tensor, fake: Tensor) -> tuple[float, ...]:
    from prdc import compute_prdc

    found = compute_prdc(real_features=real.double().numpy(), fake_features=fake.double().numpy(), nearest_k=K)
    return tuple(float(found[name]) for name in ("precision", "recall", "density", "coverage"))
