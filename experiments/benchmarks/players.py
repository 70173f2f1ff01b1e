"""A training epoch of our VAE beside pythae's trainer, and of our GAN beside DCGAN's loop, with the same networks.

The peers' copies lie in memory as torch makes networks, channels before positions: another layout is ours.
"""

import copy
import logging
from collections.abc import Iterator
from tempfile import mkdtemp

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.benchmarks import sides
from experiments.benchmarks.race import Absent, Race
from experiments.benchmarks.sides import Work
from genzoo.data.batches import Batches, epoch_batches
from genzoo.data.datamodule import to_float
from genzoo.data.splits import Images
from genzoo.models.gan import GAN
from genzoo.models.vae import VAE


def races(width: int = 16, side: int = 32, batch: int = 64, steps: int = 20) -> Iterator[Race | Absent]:
    """`steps` steps of a training, the fetching of the batches included; the nets are those of nets=dcgan."""
    x = sides.images(steps * batch, side)
    sizes = ("nets=dcgan", f"data.image_shape=[1,{side},{side}]", f"width={width}")
    work = f"{steps} steps with {batch} x 1x{side}x{side}"
    missing = sides.absent(f"VAE, {work}", "pythae's BaseTrainer", "pythae")
    yield missing or vae_race(f"VAE, {work}", sides.model_of("model=vae", *sizes), x, batch)
    gan = sides.model_of("model=gan", *sizes, "model.r1=0.0")  # DCGAN has no penalty
    ours = gan, sides.training(gan, Fed(x, batch))
    yield sides.race(f"GAN, {work}", "DCGAN's loop", ours, dcgan(gan, x, batch), comparable=False)


class Fed:
    """Batches of floats, as a run makes them from levels."""

    def __init__(self, x: Tensor, batch: int) -> None:
        levels = Images((x * 127.5 + 128).to(torch.uint8))
        self.loader = Batches(levels, epoch_batches(len(x), batch, seed=0, epoch=0))

    def __iter__(self) -> Iterator[Tensor]:
        return (to_float(x) for x, _ in self.loader)


def copied(net: nn.Module) -> nn.Module:
    return copy.deepcopy(net).to(memory_format=torch.contiguous_format)


# --- VAE.


def vae_race(work: str, vae: VAE, x: Tensor, batch: int) -> Race:
    ours = vae, sides.training(vae, Fed(x, batch))
    return sides.race(work, "pythae's BaseTrainer", ours, pythae(vae, x, batch), comparable=False)


def pythae(ours: VAE, x: Tensor, batch: int) -> tuple[nn.Module, Work]:
    """Its trainer over copies of our networks, with its own loss, progress bar and DataLoader."""
    from pythae.data.datasets import BaseDataset
    from pythae.models import VAE as PythaeVAE
    from pythae.models import VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.net = copied(ours.encoder)

        def forward(self, x: Tensor) -> ModelOutput:
            mu, log_var = self.net(x).chunk(2, dim=1)
            return ModelOutput(embedding=mu, log_covariance=log_var)

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            self.net = copied(ours.decoder)

        def forward(self, z: Tensor) -> ModelOutput:
            return ModelOutput(reconstruction=self.net(z))

    logging.getLogger("pythae").setLevel(logging.ERROR)
    model = PythaeVAE(VAEConfig(input_dim=x.shape[1:], latent_dim=ours.latent_dim), Encoder(), Decoder())
    settings = BaseTrainerConfig(
        output_dir=mkdtemp(), per_device_train_batch_size=batch, optimizer_cls="AdamW", learning_rate=1e-3
    )
    trainer = BaseTrainer(model, BaseDataset(x, torch.zeros(len(x))), training_config=settings)
    trainer.prepare_training()
    return model, lambda: trainer.train_step(1)


# --- GAN.


def dcgan(ours: GAN, x: Tensor, batch: int) -> tuple[nn.Module, Work]:
    """The loop of PyTorch's DCGAN example: one fake batch for both players, a backward pass each for real and fake."""
    generator, critic = nets = nn.ModuleList([copied(ours.generator), copied(ours.critic)])
    of_generator, of_critic = ours.optimizer(generator.parameters()), ours.optimizer(critic.parameters())
    fed = Fed(x, batch)

    def step(x: Tensor) -> Tensor:
        real, fake = torch.ones(len(x), 1), torch.zeros(len(x), 1)
        critic.zero_grad()
        F.binary_cross_entropy_with_logits(critic(x), real).backward()
        made = torch.tanh(generator(torch.randn(len(x), ours.latent_dim)))
        F.binary_cross_entropy_with_logits(critic(made.detach()), fake).backward()
        of_critic.step()
        generator.zero_grad()
        loss = F.binary_cross_entropy_with_logits(critic(made), real)
        loss.backward()
        of_generator.step()
        return loss.detach()

    return nets, lambda: [step(x) for x in fed][-1].item()
