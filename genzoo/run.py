"""python -m genzoo.run: compose a configuration, train, score, write metrics.json. Here Hydra begins and ends."""

import logging
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig

from genzoo import finetune, runs
from genzoo.budget import NEVER, Budget
from genzoo.callbacks import Judge, averaged
from genzoo.checkpoints import LastCheckpoint, newest
from genzoo.command import command, ending, plain
from genzoo.data.datamodule import DataModule
from genzoo.files import sweep_parts, write_bytes
from genzoo.finite import NotFinite
from genzoo.generator import Generator, HasAfterFit
from genzoo.gpu import precision, sampling_precision
from genzoo.loggers import CurvesFile, finish_wandb
from genzoo.metrics.cost import cost
from genzoo.metrics.memory import is_out_of_memory
from genzoo.processes import beside_rank_zero, launch, rank_zero_first, share_buffers, to_start
from genzoo.provenance import provenance
from genzoo.score import Scorer, in_words, unscored
from genzoo.showcase import showcase
from genzoo.signals import ENDING, Interrupted, handled, interrupt
from genzoo.study import Study, as_typed, asked

log = logging.getLogger("genzoo")


@command("config")
def main(cfg: DictConfig) -> float | None:
    """One run; its return value is the first score, for sweepers that search."""
    metrics = finish(plain(cfg), Path(cfg.folder), as_typed(HydraConfig.get().overrides.task))
    return next((score["value"] for score in metrics["scores"].values()), None)


def check(settings: dict[str, Any]) -> None:
    """Raises ValueError for a size that is no whole number of at least 1, and for a budget that is not positive."""
    for key in ("width", "blocks", "latent", "budget.images", "budget.checks", "data.batch_size"):
        value: Any = settings
        for part in key.split("."):
            value = value[part]
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{key}={value}: give a whole number of at least 1")
    for kind in ("minutes", "flops"):
        value = settings["budget"][kind]
        if value is not None and not (isinstance(value, int | float) and value > 0):
            raise ValueError(f"budget.{kind}={value}: give a number above 0, or null for a budget of images")
    if not isinstance(settings["seed"], int) or settings["seed"] < 0:
        raise ValueError(f"seed={settings['seed']}: give a whole number of at least 0")
    finetune.check(settings)


def finish(settings: dict[str, Any], folder: Path, overrides: list[str]) -> dict[str, Any]:
    """Train and score a configuration in its folder, from where an earlier call left it; returns metrics.json.

    A failure leaves its traceback in failed.txt until a later call succeeds.
    """
    try:
        check(settings)
    except ValueError:
        runs.forget(folder)
        raise
    if beside_rank_zero(settings["trainer"]):  # which keeps the folder
        return runs.finished(folder) or train(settings, folder, overrides)
    with handled(dict.fromkeys(ENDING, interrupt)), runs.held(folder):
        runs.claim(folder, settings)
        metrics = runs.finished(folder)
        if metrics is not None:
            log.info("already finished: %s (delete it to run again)", folder)
            return metrics
        log.info("run folder: %s", folder)
        sweep_parts(folder)
        failed = folder / "failed.txt"
        try:
            metrics = train_in_processes(settings, folder, overrides)
        except Interrupted as stop:
            log.warning("stopped by %s: the same command goes on with %s", stop.name, folder)
            finish_wandb({})
            raise
        except Exception:
            with suppress(OSError):  # a full disk must not hide what went wrong
                write_bytes(failed, traceback.format_exc().encode())
            finish_wandb({})
            raise
        failed.unlink(missing_ok=True)
        log.info("%s: %s -> %s", metrics["provenance"]["family"], in_words(metrics), folder / runs.METRICS)
        return metrics


def train_in_processes(settings: dict[str, Any], folder: Path, overrides: list[str]) -> dict[str, Any]:
    """`train`, in new processes where the trainer wants several of them."""
    n = to_start(instantiate(settings["trainer"], logger=False, precision=None))
    if n == 1:
        return train(settings, folder, overrides)
    launch(n, train, settings, folder, overrides)
    return runs.finished(folder)


