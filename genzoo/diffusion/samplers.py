"""Samplers: sampler(denoise, x, sigmas) -> x, walking a falling grid of sigmas from x = sigmas[0] * noise.

denoise(x, sigma) -> x0_hat, where x = x0 + sigma * noise. The variance-preserving x_t of Ho et al. is
sqrt(alpha_bar) times this x; the reverse process is the same in both coordinates and shorter in this one: alpha is 1
and half the log SNR, lambda, is -ln sigma. Where the grid ends in 0, every sampler lands on the last x0_hat.
A callback(i, x, x0_hat), if given, sees every step. Network calls are counted for S steps into 0.
"""

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

Denoise = Callable[[Tensor, Tensor], Tensor]
Callback = Callable[[int, Tensor, Tensor], None]
Step = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def walk(denoise: Denoise, step: Step, x: Tensor, sigmas: Tensor, callback: Callback | None) -> Tensor:
    """x after step(x, x0_hat, sigma, sigma_next) -> x for all neighbours in the grid, the last of them perhaps 0."""
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        x0 = denoise(x, sigma)
        x = step(x, x0, sigma, sigma_next) if sigma_next > 0 else x0
        if callback is not None:
            callback(i, x, x0)
    return x


# --- Ancestral sampling and its kin.


def posterior(x: Tensor, x0: Tensor, sigma: Tensor, sigma_next: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of q(x_next | x, x0): equations 6 and 7 of Ho et al. 2020, over sqrt(alpha_bar_next)."""
    shrink = (sigma_next / sigma) ** 2
    return x0 + shrink * (x - x0), sigma_next**2 * (1 - shrink)


def reverse_variances(sigma: Tensor, sigma_next: Tensor) -> tuple[Tensor, Tensor]:
    """The variance of x_next given x_t for data of one point, beta_tilde, and for data N(0, I), beta: the smallest and
    the largest that can be right (Ho et al. 2020, section 3.2), both over alpha_bar_next."""
    removed = sigma**2 - sigma_next**2
    return sigma_next**2 * removed / sigma**2, removed * (1 + sigma_next**2) / (1 + sigma**2)


def ddpm(denoise: Denoise, x: Tensor, sigmas: Tensor, large: bool = False, callback: Callback | None = None) -> Tensor:
    """Ancestral sampling, Algorithm 2 of Ho et al. 2020, with variance beta_tilde or, `large`, beta (section 3.2).

    S network calls."""

    def step(x: Tensor, x0: Tensor, sigma: Tensor, sigma_next: Tensor) -> Tensor:
        mean, variance = posterior(x, x0, sigma, sigma_next)
        if large:
            _, variance = reverse_variances(sigma, sigma_next)
        return mean + torch.sqrt(variance) * torch.randn_like(x)

    return walk(denoise, step, x, sigmas, callback)


def ddpm_learned(denoise: Denoise, x: Tensor, sigmas: Tensor, callback: Callback | None = None) -> Tensor:
    """Ancestral sampling with the variance of each pixel that the network predicts (Nichol & Dhariwal 2021, eq. 15).

    denoise.moments(x, sigma, sigma_next) -> x0_hat and the variance of x_next, both (n, C, H, W). S network calls.
    Raises ValueError where there is no `moments`.
    """
    if not hasattr(denoise, "moments"):
        raise ValueError("sampler=ddpm_learned needs a model that learns its variance: take sampler=ddpm instead")
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        x0, variance = denoise.moments(x, sigma, sigma_next)
        mean, _ = posterior(x, x0, sigma, sigma_next)
        x = mean + torch.sqrt(variance) * torch.randn_like(x) if sigma_next > 0 else x0
        if callback is not None:
            callback(i, x, x0)
    return x


def ddim(denoise: Denoise, x: Tensor, sigmas: Tensor, eta: float = 0.0, callback: Callback | None = None) -> Tensor:
    """Equation 12 of Song et al. 2021: eta 0 is deterministic DDIM, eta 1 DDPM with its small variance.

    In these coordinates eta 0 is also DPM-Solver-1 (Lu et al. 2022, equation 3.7), and any eta k-diffusion's
    `euler_ancestral`. S network calls.
    """

    def step(x: Tensor, x0: Tensor, sigma: Tensor, sigma_next: Tensor) -> Tensor:
        if eta == 0:  # also upwards, from the image to its noise
            return x0 + sigma_next * (x - x0) / sigma
        noise = eta * sigma_next * torch.sqrt(1 - (sigma_next / sigma) ** 2)  # equation 16, over sqrt(alpha_bar)
        return x0 + torch.sqrt(sigma_next**2 - noise**2) * (x - x0) / sigma + noise * torch.randn_like(x)

    return walk(denoise, step, x, sigmas, callback)


# --- Runge-Kutta methods in sigma on the probability-flow ODE.


def slope(x: Tensor, x0: Tensor, sigma: Tensor) -> Tensor:
    """dx / d sigma of the probability-flow ODE, which is also the predicted noise (Karras et al. 2022, equation 3)."""
    return (x - x0) / sigma


def euler(denoise: Denoise, x: Tensor, sigmas: Tensor, callback: Callback | None = None) -> Tensor:
    """Euler's rule in sigma, in these coordinates `ddim`. S network calls."""

    def step(x: Tensor, x0: Tensor, sigma: Tensor, sigma_next: Tensor) -> Tensor:
        return x + (sigma_next - sigma) * slope(x, x0, sigma)

    return walk(denoise, step, x, sigmas, callback)


def midpoint(denoise: Denoise, x: Tensor, sigmas: Tensor, callback: Callback | None = None) -> Tensor:
    """The midpoint rule in sigma: Karras et al. 2022, Algorithm 3, with their alpha = 1/2. 2S - 1 network calls."""

    def step(x: Tensor, x0: Tensor, sigma: Tensor, sigma_next: Tensor) -> Tensor:
        middle = (sigma + sigma_next) / 2
        x_middle = x + (middle - sigma) * slope(x, x0, sigma)
        return x + (sigma_next - sigma) * slope(x_middle, denoise(x_middle, middle), middle)

    return walk(denoise, step, x, sigmas, callback)


def trapezium(denoise: Denoise, x: Tensor, x0: Tensor, sigma: Tensor, sigma_next: Tensor) -> Tensor:
    """Heun's step: Euler's, then again with the mean of the slopes at both of its ends."""
    d = slope(x, x0, sigma)
    x_next = x + (sigma_next - sigma) * d
    d_next = slope(x_next, denoise(x_next, sigma_next), sigma_next)
    return x + (sigma_next - sigma) * (d + d_next) / 2


def heun(denoise: Denoise, x: Tensor, sigmas: Tensor, callback: Callback | None = None) -> Tensor:
    """Heun's method in sigma: Karras et al. 2022, Algorithm 1 with sigma(t) = t. 2S - 1 network calls."""

    def step(x: Tensor, x0: Tensor, sigma: Tensor, sigma_next: Tensor) -> Tensor:
        return trapezium(denoise, x, x0, sigma, sigma_next)

    return walk(denoise, step, x, sigmas, callback)


def edm(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    s_churn: float = 0.0,
    s_min: float = 0.0,
    s_max: float = math.inf,
    s_noise: float = 1.0,
    callback: Callback | None = None,
) -> Tensor:
    """Heun's method that first adds noise where s_min <= sigma <= s_max: Karras et al. 2022, Algorithm 2.

    2S - 1 network calls, which see noise up to sqrt(2) times the grid's.
    """
    gamma = min(s_churn / (len(sigmas) - 1), math.sqrt(2) - 1)
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        if gamma > 0 and s_min <= sigma <= s_max:
            x = x + sigma * math.sqrt((1 + gamma) ** 2 - 1) * s_noise * torch.randn_like(x)
            sigma = (1 + gamma) * sigma
        x0 = denoise(x, sigma)
        x = trapezium(denoise, x, x0, sigma, sigma_next) if sigma_next > 0 else x0
        if callback is not None:
            callback(i, x, x0)
    return x
