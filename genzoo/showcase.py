"""Pictures beside the samples: reconstructions, ways between two images, the path from noise, each class, what was
asked, where a family can."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from genzoo.asking import condition_of
from genzoo.generator import Generator, HasEncode, HasTrajectory, TakesClasses, from_uint8, to_uint8
from genzoo.metrics.draw import per_image
from genzoo.nets.conditions import on_grid

ROWS, FRAMES = 8, 8


@torch.no_grad()
def showcase(model: Generator, reals: Tensor, y: Tensor | None = None, seed: int = 0) -> dict[str, np.ndarray]:
    """Arrays of uint8 images for samples.npz, those that the model can make.

    reals: held-out images (N, C, H, W), uint8 or points in [-1, 1]; y: what the data says of them, a row an image, or
    None. `reconstruction` (16, C, H, W): of the first 16; `interpolation` (8, 8, C, H, W): between the codes of the
    first 8 and the next 8; `trajectory` (8, 8, C, H, W): what the model takes each of 8 samples for on its way from
    noise; `classes` (k, 8, C, H, W): a row a class, at most 16; `asked` (8, 8, C, H, W): of other conditions, as
    `each_asked` has it.
    """
    x = reals[: 2 * ROWS].to(model.device)
    x = from_uint8(x) if x.dtype == torch.uint8 else x
    found = {}
    with per_image(seed, 0, ROWS):
        if isinstance(model, HasEncode) and len(x) == 2 * ROWS:
            z = model.encode(x)
            found["reconstruction"] = model.decode(z)
            found["interpolation"] = between(model, z[:ROWS], z[ROWS:])
        if isinstance(model, HasTrajectory):
            found["trajectory"] = model.trajectory(ROWS, FRAMES)
    if isinstance(model, TakesClasses) and model.classes:
        found["classes"] = each_class(model, min(model.classes, 16), seed)
    elif condition_of(model) is not None and len(x) >= ROWS:
        found |= each_asked(model, x[:ROWS], None if y is None else y[:ROWS].to(model.device), seed)
    return {name: to_uint8(images).cpu().numpy() for name, images in found.items()}


def each_class(model: Generator, classes: int, seed: int) -> Tensor:
    """(classes, FRAMES, C, H, W): samples of the first classes, each row from the same noise."""
    rows = []
    for y in range(classes):
        with per_image(seed, 0, FRAMES):
            rows.append(model.sample(FRAMES, torch.full((FRAMES,), y, device=model.device)))
    return torch.stack(rows)


def each_asked(model: Generator, x: Tensor, y: Tensor | None, seed: int) -> dict[str, Tensor]:
    """`asked` (n, FRAMES, C, H, W): a row for each image x (n, C, H, W) with its y (n, ...): the image, the map
    that the model is told of it, if any, then samples of its condition, in each row from the same noise.

    {} where y does not fit.
    """
    condition = condition_of(model)
    try:
        with per_image(seed, 0, len(x)):
            y = condition.of(x, y)
    except ValueError:
        return {}
    shown = [x[:, None]]  # (n, 1, C, H, W) each
    if condition.maps == x.shape[1] + 1:
        shown.append(on_grid(y[:, : x.shape[1]], x.shape[-2:])[:, None])
    n, rows = FRAMES - len(shown), []
    for each in y:
        with per_image(seed, 0, n):
            rows.append(model.sample(n, each.expand(n, *each.shape)))
    return {"asked": torch.cat([*shown, torch.stack(rows)], 1)}


def between(model: HasEncode, z0: Tensor, z1: Tensor) -> Tensor:
    """(n, FRAMES, C, H, W): images on the great circles between codes (n, ...)."""
    z = torch.stack([slerp(z0, z1, w) for w in torch.linspace(0, 1, FRAMES).tolist()], 1)  # (n, FRAMES, ...)
    return model.decode(z.flatten(0, 1)).unflatten(0, (len(z0), FRAMES))


def slerp(z0: Tensor, z1: Tensor, w: float) -> Tensor:
    """Spherical interpolation: on the way between draws of N(0, I) the norm stays typical of one (Shoemake 1985;
    White 2016). Codes in one direction are interpolated linearly."""
    unit = [F.normalize(z.flatten(1), dim=1) for z in (z0, z1)]
    angle = (unit[0] * unit[1]).sum(1).clamp(-1, 1).arccos().view(-1, *[1] * (z0.dim() - 1))
    narrow = angle.sin() < 1e-4
    sine = torch.where(narrow, 1, angle.sin())
    circle = torch.sin((1 - w) * angle) / sine * z0 + torch.sin(w * angle) / sine * z1
    return torch.where(narrow, torch.lerp(z0, z1, w), circle)