def train(settings: dict[str, Any], folder: Path, overrides: list[str]) -> dict[str, Any]:
    """Fit, then score with the averaged weights, then write metrics.json; returns its contents.

    Of several processes each calls this; rank 0 alone writes, the others return when nothing is left to do together.
    """
    started = time.time()
    pl.seed_everything(settings["seed"], workers=True, verbose=False)
    data = instantiate(settings["data"], _convert_="all")
    model = runs.build(settings)
    trainer = make_trainer(settings, folder, model)
    device = trainer.strategy.root_device
    # before the training, so that a missing extractor is known at once
    with rank_zero_first(trainer):
        score = Scorer(settings, data, device) if settings["metrics"] else None
        finetune.begin(settings, folder, model, trainer)
    find(trainer, Judge).score = score.quick if score else None
    refuse_condition(settings, model)
    refuse_accumulation(trainer, model)
    with enough_memory(settings, model):
        trainer.fit(model, data, ckpt_path=newest(folder / runs.CHECKPOINTS), weights_only=True)
    pl.seed_everything(settings["seed"], verbose=False)  # as if it had not been stopped in between
    model.to(device)  # Lightning leaves it on the CPU
    complete(trainer, model, data)
    budget = find(trainer, Budget)
    with averaged(trainer, model):
        judged = score(model) if score else unscored(model)
        if not trainer.is_global_zero:
            return judged.record
        precisions = {"precision": trainer.precision, "sampling_precision": sampling_precision(model)}
        costs = cost(model, budget.seconds, budget.multiply_adds) | precisions
        more = showcase(model, *data.split("test"))
    runs.save_gallery(folder, judged, data.split("test").x, more)
    metrics = {
        **judged.record,
        "budget": budget.record() | {"left_out": find(trainer, NotFinite).dropped},
        "cost": costs,
        "provenance": provenance(
            overrides,
            started,
            family=model.family,
            sampling=model.sampling,
            config_hash=runs.fingerprint(settings),
            **finetune.origin(folder),
        ),
    }
    runs.write_json(folder / runs.METRICS, metrics)
    finish_wandb(metrics, trainer.loggers)
    return metrics


def complete(trainer: pl.Trainer, model: Generator, data: DataModule) -> None:
    """What a family estimates once its weights are final, from all training images, for every process."""
    if isinstance(model, HasAfterFit):
        data.trainer = None  # whose loaders give this process's share of the images
        with averaged(trainer, model):
            if trainer.is_global_zero:
                model.after_fit(data.on_after_batch_transfer(batch, 0) for batch in data.epoch())
        find(trainer, LastCheckpoint).save(trainer)
    share_buffers(trainer, model)


def refuse_condition(settings: dict[str, Any], model: Generator) -> None:
    """Raises ValueError for a condition that this family would not listen to."""
    asked = settings["condition"]
    if asked is None or getattr(model, "condition", None) is not None:
        return
    if asked["_target_"].rpartition(".")[2] != "Classes":
        raise ValueError(f"{model.family} knows classes alone: set condition=classes or none, or model=ddpm")
    if not getattr(model, "classes", 0):
        raise ValueError(f"{model.family} is told nothing beside the image: set condition=none")


def refuse_accumulation(trainer: pl.Trainer, model: Generator) -> None:
    """Raises ValueError for batches in parts where a family has two optimisers."""
    if trainer.accumulate_grad_batches > 1 and not model.automatic_optimization:
        raise ValueError(
            f"trainer.accumulate_grad_batches: {model.family} has two players; lower data.batch_size instead"
        )


@contextmanager
def enough_memory(settings: dict[str, Any], model: Generator) -> Iterator[None]:
    """Raises ValueError in one sentence when a step of training does not fit: its images a step decide what is learnt,
    so they are the user's to change."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        size = settings["data"]["batch_size"]
        parts = f"data.batch_size={size // 2} trainer.accumulate_grad_batches=2 makes the same steps out of two halves"
        raise ValueError(
            f"{model.family}: a batch of {size} images does not fit in memory: "
            + (parts if model.automatic_optimization else f"lower data.batch_size={size} or width={settings['width']}")
        ) from error


def make_trainer(settings: dict[str, Any], folder: Path, model: Generator) -> pl.Trainer:
    """Lightning's Trainer with the configured callbacks and loggers; the Budget says when it validates."""
    callbacks = instantiate(list(settings["callbacks"].values()), _convert_="all")
    loggers = [CurvesFile(folder), *instantiate(list(settings["logger"].values()), _convert_="all")]
    for logger in loggers:
        logger.log_hyperparams(settings)
    where = folder / runs.CHECKPOINTS  # of what Lightning saves when SLURM puts the job back into its queue
    asked = settings["trainer"]
    return instantiate(
        asked,
        callbacks=callbacks,
        logger=loggers,
        precision=precision(asked["precision"], asked["accelerator"], model),
        val_check_interval=NEVER,
        default_root_dir=where,
    )


def find(trainer: pl.Trainer, kind: type) -> Any:
    """The trainer's callback of this kind."""
    return next(callback for callback in trainer.callbacks if isinstance(callback, kind))


def program() -> None:
    """The command line. `-m +study=NAME` runs the cells of a study that are not finished and then reports on it.

    After a sweep every run of it that failed is named, and the exit code is that of the first failure.
    """
    with ending():
        study = asked(sys.argv[1:])
        if study is not None:
            sys.argv[1:] = study.arguments
            study.plan()
        run_and_report(study)


def run_and_report(study: Study | None) -> None:
    """The runs of the command line, then what became of them."""
    started = time.time()
    try:
        main()
    finally:
        failed = [path for path in sorted(Path("outputs").rglob("failed.txt")) if path.stat().st_mtime >= started]
        if len(failed) > 1 or study is not None:
            for path in failed:
                print(f"genzoo: failed: {path.parent} (see {path.name} there)", file=sys.stderr)
        if study is not None:
            study.report()


if __name__ == "__main__":
    program()
