"""Points in the plane with a known density, shaped like images (2, 1, 1), to study losses and samplers."""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from genzoo.data.splits import Images, Splits

NOISE = 0.02  # standard deviation of the radius: every kind stays at least 10 of them inside [-1, 1]
BLOB = 0.05  # standard deviation of one Gaussian in the ring of eight


class Arc(NamedTuple):
    """Points at angle U(start, start + extent) and radius N(radius, NOISE^2) around the centre (cx, cy)."""

    cx: float
    cy: float
    radius: float
    start: float = 0.0
    extent: float = 2 * math.pi


RINGS = (Arc(0, 0, 0.25), Arc(0, 0, 0.5), Arc(0, 0, 0.75))
MOONS = (Arc(-0.25, -0.125, 0.5, 0, math.pi), Arc(0.25, 0.125, 0.5, math.pi, math.pi))
CENTRES = 0.7 * np.stack([np.cos(np.arange(8) * np.pi / 4), np.sin(np.arange(8) * np.pi / 4)], 1)  # (8, 2)
CELLS = [(i, j) for i in range(4) for j in range(4) if (i + j) % 2 == 0]
SQUARES = np.array(CELLS) / 2 - 1  # (8, 2) lower corners


class Kind(NamedTuple):
    """A mixture of equally likely parts: draw(parts (n,), generator) -> (n, 2), log_p((n, 2)) -> (n,)."""

    parts: int
    draw: Callable[[np.ndarray, np.random.Generator], np.ndarray]
    log_p: Callable[[Tensor], Tensor]


def toy2d(kind: str = "rings", train: int = 50_000, val: int = 5_000, test: int = 10_000, seed: int = 0) -> Splits:
    """Splits of float32 points (N, 2, 1, 1) in [-1, 1], drawn from seeds 3 seed, 3 seed + 1 and 3 seed + 2.

    kind: rings (three), moons (two), checkerboard (8 squares) or gaussians (8 on a ring); classes are the
    parts. Raises ValueError for another kind.
    """
    parts = [sample(kind, n, 3 * seed + i) for i, n in enumerate((train, val, test))]
    return Splits(*parts)


def sample(kind: str, n: int, seed: int) -> Images:
    """n independent points (n, 2, 1, 1) and the part (n,) that each was drawn from."""
    parts, draw, _ = _kind(kind)
    random = np.random.default_rng(seed)
    y = random.integers(parts, size=n)
    return Images(torch.from_numpy(draw(y, random)).float().view(n, 2, 1, 1), torch.from_numpy(y))


def log_density(kind: str, x: Tensor) -> Tensor:
    """log p(x) in nats, float64 (n,), for x (n, 2, 1, 1) or (n, 2); -inf where no point can fall."""
    return _kind(kind).log_p(x.flatten(1).double())


def _arc_points(arcs: tuple[Arc, ...], y: np.ndarray, random: np.random.Generator) -> np.ndarray:
    cx, cy, radius, start, extent = np.array(arcs).T[:, y]  # (n,) each
    angle = start + extent * random.random(len(y))
    r = radius + NOISE * random.standard_normal(len(y))
    return np.stack([cx + r * np.cos(angle), cy + r * np.sin(angle)], 1)


def _arc_density(arcs: tuple[Arc, ...], x: Tensor) -> Tensor:
    return torch.stack([_one_arc(arc, x) for arc in arcs]).logsumexp(0) - math.log(len(arcs))


def _one_arc(arc: Arc, x: Tensor) -> Tensor:
    """In polar coordinates p(x) = N(r; radius, NOISE^2) / (extent r) inside the angles."""
    dx, dy = x[:, 0] - arc.cx, x[:, 1] - arc.cy
    r = torch.hypot(dx, dy)
    inside = (torch.atan2(dy, dx) - arc.start) % (2 * math.pi) <= arc.extent
    log_p = torch.distributions.Normal(arc.radius, NOISE).log_prob(r) - torch.log(arc.extent * r)
    return log_p.where(inside, -math.inf)


def _gaussian_points(y: np.ndarray, random: np.random.Generator) -> np.ndarray:
    return CENTRES[y] + BLOB * random.standard_normal((len(y), 2))


def _gaussian_density(x: Tensor) -> Tensor:
    squared = torch.cdist(x, torch.from_numpy(CENTRES)) ** 2  # (n, 8)
    return (-squared / (2 * BLOB**2)).logsumexp(1) - math.log(8 * 2 * math.pi * BLOB**2)


def _checkerboard_points(y: np.ndarray, random: np.random.Generator) -> np.ndarray:
    return SQUARES[y] + random.random((len(y), 2)) / 2


def _checkerboard_density(x: Tensor) -> Tensor:
    cell = torch.floor((x + 1) * 2)  # (n, 2) in 0..3
    inside = (x.abs() <= 1).all(1) & (cell.sum(1) % 2 == 0)
    return torch.where(inside, math.log(1 / 2), -math.inf).double()  # 8 squares of area 1/4


KINDS = {
    "rings": Kind(3, partial(_arc_points, RINGS), partial(_arc_density, RINGS)),
    "moons": Kind(2, partial(_arc_points, MOONS), partial(_arc_density, MOONS)),
    "gaussians": Kind(8, _gaussian_points, _gaussian_density),
    "checkerboard": Kind(8, _checkerboard_points, _checkerboard_density),
}


def _kind(name: str) -> Kind:
    if name not in KINDS:
        raise ValueError(f"No toy data {name!r}: data.kind is one of {', '.join(KINDS)}.")
    return KINDS[name]
