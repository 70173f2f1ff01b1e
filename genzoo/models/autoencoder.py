"""Perceptual compression (Esser et al. 2021; Rombach et al. 2022): images <-> small latent maps, a first stage."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genzoo.generator import Batch, Generator, OptimizerFactory, refuse_conditions

Loss = Callable[[Tensor, Tensor], Tensor]


class Adversary(nn.Module):
    """A critic of reconstructions, silent until `start` images have been seen.

    critic: images -> logits (genzoo.nets.patch). adversarial: (real logits, fake logits) -> (critic's loss, decoder's
    loss), one of genzoo.models.gan. weight: of the decoder's loss, beside the adaptive one.
    """

    def __init__(
        self,
        critic: nn.Module,
        adversarial: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
        start: int = 0,
        weight: float = 0.5,
    ) -> None:
        super().__init__()
        self.critic, self.adversarial = critic, adversarial
        self.start, self.weight = start, weight

    def losses(self, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        return self.adversarial(self.critic(real), self.critic(fake))


def adaptive_weight(loss: Tensor, adversarial: Tensor, last: Tensor) -> Tensor:
    """|grad loss| / |grad adversarial| at the decoder's last layer: both pull it alike (Esser et al. 2021, equation 7).

    0 where there are no gradients, as in validation.
    """
    if not torch.is_grad_enabled():
        return torch.zeros_like(loss)
    ours, theirs = (torch.autograd.grad(value, last, retain_graph=True)[0].norm() for value in (loss, adversarial))
    return (ours / (theirs + 1e-4)).clamp(max=1e4)


def both(terms: dict[str, Tensor], decoder: Tensor, critic: Tensor) -> dict[str, Tensor]:
    """The terms of `compress` and both players' losses; "loss" is the sum of all that is minimised."""
    loss = terms["loss"] + decoder + critic
    return terms | {"loss": loss, "decoder_loss": decoder.detach(), "critic_loss": critic.detach()}


