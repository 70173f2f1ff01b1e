"""What a training may use, the same for every family: images, minutes or FLOPs; and what follows its share."""

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from pytorch_lightning import Callback, Trainer

from genzoo.generator import Generator
from genzoo.metrics.cost import Counter

NEVER = 10**12  # batches between validations


class Budget(Callback):
    """Counts the images, the seconds and the multiply-adds of training, and ends it when the budget is spent.

    It keeps the model's `images_seen` and `spent`.

    images: to learn from; `minutes` of training, or `flops`, take its place where they are given.
    checks: validations, at equal shares of the budget.
    Lightning's steps will not do: a GAN takes two optimiser steps a batch and global_step counts both.
    """

    def __init__(
        self, images: int, minutes: float | None = None, flops: float | None = None, checks: int | None = None
    ) -> None:
        others = {"minutes": minutes, "flops": flops}
        self.kind, self.asked = next(((kind, n) for kind, n in others.items() if n), ("images", images))
        self.checks = checks
        self.seen, self.seconds, self.paused = 0, 0.0, False
        self.checked = 0  # shares of the budget at whose end a validation was due
        self.due = False  # a validation was asked for, and has not ended
        self.multiply_adds: float | None = None  # of an image's share of a training step, counted in the first one
        self.counter: Counter | None = None

    def spent(self, images: int) -> float:
        """How much of the budget's unit that many images use, going by those seen so far."""
        minutes = self.seconds / 60 / max(self.seen, 1)
        return images * {"images": 1.0, "minutes": minutes, "flops": 2 * (self.multiply_adds or 0.0)}[self.kind]

    def share(self, images: int) -> float:
        """The same as a share of the budget."""
        return self.spent(images) / self.asked

    def on_train_start(self, trainer: Trainer, model: Generator) -> None:
        self.tell(model)
        trainer.should_stop = model.spent >= 1  # a run that was stopped between training and scores
        self.started = time.perf_counter()

    def on_train_batch_start(self, trainer: Trainer, model: Generator, batch: Any, batch_idx: int) -> None:
        if self.paused:
            self.paused, self.started = False, time.perf_counter()
        if self.multiply_adds is None:
            self.counter = Counter()
            self.counter.__enter__()

    def on_train_batch_end(self, trainer: Trainer, model: Generator, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.counter is not None:
            self.multiply_adds = self.counter.flops / 2 / len(batch[0])
            self.stop_counting()
            if self.kind == "flops" and not self.multiply_adds:
                raise ValueError("budget.flops: this model's step has no multiply-adds to count; set budget.images")
        model.images_seen += len(batch[0]) * trainer.world_size
        self.tick(trainer)
        self.tell(model)
        if step_ends(trainer, batch_idx):
            trainer.should_stop = trainer.should_stop or model.spent >= 1
            if self.checks:
                reached = math.floor(model.spent * self.checks)
                self.checked, self.due = reached, reached > self.checked
        if self.checks:
            trainer.val_check_batch = 1 if self.due else NEVER

    def tell(self, model: Generator) -> None:
        """The model how much of the budget it has spent."""
        self.seen = model.images_seen
        model.spent = min(self.share(self.seen), 1.0)

    def tick(self, trainer: Trainer) -> None:
        """Count the time since the last tick as training, unless it was paused."""
        if self.paused:
            return
        now = time.perf_counter()
        self.seconds, self.started = self.seconds + now - self.started, now
        if self.kind == "minutes":  # one clock for all ranks, whose learning rates follow it
            self.seconds = trainer.strategy.broadcast(self.seconds)

    def stop_counting(self) -> None:
        """Leave the mode, which would count on."""
        if self.counter is not None:
            self.counter.__exit__(None, None, None)
            self.counter = None

    def on_validation_start(self, trainer: Trainer, model: Generator) -> None:
        if model.device.type == "cuda":  # the queue of launched kernels is part of the work
            torch.cuda.synchronize(model.device)
        self.tick(trainer)

    def on_validation_end(self, trainer: Trainer, model: Generator) -> None:
        self.paused = True  # until the next batch: judging and saving are no training
        self.due = False

    on_train_end = on_validation_start

    def on_exception(self, trainer: Trainer, model: Generator, exception: BaseException) -> None:
        self.stop_counting()

    def on_save_checkpoint(self, trainer: Trainer, model: Generator, checkpoint: dict[str, Any]) -> None:
        checkpoint["images_seen"], checkpoint["seconds"] = model.images_seen, self.seconds
        checkpoint["multiply_adds"] = self.multiply_adds
        checkpoint["checks"] = {"checked": self.checked, "due": self.due}

    def on_load_checkpoint(self, trainer: Trainer, model: Generator, checkpoint: dict[str, Any]) -> None:
        model.images_seen, self.seconds = checkpoint["images_seen"], checkpoint["seconds"]
        self.multiply_adds = checkpoint["multiply_adds"]
        self.checked, self.due = checkpoint["checks"]["checked"], checkpoint["checks"]["due"]

    def record(self) -> dict[str, Any]:
        """The section `budget` of metrics.json: whether the run used up what it was asked to, or ended otherwise."""
        spent = self.spent(self.seen)
        return {"kind": self.kind, "asked": self.asked, "spent": spent, "reached": spent >= self.asked}


def step_ends(trainer: Trainer, batch_idx: int) -> bool:
    """Whether the optimiser steps after this batch, and does not only accumulate its gradients."""
    return (batch_idx + 1) % trainer.accumulate_grad_batches == 0


def budget_of(trainer: Trainer) -> Budget:
    """The trainer's budget."""
    return next(callback for callback in trainer.callbacks if isinstance(callback, Budget))


def warmup_cosine(share: float, warmup: float = 0.05, last: float = 0.0) -> float:
    """Factor on the learning rate at a share of the budget: linearly up, then a half cosine down."""
    if share < warmup:
        return share / warmup
    u = min(1.0, (share - warmup) / (1 - warmup))
    return last + (1 - last) * 0.5 * (1 + math.cos(math.pi * u))


class LearningRate(Callback):
    """Scales every optimiser's learning rate by schedule(share of the budget used)."""

    def __init__(self, schedule: Callable[[float], float]) -> None:
        self.schedule = schedule

    def on_train_batch_start(self, trainer: Trainer, model: Generator, batch: Any, batch_idx: int) -> None:
        # the end of this batch, so that the first step of a warm-up moves the weights
        share = budget_of(trainer).share(model.images_seen + len(batch[0]) * trainer.world_size)
        for optimizer in trainer.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group.setdefault("initial_lr", group["lr"]) * self.schedule(share)
