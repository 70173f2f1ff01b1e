"""Editing with a trained denoiser: edit(denoise, x, sigmas, sampler, ...) -> x, around any of the samplers.

denoise, x = sigmas[0] * noise (n, C, H, W), and the falling sigmas are a sampler's own. Images, masks and measurements
have no batch axis: the n results are edits of one image.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from genzoo.diffusion.samplers import Denoise

Sampler = Callable[[Denoise, Tensor, Tensor], Tensor]

# --- SDEdit: from an image that noise has made vague.


def sdedit(denoise: Denoise, x: Tensor, sigmas: Tensor, sampler: Sampler, image: Tensor, strength: float) -> Tensor:
    """Noise the image to where `strength` of the grid's steps are left, and walk those (Meng et al. 2022, Algorithm 1).

    image: (C, H, W). strength: in (0, 1]; 1 is sampling, but for what shows of the image at sigmas[0].
    Raises ValueError for another strength.
    """
    if not 0 < strength <= 1:
        raise ValueError(f"strength={strength} is not in (0, 1]: 1 keeps nothing of the image, near 0 nearly all")
    steps = len(sigmas) - 1
    rest = sigmas[steps - max(1, round(strength * steps)) :]
    return sampler(denoise, image.to(x) + rest[0] / sigmas[0] * x, rest)


# --- Resampling: time for the parts of an image to come to fit each other.


def resampled(
    denoise: Denoise, x: Tensor, sigmas: Tensor, sampler: Sampler, resamples: int = 10, length: int = 5
) -> Tensor:
    """Walk the grid in stretches of `length` steps, each one `resamples` times, noised back to its start in between.

    RePaint's jumps (Lugmayr et al. 2022, section 4.2), DDNM's time travel (Wang et al. 2023, Algorithm 2). It takes
    `resamples` times the sampler's network calls. Raises ValueError unless both are at least 1.
    """
    if min(resamples, length) < 1:
        raise ValueError(f"resamples={resamples} and length={length}: both must be at least 1")
    if resamples == 1:
        return sampler(denoise, x, sigmas)
    for start in range(0, len(sigmas) - 1, length):
        stretch = sigmas[start : start + length + 1]
        x = sampler(denoise, x, stretch)
        for _ in range(resamples - 1):
            back = torch.sqrt(stretch[0] ** 2 - stretch[-1] ** 2)
            x = sampler(denoise, x + back * torch.randn_like(x), stretch)
    return x


# --- RePaint: filling in with known pixels that are noised as the model expects them.


def repaint(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    sampler: Sampler,
    image: Tensor,
    mask: Tensor,
    resamples: int = 10,
    length: int = 5,
) -> Tensor:
    """Fill in the mask (Lugmayr et al. 2022, Algorithm 1); at sigma 0 all other pixels are the image's, exactly.

    image: (C, H, W). mask: bool (1, H, W), true where something new goes. resamples, length: of `resampled`.
    """
    keeping = partial(merged, sampler=sampler, image=image.to(x), mask=mask.to(x.device))
    return resampled(denoise, x, sigmas, keeping, resamples, length)


def merged(denoise: Denoise, x: Tensor, sigmas: Tensor, sampler: Sampler, image: Tensor, mask: Tensor) -> Tensor:
    """The sampler step by step, so that multistep ones are at order 1; after each the known pixels are the image's,
    freshly noised (equation 8). At sigma 0 this is the final composite."""
    for i, sigma in enumerate(sigmas[1:]):
        x = sampler(denoise, x, sigmas[i : i + 2])
        x = torch.where(mask, x, image + sigma * torch.randn_like(x))
    return x


# --- DDNM: images of which a linear measurement is known.


class Operator(NamedTuple):
    """A measurement y = A x and its pseudo-inverse A^+, (n, C, H, W) each, where A A^T = gain * identity."""

    forward: Callable[[Tensor], Tensor]
    pinv: Callable[[Tensor], Tensor]
    gain: float

    def project(self, x: Tensor, y: Tensor) -> Tensor:
        """The nearest to x of all images that measure y."""
        return x + self.pinv(y - self.forward(x))


def pooling(factor: int) -> Operator:
    """(n, C, H, W) -> (n, C, H / factor, W / factor): the mean of each block of pixels."""

    def blocks(y: Tensor) -> Tensor:
        return y.repeat_interleave(factor, dim=-2).repeat_interleave(factor, dim=-1)

    return Operator(partial(F.avg_pool2d, kernel_size=factor), blocks, factor**-2)


def luma(weights: tuple[float, float, float] = (0.299, 0.587, 0.114)) -> Operator:
    """(n, 3, H, W) -> (n, 1, H, W): grey by ITU-R BT.601, as Pillow converts images."""
    column = torch.tensor(weights, dtype=torch.float64).view(3, 1, 1)
    gain = column.square().sum().item()
    return Operator(lambda x: (x * column.to(x)).sum(1, keepdim=True), lambda y: y * column.to(y) / gain, gain)


def outside(mask: Tensor) -> Operator:
    """(n, C, H, W) -> the same with zeros inside the mask, bool (1, H, W)."""

    def cut(x: Tensor) -> Tensor:
        return x.masked_fill(mask.to(x.device), 0)

    return Operator(cut, cut, 1.0)


def consistent(denoise: Denoise, operator: Operator, y: Tensor, noise: float = 0.0) -> Denoise:
    """x0_hat + A^+ (y - A x0_hat) in place of x0_hat (DDNM, Wang et al. 2023, equation 13).

    noise: standard deviation of y's. Above 0, the step towards y is as long as it is for the mean of x0 given x and y
    if x0 given x is N(x0_hat, sigma^2 / (1 + sigma^2)), as pseudoinverse guidance has it (Song et al. 2023).
    """

    def corrected(x0: Tensor, sigma: Tensor) -> Tensor:
        variance = operator.gain * sigma**2 / (1 + sigma**2)
        return torch.lerp(x0, operator.project(x0, y.to(x0)), (variance / (variance + noise**2)).to(x0))

    def denoise_consistently(x: Tensor, sigma: Tensor) -> Tensor:
        return corrected(denoise(x, sigma), sigma)

    def moments(x: Tensor, sigma: Tensor, sigma_next: Tensor) -> tuple[Tensor, Tensor]:
        x0, variance = denoise.moments(x, sigma, sigma_next)
        return corrected(x0, sigma), variance

    if hasattr(denoise, "moments"):
        denoise_consistently.moments = moments
    return denoise_consistently


def restore(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    sampler: Sampler,
    operator: Operator,
    y: Tensor,
    noise: float = 0.0,
    resamples: int = 10,
    length: int = 5,
) -> Tensor:
    """Images that measure y; where noise is 0, A x = y but for rounding, and x in [-1, 1] but for little.

    noise: of `consistent`. resamples, length: of `resampled`.
    """
    x = resampled(consistent(denoise, operator, y, noise), x, sigmas, sampler, resamples, length)
    return x if noise else in_range(x, operator, y.to(x))


def in_range(x: Tensor, operator: Operator, y: Tensor, rounds: int = 100) -> Tensor:
    """Alternating projections onto [-1, 1] and onto what measures y: 8 bits are to cut off nothing that y counted."""
    for _ in range(rounds):
        x = operator.project(x.clamp(-1, 1), y)
    return x


def fill(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    sampler: Sampler,
    image: Tensor,
    mask: Tensor,
    resamples: int = 10,
    length: int = 5,
) -> Tensor:
    """`repaint` by DDNM: every step believes the known pixels; multistep samplers keep their order."""
    operator = outside(mask)
    return restore(denoise, x, sigmas, sampler, operator, operator.forward(image), 0.0, resamples, length)
