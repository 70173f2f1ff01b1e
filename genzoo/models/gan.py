"""GAN (Goodfellow et al. 2014): a generator and a critic that learn against each other."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from genzoo.generator import Batch, Generator, OptimizerFactory
from genzoo.told import Classed

# --- Adversarial losses: (real logits, fake logits), both (n, 1), -> (critic's loss, generator's loss).


def non_saturating(real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    """Goodfellow et al. 2014, section 3."""
    return (F.softplus(-real) + F.softplus(fake)).mean(), F.softplus(-fake).mean()


def hinge(real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    """Lim & Ye 2017; Miyato et al. 2018, equations 16 and 17."""
    return (F.relu(1 - real) + F.relu(1 + fake)).mean(), -fake.mean()


def wasserstein(real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    """Arjovsky et al. 2017; wants `gradient_penalty`."""
    return (fake - real).mean(), -fake.mean()


def relativistic(real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    """Jolicoeur-Martineau 2019, with R1 and R2 the loss of R3GAN (Huang et al. 2024, equation 1)."""
    return F.softplus(fake - real).mean(), F.softplus(real - fake).mean()


# --- Penalties on the critic's gradient.


def squared_gradient(critic: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Mean of |grad critic(x)|^2: R1 on real images, R2 on generated ones (Mescheder et al. 2018, equation 9)."""
    x = x.detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
    return gradient.flatten(1).square().sum(1).mean()


def gradient_penalty(critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor) -> Tensor:
    """Mean of (|grad critic| - 1)^2 between real and generated images (Gulrajani et al. 2017, equation 3)."""
    w = torch.rand(len(real), 1, 1, 1, device=real.device, dtype=real.dtype)
    x = torch.lerp(real, fake, w).detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
    return (gradient.flatten(1).norm(dim=1) - 1).square().mean()


# --- Differentiable augmentation (Zhao et al. 2020), applied to all that the critic sees.


def translate(x: Tensor, share: float = 0.125) -> Tensor:
    """Each image moved by up to `share` of its sides, its edge value of -1 coming in."""
    n, _, h, w = x.shape
    dy, dx = (torch.randint(-int(s * share + 0.5), int(s * share + 0.5) + 1, (n, 1, 1)) for s in (h, w))
    rows = (torch.arange(h)[None, :, None] + dy).to(x.device)  # (n, h, 1)
    columns = (torch.arange(w)[None, None, :] + dx).to(x.device)  # (n, 1, w)
    inside = (rows >= 0) & (rows < h) & (columns >= 0) & (columns < w)
    moved = x[torch.arange(n, device=x.device)[:, None, None], :, rows % h, columns % w]  # (n, h, w, C)
    return torch.where(inside[:, None], moved.permute(0, 3, 1, 2), -1)


def brighten(x: Tensor, most: float = 0.5) -> Tensor:
    """Each image's values moved together by up to `most` / 2."""
    return x + most * (torch.rand(len(x), 1, 1, 1, device=x.device) - 0.5)


