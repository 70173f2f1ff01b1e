"""Consistency training (Song et al. 2023; Song & Dhariwal 2024): from any noisy image to its path's end at once."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from genzoo.diffusion.guidance import classifier_free
from genzoo.diffusion.samplers import Callback, Denoise, walk
from genzoo.diffusion.schedules import for_each
from genzoo.diffusion.targets import Coefficients
from genzoo.diffusion.words import described, sampling_in_words
from genzoo.generator import Generator, OptimizerFactory
from genzoo.told import Told


def boundary(sigma: Tensor, sigma_min: Tensor, sigma_data: float) -> Coefficients:
    """EDM's coefficients, bent so that f(x, sigma_min) = x whatever the net says (Song et al. 2023, appendix C)."""
    above = sigma - sigma_min
    c_in = (sigma**2 + sigma_data**2).rsqrt()
    return Coefficients(sigma_data**2 / (above**2 + sigma_data**2), sigma_data * above * c_in, c_in)


def pseudo_huber(a: Tensor, b: Tensor, c: float) -> Tensor:
    """sqrt(|a - b|^2 + c^2) - c of each image, (n,) (Song & Dhariwal 2024, section 3.3)."""
    return torch.sqrt((a - b).flatten(1).square().sum(1) + c**2) - c


def doubling(share: float, first: int, last: int) -> int:
    """Steps of the noise grid at a share of the budget: doubled from `first` up to `last`, each number for as long
    (section 3.4)."""
    stages = math.floor(math.log2(last / first)) + 1
    return min(first * 2 ** int(share * stages), last)


def log_normal_weights(sigmas: Tensor, mean: float, std: float) -> Tensor:
    """The mass of log sigma ~ N(mean, std^2) between neighbours of `sigmas` (section 3.5)."""
    return torch.special.ndtr((sigmas.log() - mean) / std).diff()


def multistep(denoise: Denoise, x: Tensor, sigmas: Tensor, callback: Callback | None = None) -> Tensor:
    """To the path's end, back with fresh noise, to the end again (Song et al. 2023, Algorithm 1). S network calls."""

    def step(x: Tensor, x0: Tensor, sigma: Tensor, sigma_next: Tensor) -> Tensor:
        return x0 + sigma_next * torch.randn_like(x)

    return walk(denoise, step, x, sigmas, callback)


class Consistency(Told, Generator):
    """f(x, sigma) = c_skip x + c_out F(c_in x, t) is to say the same at both ends of every step of a noise grid.

    The lower end is f itself without gradient, on the same noise with the same dropout and told the same: there is no
    teacher. The grid becomes finer while the budget is spent.

    net: F, (x, t, y) -> an array shaped as x, with t = time_scale log(sigma / sigma_min);
        y of its `condition`, None for the null.
    schedule: (T) -> T rising noise levels, of genzoo.diffusion.schedules.
    first, last: steps of the noise grid at the beginning and the end of training.
    mean, std: of the normal after which log sigma is trained.
    sigma_data: standard deviation of the data; huber: c of the pseudo-Huber distance over sqrt(dimensions).
    sampler: `multistep`, or another of genzoo.diffusion; grid: (sigmas, steps) -> the noise levels that it visits.
    dropout: share of the conditions that are replaced by the null.
    guidance: (predict, y) -> denoise, of genzoo.diffusion.guidance, from the null's end to the condition's.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        optimizer: OptimizerFactory,
        net: nn.Module,
        schedule: Callable[[int], Tensor],
        sampler: Callable[..., Tensor],
        grid: Callable[[Tensor, int], Tensor],
        steps: int = 1,
        first: int = 10,
        last: int = 1280,
        mean: float = -1.1,
        std: float = 2.0,
        sigma_data: float = 0.5,
        huber: float = 0.00054,
        time_scale: float = 100.0,
        dropout: float = 0.1,
        guidance: Callable[..., Denoise] = classifier_free,
        clip: float = 1.0,
    ) -> None:
        super().__init__(image_shape, optimizer, clip)
        if not 0 < first <= last:
            raise ValueError(f"first={first}, last={last}: a noise grid has steps and does not lose them in training")
        self.net, self.schedule, self.sampler, self.grid, self.steps = net, schedule, sampler, grid, steps
        self.first, self.last, self.mean, self.std = first, last, mean, std
        self.sigma_data, self.time_scale = sigma_data, time_scale
        self.dropout, self.guidance = dropout, guidance
        self.c = huber * math.sqrt(math.prod(self.image_shape))
        self.register_buffer("sigmas", schedule(last + 1).float())
        self.register_asks()
        grid(self.sigmas, steps)  # raises now, not after hours of training

    # --- Training.

    def loss(self, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        """Equation 10 of Song et al. 2023, its weight and its distance those of Song & Dhariwal 2024 (table 1)."""
        (low, high), y = self.neighbours(x), self.told(x, y)
        noise = torch.randn_like(x)
        with torch.no_grad(), torch.random.fork_rng([x.device] if x.is_cuda else []):  # the same dropout twice
            end = self.denoise(x + low * noise, low, y)
        distance = pseudo_huber(self.denoise(x + high * noise, high, y), end, self.c)
        return {"loss": (distance / (high - low).flatten()).mean(), "distance": distance.detach().mean()}

    def neighbours(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The two ends of a step of the present grid for each image, (n, 1, 1, 1)."""
        sigmas = self.schedule(doubling(self.spent, self.first, self.last) + 1)
        i = torch.multinomial(log_normal_weights(sigmas, self.mean, self.std), len(x), replacement=True)
        low, high = (sigmas[j].to(x, non_blocking=True).view(-1, 1, 1, 1) for j in (i, i + 1))
        return low, high

    def denoise(self, x: Tensor, sigma: Tensor, y: Tensor | None = None) -> Tensor:
        """f: the end of the path through x = x0 + sigma * noise, unclipped; sigma () or (n, 1, 1, 1)."""
        sigma = for_each(sigma, x)
        c_skip, c_out, c_in = boundary(sigma, self.sigmas[0], self.sigma_data)
        t = self.time_scale * torch.log(sigma / self.sigmas[0])
        return c_skip * x + c_out * self.net(c_in * x, t.flatten(), y)

    # --- Sampling.

    @property
    def sigma_grid(self) -> Tensor:
        """(steps + 1,) falling noise levels that the sampler visits, on the host."""
        return self.grid(self.sigmas.cpu(), self.steps)

    @property
    def sampling(self) -> str:
        told = [] if self.condition is None else [" ".join(described(self.guidance))]
        return ", ".join(sampling_in_words(self.sampler, self.steps, self.grid) + told)

    @torch.no_grad()
    def sample(self, n: int, y: Tensor | None = None) -> Tensor:
        """Images of the conditions y, a row an image; without y, of conditions drawn as the data has them."""
        y, sigmas = self.chosen(n, y), self.sigma_grid
        x = sigmas[0] * torch.randn(n, *self.image_shape, device=self.device)
        return self.limited(self.sampler(self.ends(y), x, sigmas))

    def ends(self, y: Tensor | None = None) -> Denoise:
        """`denoise` for samplers, of these conditions, guided and limited, which counts network calls."""
        self.nfe = 0
        guided = self.guidance(self.counted, y)
        return lambda x, sigma: self.limited(guided(x, sigma))

    def counted(self, x: Tensor, sigma: Tensor, y: Tensor | None = None) -> Tensor:
        self.nfe += 1
        return self.denoise(x, sigma, y)

    def limited(self, x: Tensor) -> Tensor:
        return x.clamp(-1, 1) if self.bounded else x
