"""python -m genzoo.run: compose a configuration, train, score, write metrics.json. Here Hydra begins and ends."""

import logging
import time
import traceback
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig

from genzoo import runs
from genzoo.callbacks import Budget, Judge, LastCheckpoint, averaged
from genzoo.command import command, plain
from genzoo.generator import HasAfterFit
from genzoo.loggers import CurvesFile, finish_wandb
from genzoo.metrics.evaluate import quantised
from genzoo.provenance import cost, provenance
from genzoo.score import Scorer, in_words, unscored

log = logging.getLogger("genzoo")


@command("config")
def main(cfg: DictConfig) -> float | None:
    """One run; its return value is the first score, for sweepers that search."""
    folder = Path(cfg.folder)
    settings = plain(cfg)
    try:
        metrics = finish(settings, folder, list(HydraConfig.get().overrides.task))
    except Exception:
        runs.write_text(folder / "failed.txt", traceback.format_exc())
        raise
    (folder / "failed.txt").unlink(missing_ok=True)
    return next((score["value"] for score in metrics.get("scores", {}).values()), None)


def finish(settings: dict[str, Any], folder: Path, overrides: list[str]) -> dict[str, Any]:
    """Train and score a configuration in its folder, from where an earlier call left it; returns metrics.json."""
    runs.claim(folder, settings)
    metrics = runs.finished(folder)
    if metrics is not None:
        log.info("already finished: %s (delete it to run again)", folder)
        return metrics
    log.info("run folder: %s", folder)
    return train(settings, folder, overrides)


def train(settings: dict[str, Any], folder: Path, overrides: list[str]) -> dict[str, Any]:
    """Fit, then score with the averaged weights, then write metrics.json; returns its contents."""
    started = time.time()
    pl.seed_everything(settings["seed"], workers=True, verbose=False)
    data = instantiate(settings["data"], _convert_="all")
    # before the training, so that a missing extractor is known at once
    score = Scorer(settings, data) if settings["metrics"] else None
    model = runs.build(settings)
    trainer = make_trainer(settings, folder, data.batch_size, score)
    checkpoint = folder / runs.CHECKPOINT
    trainer.fit(model, data, ckpt_path=checkpoint if checkpoint.is_file() else None, weights_only=True)
    if isinstance(model, HasAfterFit):
        with averaged(trainer, model):
            model.after_fit(data.on_after_batch_transfer(batch, 0) for batch in data.train_dataloader())
        find(trainer, LastCheckpoint).save(trainer)
    with averaged(trainer, model):
        judged = score(model) if score else unscored(model)
    runs.save_gallery(folder, judged.fakes, quantised(data.split("test").x))
    metrics = {
        **judged.record,
        "cost": cost(model, find(trainer, Budget).seconds, judged.seconds / len(judged.fakes)),
        "provenance": provenance(
            overrides, started, family=model.family, sampling=model.sampling, config_hash=runs.fingerprint(settings)
        ),
    }
    runs.write_json(folder / runs.METRICS, metrics)
    log.info("%s: %s -> %s", model.family, in_words(metrics), folder / runs.METRICS)
    finish_wandb({name: row["value"] for name, row in metrics["scores"].items()})
    return metrics


def make_trainer(settings: dict[str, Any], folder: Path, batch_size: int, score: Scorer | None) -> pl.Trainer:
    """Lightning's Trainer with the configured callbacks and loggers, validating `budget.checks` times."""
    callbacks = instantiate(list(settings["callbacks"].values()), _convert_="all")
    for judge in callbacks:
        if isinstance(judge, Judge) and score is not None:
            judge.score = score.quick
    loggers = [CurvesFile(folder), *instantiate(list(settings["logger"].values()), _convert_="all")]
    for logger in loggers:
        logger.log_hyperparams(settings)
    batches = settings["budget"]["images"] // batch_size
    interval = max(1, batches // settings["budget"]["checks"])
    return instantiate(settings["trainer"], callbacks=callbacks, logger=loggers, val_check_interval=interval)


def find(trainer: pl.Trainer, kind: type) -> Any:
    """The trainer's callback of this kind."""
    return next(callback for callback in trainer.callbacks if isinstance(callback, kind))


if __name__ == "__main__":
    main()
