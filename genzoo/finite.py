"""No optimiser and no average ever sees a number that is none: such a step is left out, and mostly ends the run."""

import logging
import math
from collections.abc import Sequence
from typing import Any

import torch
from pytorch_lightning import Callback, Trainer
from torch import Tensor

from genzoo.generator import Generator

logger = logging.getLogger("genzoo")


class NotFinite(Callback):
    """Ends the run before the optimiser sees a loss or a gradient that is NaN or infinite, in one sentence.

    A fused optimiser is told on its device to leave the step out, so that a GPU is asked only every `every` batches
    whether there was one. skip: steps that may be left out, each with a warning. List it before what keeps or averages
    weights.
    """

    def __init__(self, skip: int = 0, every: int = 50) -> None:
        self.skip, self.every, self.dropped = skip, every, 0
        self.losses: list[Tensor] = []  # of this step, one for each player
        self.bad: list[Tensor] = []  # () bool: of the steps since it was last asked

    def on_before_backward(self, trainer: Trainer, model: Generator, loss: Tensor) -> None:
        self.losses.append(loss.detach())

    @torch.no_grad()
    def on_before_optimizer_step(self, trainer: Trainer, model: Generator, optimizer: torch.optim.Optimizer) -> None:
        # the loss of another rank is unknown here, but its gradient has come; 16 bits overflow, and are scaled for it
        watched = [] if trainer.world_size > 1 else self.losses
        if trainer.precision != "16-mixed":
            watched = [*watched, *torch._foreach_norm(gradients(optimizer))]
        self.losses = []
        bad = ~all_finite(watched)
        self.bad.append(bad)
        if optimizer.defaults.get("fused"):
            optimizer.found_inf = bad.float()
        elif bad:
            optimizer.zero_grad()  # without gradients the step does nothing

    def on_train_batch_end(self, trainer: Trainer, model: Generator, outputs: Any, batch: Any, batch_idx: int) -> None:
        if model.device.type != "cuda" or len(self.bad) >= self.every:
            self.ask(model, outputs)

    def on_train_end(self, trainer: Trainer, model: Generator) -> None:
        self.ask(model, {})

    def ask(self, model: Generator, outputs: dict[str, Tensor]) -> None:
        """Count the steps that were left out; raises ValueError for one too many."""
        count = int(torch.stack(self.bad).sum()) if self.bad else 0
        self.bad = []
        if not count:
            return
        self.dropped += count
        terms = [f"{name} became {float(value)}" for name, value in outputs.items() if not math.isfinite(float(value))]
        what = f"{terms[-1] if terms else 'the gradient became infinite or NaN'} after {model.images_seen:,} images"
        if self.dropped > self.skip or not all_finite([b.sum() for b in model.buffers() if b.is_floating_point()]):
            raise ValueError(
                f"{model.family}: {what}; lower model.optimizer.lr or model.clip, or leave out such steps with "
                "on_nan=skip (the last checkpoint is kept)"
            )
        logger.warning("%s: %s; step %d of at most %d left out", model.family, what, self.dropped, self.skip)

    def on_save_checkpoint(self, trainer: Trainer, model: Generator, checkpoint: dict[str, Any]) -> None:
        checkpoint["dropped"] = self.dropped

    def on_load_checkpoint(self, trainer: Trainer, model: Generator, checkpoint: dict[str, Any]) -> None:
        self.dropped = checkpoint["dropped"]


def gradients(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]


def all_finite(scalars: Sequence[Tensor]) -> Tensor:
    """() bool: whether none of these () is NaN or infinite."""
    return torch.stack(list(scalars)).isfinite().all() if scalars else torch.tensor(True)