class GAN(Classed, Generator):
    """G maps z ~ N(0, I) to images; D scores images. Each batch: one step of D, then one of G.

    generator: (in_features, out_channels) -> net; critic: (out_features) -> net.
    adversarial: one of the losses above.
    augment: functions applied in turn to real and generated images before D.
    r1, r2, penalty: weights of the penalties on D; r1 and r2 are gamma, halved as in Mescheder et al.
    spectral: spectral normalisation of D's layers (Miyato et al. 2018).
    classes: of the data, of which G is told beside z and D by projection (Miyato & Koyama 2018); 0 to ignore them.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        optimizer: OptimizerFactory,
        generator: Callable[..., nn.Module],
        critic: Callable[..., nn.Module],
        adversarial: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
        latent_dim: int,
        augment: Sequence[Callable[[Tensor], Tensor]] = (),
        r1: float = 0.0,
        r2: float = 0.0,
        penalty: float = 0.0,
        spectral: bool = False,
        classes: int = 0,
        clip: float = 10.0,
    ) -> None:
        super().__init__(image_shape, optimizer, clip)
        self.automatic_optimization = False
        self.generator = generator(in_features=latent_dim + classes, out_channels=self.image_shape[0])
        self.critic = critic(out_features=1 + classes)  # the last layer's further rows are the classes' embeddings
        if spectral:
            self.critic.apply(normalise_spectrum)
        self.adversarial = adversarial
        self.latent_dim = latent_dim
        self.of_classes(classes)
        self.augment = augment
        self.r1, self.r2, self.penalty = r1, r2, penalty

    sampling = "generator of z ~ N(0, I)"
    full_precision = True  # gradients are clipped before a loss scale would be taken off them
    compiled = ("generator",)

    def generate(self, told: Tensor) -> Tensor:
        """Images of classes told as a `class_vector` (n, classes)."""
        z = torch.randn(len(told), self.latent_dim, device=self.device)
        x = self.generator(torch.cat([z, told], dim=1))
        return torch.tanh(x) if self.bounded else x

    def judge(self, x: Tensor, told: Tensor) -> Tensor:
        """D of the augmented images, (n, 1) logits: psi(phi(x)) + y' V phi(x), equation 3 of Miyato & Koyama."""
        for augment in self.augment:
            x = augment(x)
        logits = self.critic(x)
        return logits[:, :1] + (logits[:, 1:] * told).sum(1, keepdim=True)

    def critic_loss(self, real: Tensor, fake: Tensor, told: Tensor) -> dict[str, Tensor]:
        """D's loss with its penalties; `fake` carries no gradient."""
        judge = partial(self.judge, told=told)
        loss, _ = self.adversarial(judge(real), judge(fake))
        terms = {"critic_loss": loss.detach()}
        with torch.enable_grad():
            if self.r1:
                loss = loss + 0.5 * self.r1 * squared_gradient(judge, real)
            if self.r2:
                loss = loss + 0.5 * self.r2 * squared_gradient(judge, fake)
            if self.penalty:
                loss = loss + self.penalty * gradient_penalty(judge, real, fake)
        return {"loss": loss, **terms}

    def generator_loss(self, real: Tensor, fake: Tensor, told: Tensor) -> Tensor:
        return self.adversarial(self.judge(real, told), self.judge(fake, told))[1]

    def loss(self, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        """Both players' losses; their sum is reported, never minimised."""
        told = self.told(x, y)
        fake = self.generate(told)
        return both(self.critic_loss(x, fake.detach(), told), self.generator_loss(x, fake, told))

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        x, y = batch
        told = self.told(x, y)
        critic_optimizer, generator_optimizer = self.optimizers()
        fake = self.generate(told)  # one for both players, as Radford et al. 2016 have it
        critic = self.critic_loss(x, fake.detach(), told)
        self.descend(critic["loss"], critic_optimizer)
        self.critic.requires_grad_(False)
        generator = self.generator_loss(x, fake, told)
        self.descend(generator, generator_optimizer)
        self.critic.requires_grad_(True)
        with torch.no_grad():
            return both(critic, generator)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return [self.optimizer(self.critic.parameters()), self.optimizer(self.generator.parameters())]

    @torch.no_grad()
    def sample(self, n: int, y: Tensor | None = None) -> Tensor:
        return self.generate(self.class_vector(torch.empty(n, 0, device=self.device), self.chosen(n, y)))


def both(critic: dict[str, Tensor], generator: Tensor) -> dict[str, Tensor]:
    """The sum of both players' losses, and each."""
    loss = critic["loss"] + generator
    return {"loss": loss, "critic_loss": critic["critic_loss"], "generator_loss": generator.detach()}


def normalise_spectrum(module: nn.Module) -> None:
    """Divide a layer's weight by its largest singular value (of a convolution's kernel as a matrix)."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        spectral_norm(module)
