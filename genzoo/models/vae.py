"""VAE (Kingma & Welling 2014): maximise the evidence lower bound of p(x) = E_{z ~ N(0, I)} p(x | z)."""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from genzoo.generator import Batch, Generator, Likelihood, OptimizerFactory, bits_per_dim, dequantise
from genzoo.nets.conv import with_planes
from genzoo.told import Classed


class VAE(Classed, Generator):
    """q(z | x) = N(mu, exp(log_var)); loss = -E_q log p(x | z) + beta KL(q || N(0, I)), in nats a dimension.

    encoder: (out_features) -> net from images to that many features; decoder: (in_features, out_channels) -> net.
    head: p(x | z) given the decoder's output (genzoo.nets.heads).
    beta: weight of the KL term, reached linearly over the first `warmup` images.
    mixture: components of a Gaussian mixture fitted to the aggregate posterior after training, to draw z from
        instead of N(0, I) (Ghosh et al. 2020); 0 keeps N(0, I).
    particles: k of the importance-weighted bound that `log_prob` gives; 1 is the ELBO.
    classes: of the data, which q(z | x, y) and p(x | z, y) are told as planes of the image and beside z (Sohn et al.
        2015); 0 to ignore them. `dropout` of the labels are left out in training: then `encode` needs none.
    """

    likelihood = "lower bound"
    compiled = ("encoder", "decoder")

    def __init__(
        self,
        image_shape: Sequence[int],
        optimizer: OptimizerFactory,
        encoder: Callable[..., nn.Module],
        decoder: Callable[..., nn.Module],
        head: nn.Module,
        latent_dim: int,
        beta: float = 1.0,
        warmup: int = 0,
        mixture: int = 0,
        particles: int = 1,
        classes: int = 0,
        dropout: float = 0.1,
        clip: float = 1.0,
    ) -> None:
        super().__init__(image_shape, optimizer, clip)
        if classes and mixture:
            raise ValueError(f"model.mixture={mixture} knows no classes: set model.mixture=0 or condition=none")
        channels, *size = self.image_shape
        self.encoder = encoder(out_features=2 * latent_dim, image_shape=(channels + classes, *size))
        self.decoder = decoder(in_features=latent_dim + classes, out_channels=head.parameters_of(channels))
        self.of_classes(classes, dropout)
        self.head = head
        self.latent_dim = latent_dim
        self.beta = beta
        self.warmup = warmup
        self.particles = particles
        self.mixture = mixture
        self.register_buffer("mixture_weights", torch.full((mixture,), 1 / max(mixture, 1)))
        self.register_buffer("mixture_means", torch.zeros(mixture, latent_dim))
        self.register_buffer("mixture_factors", torch.eye(latent_dim).repeat(mixture, 1, 1))

    @property
    def sampling(self) -> str:
        if self.mixture:
            return f"decoder mean of z from a {self.mixture}-component Gaussian mixture of the aggregate posterior"
        return "decoder mean of z ~ N(0, I)"

    def posterior(self, x: Tensor, told: Tensor) -> tuple[Tensor, Tensor]:
        """mu and log_var of q(z | x, y), each (n, latent_dim); told: y as a `class_vector`."""
        mu, log_var = self.encoder(with_planes(x, told)).chunk(2, dim=1)
        return mu, log_var

    def decoded(self, z: Tensor, told: Tensor) -> Tensor:
        """What the decoder says of z (n, latent_dim): parameters of p(x | z, y)."""
        return self.decoder(torch.cat([z, told], dim=1))

    def loss(self, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        """-ELBO and its two terms in nats a dimension, and the bound itself in bits a dimension."""
        told = self.told(x, y)
        mu, log_var = self.posterior(x, told)
        z = reparameterise(mu, log_var)
        reconstruction = -self.head.log_prob(x, self.decoded(z, told)).mean() / x[0].numel()
        kl = kl_to_standard_normal(mu, log_var).mean() / x[0].numel()
        beta = self.beta * min(1.0, self.images_seen / self.warmup if self.warmup else 1.0)
        return {
            "loss": reconstruction + beta * kl,
            "reconstruction": reconstruction.detach(),
            "kl": kl.detach(),
            "bits_per_dim": bits_per_dim(-(reconstruction + kl).detach(), 1),
        }

    def log_prob(self, x: Tensor) -> Tensor:
        """(n,) nats: the importance-weighted bound with `particles` draws of z."""
        return self.importance_bound(x, self.particles)

    def likelihoods(self) -> list[Likelihood]:
        """The ELBO and, for two particles or more, the tighter bound."""
        elbo = Likelihood(self.likelihood, "ELBO", partial(self.importance_bound, particles=1))
        if self.particles == 1:
            return [elbo]
        return [elbo, Likelihood(self.likelihood, f"IWAE-{self.particles}", self.log_prob)]

    @torch.no_grad()
    def importance_bound(self, x: Tensor, particles: int) -> Tensor:
        """log of the mean of p(x | z) p(z) / q(z | x) over draws of z ~ q, (n,) nats (Burda et al. 2016, equation 8).

        q sees the 8-bit image x, the head the dequantised one: no narrow head gains by the levels' being discrete.
        """
        return self.marginal(partial(self.bound_given, x, dequantise(x), particles), x)

    def bound_given(self, x: Tensor, dequantised: Tensor, particles: int, told: Tensor) -> Tensor:
        """The same of p(x | y), (n,) nats."""
        mu, log_var = self.posterior(x, told)
        log_w = torch.stack([self.log_weight(dequantised, mu, log_var, told) for _ in range(particles)])  # (k, n)
        return torch.logsumexp(log_w, dim=0) - math.log(particles)

    def log_weight(self, x: Tensor, mu: Tensor, log_var: Tensor, told: Tensor) -> Tensor:
        """log p(x | z) + log p(z) - log q(z | x) at one z ~ q, (n,)."""
        z = reparameterise(mu, log_var)
        log_prior = -0.5 * z**2
        log_posterior = -0.5 * (log_var + (z - mu) ** 2 * torch.exp(-log_var))
        return self.head.log_prob(x, self.decoded(z, told)) + (log_prior - log_posterior).sum(1)

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """The posterior mean, (n, latent_dim)."""
        return self.posterior(x, self.class_vector(x))[0]

    @torch.no_grad()
    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """The mean image of p(x | z), (n, C, H, W) in [-1, 1]; y: class ids (n,), None for no class."""
        x = self.head.mean(self.decoded(z, self.class_vector(z, y)))
        return x.clamp(-1, 1) if self.bounded else x

    def reconstruct(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x))

    def sample(self, n: int, y: Tensor | None = None) -> Tensor:
        y = self.chosen(n, y)
        z = torch.randn(n, self.latent_dim, device=self.device)
        if self.mixture:
            k = torch.multinomial(self.mixture_weights, n, replacement=True)
            z = self.mixture_means[k] + (self.mixture_factors[k] @ z[:, :, None])[:, :, 0]
        return self.decode(z, y)

    @torch.no_grad()
    def after_fit(self, batches: Iterable[Batch]) -> None:
        """Count the classes, or fit the mixture to one draw of q(z | x) for each image of `batches`."""
        super().after_fit(batches)
        if not self.mixture:
            return
        from sklearn.mixture import GaussianMixture

        images = (x.to(self.device) for x, _ in batches)
        z = torch.cat([reparameterise(*self.posterior(x, self.class_vector(x))) for x in images])
        fit = GaussianMixture(self.mixture, reg_covar=1e-4, random_state=0).fit(z.double().cpu().numpy())
        self.mixture_weights.copy_(torch.from_numpy(fit.weights_))
        self.mixture_means.copy_(torch.from_numpy(fit.means_))
        self.mixture_factors.copy_(torch.linalg.cholesky(torch.from_numpy(fit.covariances_)))


def reparameterise(mu: Tensor, log_var: Tensor) -> Tensor:
    """z = mu + sigma * noise, through which gradients reach mu and log_var (equation 10 of the paper)."""
    return mu + torch.exp(0.5 * log_var) * torch.randn_like(mu)


def kl_to_standard_normal(mu: Tensor, log_var: Tensor) -> Tensor:
    """KL(N(mu, exp(log_var)) || N(0, I)) of each row, (n,) nats (appendix B of the paper)."""
    return 0.5 * (mu**2 + log_var.exp() - 1 - log_var).sum(1)
