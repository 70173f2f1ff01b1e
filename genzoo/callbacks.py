"""What happens around training, the same for every family: noise, averaged weights, curves, grids, faults."""

import hashlib
import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, Trainer
from torch import Tensor
from tqdm import tqdm

from genzoo.budget import budget_of
from genzoo.generator import Generator, to_uint8
from genzoo.loggers import CurvesFile, WandbCurves
from genzoo.pictures import save_grid

logger = logging.getLogger("genzoo")


class Noise(Callback):
    """Lets the random numbers of a batch follow from (seed, rank, images seen) alone, and those of a validation from
    (seed, rank): so a run that was stopped goes on with the very numbers that it would have drawn."""

    def on_fit_start(self, trainer: Trainer, model: Generator) -> None:
        # torch's host generator knows 32 bits of a seed: streams that are counted do not meet within a run
        key = f"{torch.initial_seed()} {trainer.global_rank}".encode()
        self.start = int.from_bytes(hashlib.sha256(key).digest()[:4])

    def on_train_batch_start(self, trainer: Trainer, model: Generator, batch: Any, batch_idx: int) -> None:
        reseed(self.start + model.images_seen, model.device)

    def on_validation_start(self, trainer: Trainer, model: Generator) -> None:
        reseed(self.start - 1, model.device)


def reseed(seed: int, device: torch.device) -> None:
    """Start the generators of the host and of this device; torch.manual_seed asks every kind of device, slowly."""
    torch.default_generator.manual_seed(seed % 2**32)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed % 2**32)


class EMA(Callback):
    """Exponential moving average of the parameters, in place of the raw ones whenever the model is judged.

    The decay warms up as min(decay, (1 + n) / (10 + n)) after n batches. Buffers stay as they are: averaging the
    integer buffers of a flow's permutations would ruin them. List it before callbacks that judge the model.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.batches = 0
        self.average: dict[str, Tensor] = {}
        self.raw: list[Tensor] = []  # the parameters themselves, which stay where they are while training lasts

    def on_train_start(self, trainer: Trainer, model: Generator) -> None:
        self.raw = []

    @torch.no_grad()
    def on_train_batch_end(self, trainer: Trainer, model: Generator, outputs: Any, batch: Any, batch_idx: int) -> None:
        if not self.raw:  # only now, since a flow's first batch sets the scales it starts from
            parameters = {name: p.detach() for name, p in model.named_parameters()}
            average = self.average or {name: p.clone() for name, p in parameters.items()}
            self.average = {name: a.to(parameters[name].device) for name, a in average.items()}
            self.raw = [parameters[name] for name in average]
        decay = min(self.decay, (1 + self.batches) / (10 + self.batches))
        torch._foreach_lerp_(list(self.average.values()), self.raw, 1 - decay)
        self.batches += 1

    @torch.no_grad()
    def swap(self, model: Generator) -> None:
        """Exchange the model's parameters with their averages."""
        for name, p in model.named_parameters():
            if name in self.average:
                held = p.detach().clone()
                p.copy_(self.average[name])
                self.average[name].copy_(held)

    def on_validation_start(self, trainer: Trainer, model: Generator) -> None:
        self.swap(model)

    def on_validation_end(self, trainer: Trainer, model: Generator) -> None:
        self.swap(model)

    def on_save_checkpoint(self, trainer: Trainer, model: Generator, checkpoint: dict[str, Any]) -> None:
        checkpoint["ema"] = {"average": self.average, "batches": self.batches}

    def on_load_checkpoint(self, trainer: Trainer, model: Generator, checkpoint: dict[str, Any]) -> None:
        self.average, self.batches = checkpoint["ema"]["average"], checkpoint["ema"]["batches"]


@contextmanager
def averaged(trainer: Trainer, model: Generator) -> Iterator[Generator]:
    """The model with its averaged weights, for as long as the block runs."""
    averages = [c for c in trainer.callbacks if isinstance(c, EMA)]
    for ema in averages:
        ema.swap(model)
    try:
        yield model.eval()
    finally:
        for ema in averages:
            ema.swap(model)


