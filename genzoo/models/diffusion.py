"""Diffusion (Ho, Jain & Abbeel 2020 and its kin): learn to take noise away at every level, then do it step by step."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from genzoo.diffusion import targets, weights
from genzoo.diffusion.grids import log_snr
from genzoo.diffusion.guidance import classifier_free
from genzoo.diffusion.guidance import clip as clipped
from genzoo.diffusion.levels import uniform
from genzoo.diffusion.likelihood import Bound, Trace, exact, hutchinson, ode_log_prob, variational_bound
from genzoo.diffusion.samplers import Denoise, heun
from genzoo.diffusion.schedules import for_each, time_of
from genzoo.diffusion.words import described, sampling_in_words
from genzoo.generator import Generator, Likelihood, OptimizerFactory, dequantise
from genzoo.told import Told


class Diffusion(Told, Generator):
    """x = x0 + sigma * noise, and a network F that makes D(x; sigma) = c_skip x + c_out F(c_in x, t) predict x0.

    DDPM, EDM and flow matching differ in what they pass here:
    net: (c_in x, t, y) -> F, t (n,) the place of sigma in `sigmas`; y of `net.condition`, None for its null.
    sigmas: (T,) rising noise levels, of genzoo.diffusion.schedules.
    target: what F predicts, of genzoo.diffusion.targets. weight: of its squared error, of .weights.
    levels: which noise levels are trained, of .levels. pair: (x, noise) -> noise, of .pairing; None for chance.
    grid: (sigmas, steps) -> the falling noise levels that `sampler` visits, of .grids and .samplers.
    limit: of x0_hat while sampling, of .guidance; None for none.
    dropout: share of the conditions that are replaced by the null, so that the net is trained without them too.
    guidance: (predict, y, guide) -> denoise, of .guidance.
    name: the family's name in tables.
    bound_terms: steps of the T - 1 from which `log_prob` estimates the variational bound.
    tolerance: absolute and relative, of the solver of the probability-flow ODE.
    inversion: steps of Heun's method each way between an image and its latent, two network calls each.
    """

    likelihood = "lower bound"
    compiled = ("net",)
    nfe = math.nan  # network calls per image, counted at each draw

    def __init__(
        self,
        image_shape: Sequence[int],
        optimizer: OptimizerFactory,
        net: nn.Module,
        sigmas: Tensor,
        sampler: Callable[..., Tensor],
        grid: Callable[[Tensor, int], Tensor],
        steps: int,
        target: Callable[[Tensor], targets.Coefficients] = targets.noise,
        weight: Callable[[Tensor, Tensor], Tensor] = weights.simple,
        levels: Callable[[Tensor, int], Tensor] = uniform,
        pair: Callable[[Tensor, Tensor], Tensor] | None = None,
        limit: Callable[[Tensor], Tensor] | None = clipped,
        dropout: float = 0.1,
        guidance: Callable[..., Denoise] = classifier_free,
        name: str = "diffusion",
        bound_terms: int = 25,
        tolerance: float = 1e-4,
        inversion: int = 25,
        clip: float = 1.0,
    ) -> None:
        super().__init__(image_shape, optimizer, clip)
        self.net, self.target, self.weight, self.levels, self.pair = net, target, weight, levels, pair
        self.sampler, self.grid, self.steps, self.limit = sampler, grid, steps, limit
        self.dropout, self.guidance, self.name = dropout, guidance, name
        self.guides: list[Diffusion] = []  # a list, so that another model's weights do not become this one's
        self.bound_terms = min(bound_terms, len(sigmas) - 1)
        self.tolerance, self.inversion = tolerance, inversion
        self.evaluated = 0  # images that the net has seen in sampling
        self.register_buffer("sigmas", sigmas.float())
        self.register_asks()
        grid(self.sigmas, steps)  # raises now, not after hours of training

    # --- Training.

    def loss(self, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        """The weighted squared error of F; for noise and `simple`, Ho et al.'s equation 14."""
        sigma = self.levels(self.sigmas, len(x)).view(-1, 1, 1, 1)
        noise = torch.randn_like(x)
        noise = noise if self.pair is None else self.pair(x, noise)
        c = self.target(sigma)
        error = self.outputs(x + sigma * noise, sigma, self.told(x, y)) - targets.target(c, x, sigma, noise)
        return {"loss": (self.weight(sigma, c.c_out) * error.square()).mean()}

    def outputs(self, x: Tensor, sigma: Tensor, y: Tensor | None) -> Tensor:
        """What the net says of x (n, C, H, W) at sigma (n, 1, 1, 1), in the precision of x."""
        return self.net(self.target(sigma).c_in * x, time_of(self.sigmas, sigma.flatten()), y).to(x.dtype)

    # --- The view that every sampler, likelihood and edit takes.

    def predict(self, x: Tensor, sigma: Tensor, y: Tensor | None = None) -> Tensor:
        """x0_hat as the net gives it, unlimited and continuous in sigma; sigma () or (n, 1, 1, 1)."""
        self.evaluated += len(x)
        sigma = for_each(sigma, x)
        c = self.target(sigma)
        return c.c_skip * x + c.c_out * self.outputs(x, sigma, y)[:, : x.shape[1]]

    def denoise(self, x: Tensor, sigma: Tensor, y: Tensor | None = None) -> Tensor:
        """x0_hat of x = x0 + sigma * noise, limited; sigma () or (n, 1, 1, 1)."""
        return self.limited(self.predict(x, sigma, y))

    @property
    def sigma_data(self) -> float:
        """The standard deviation that its data should have: that of EDM's preconditioning, 1 for other targets."""
        target, options = getattr(self.target, "func", self.target), getattr(self.target, "keywords", {})
        return options.get("sigma_data", 0.5) if target is targets.edm else 1.0

    def limited(self, x0: Tensor) -> Tensor:
        return self.limit(x0) if self.limit and self.bounded else x0

    def denoiser(self, y: Tensor | None = None) -> Denoise:
        """denoise(x, sigma) for these conditions, guided and limited."""
        guided = self.guidance(self.predict, y, *(guide.predict for guide in self.guides))
        return lambda x, sigma: self.limited(guided(x, sigma))

    # --- Sampling.

    @property
    def sigma_grid(self) -> Tensor:
        """(steps + 1,) falling noise levels that the sampler visits, on the host: asking for one stops no GPU."""
        return self.grid(self.sigmas.cpu(), self.steps)

    @torch.no_grad()
    def sample(self, n: int, y: Tensor | None = None) -> Tensor:
        """Images of the conditions y, a row an image; without y, of conditions drawn as the data has them."""
        x = self.walk(n, y)
        return x.clamp(-1, 1) if self.bounded else x

    def walk(self, n: int, y: Tensor | None = None, **watch: Callable[..., None]) -> Tensor:
        """n samples; `callback`, if given, sees the sampler's every step."""
        y, sigmas, models = self.chosen(n, y), self.sigma_grid, [self, *self.guides]
        before = sum(model.evaluated for model in models)
        x = self.sampler(self.denoiser(y), sigmas[0] * self.noise(n), sigmas, **watch)
        self.nfe = (sum(model.evaluated for model in models) - before) / n
        return x

    def noise(self, n: int) -> Tensor:
        return torch.randn(n, *self.image_shape, device=self.device, dtype=self.sigmas.dtype)

    @property
    def family(self) -> str:
        return self.name

    @property
    def sampling(self) -> str:
        parts = sampling_in_words(self.sampler, self.steps, self.grid)
        if self.condition is not None or self.guides:
            parts += [" ".join(described(self.guidance)), *(f"guide {guide.name}" for guide in self.guides)]
        return ", ".join(parts)

    @torch.no_grad()
    def trajectory(self, n: int, frames: int) -> Tensor:
        """(n, frames, C, H, W): x0_hat at equal distances in steps, the last one the sample's."""
        seen: list[Tensor] = []
        self.walk(n, callback=lambda i, x, x0: seen.append(x0.clamp(-1, 1)))
        steps = torch.linspace(0, len(seen) - 1, frames).round().long().tolist()
        return torch.stack([seen[i] for i in steps], 1)

    # --- Latents: the probability-flow ODE, there and back.

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """z (n, C, H, W), nearly N(0, I), by the probability-flow ODE without class (DDIM inversion, Song et al. 2021,
        section 4.3, with Heun's steps)."""
        up = log_snr(self.sigmas.cpu(), self.inversion)[:-1].flip(0)
        return heun(self.predict, x, up) / up[-1]

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """The image that `encode` maps to z, but for the solver's error."""
        down = log_snr(self.sigmas.cpu(), self.inversion)[:-1]
        return heun(self.predict, down[0] * z, down).clamp(-1, 1)

    # --- Likelihood.

    @torch.no_grad()
    def log_prob(self, x: Tensor) -> Tensor:
        """(n,) nats: the variational bound without class."""
        return -sum(self.bound(x))

    def bound(self, x: Tensor) -> Bound:
        """The terms of the bound of ancestral sampling over all T steps."""
        return variational_bound(self.denoise, x, self.sigmas.flip(0), self.bound_terms)

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
            Likelihood("lower bound", bound, lambda x: -torch.stack(self.bound(x), 1), Bound._fields),
            Likelihood("estimate", ode, self.ode_log_prob),
        ]
