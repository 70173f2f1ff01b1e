"""Mean flow (Geng et al. 2025): the average velocity between any two times, so that one step spans the path."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.autograd.forward_ad import dual_level, make_dual, unpack_dual
from torch.nn.attention import SDPBackend, sdpa_kernel

from genzoo.diffusion.samplers import Callback, Denoise
from genzoo.diffusion.schedules import for_each
from genzoo.diffusion.words import sampling_in_words
from genzoo.generator import Generator, OptimizerFactory
from genzoo.told import Told


def jumps(denoise: Denoise, x: Tensor, sigmas: Tensor, callback: Callback | None = None) -> Tensor:
    """z_r = z_t - (t - r) u(z_t, r, t) from each level to the next, in the coordinates x = z_t / (1 - t). S network
    calls.

    Raises ValueError where there is no `denoise.chord`.
    """
    if not hasattr(denoise, "chord"):
        raise ValueError("sampler=jumps needs a mean flow's own denoiser: take sampler=euler instead")
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        x0 = denoise.chord(x, sigma, sigma_next)
        x = x0 + sigma_next * (x - x0) / sigma
        if callback is not None:
            callback(i, x, x0)
    return x


class MeanFlow(Told, Generator):
    """z_t = (1 - t) x0 + t noise moves with v, and (t - r) u(z_t, r, t) is how far it comes between r and t.

    Derived by t this is u = v - (t - r) du/dt. The net learns the right-hand side, without gradient: v where r = t,
    and elsewhere also its own slope along (v, 0, 1), by forward differentiation.

    net: u, (z, (t, t - r), y) -> an array shaped as z; it is told both times from 0 to `time_scale`, and y of its
        `condition`, None for the null.
    sigmas: (T,) rising noise levels t / (1 - t), the last one where sampling starts.
    grid: (sigmas, steps) -> the falling noise levels that `sampler` visits, of genzoo.diffusion.grids.
    sampler: `jumps`, or one of genzoo.diffusion, for which the model is its velocity at r = t alone.
    mean, std: of the normal whose logistic function gives t and r.
    apart: share of a batch in which r is not t.
    power: p of the weight 1 / (|error|^2 + 0.001)^p.
    dropout: share of the conditions that are replaced by the null.
    omega: guidance, learned into u so that a step stays one network call: the path is that of the velocity omega v(y) +
        (1 - omega) v (section 4.2). A step of training then costs a call more.
    Raises ValueError for an omega without a condition.
    """

    family = "mean flow"
    full_precision = True  # torch's forward derivatives know no autocast

    def __init__(
        self,
        image_shape: Sequence[int],
        optimizer: OptimizerFactory,
        net: nn.Module,
        sigmas: Tensor,
        sampler: Callable[..., Tensor],
        grid: Callable[[Tensor, int], Tensor],
        steps: int = 1,
        mean: float = -0.4,
        std: float = 1.0,
        apart: float = 0.25,
        power: float = 1.0,
        time_scale: float = 100.0,
        dropout: float = 0.1,
        omega: float = 1.0,
        clip: float = 1.0,
    ) -> None:
        super().__init__(image_shape, optimizer, clip)
        self.net, self.sampler, self.grid, self.steps = net, sampler, grid, steps
        self.mean, self.std, self.apart, self.power, self.time_scale = mean, std, apart, power, time_scale
        self.dropout, self.omega = dropout, omega
        if omega != 1 and self.condition is None:
            raise ValueError(f"omega={omega} guides towards a condition: set one, as condition=classes, or omega=1")
        self.register_buffer("sigmas", sigmas.float())
        self.register_asks()
        grid(self.sigmas, steps)  # raises now, not after hours of training

    # --- Training.

    def loss(self, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        """Algorithm 1 with the weight of equation 22; `error` is the mean square itself."""
        (r, t), y = self.times(x), self.told(x, y)
        noise = torch.randn_like(x)
        z = torch.lerp(x, noise, t.view(-1, 1, 1, 1))
        u, target = self.prediction_and_target(z, r, t, self.guided(noise - x, z, t), y)
        error = (u - target).flatten(1).square().sum(1)
        weight = (error.detach() + 1e-3) ** -self.power
        return {"loss": (weight * error).mean(), "error": error.detach().mean() / x[0].numel()}

    def times(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """r <= t, each (n,) (section 4.3, "Sampling time steps")."""
        both = torch.sigmoid(self.mean + self.std * torch.randn(len(x), 2, device=x.device, dtype=x.dtype))
        r, t = both.sort(dim=1).values.unbind(1)
        return torch.where(torch.rand_like(t) < self.apart, r, t), t

    @torch.no_grad()
    def guided(self, v: Tensor, z: Tensor, t: Tensor) -> Tensor:
        """omega v + (1 - omega) u(z_t, t, t) of the null (equation 19), whatever y is; v itself for omega 1."""
        return v if self.omega == 1 else torch.lerp(self.average_velocity(z, t, t), v, self.omega)

    def prediction_and_target(
        self, z: Tensor, r: Tensor, t: Tensor, v: Tensor, y: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """u(z_t, r, t) and, without gradient, what the identity says that it should be (equations 8, 10 and 11)."""
        with dual_level(), sdpa_kernel(SDPBackend.MATH):  # the one attention that knows its forward derivative
            z, t = make_dual(z, v), make_dual(t, torch.ones_like(t))
            u, du_dt = unpack_dual(self.average_velocity(z, r, t, y))
        return u, (v - (t - r).view(-1, 1, 1, 1) * du_dt).detach()

    def average_velocity(self, z: Tensor, r: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """u(z_t, r, t); r, t (n,) in [0, 1]."""
        return self.net(z, self.time_scale * torch.stack([t, t - r], dim=1), y)

    # --- Sampling.

    def chord(self, x: Tensor, sigma: Tensor, sigma_next: Tensor, y: Tensor | None = None) -> Tensor:
        """Where the straight line from x = x0 + sigma * noise through the path's point at sigma_next comes to sigma 0.

        For sigma_next = 0 that is the end of the path, for sigma_next = sigma x0_hat. Both () or (n, 1, 1, 1).
        """
        t, r = (for_each(s / (1 + s), x) for s in (sigma, sigma_next))
        z = (1 - t) * x
        return z - t * self.average_velocity(z, r.flatten(), t.flatten(), y)

    def denoise(self, x: Tensor, sigma: Tensor, y: Tensor | None = None) -> Tensor:
        """x0_hat of x = x0 + sigma * noise, unclipped; sigma () or (n, 1, 1, 1)."""
        return self.chord(x, sigma, sigma, y)

    def denoiser(self, y: Tensor | None = None) -> Denoise:
        """`denoise` of these conditions for samplers, which counts network calls, with `chord` for `jumps`."""
        self.nfe = 0

        def denoise(x: Tensor, sigma: Tensor) -> Tensor:
            return denoise.chord(x, sigma, sigma)

        def chord(x: Tensor, sigma: Tensor, sigma_next: Tensor) -> Tensor:
            self.nfe += 1
            return self.chord(x, sigma, sigma_next, y)

        denoise.chord = chord
        return denoise

    @property
    def sigma_grid(self) -> Tensor:
        """(steps + 1,) falling noise levels that the sampler visits, on the host."""
        return self.grid(self.sigmas.cpu(), self.steps)

    @property
    def sampling(self) -> str:
        told = [] if self.omega == 1 else [f"omega {self.omega:g}"]
        return ", ".join(sampling_in_words(self.sampler, self.steps, self.grid) + told)

    @torch.no_grad()
    def sample(self, n: int, y: Tensor | None = None) -> Tensor:
        """Images of the conditions y, a row an image; without y, of conditions drawn as the data has them."""
        y, sigmas = self.chosen(n, y), self.sigma_grid
        x = sigmas[0] * torch.randn(n, *self.image_shape, device=self.device)
        x = self.sampler(self.denoiser(y), x, sigmas)
        return x.clamp(-1, 1) if self.bounded else x
