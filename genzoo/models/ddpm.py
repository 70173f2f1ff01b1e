"""DDPM (Ho, Jain & Abbeel 2020): predict the noise that was added, then remove it step by step."""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genzoo.diffusion.likelihood import Trace, exact, hutchinson, ode_log_prob, variational_bound
from genzoo.diffusion.schedules import sigmas_of, trailing
from genzoo.generator import Generator, Likelihood, OptimizerFactory, dequantise, refuse_classes


class DDPM(Generator):
    """q(x_t | x_0) = N(sqrt(alpha_bar_t) x_0, 1 - alpha_bar_t); the net predicts the noise of x_t.

    net: (x_t, t) -> noise, t (n,) steps from 0, whole in training.
    alpha_bar: (T,) falling signal levels, one for each training step.
    sampler: a function of genzoo.diffusion.samplers; steps: its network calls, at most T.
    bound_terms: steps of the T - 1 from which `log_prob` estimates the variational bound.
    tolerance: absolute and relative, of the solver of the probability-flow ODE.
    """

    likelihood = "lower bound"

    def __init__(
        self,
        image_shape: Sequence[int],
        optimizer: OptimizerFactory,
        net: nn.Module,
        alpha_bar: Tensor,
        sampler: Callable[..., Tensor],
        steps: int,
        bound_terms: int = 25,
        tolerance: float = 1e-4,
        clip: float = 1.0,
    ) -> None:
        super().__init__(image_shape, optimizer, clip)
        self.net = net
        self.sampler = sampler
        self.steps = steps
        self.bound_terms = min(bound_terms, len(alpha_bar) - 1)
        self.tolerance = tolerance
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
        return self.predict(x, sigma).clamp(-1, 1)

    def predict(self, x: Tensor, sigma: Tensor) -> Tensor:
        """x0_hat as the net gives it, unclipped and continuous in sigma; sigma () or (n, 1, 1, 1)."""
        sigma = torch.as_tensor(sigma, device=x.device, dtype=x.dtype).expand(len(x), 1, 1, 1)
        noise = self.net(x / torch.sqrt(1 + sigma**2), self.step_of(sigma.flatten()))
        return x - sigma * noise

    def step_of(self, sigma: Tensor) -> Tensor:
        """The training step t (n,) of this noise: whole on the training grid, between its steps linear in log sigma."""
        grid = self.sigmas.to(sigma.dtype).log()
        log_sigma = sigma.log().clamp(grid[0], grid[-1])
        below = (torch.bucketize(log_sigma, grid, right=True) - 1).clamp(max=len(grid) - 2)
        return below + (log_sigma - grid[below]) / (grid[below + 1] - grid[below])

    @torch.no_grad()
    def log_prob(self, x: Tensor) -> Tensor:
        """(n,) nats: the variational bound of ancestral sampling over all T steps."""
        return -sum(variational_bound(self.denoise, x, self.sigmas.flip(0), self.bound_terms))

    @torch.no_grad()
    def ode_log_prob(self, x: Tensor) -> Tensor:
        """(n,) nats of the probability-flow ODE at the smallest training noise, of the dequantised image."""
        ends = self.sigmas[0].item(), self.sigmas[-1].item()
        return ode_log_prob(self.predict, dequantise(x), *ends, self.trace, self.tolerance, self.tolerance)

    @property
    def trace(self) -> Trace:
        return exact if math.prod(self.image_shape) <= 8 else hutchinson

    def likelihoods(self) -> list[Likelihood]:
        """The variational bound and the estimate by the probability-flow ODE."""
        bound = f"VLB, {self.bound_terms} of {len(self.sigmas) - 1} terms"
        trace = "exact trace" if self.trace is exact else "Hutchinson trace, 1 probe"
        ode = f"probability-flow ODE, RK45, tolerance {self.tolerance:g}, {trace}"
        return [
            Likelihood("lower bound", bound, self.log_prob),
            Likelihood("estimate", ode, self.ode_log_prob),
        ]

    @torch.no_grad()
    def sample(self, n: int, y: Tensor | None = None) -> Tensor:
        refuse_classes(self, y)
        return self.walk(n)

    def walk(self, n: int, **watch: Callable[..., None]) -> Tensor:
        """n samples; `callback`, if given, sees the sampler's every step."""
        sigmas = trailing(self.sigmas, self.steps)
        x = sigmas[0] * torch.randn(n, *self.image_shape, device=self.device)
        return self.sampler(self.denoise, x, sigmas, **watch)

    @torch.no_grad()
    def trajectory(self, n: int, frames: int) -> Tensor:
        """(n, frames, C, H, W): x0_hat at equal distances in steps, the last one the sample's."""
        seen: list[Tensor] = []
        self.walk(n, callback=lambda i, x, x0: seen.append(x0))
        steps = torch.linspace(0, len(seen) - 1, frames).round().long().tolist()
        return torch.stack([seen[i] for i in steps], 1)
