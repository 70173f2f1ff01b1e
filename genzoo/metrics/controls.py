"""Images of known worth, scored beside the generated ones: they say what a value of the score means."""

import torch
import torch.nn.functional as F
from torch import Tensor


def control_images(real: Tensor, n: int, seed: int) -> dict[str, Tensor]:
    """n (or all) held-out images of `real`, uint8 (N, C, H, W); as many of uniform noise; the former blurred.

    Single pixels, points in the plane, have no blur. Torch's global generator is left alone.
    """
    generator = torch.Generator().manual_seed(seed)
    # Chosen at random, since some sources list their images class by class.
    chosen = real[torch.randperm(len(real), generator=generator)[:n]]
    noise = torch.randint(0, 256, chosen.shape, generator=generator, dtype=torch.uint8)
    rows = {"real test": chosen, "uniform noise": noise}
    return rows | {"blurred real": blurred(chosen)} if min(real.shape[2:]) > 1 else rows


def blurred(images: Tensor) -> Tensor:
    """uint8 (N, C, H, W) under the 3x3 binomial kernel (1, 2, 1) / 4, a Gaussian of about 0.7 pixels."""
    row = torch.tensor([0.25, 0.5, 0.25])
    x = F.pad(images.float().flatten(0, 1)[:, None], (1, 1, 1, 1), mode="reflect")  # (N * C, 1, H + 2, W + 2)
    return F.conv2d(x, torch.outer(row, row)[None, None]).round().to(torch.uint8).view_as(images)
