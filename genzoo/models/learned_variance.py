"""Diffusion that learns how much noise each step back adds (Nichol & Dhariwal 2021)."""

import math

import torch
from torch import Tensor

from genzoo.diffusion import targets
from genzoo.diffusion.likelihood import Bound, learned_kl, variational_bound
from genzoo.diffusion.samplers import Denoise, reverse_variances
from genzoo.diffusion.schedules import for_each
from genzoo.models.diffusion import Diffusion


class LearnedVariance(Diffusion):
    """Section 3.1: C further channels of the net place the log variance of each reverse step
    between the smallest and the largest that can be right; trained by L_hybrid, sampled by `ddpm_learned`."""

    def loss(self, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        """L_hybrid of equation 16, with the authors' lambda of 0.001 for a sum over T steps."""
        t = torch.randint(len(self.sigmas), (len(x),), device=x.device)
        below = torch.where(t > 0, self.sigmas[t - 1], self.sigmas[0] / 2)  # t = 0 has no step; finite, and left out
        sigma, sigma_next = self.sigmas[t].view(-1, 1, 1, 1), below.view(-1, 1, 1, 1)
        noise = torch.randn_like(x)
        c, noisy = self.target(sigma), x + sigma * noise
        outputs = self.outputs(noisy, sigma, self.told(x, y))
        error = outputs[:, : x.shape[1]] - targets.target(c, x, sigma, noise)
        simple = (self.weight(sigma, c.c_out) * error.square()).mean()
        x0, variance = self.read(noisy, outputs, sigma, sigma_next)
        kl = learned_kl(x, x0.detach(), variance, sigma, sigma_next) * (t > 0)
        vlb = len(self.sigmas) * kl.mean() / (x[0].numel() * math.log(2))
        return {"loss": simple + 1e-3 * vlb, "simple": simple.detach(), "vlb": vlb.detach()}

    def read(self, x: Tensor, outputs: Tensor, sigma: Tensor, sigma_next: Tensor) -> tuple[Tensor, Tensor]:
        """x0_hat and the variance of x_next given x (equation 15), from the net's 2C channels."""
        if outputs.shape[1] != 2 * x.shape[1]:
            raise ValueError(
                f"a learned variance takes a net of {2 * x.shape[1]} output channels, not {outputs.shape[1]}"
            )
        c, (f, v) = self.target(sigma), outputs.chunk(2, dim=1)
        smallest, largest = reverse_variances(sigma, sigma_next)
        return c.c_skip * x + c.c_out * f, torch.exp(torch.lerp(smallest.log(), largest.log(), (v + 1) / 2))

    def moments(self, x: Tensor, sigma: Tensor, sigma_next: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x0_hat, limited, and the variance of x_next; both sigmas () or (n, 1, 1, 1)."""
        self.evaluated += len(x)
        sigma, sigma_next = for_each(sigma, x), for_each(sigma_next, x)
        x0, variance = self.read(x, self.outputs(x, sigma, y), sigma, sigma_next)
        return self.limited(x0), variance

    def denoiser(self, y: Tensor | None = None) -> Denoise:
        """As of every diffusion model, with `moments` for `ddpm_learned`; guided, the variance costs a call more."""
        denoise, guided = super().denoiser(y), y is not None or self.guides

        def moments(x: Tensor, sigma: Tensor, sigma_next: Tensor) -> tuple[Tensor, Tensor]:
            x0, variance = self.moments(x, sigma, sigma_next, y)
            return denoise(x, sigma) if guided else x0, variance

        denoise.moments = moments
        return denoise

    def bound(self, x: Tensor) -> Bound:
        """The terms of the bound of ancestral sampling with the learned variance."""
        return variational_bound(self.denoise, x, self.sigmas.flip(0), self.bound_terms, self.step_kl)

    def step_kl(self, x: Tensor, sigma: Tensor, sigma_next: Tensor) -> Tensor:
        """(n,) nats at one draw of x_t; sigma, sigma_next (n,)."""
        sigma, sigma_next = sigma.view(-1, 1, 1, 1), sigma_next.view(-1, 1, 1, 1)
        x0, variance = self.moments(x + sigma * torch.randn_like(x), sigma, sigma_next)
        return learned_kl(x, x0, variance, sigma, sigma_next)
