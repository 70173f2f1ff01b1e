"""python -m genzoo.run: compose a configuration, train, score, write metrics.json. Here Hydra begins and ends."""

import logging
import math
import time
import traceback
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig

from genzoo import runs
from genzoo.callbacks import Budget, Judge, LastCheckpoint, MultiplyAdds, averaged
from genzoo.command import command, plain
from genzoo.generator import HasAfterFit
from genzoo.loggers import CurvesFile, finish_wandb
from genzoo.metrics.cost import cost
from genzoo.provenance import provenance
from genzoo.score import Scorer, in_words, unscored

log = logging.getLogger("genzoo")


@command("config")
def main(cfg: DictConfig) -> float | None:
    """One run; its return value is the first score, for sweepers that search."""
    metrics = finish(plain(cfg), Path(cfg.folder), list(HydraConfig.get().overrides.task))
    return next((score["value"] for score in metrics["scores"].values()), None)


def check(settings: dict[str, Any]) -> None:
    """Raises ValueError for a size that is no whole number of at least 1."""
    for key in ("width", "blocks", "latent", "budget.images", "budget.checks", "data.batch_size"):
        value: Any = settings
        for part in key.split("."):
            value = value[part]
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{key}={value}: give a whole number of at least 1")
    if not isinstance(settings["seed"], int) or settings["seed"] < 0:
        raise ValueError(f"seed={settings['seed']}: give a whole number of at least 0")


def finish(settings: dict[str, Any], folder: Path, overrides: list[str]) -> dict[str, Any]:
    """Train and score a configuration in its folder, from where an earlier call left it; returns metrics.json.

    A failure leaves its traceback in failed.txt until a later call succeeds.
    """
    check(settings)
    runs.claim(folder, settings)
    metrics = runs.finished(folder)
    if metrics is not None:
        log.info("already finished: %s (delete it to run again)", folder)
        return metrics
    log.info("run folder: %s", folder)
    failed = folder / "failed.txt"
    try:
        metrics = train(settings, folder, overrides)
    except Exception:
        runs.write_text(failed, traceback.format_exc())
        finish_wandb({})
        raise
    failed.unlink(missing_ok=True)
    return metrics


def train(settings: dict[str, Any], folder: Path, overrides: list[str]) -> dict[str, Any]:
    """Fit, then score with the averaged weights, then write metrics.json; returns its contents."""
    started = time.time()
    pl.seed_everything(settings["seed"], workers=True, verbose=False)
    data = instantiate(settings["data"], _convert_="all")
    trainer = make_trainer(settings, folder, data.batch_size)
    device = trainer.strategy.root_device
    # before the training, so that a missing extractor is known at once
    score = Scorer(settings, data, device) if settings["metrics"] else None
    find(trainer, Judge).score = score.quick if score else None
    model = runs.build(settings)
    checkpoint = folder / runs.CHECKPOINT
    trainer.fit(model, data, ckpt_path=checkpoint if checkpoint.is_file() else None, weights_only=True)
    model.to(device)  # Lightning leaves it on the CPU
    if isinstance(model, HasAfterFit):
        with averaged(trainer, model):
            model.after_fit(data.on_after_batch_transfer(batch, 0) for batch in data.train_dataloader())
        find(trainer, LastCheckpoint).save(trainer)
    with averaged(trainer, model):
        judged = score(model) if score else unscored(model)
        costs = cost(model, find(trainer, Budget).seconds, find(trainer, MultiplyAdds).per_image)
    runs.save_gallery(folder, judged, data.split("test").x)
    metrics = {
        **judged.record,
        "cost": costs,
        "provenance": provenance(
            overrides, started, family=model.family, sampling=model.sampling, config_hash=runs.fingerprint(settings)
        ),
    }
    runs.write_json(folder / runs.METRICS, metrics)
    log.info("%s: %s -> %s", model.family, in_words(metrics), folder / runs.METRICS)
    finish_wandb({name: row["value"] for name, row in metrics["scores"].items()})
    return metrics


def make_trainer(settings: dict[str, Any], folder: Path, batch_size: int) -> pl.Trainer:
    """Lightning's Trainer with the configured callbacks and loggers, validating `budget.checks` times.

    Raises ValueError for several processes, which would score and write the same run.
    """
    callbacks = instantiate(list(settings["callbacks"].values()), _convert_="all")
    loggers = [CurvesFile(folder), *instantiate(list(settings["logger"].values()), _convert_="all")]
    for logger in loggers:
        logger.log_hyperparams(settings)
    batches = math.ceil(settings["budget"]["images"] / batch_size)
    interval = math.ceil(batches / settings["budget"]["checks"])
    trainer = instantiate(settings["trainer"], callbacks=callbacks, logger=loggers, val_check_interval=interval)
    if trainer.world_size > 1:
        raise ValueError(f"trainer.devices: {trainer.world_size} processes would write one run; set trainer.devices=1")
    return trainer


def find(trainer: pl.Trainer, kind: type) -> Any:
    """The trainer's callback of this kind."""
    return next(callback for callback in trainer.callbacks if isinstance(callback, kind))


if __name__ == "__main__":
    main()
