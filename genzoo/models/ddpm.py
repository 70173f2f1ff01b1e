"""DDPM (Ho, Jain & Abbeel 2020): predict the noise that was added, then remove it step by step."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genzoo.diffusion.schedules import sigmas_of, trailing
from genzoo.generator import Generator, OptimizerFactory, refuse_classes


class DDPM(Generator):
    """q(x_t | x_0) = N(sqrt(alpha_bar_t) x_0, 1 - alpha_bar_t); the net predicts the noise of x_t.

    net: (x_t, t) -> noise, t (n,) integer steps.
    alpha_bar: (T,) falling signal levels, one for each training step.
    sampler: a function of genzoo.diffusion.samplers; steps: its network calls, at most T.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        optimizer: OptimizerFactory,
        net: nn.Module,
        alpha_bar: Tensor,
        sampler: Callable[..., Tensor],
        steps: int,
        clip: float = 1.0,
    ) -> None:
        super().__init__(image_shape, optimizer, clip)
        self.net = net
        self.sampler = sampler
        self.steps = steps
        self.register_buffer("alpha_bar", alpha_bar.float())
        self.register_buffer("sigmas", sigmas_of(alpha_bar).float())
        trailing(self.sigmas, steps)  # raises now, not after hours of training

    @property
    def nfe(self) -> int:
        return self.steps

    @property
    def sampling(self) -> str:
        name = getattr(self.sampler, "func", self.sampler).__name__
        settings = "".join(f", {k} {v}" for k, v in getattr(self.sampler, "keywords", {}).items() if v)
        return f"{name}, {self.steps} steps{settings}"

    def loss(self, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        """L_simple, equation 14."""
        t = torch.randint(len(self.alpha_bar), (len(x),), device=x.device)
        noise = torch.randn_like(x)
        return {"loss": F.mse_loss(self.net(self.diffuse(x, t, noise), t), noise)}

    def diffuse(self, x: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """x_t of equation 4; x (n, C, H, W), t (n,)."""
        alpha_bar = self.alpha_bar[t].view(-1, 1, 1, 1)
        return alpha_bar.sqrt() * x + (1 - alpha_bar).sqrt() * noise

    def denoise(self, x: Tensor, sigma: Tensor, y: Tensor | None = None) -> Tensor:
        """x0_hat of x = x0 + sigma * noise, clipped to [-1, 1] as in Ho et al.'s code; sigma () or (n, 1, 1, 1)."""
        sigma = torch.as_tensor(sigma, device=x.device, dtype=x.dtype).expand(len(x), 1, 1, 1)
        t = self.nearest_step(sigma.flatten().contiguous())
        noise = self.net(x / torch.sqrt(1 + sigma**2), t)
        return (x - sigma * noise).clamp(-1, 1)

    def nearest_step(self, sigma: Tensor) -> Tensor:
        """The training step t (n,) whose sigma is nearest on a logarithmic scale."""
        midpoints = torch.sqrt(self.sigmas[1:] * self.sigmas[:-1])
        return torch.bucketize(sigma, midpoints)

    @torch.no_grad()
    def sample(self, n: int, y: Tensor | None = None) -> Tensor:
        refuse_classes(self, y)
        sigmas = trailing(self.sigmas, self.steps)
        x = sigmas[0] * torch.randn(n, *self.image_shape, device=self.device)
        return self.sampler(self.denoise, x, sigmas)
