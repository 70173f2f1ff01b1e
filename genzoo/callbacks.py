"""What happens around training, the same for every family: averaged weights, curves, checkpoints, grids."""

import math
import os
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


class EMA(Callback):
    """Exponential moving average of the parameters, in place of the raw ones whenever the model is judged.

    The decay warms up as min(decay, (1 + n) / (10 + n)) after n batches. Buffers stay as they are: averaging the
    integer buffers of a flow's permutations would ruin them. List it before callbacks that judge the model.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.batches = 0
        self.average: dict[str, Tensor] = {}

    @torch.no_grad()
    def on_train_batch_end(self, trainer: Trainer, model: Generator, outputs: Any, batch: Any, batch_idx: int) -> None:
        parameters = dict(model.named_parameters())
        if not self.average:  # only now, since a flow's first batch sets the scales it starts from
            self.average = {name: p.detach().clone() for name, p in parameters.items()}
        self.average = {name: a.to(parameters[name].device) for name, a in self.average.items()}
        decay = min(self.decay, (1 + self.batches) / (10 + self.batches))
        raw = [parameters[name].detach() for name in self.average]
        torch._foreach_lerp_(list(self.average.values()), raw, 1 - decay)
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

    def on_train_start(self, trainer: Trainer, model: Generator) -> None:
        self.sent = math.floor(self.points * budget_of(trainer).share(model.images_seen))
        for logger in trainer.loggers:
            if isinstance(logger, CurvesFile | WandbCurves):
                logger.resume(model.images_seen)

    def on_train_batch_end(self, trainer: Trainer, model: Generator, outputs: Any, batch: Any, batch_idx: int) -> None:
        reached = math.floor(self.points * budget_of(trainer).share(model.images_seen))
        if reached > self.sent:
            self.sent = reached
            log(trainer, model, {f"train/{name}": value for name, value in outputs.items()})

    def on_validation_end(self, trainer: Trainer, model: Generator) -> None:
        log(trainer, model, {k: v for k, v in trainer.callback_metrics.items() if k.startswith("val/")})


def log(trainer: Trainer, model: Generator, values: dict[str, Any]) -> None:
    """Give scalars to every logger, at the images seen so far."""
    scalars = {name: float(value) for name, value in values.items()}
    for logger in trainer.loggers:
        logger.log_metrics(scalars, step=model.images_seen)


class Judge(Callback):
    """After each validation: a grid of `n` samples from one seed, and the scores that `score(fake)` gives them.

    path: the PNG to write. score: (n, C, H, W) uint8 -> {name: value}; None draws only.
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
            fake = to_uint8(model.sample(self.n))
        grid = save_grid(fake[:64].cpu().numpy(), self.path)
        for logger in trainer.loggers:
            if hasattr(logger, "log_image"):
                logger.log_image("samples", [grid], step=model.images_seen)
        if self.score is not None:
            log(trainer, model, {f"score/{name}": value for name, value in self.score(fake).items()})


class LastCheckpoint(Callback):
    """Keeps `last.ckpt` whole: written beside its place after each validation and at the end, then renamed.

    Lightning's own writer passes through TMPDIR; from another file system a kill leaves half a file.
    """

    def __init__(self, folder: str | Path) -> None:
        self.path = Path(folder) / "last.ckpt"

    def save(self, trainer: Trainer) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix(".part")
        trainer.save_checkpoint(part)
        if trainer.is_global_zero:
            os.replace(part, self.path)

    def on_validation_end(self, trainer: Trainer, model: Generator) -> None:
        self.save(trainer)

    def on_train_end(self, trainer: Trainer, model: Generator) -> None:
        self.save(trainer)


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


class StopOnNaN(Callback):
    """Ends the run with one sentence at the first loss that is not a number, before it is saved."""

    def __init__(self, every: int = 10) -> None:
        self.every = every
        self.last: dict[str, Tensor] = {}

    def on_train_batch_end(self, trainer: Trainer, model: Generator, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.last = outputs
        if batch_idx % self.every == 0:
            self.check(model)

    def on_validation_start(self, trainer: Trainer, model: Generator) -> None:
        self.check(model)

    def on_train_end(self, trainer: Trainer, model: Generator) -> None:
        self.check(model)

    def check(self, model: Generator) -> None:
        bad = [name for name, value in self.last.items() if not math.isfinite(float(value))]
        if bad:
            raise ValueError(
                f"{type(model).__name__}: {bad[-1]} became {float(self.last[bad[-1]])} after {model.images_seen} "
                "images; lower model.optimizer.lr or model.clip (the last checkpoint is kept)"
            )
