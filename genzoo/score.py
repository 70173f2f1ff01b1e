"""python -m genzoo.score run=outputs/...: score a finished run again and add a record beside metrics.json."""

import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from genzoo import report, runs, trust
from genzoo.asking import answers
from genzoo.command import command, ending, plain, quoted
from genzoo.data.datamodule import DataModule
from genzoo.generator import Generator
from genzoo.gpu import sampling_precision, tune
from genzoo.metrics.cost import sampling_cost, sampling_speed
from genzoo.metrics.draw import draw
from genzoo.metrics.evaluate import Evaluation, quantised
from genzoo.metrics.features import extract, identified
from genzoo.metrics.likelihood import bits_per_dim_rows
from genzoo.metrics.protocol import short_hash
from genzoo.metrics.reconstruction import reconstruction
from genzoo.metrics.reference import reference_of
from genzoo.metrics.scores import frechet, kernel
from genzoo.provenance import command_line, provenance
from genzoo.sample import check_exchange, check_whole, device, exchange_sampling
from genzoo.showcase import showcase


class Scorer:
    """A run's protocol bound to its data: `scorer(model)` for the record, `quick(fake)` for curves."""

    def __init__(self, settings: dict[str, Any], data: DataModule, device: torch.device) -> None:
        check_metrics(settings["metrics"])
        self.evaluate = instantiate(settings["metrics"], _convert_="all")
        self.extractor = identified(instantiate(settings["features"], _convert_="all").to(float64_device(device)))
        self.dataset = data.name
        self.splits = {name: data.split(name).x for name in ("train", "val", "test")}
        self.test = data.split("test")
        images = {name: quantised(x) for name, x in self.splits.items()}
        self.reference = reference_of(images, self.extractor, settings["metrics"]["reference"])

    def __call__(self, model: Generator) -> Evaluation:
        return self.evaluate(
            model.sample,
            splits=self.splits,
            extractor=self.extractor,
            dataset=self.dataset,
            likelihoods=partial(bits_per_dim_rows, model),
            reconstructions=partial(reconstruction, model),
            answers=partial(answers, model, self.test),
        )

    def quick(self, fake: Tensor) -> dict[str, float]:
        """Distances of a few images, named with their number: fewer images are further away."""
        features = extract(fake, self.extractor).to(self.reference.real.device)
        scores = frechet(features, self.reference, parts=0, blocks=0) | kernel(features, self.reference, blocks=0)
        return {f"{name} (n={len(fake)})": score.value for name, score in scores.items()}


def check_metrics(metrics: dict[str, Any]) -> None:
    """Raises ValueError for numbers of images that cannot be scored."""
    n, sets = metrics["n"], metrics["sets"]
    if n is not None and n < 2:
        raise ValueError(f"metrics.n={n}: a distance needs at least 2 images")
    if sets < 1:
        raise ValueError(f"metrics.sets={sets}: draw at least one set of images")
    for key, least in {"n_likelihood": 0, "batch_size": 1, "seed": 0}.items():
        check_whole(f"metrics.{key}", metrics[key], least)


def float64_device(device: torch.device) -> torch.device:
    """The same device, but the CPU for those that do not know float64 (Apple's)."""
    return device if device.type == "cuda" else torch.device("cpu")


def unscored(model: Generator) -> Evaluation:
    """The record of a run with metrics=none: samples for the gallery, no score."""
    nothing = {"protocol": {}, "protocol_id": "unscored", "scores": {}, "likelihoods": [], "calibration": {}}
    return Evaluation(nothing, draw(model.sample, runs.GALLERY))


def in_words(metrics: dict[str, Any]) -> str:
    """The first score of a record, the shares of what was asked, and its bits/dim."""
    scores = metrics["scores"]
    shown = [name for name in dict.fromkeys([*leading(scores), "bits/dim"]) if name in scores]
    return ", ".join(row_in_words(name, scores[name]) for name in shown) or "not scored"


def leading(scores: dict[str, Any]) -> list[str]:
    """The names of the first score and of those that say whether samples are what was asked."""
    return [*list(scores)[:1], *(name for name in scores if name.endswith((" right", " given")))]


def row_in_words(name: str, row: dict[str, Any]) -> str:
    """FD-digits 1.58 ± 0.41 (n=400) with the 95% interval, whose ends stand in brackets where one arm is longer."""
    return f"{name} {row['value']:.4g}{arms(row['value'], *row['ci95']) if 'ci95' in row else ''} (n={row['n']:,})"