class Curves(Callback):
    """Sends losses to every logger, with images seen as the x-axis, at `points` moments of the budget."""

    def __init__(self, points: int = 200) -> None:
        self.points, self.sent = points, 0
        self.written = 0  # bytes of curves.csv that belong to the checkpoint

    def on_train_start(self, trainer: Trainer, model: Generator) -> None:
        self.sent = math.floor(self.points * budget_of(trainer).share(model.images_seen))
        for sink in trainer.loggers:
            if isinstance(sink, CurvesFile):
                sink.cut(self.written)
            if isinstance(sink, WandbCurves):
                sink.resume(model.images_seen)

    def on_train_batch_end(self, trainer: Trainer, model: Generator, outputs: Any, batch: Any, batch_idx: int) -> None:
        reached = math.floor(self.points * budget_of(trainer).share(model.images_seen))
        if reached > self.sent:
            self.sent = reached
            log(trainer, model, {f"train/{name}": value for name, value in outputs.items()})

    def on_validation_end(self, trainer: Trainer, model: Generator) -> None:
        log(trainer, model, {k: v for k, v in trainer.callback_metrics.items() if k.startswith("val/")})

    def on_save_checkpoint(self, trainer: Trainer, model: Generator, checkpoint: dict[str, Any]) -> None:
        checkpoint["curves"] = sum(sink.size() for sink in trainer.loggers if isinstance(sink, CurvesFile))

    def on_load_checkpoint(self, trainer: Trainer, model: Generator, checkpoint: dict[str, Any]) -> None:
        self.written = checkpoint["curves"]


def log(trainer: Trainer, model: Generator, values: dict[str, Any]) -> None:
    """Give scalars to every logger, at the images seen so far."""
    scalars = {name: float(value) for name, value in values.items()}
    for sink in trainer.loggers:
        sink.log_metrics(scalars, step=model.images_seen)


class Judge(Callback):
    """After each validation: `n` samples from one seed, a grid of the first 64, and what `score(fake)` says of them.

    path: the PNG to write. Its `score`, (n, C, H, W) uint8 -> {name: value}, is the run's to set; None draws only.
    """

    def __init__(self, path: str | Path, n: int = 64, seed: int = 0) -> None:
        self.path, self.n, self.seed = Path(path), n, seed
        self.score: Callable[[Tensor], dict[str, float]] | None = None

    def on_validation_epoch_end(self, trainer: Trainer, model: Generator) -> None:
        if not trainer.is_global_zero:
            return
        devices = [model.device] if model.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(self.seed)
            fake = model.sample(self.n)
        whole = bool(fake.isfinite().all())
        fake = to_uint8(fake)
        grid = save_grid(fake[:64].cpu().numpy(), self.path)
        for sink in trainer.loggers:
            if hasattr(sink, "log_image"):
                sink.log_image("samples", [grid], step=model.images_seen)
        if not whole:
            logger.warning("%s: samples after %s images hold NaN or infinity", model.family, f"{model.images_seen:,}")
        elif self.score is not None:
            log(trainer, model, {f"score/{name}": value for name, value in self.score(fake).items()})


class Bar(Callback):
    """One progress bar over the budget, in its unit, with the loss and the time that is left."""

    def __init__(self, label: str) -> None:
        self.label = label

    def on_train_start(self, trainer: Trainer, model: Generator) -> None:
        budget = budget_of(trainer)
        self.bar = tqdm(
            total=budget.asked,
            initial=budget.spent(model.images_seen),
            desc=self.label,
            unit={"images": "img", "minutes": "min", "flops": "FLOP"}[budget.kind],
            unit_scale=True,
            disable=not trainer.is_global_zero,
            mininterval=0.5,
        )

    def on_train_batch_end(self, trainer: Trainer, model: Generator, outputs: Any, batch: Any, batch_idx: int) -> None:
        spent = min(budget_of(trainer).spent(model.images_seen), self.bar.total)
        if self.bar.update(spent - self.bar.n):  # true when it was time to draw
            self.bar.set_postfix(loss=f"{float(outputs['loss']):.3f}", refresh=False)

    def on_train_end(self, trainer: Trainer, model: Generator) -> None:
        self.bar.close()

    def on_exception(self, trainer: Trainer, model: Generator, exception: BaseException) -> None:
        if hasattr(self, "bar"):
            self.bar.close()
