"""A prior of VQ codes (van den Oord et al. 2017, section 3.3; Esser et al. 2021, section 3.2): a transformer that
tells, in raster order, each code of a frozen first stage from those before it and, as Ramesh et al. 2021, a text."""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genzoo.generator import Generator, OptimizerFactory
from genzoo.told import Told


class CodePrior(Told, Generator):
    """p(s) = prod_i p(s_i | s_1, ..., s_{i-1}) of the codes s = (s_1, ..., s_L) of an image, row by row.

    first_stage: a trained model with `codes`, `decode_codes` and `codebook_size`, frozen:
        genzoo.models.autoencoder.Autoencoder with genzoo.nets.quantise.VectorQuantiser.
    net: (codes, length) -> genzoo.nets.transformer.Transformer or its like, with a `condition` or None.
    temperature: of samples, whose logits are divided by it. top_k: only so many of the likeliest codes are drawn, 1
        is greedy; 0 for all.
    dropout: share of the conditions that are replaced by the null in training, so that samples may be guided.
    guidance: log p_null + guidance (log p_y - log p_null) takes the place of log p_y (Ho & Salimans 2022); 1 for none,
        which spares the second call of the net.
    Training images are encoded once, when the training starts, unless they come as a stream.
    It has no likelihood: p(s) is the probability of all images that are encoded to s together, no density of any.
    Raises ValueError for a first stage without codes or of other images, and for a temperature or top_k out of range.
    """

    family = "VQ prior"

    def __init__(
        self,
        image_shape: Sequence[int],
        optimizer: OptimizerFactory,
        first_stage: nn.Module,
        net: Callable[..., nn.Module],
        temperature: float = 1.0,
        top_k: int = 0,
        dropout: float = 0.1,
        guidance: float = 1.0,
        clip: float = 1.0,
    ) -> None:
        super().__init__(image_shape, optimizer, clip)
        check_stage(first_stage, self.image_shape)
        self.first_stage = first_stage.requires_grad_(False).eval()
        self.codebook_size, self.size = first_stage.codebook_size, first_stage.latent_shape[1:]  # K, (h, w)
        self.encoded = False  # whether training batches hold codes
        self.temperature, self.top_k, self.dropout, self.guidance = temperature, top_k, dropout, guidance
        self.check_draws()
        self.net = net(codes=self.codebook_size, length=math.prod(self.size))
        self.register_asks()

    def check_draws(self) -> None:
        """Raises ValueError for a temperature or top_k out of range, which may be exchanged after training."""
        if not self.temperature > 0 or math.isinf(self.temperature):
            raise ValueError(f"temperature={self.temperature}: give a number above 0, or top_k=1 for greedy")
        if not 0 <= self.top_k <= self.codebook_size:
            raise ValueError(f"top_k={self.top_k}: give 1 to {self.codebook_size}, the number of codes, or 0 for all")

    @property
    def guided(self) -> bool:
        return self.condition is not None and self.guidance != 1

    @property
    def calls(self) -> int:
        """Of the network for each code: guidance 1 needs no null, 0 nothing else."""
        return 2 if self.guided and self.guidance != 0 else 1

    @property
    def nfe(self) -> float:
        return math.prod(self.size) * self.calls

    @property
    def sampling(self) -> str:
        h, w = self.size
        parts = [f"decoder of {h}x{w} codes drawn one by one from a causal transformer"]
        parts += [f"temperature {self.temperature:g}"] * (self.temperature != 1)
        parts += [f"of the {self.top_k} likeliest"] * bool(self.top_k)
        parts += [f"guidance {self.guidance:g}"] * self.guided
        return ", ".join(parts)

    def train(self, mode: bool = True) -> "CodePrior":
        super().train(mode)
        self.first_stage.eval()
        return self

    # --- Training, on codes.

    def on_fit_start(self) -> None:
        """Look at the data, then keep the codes of training images in their place."""
        super().on_fit_start()
        if self.trainer.datamodule is not None:
            self.encoded = self.trainer.datamodule.encode_training(self.codes)

    def codes(self, x: Tensor) -> Tensor:
        """(n, h, w) int64 of images x, or x itself where it is codes already."""
        if not x.is_floating_point():
            return x
        with torch.autocast(x.device.type, enabled=False):  # as they are encoded once
            return self.first_stage.codes(x)

    def loss(self, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        """-log p(s | y) in nats a code, and the same in bits; x: images, or their codes (n, h, w) int64."""
        ids = self.codes(x).flatten(1)
        loss = F.cross_entropy(self.net(ids, self.told(x, y)).flatten(0, 1), ids.flatten())
        return {"loss": loss, "bits_per_code": loss.detach() / math.log(2)}

    # --- Sampling.

    def sample(self, n: int, y: Tensor | None = None) -> Tensor:
        ids = self.draw(n, y)
        with torch.autocast(ids.device.type, enabled=False):  # as genzoo.models.latent decodes
            return self.first_stage.decode_codes(ids)

    @torch.no_grad()
    def draw(self, n: int, y: Tensor | None = None) -> Tensor:
        """(n, h, w) int64, codes of new images of the conditions y, or of such as training had.

        Raises ValueError when the net's weights have become NaN or infinite.
        """
        y = self.chosen(n, y)
        u = torch.rand(n, self.net.length, device=self.device)  # at once: then an image draws once from its stream
        if self.guided:
            y = torch.cat([y, self.condition.null(n)][-self.calls :])

        def choose(logits: Tensor, place: int) -> Tensor:
            if place == 0 and not logits.isfinite().all():  # once, since a GPU is waited for
                raise ValueError(
                    "the network's logits are NaN or infinite, so no codes can be drawn: "
                    "train with a smaller learning rate or tighter gradient clipping"
                )
            strong, weak = logits[:n], logits[-n:]  # the same rows of a single call
            return self.picked(torch.lerp(weak, strong, self.guidance), u[:, place]).repeat(self.calls)

        return self.net.unrolled(self.calls * n, y, choose)[:n].unflatten(1, self.size)

    def picked(self, logits: Tensor, u: Tensor) -> Tensor:
        """(n,) ids drawn from softmax(logits (n, K) / temperature), cut to the top_k, by uniform numbers u (n,)."""
        logits = logits.double()
        if self.top_k:
            least = logits.topk(self.top_k).values[:, -1:]
            logits = logits.masked_fill(logits < least, -math.inf)
        return inverted(torch.softmax(logits / self.temperature, dim=1), u)


def check_stage(first_stage: nn.Module, image_shape: tuple[int, ...]) -> None:
    if not getattr(first_stage, "codebook_size", 0):
        raise ValueError("first_stage has no codes: take a run of autoencoder_vq")
    if tuple(first_stage.image_shape) != image_shape:
        raise ValueError(
            f"model.image_shape is {image_shape}, the first stage's {tuple(first_stage.image_shape)}: make them one"
        )


def inverted(probabilities: Tensor, u: Tensor) -> Tensor:
    """(n,): of each row of probabilities (n, K) float64 the first entry that takes the running sum above u in [0, 1).

    What has probability 0 is never taken.
    """
    reached = probabilities.cumsum(1)
    at = u.double()[:, None] * reached[:, -1:]  # the last sum is 1 but for rounding
    return torch.searchsorted(reached, at, right=True)[:, 0]
