"""python -m genzoo.run: compose a configuration, train, score, write metrics.json. Here Hydra begins and ends."""

import logging
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig

from genzoo import runs
from genzoo.callbacks import Budget, Judge, LastCheckpoint, averaged
from genzoo.command import command, plain
from genzoo.generator import Generator, HasAfterFit
from genzoo.loggers import CurvesFile, finish_wandb
from genzoo.metrics.evaluate import Evaluation, fid_score, quantised, reference_statistics
from genzoo.pictures import save_grid
from genzoo.provenance import cost, provenance

log = logging.getLogger("genzoo")
GALLERY = 256  # samples kept in samples.npz


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
    splits = {name: data.split(name).x for name in ("train", "val", "test")}
    score = scorer(settings, splits)  # before the training, so that a missing extractor is known at once
    model = runs.build(settings)
    trainer = make_trainer(settings, folder, data.batch_size, score)
    checkpoint = folder / runs.CHECKPOINT
    trainer.fit(model, data, ckpt_path=checkpoint if checkpoint.is_file() else None, weights_only=True)
    if isinstance(model, HasAfterFit):
        with averaged(trainer, model):
            model.after_fit(data.on_after_batch_transfer(batch, 0) for batch in data.train_dataloader())
        find(trainer, LastCheckpoint).save(trainer)
    with averaged(trainer, model):
        judged = score(model) if score else None
        fakes = judged.fakes if judged else quantised(model.sample(GALLERY)).cpu()
    save_gallery(folder, fakes, quantised(splits["test"]))
    metrics = {
        **(judged.record if judged else {}),
        "cost": cost(model, find(trainer, Budget).seconds, judged.seconds / len(fakes) if judged else None),
        "provenance": provenance(
            overrides, started, family=family(model), sampling=model.sampling, config_hash=runs.fingerprint(settings)
        ),
    }
    runs.write_json(folder / runs.METRICS, metrics)
    log.info("%s: %s -> %s", family(model), scores_in_words(metrics), folder / runs.METRICS)
    finish_wandb({name: row["value"] for name, row in metrics.get("scores", {}).items()})
    return metrics


class Scorer:
    """The run's protocol bound to its data: `scorer(model)` for the record, `quick(fake)` for curves."""

    def __init__(self, settings: dict[str, Any], splits: dict[str, torch.Tensor]) -> None:
        self.evaluate = instantiate(settings["metrics"], _convert_="all")
        self.extractor = instantiate(settings["features"], _convert_="all")
        self.dataset, self.splits = settings["data"]["name"], splits
        reference = quantised(splits[settings["metrics"]["reference"]])
        self.statistics = reference_statistics(reference, self.extractor)

    def __call__(self, model: Generator) -> Evaluation:
        self.extractor.to(model.device)
        return self.evaluate(model.sample, splits=self.splits, extractor=self.extractor, dataset=self.dataset)

    def quick(self, fake: torch.Tensor) -> dict[str, float]:
        """The distance of a few images, which says how many: it is larger for fewer."""
        self.extractor.to(fake.device)
        return {f"{self.extractor.name} (n={len(fake)})": fid_score(fake, self.statistics, self.extractor)}


def scorer(settings: dict[str, Any], splits: dict[str, torch.Tensor]) -> Scorer | None:
    """None with metrics=none."""
    return Scorer(settings, splits) if settings["metrics"] else None


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


def save_gallery(folder: Path, fakes: torch.Tensor, reals: torch.Tensor) -> None:
    """samples.npz with some generated and real images, uint8 (n, C, H, W), and samples.png of 64 generated ones."""
    fake, real = fakes[:GALLERY].numpy(), reals[:GALLERY].numpy()
    part = folder / "samples.part.npz"
    np.savez_compressed(part, fake=fake, real=real)
    part.replace(folder / "samples.npz")
    save_grid(fake if fake.shape[2:] == (1, 1) else fake[:64], folder / "samples.png")


def family(model: Generator) -> str:
    return type(model).__name__.lower()


def scores_in_words(metrics: dict[str, Any]) -> str:
    scores = [f"{name} {row['value']:.3f} (n={row['n']})" for name, row in metrics.get("scores", {}).items()]
    return ", ".join(scores) or "not scored"


if __name__ == "__main__":
    main()
