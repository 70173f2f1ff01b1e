"""Generators with known faults on a ring of eight Gaussians: what each score sees, and what it misses."""

from functools import partial

import torch
from torch import Tensor

from genzoo.metrics.reference import Reference
from genzoo.metrics.scores import Scores, classes, frechet, kernel, memorisation, neighbourhoods

MODES = 8


def ring(n: int, seed: int, modes: int = MODES, spread: float = 0.05) -> Tensor:
    """(n, 2) float64 points of N(c_i, spread^2 I), c_i the first `modes` of eight places on the unit circle."""
    generator = torch.Generator().manual_seed(seed)
    angle = 2 * torch.pi / MODES * torch.randint(modes, (n,), generator=generator)
    centres = torch.stack([angle.cos(), angle.sin()], 1)
    return centres + spread * torch.randn(n, 2, generator=generator, dtype=torch.float64)


def generators(train: Tensor) -> dict[str, Tensor]:
    """As many samples of each generator as there are training points."""
    n = len(train)
    return {
        "perfect": ring(n, seed=3),
        "drops 4 of 8 modes": ring(n, seed=3, modes=4),
        "blurs 4 times": ring(n, seed=3, spread=0.2),
        "copies": train[torch.randint(n, (n,), generator=torch.Generator().manual_seed(3))],
        "collapses within modes": ring(n, seed=3, spread=0.01),
    }


def panel(n: int = 4000, k: int = 5) -> dict[str, Scores]:
    """Every score of every generator; n points each to train on, to hold out and to judge, and balls of k neighbours.

    The points are their own features, and their class is the nearest mode.
    """
    train, held_out = ring(n, seed=1), ring(n, seed=2)
    reference = Reference(train, train, held_out, "FD-points", classify=nearness)
    functions = (frechet, kernel, partial(neighbourhoods, k=k), classes, partial(memorisation, cells=MODES))
    rows = {}
    for name, fake in generators(train).items():
        rows[name] = {}
        for function in functions:
            rows[name] |= function(fake, reference)
    return rows


def nearness(x: Tensor) -> Tensor:
    """Class scores (n, 8) of points (n, 2): the log-likelihood of each mode at spread 0.05."""
    angle = 2 * torch.pi / MODES * torch.arange(MODES, dtype=x.dtype)
    centres = torch.stack([angle.cos(), angle.sin()], 1)
    return -torch.cdist(x, centres).square() / (2 * 0.05**2)