def arms(value: float, low: float, high: float) -> str:
    """Such as ± 0.41, or [0.68, 0.99] where the arms differ as printed; after a space."""
    below, above = (f"{arm:.2g}" for arm in (value - low, high - value))
    return f" ± {above}" if below == above else f" [{low:.3g}, {high:.3g}]"


@command("score")
def main(cfg: DictConfig) -> None:
    folder, overrides = Path(cfg.run), list(HydraConfig.get().overrides.task)
    first, trained = runs.finished(folder), runs.read_settings(folder)
    trust.check(trained, cfg.allow)  # before anything resolves or looks for what it names
    settings = plain(OmegaConf.merge({"data": trained["data"]}, cfg))  # features may ask for data.image_shape
    if first is None:
        raise ValueError(f"{folder} has no whole {runs.METRICS}: repeat its genzoo.run command, then score it again")
    if settings["metrics"] is None:
        raise ValueError("metrics=none leaves nothing to do: choose another of conf/metrics")
    check_exchange(settings)
    check_metrics(settings["metrics"])
    chosen = {**trained, "metrics": settings["metrics"], "features": settings["features"] or trained["features"]}
    data = instantiate(chosen["data"], _convert_="all")
    model = runs.load(folder, device(settings["device"]), settings["allow"])
    exchange_sampling(model, settings)
    if "tuned" in trained["callbacks"]:
        tune(model, halve=first["cost"].get("sampling_precision") == "float16")
    record, path = rescore(folder, first, model, data, chosen, overrides)
    print(f"{model.family}: {in_words(record)} -> {path}")
    SCORED.append((folder, record))


def rescore(
    folder: Path,
    first: dict[str, Any],
    model: Generator,
    data: DataModule,
    chosen: dict[str, Any],
    overrides: list[str],
) -> tuple[dict[str, Any], Path]:
    """Score `model` under the protocol of `chosen`; returns the new record and its file, metrics-<digest>.json."""
    started = time.time()
    judged = Scorer(chosen, data, model.device)(model)
    added = [o for o in overrides if not o.startswith("run=")]
    origin = first["provenance"]
    record = {
        **judged.record,
        "cost": {
            **first["cost"],
            **sampling_cost(model, sampling_speed(model.sample, model.device)),
            "sampling_precision": sampling_precision(model),
        },
        "provenance": {
            **provenance(origin["overrides"] + added, started, family=model.family, sampling=model.sampling),
            "config_hash": origin["config_hash"],
            "command": command_line("genzoo.score", overrides),
        },
    }
    variant = f"-{short_hash([record['protocol_id'], model.sampling])}"
    x, y = data.split("test")
    runs.save_gallery(folder, judged, x, showcase(model, x, y), variant)
    path = folder / f"metrics{variant}.json"
    runs.write_json(path, record)
    return record, path


SCORED: list[tuple[Path, dict[str, Any]]] = []  # by this process: the run's folder and the new record


def program() -> None:
    """The command line. Values with commas, as in sampler=ddim,heun steps=5,10, are scored one by one from the same
    noise, and end in a table and in the report of the run's study."""
    SCORED.clear()
    if any(is_sweep(argument) for argument in sys.argv[1:]):
        sys.argv.append("--multirun")
    with ending():
        main()
        if len(SCORED) > 1:
            print(table([record for _, record in SCORED]))
            top = study_of(SCORED[0][0].resolve())
            print(report.write([top], top / "report"))


def study_of(folder: Path) -> Path:
    """The folder of the study that a run belongs to, or the run's own."""
    study = folder.parents[1]
    return study if study.name == runs.read_settings(folder)["study"] else folder


def is_sweep(argument: str) -> bool:
    """Whether Hydra takes an argument for several values. What it cannot read, it will refuse by itself."""
    try:
        return OverridesParser.create().parse_override(quoted(argument)).is_sweep_override()
    except HydraException:
        return False


def table(records: list[dict[str, Any]]) -> str:
    """Markdown: how each was sampled, its network calls, its first score and the shares of what was asked with their
    intervals, its seconds an image."""
    names = leading(records[0]["scores"])
    heads = ["Sampling", "Network calls", *names, "Seconds an image"]
    lines = [f"| {' | '.join(heads)} |", f"| --- |{' ---: |' * (len(heads) - 1)}"]
    for record in records:
        words, cost = record["provenance"]["sampling"], record["cost"]
        found = [row_in_words("", record["scores"][name]).split(" (")[0].strip() for name in names]
        cells = [words, f"{cost['nfe']:.4g}", *found, f"{cost['sampling_seconds_per_image']:.2g}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    program()
