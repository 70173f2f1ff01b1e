"""Latent models (Rombach et al. 2022): any family learns the latents of a frozen first stage, which decodes samples."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from genzoo.generator import Batch, Generator, HasAfterFit
from genzoo.nets.foreign import DiffusersUNet
from genzoo.nets.quantise import together


def of_generator(name: str) -> property:
    """An attribute that the wrapped generator has, or has not."""
    return property(
        lambda self: getattr(self.generator, name), lambda self, value: setattr(self.generator, name, value)
    )


class Latent(Generator):
    """z = (E(x) - mean) / std, of unit variance (section 4.3.2); the generator takes z for its images and knows no x.

    first_stage: a trained model with `latent_shape`, `encode` and `decode`, frozen; a Rombach et al. stage is
        genzoo.models.autoencoder.Autoencoder. Of codes, the nearest ones are decoded.
    generator: any family, made for images of latent_shape. One with a `sigma_data` has z of that standard deviation,
        by which its noise levels are measured (Karras et al. 2024, section 2.1).
    Training images are encoded once, when the training starts, unless they come as a stream, or maps are made of each
    that the generator is told (section 4.3.2): the low resolution of an image, or what a mask leaves of it.
    Raises ValueError when the sizes of the two do not fit.
    """

    def __init__(self, image_shape: Sequence[int], first_stage: nn.Module, generator: Generator) -> None:
        super().__init__(image_shape, generator.optimizer, generator.clip)
        if not hasattr(first_stage, "latent_shape"):
            raise ValueError("first_stage has no maps of latents: take a run of autoencoder_kl or autoencoder_vq")
        for name, wanted, there in (
            ("image_shape", tuple(first_stage.image_shape), self.image_shape),
            ("generator.image_shape", tuple(first_stage.latent_shape), generator.image_shape),
        ):
            if there != wanted:
                raise ValueError(f"model.{name} is {there}, the first stage's {wanted}: make them one")
        self.first_stage, self.generator = first_stage.requires_grad_(False).eval(), generator
        generator.bounded = False
        self.mapped = bool(getattr(getattr(generator, "condition", None), "maps", 0))  # whether told maps of images
        generator.raw = self.mapped
        self.automatic_optimization = generator.automatic_optimization
        self.compiled = [f"generator.{name}" for name in generator.compiled]
        self.encoded = False  # whether training batches hold latents
        channels = (generator.image_shape[0], 1, 1)
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("std", torch.ones(channels))

    sampler, steps, grid = map(of_generator, ("sampler", "steps", "grid"))
    nfe, classes, condition = map(of_generator, ("nfe", "classes", "condition"))
    guidance, guides, temperature = map(of_generator, ("guidance", "guides", "temperature"))
    full_precision = property(lambda self: self.generator.full_precision)

    @property
    def family(self) -> str:
        return f"latent {self.generator.family}"

    @property
    def sampling(self) -> str:
        size = "x".join(map(str, self.generator.image_shape))
        return f"{self.generator.sampling}, in latents of {size} ({self.first_stage.family})"

    def train(self, mode: bool = True) -> "Latent":
        super().train(mode)
        self.first_stage.eval()
        return self

    # --- Between images and latents.

    @torch.no_grad()
    def latents(self, x: Tensor) -> Tensor:
        """z (n, c, h, w) of images x, of mean 0 a channel and of one standard deviation over all training images."""
        with torch.autocast(x.device.type, enabled=False):  # as they are encoded once
            return (self.first_stage.encode(x) - self.mean) / self.std

    @torch.no_grad()
    def images(self, z: Tensor) -> Tensor:
        """x (n, C, H, W) in [-1, 1] of latents z."""
        with torch.autocast(z.device.type, enabled=False):  # decoders overflow in 16 bits, as Stable Diffusion XL's
            return self.first_stage.decode(z * self.std + self.mean)

    def sample(self, n: int, y: Tensor | None = None) -> Tensor:
        return self.images(self.generator.sample(n, y))

    # --- Training: the generator's own, on latents.

    def on_fit_start(self) -> None:
        """Measure the latents, keep them in place of the images, then let the generator look at its data."""
        super().on_fit_start()
        data = self.trainer.datamodule
        if data is not None and not self.encoded:
            # a UNet of diffusers knows its autoencoder's scale, a generator that is trained on the one it began with
            scaled = isinstance(getattr(self.generator, "net", None), DiffusersUNet)
            if not scaled and not self.mean.any():
                self.scale(data.on_after_batch_transfer(batch, 0) for batch in data.epoch())
            self.encoded = not self.mapped and data.encode_training(self.latents)
        self.generator.on_fit_start()

    @torch.no_grad()
    def scale(self, batches: Iterable[Batch]) -> None:
        """Set mean (c, 1, 1) to that of the latents of these images, and std to one for all channels; the images of
        all processes count."""
        sums = torch.zeros(2, len(self.mean) + 1, dtype=torch.float64, device=self.device)  # of z and z^2, their count
        for x, _ in batches:
            rows = self.first_stage.encode(x.to(self.device)).double().transpose(0, 1).flatten(1)  # (c, n h w)
            sums += F.pad(torch.stack([rows.sum(1), rows.square().sum(1)]), (0, 1), value=rows.shape[1])
        if together():
            dist.all_reduce(sums)
        mean, square = sums[:, :-1] / sums[:, -1:]
        self.mean.copy_(mean[:, None, None])
        std = (square - mean**2).mean().clamp(min=1e-12).sqrt()
        self.std.copy_(std / getattr(self.generator, "sigma_data", 1.0))

    def loss(self, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        """The generator's loss on the latents of images x."""
        self.hand_on()
        return self.generator.loss(self.latents(x), self.told(x, y))

    def told(self, x: Tensor, y: Tensor | None) -> Tensor | None:
        """What the generator is told of images x: y, or maps made of them."""
        return self.generator.condition.of(x, y) if self.mapped else y

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        self.hand_on()
        return self.generator.training_step(self.as_latents(batch), batch_idx)

    def hand_on(self) -> None:
        """To the generator, which no callback knows, how far the training is."""
        self.generator.images_seen, self.generator.spent = self.images_seen, self.spent

    def as_latents(self, batch: Batch) -> Batch:
        """A batch as training has it, with latents for images."""
        if self.encoded:
            return batch
        x, y = batch
        return self.latents(x.to(self.device)), self.told(x.to(self.device), y)

    def configure_optimizers(self) -> Any:
        return self.generator.configure_optimizers()

    def after_fit(self, batches: Iterable[Batch]) -> None:
        if isinstance(self.generator, HasAfterFit):  # one that is told maps looks at these alone
            self.generator.after_fit(batches if self.mapped else map(self.as_latents, batches))