class Autoencoder(Generator):
    """x -> encoder -> bottleneck -> z -> decoder -> x_hat; loss = pixel + perceptual + the bottleneck's penalty.

    encoder: (out_channels) -> net with the `size` (h, w) of its maps; decoder: (in_channels) -> net whose last layer
        is a convolution (genzoo.nets.autoencoder).
    bottleneck: genzoo.nets.autoencoder.Gaussian or genzoo.nets.quantise.VectorQuantiser.
    pixel, perceptual: (x_hat, x) -> (), the latter possibly none (genzoo.nets.perceptual).
    adversary: an `Adversary`, or none; with one each batch takes a step of encoder and decoder, then one of the critic.
    Its density is that of no head: it has no likelihood.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        optimizer: OptimizerFactory,
        encoder: Callable[..., nn.Module],
        decoder: Callable[..., nn.Module],
        bottleneck: nn.Module,
        pixel: Loss = F.l1_loss,
        perceptual: Loss | None = None,
        adversary: Adversary | None = None,
        clip: float = 1.0,
    ) -> None:
        super().__init__(image_shape, optimizer, clip)
        self.bottleneck = bottleneck
        self.encoder = encoder(out_channels=bottleneck.in_channels)
        self.decoder = decoder(in_channels=bottleneck.channels)
        self.pixel, self.perceptual, self.adversary = pixel, perceptual, adversary
        self.latent_shape = (bottleneck.channels, *self.encoder.size)
        self.automatic_optimization = adversary is None
        self.full_precision = adversary is not None  # gradients are clipped before a loss scale is taken off them
        # the adaptive weight goes through the decoder's graph more than once, which a compiled one forbids
        self.compiled = ("encoder", "decoder") if adversary is None else ("encoder",)

    @property
    def family(self) -> str:
        return f"{self.bottleneck.name} autoencoder"

    @property
    def sampling(self) -> str:
        return self.bottleneck.sampling

    @property
    def codebook_size(self) -> int:
        """How many codes there are; 0 where latents are continuous."""
        return self.bottleneck.codes

    def compress(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """x_hat, unbounded, and the loss with its terms before any critic."""
        squeezed = self.bottleneck(self.encoder(x))
        x_hat = self.decoder(squeezed.z)
        terms = {"pixel": self.pixel(x_hat, x)}
        if self.perceptual is not None:
            terms["perceptual"] = self.perceptual(x_hat, x)
        loss = sum(terms.values()) + squeezed.penalty
        return x_hat, {"loss": loss} | {name: value.detach() for name, value in terms.items()} | squeezed.terms

    def plays(self) -> bool:
        """Whether there is a critic that is no longer silent."""
        return self.adversary is not None and self.images_seen >= self.adversary.start

    def decoder_loss(self, x: Tensor, x_hat: Tensor, loss: Tensor) -> Tensor:
        """The adversarial loss of x_hat under its weights, beside `loss`."""
        _, adversarial = self.adversary.losses(x, x_hat)
        return self.adversary.weight * adaptive_weight(loss, adversarial, self.decoder[-1].weight) * adversarial

    def loss(self, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        """The sum of what both players minimise, and its terms."""
        x_hat, terms = self.compress(x)
        if not self.plays():
            return terms
        decoder = self.decoder_loss(x, x_hat, terms["loss"])
        critic, _ = self.adversary.losses(x, x_hat.detach())
        return both(terms, decoder, critic)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        if self.adversary is None:
            return super().training_step(batch, batch_idx)
        x, _ = batch
        ours, theirs = self.optimizers()
        x_hat, terms = self.compress(x)
        if not self.plays():
            self.descend(terms["loss"], ours)
            return terms | {"loss": terms["loss"].detach()}
        self.adversary.requires_grad_(False)
        decoder = self.decoder_loss(x, x_hat, terms["loss"])
        self.descend(terms["loss"] + decoder, ours)
        self.adversary.requires_grad_(True)
        critic, _ = self.adversary.losses(x, x_hat.detach())
        self.descend(critic, theirs)
        with torch.no_grad():
            return both(terms, decoder, critic)

    def configure_optimizers(self) -> torch.optim.Optimizer | list[torch.optim.Optimizer]:
        if self.adversary is None:
            return super().configure_optimizers()
        ours = [p for net in (self.encoder, self.bottleneck, self.decoder) for p in net.parameters()]
        return [self.optimizer(ours), self.optimizer(self.adversary.parameters())]

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """z (n, *latent_shape): the posterior's mean, or what `decode` moves to the nearest codes."""
        return self.bottleneck.latent(self.encoder(x))

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """z (n, *latent_shape), each place first moved to its nearest code where there are any, -> x in [-1, 1]."""
        return self.decoder(self.bottleneck.nearest(z)).clamp(-1, 1)

    def reconstruct(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x))

    @torch.no_grad()
    def codes(self, x: Tensor) -> Tensor:
        """(n, h, w) int64 in 0, ..., codebook_size - 1. Raises ValueError where there are no codes."""
        self.check_codes(torch.zeros((), dtype=torch.int64))
        return self.bottleneck.ids(self.encoder(x))

    @torch.no_grad()
    def decode_codes(self, ids: Tensor) -> Tensor:
        """The images of codes (n, h, w). Raises ValueError for numbers that are no codes, or where there are none."""
        self.check_codes(ids)
        return self.decoder(self.bottleneck.look_up(ids)).clamp(-1, 1)

    def check_codes(self, ids: Tensor) -> None:
        if not self.codebook_size:
            raise ValueError("the latents of this autoencoder are continuous: train model=autoencoder_vq to have codes")
        if ids.dtype != torch.int64 or ids.min() < 0 or ids.max() >= self.codebook_size:
            raise ValueError(f"codes are int64 from 0 to {self.codebook_size - 1}: give what `codes(x)` gives")

    def sample(self, n: int, y: Tensor | None = None) -> Tensor:
        refuse_conditions(self, y)
        return self.decode(self.bottleneck.draw(n, self.latent_shape[1:], self.device))
