"""Pictures beside the samples: reconstructions, ways between two images, the path from noise, where a family can."""

import numpy as np
import torch
from torch import Tensor

from genzoo.generator import Generator, HasEncode, HasTrajectory, to_uint8
from genzoo.metrics.draw import per_image

ROWS, FRAMES = 8, 8


@torch.no_grad()
def showcase(model: Generator, reals: Tensor, seed: int = 0) -> dict[str, np.ndarray]:
    """Arrays of uint8 images for samples.npz; {} for a family that neither encodes nor walks.

    reals: held-out images (N, C, H, W), uint8 or points in [-1, 1]. `reconstruction` (16, C, H, W): of the first 16;
    `interpolation` (8, 8, C, H, W): between the codes of the first 8 and the next 8; `trajectory` (8, 8, C, H, W): what
    the model takes each of 8 samples for on its way from noise.
    """
    x = reals[: 2 * ROWS].to(model.device)
    x = x / 127.5 - 1 if x.dtype == torch.uint8 else x
    found = {}
    with per_image(seed, 0, ROWS):
        if isinstance(model, HasEncode) and len(x) == 2 * ROWS:
            z = model.encode(x)
            found["reconstruction"] = model.decode(z)
            found["interpolation"] = between(model, z[:ROWS], z[ROWS:])
        if isinstance(model, HasTrajectory):
            found["trajectory"] = model.trajectory(ROWS, FRAMES)
    return {name: to_uint8(images).cpu().numpy() for name, images in found.items()}


def between(model: HasEncode, z0: Tensor, z1: Tensor) -> Tensor:
    """(n, FRAMES, C, H, W): images on the straight lines between codes (n, ...)."""
    return torch.stack([model.decode(torch.lerp(z0, z1, w)) for w in torch.linspace(0, 1, FRAMES).tolist()], 1)
