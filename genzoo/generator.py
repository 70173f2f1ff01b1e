"""The contract: a generator turns noise into images; everything else is the same for every family."""

import inspect
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn

Batch = tuple[Tensor, Tensor | None]
OptimizerFactory = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
LikelihoodKind = Literal["exact", "lower bound", "estimate"]


class Generator(LightningModule):
    """A family of generative model. Subclasses write `loss` and `sample`, and read like their paper.

    image_shape: (C, H, W).
    optimizer: a function from parameters to an optimiser.
    clip: largest global gradient norm of a step; larger gradients are scaled down to it.
    """

    sampling: str = ""  # how `sample` draws, in words that the report prints beside the score
    nfe: float = 1  # network calls per sampled image
    full_precision: bool = False  # refuses to train in 16 bits
    bounded: bool = True  # what it learns are 8-bit levels in [-1, 1]; False: any numbers, such as latents
    compiled: Sequence[str] = ()  # names of its networks that a GPU may compile: those never differentiated twice

    def __init__(self, image_shape: Sequence[int], optimizer: OptimizerFactory, clip: float = math.inf) -> None:
        super().__init__()
        self.image_shape = tuple(image_shape)
        self.optimizer = optimizer
        self.clip = clip
        self.images_seen = 0  # counted by budget.Budget
        self.spent = 0.0  # share of the budget, in [0, 1], set by it

    @property
    def family(self) -> str:
        """The name that tables print: the class's, in small letters."""
        return type(self).__name__.lower()

    def loss(self, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        """The scalar to minimise as "loss", beside its named terms; x (n, C, H, W) in [-1, 1], y (n, ...) what the data
        says of each, such as class ids (n,)."""
        raise NotImplementedError

    def sample(self, n: int, y: Tensor | None = None) -> Tensor:
        """(n, C, H, W) images in [-1, 1] on self.device, drawn with torch's global generator."""
        raise NotImplementedError

    def on_fit_start(self) -> None:
        """Raises ValueError for a precision that this family cannot be trained in, or for classes not its own."""
        precision = self.trainer.precision
        if self.full_precision and not precision.startswith(("32", "64")):
            raise ValueError(f"trainer.precision={precision}: {type(self).__name__} needs 32-true or 64-true")
        asked = self.classes if isinstance(self, TakesClasses) else 0
        there = getattr(self.trainer.datamodule, "num_classes", asked)
        if asked not in (0, there):
            remedy = f"condition.classes={there}" if there else "condition=none"
            raise ValueError(f"condition.classes={asked}, but the data has {there}: set {remedy}")

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        return self.loss(*batch)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        terms = {f"val/{name}": value for name, value in self.loss(*batch).items()}
        self.log_dict(terms, batch_size=len(batch[0]), sync_dist=True, logger=False)  # Curves logs, against images

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.optimizer(self.parameters())

    def configure_gradient_clipping(self, optimizer: torch.optim.Optimizer, *_: Any, **__: Any) -> None:
        self.clip_gradients_of(optimizer)

    def clip_gradients_of(self, optimizer: torch.optim.Optimizer) -> None:
        """Scale the gradients of this optimiser's parameters to a global norm of at most `clip`.

        A hook of our own since the Trainer's gradient_clip_val refuses manual optimisation.
        """
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        nn.utils.clip_grad_norm_(parameters, self.clip)

    def descend(self, loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
        """A step of one of several optimisers, in families that set `automatic_optimization` to False."""
        optimizer.zero_grad()
        self.manual_backward(loss)
        self.clip_gradients_of(optimizer)
        optimizer.step()


def refuse_conditions(model: Generator, y: Tensor | None) -> None:
    """Raise ValueError when something is asked of a model that was told nothing."""
    if y is not None:
        raise ValueError(f"{type(model).__name__} was trained without classes or conditions; call sample(n) without y")


# --- Abilities: a family has one by having the method; callers ask isinstance and never name a class.


class Able(type(Protocol)):
    """isinstance() by hasattr: since Python 3.12 a Protocol's own looks past a module's buffers and networks, and finds
    properties that raise AttributeError."""

    def __instancecheck__(cls, thing: object) -> bool:
        members = {name for parent in cls.__mro__[:-1] for name in (*vars(parent), *inspect.get_annotations(parent))}
        return all(hasattr(thing, name) for name in members if not name.startswith("_"))


class HasLikelihood(Protocol, metaclass=Able):
    """log_prob(x): (n,) nats of the density on [-1, 1]^D of the uniformly dequantised 8-bit image."""

    likelihood: LikelihoodKind

    def log_prob(self, x: Tensor) -> Tensor: ...


class Likelihood(NamedTuple):
    """One way to a log_prob, as of HasLikelihood; method: in words, with what decides its value.

    terms: names of the columns where log_prob gives (n, terms), whose sum is log p(x); the last one is a density's.
    """

    kind: LikelihoodKind
    method: str
    log_prob: Callable[[Tensor], Tensor]
    terms: tuple[str, ...] = ()


class HasLikelihoods(Protocol, metaclass=Able):
    """likelihoods(): every way to the log-likelihood that a family has, where it has several."""

    def likelihoods(self) -> list[Likelihood]: ...


class HasEncode(Protocol, metaclass=Able):
    """encode(x) -> z and decode(z) -> x: from images to latents and back."""

    def encode(self, x: Tensor) -> Tensor: ...

    def decode(self, z: Tensor) -> Tensor: ...


class HasDenoiser(Protocol, metaclass=Able):
    """denoiser(y) -> denoise(x, sigma) -> x0_hat, where x = x0 + sigma * noise, and a sampler over a number of steps.

    sigmas: (T,) rising noise levels of training; grid: (sigmas, steps) -> falling ones, which the sampler takes;
    sigma_grid: the grid in use. nfe: calls of the last draw.
    """

    sampler: Callable[..., Tensor]
    steps: int
    nfe: float
    sigmas: Tensor
    grid: Callable[[Tensor, int], Tensor]

    @property
    def sigma_grid(self) -> Tensor: ...

    def denoiser(self, y: Tensor | None = None) -> Callable[[Tensor, Tensor], Tensor]: ...


class TakesClasses(Protocol, metaclass=Able):
    """sample(n, y) draws images of the class ids y (n,); classes: how many there are, 0 where trained without."""

    classes: int


class HasTrajectory(Protocol, metaclass=Able):
    """trajectory(n, frames) -> (n, frames, C, H, W): what a model takes its samples for on their way from noise."""

    def trajectory(self, n: int, frames: int) -> Tensor: ...


class HasAfterFit(Protocol, metaclass=Able):
    """after_fit(batches): what can only be estimated from the training images once the weights are final."""

    def after_fit(self, batches: Iterable[Batch]) -> None: ...


# --- The conventions that every room shares.


def to_uint8(x: Tensor) -> Tensor:
    """[-1, 1] -> 0..255; every one of the 256 levels u / 127.5 - 1 maps back to itself."""
    return (x * 127.5 + 128).clip(0, 255).to(torch.uint8)


def from_uint8(u: Tensor) -> Tensor:
    """0..255, as uint8 or numbers -> [-1, 1]."""
    return u / 127.5 - 1


def dequantise(x: Tensor) -> Tensor:
    """The levels u / 127.5 - 1 of 8-bit images, each moved to a uniform place in its bin, which is 1 / 127.5 wide."""
    return x + (torch.rand_like(x) - 0.5) / 127.5


def bits_per_dim(log_prob: Tensor, dimensions: int) -> Tensor:
    """Bits per dimension of 8-bit images from nats of the density on [-1, 1]^D, whose bins are 1 / 127.5 wide."""
    return -log_prob / (dimensions * math.log(2)) + math.log2(127.5)
