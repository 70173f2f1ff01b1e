"""A run is a folder of files: find the folders, read them, and say of each what state it is in."""

import csv
import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from operator import itemgetter
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import yaml

log = logging.getLogger(__name__)

SECTIONS = {
    "protocol": dict,
    "protocol_id": str,
    "scores": dict,
    "calibration": dict,
    "cost": dict,
    "provenance": dict,
}
OPTIONAL = {
    "reconstruction": 4,
    "interpolation": 5,
    "trajectory": 5,
    "asked": 5,
    "classes": 5,
}  # arrays of samples.npz and their axes


@dataclass(frozen=True)
class Run:
    """One run folder as read.

    folder: where its files are; place: the same, counted from the folder the user named, for print.
    state: "finished", "running", "unfinished", "failed", "not started" or "unreadable"; metrics is empty unless
    finished.
    note: a failed run's traceback, or why the run cannot be read.
    variant: "" for metrics.json, "-<digest>" for a record that genzoo.score added beside it; added: the overrides
    that this scoring was given.
    """

    folder: Path
    place: str
    state: str
    config: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    note: str = ""
    variant: str = ""
    added: tuple[str, ...] = ()

    @property
    def family(self) -> str:
        """VAE for family "vae" of class VAE; the family's own name, Flow matching, for a class called otherwise."""
        model = self.config.get("model")
        model = model if isinstance(model, dict) else {}
        module, _, name = str(model.get("_target_", "")).rpartition(".")
        family = str(self.provenance.get("family") or model.get("name") or module.rpartition(".")[2])
        return name if name.lower() == family.lower() else family or "unknown family"

    @property
    def seed(self) -> object:
        return self.config.get("seed")

    @property
    def provenance(self) -> dict[str, Any]:
        return self.metrics.get("provenance", {})


def find(folders: list[Path]) -> list[Run]:
    """Every run at or below the folders, each once, in the folders' order and then by path.

    Raises FileNotFoundError when a folder does not exist, or when no run is found in any of them.
    """
    found: dict[tuple[Path, str], Run] = {}
    for top in folders:
        if not top.is_dir():
            raise FileNotFoundError(f"{top} is not a folder: give the output folder of a run or of a study.")
        for folder in _run_folders(top):
            place = Path(top.resolve().name, folder.relative_to(top)).as_posix()
            for run in _records(folder, place):
                found.setdefault((folder.resolve(), run.variant), run)
    if not found:
        where = ", ".join(map(str, folders))
        raise FileNotFoundError(f"No run below {where} (no config.yaml): train one with `python -m genzoo.run`.")
    return list(found.values())


def _run_folders(top: Path) -> Iterator[Path]:
    """Folders with a config.yaml; below a run, in hidden folders and in W&B's it means something else."""
    for folder, below, files in os.walk(top):
        below[:] = sorted(name for name in below if not name.startswith(".") and name != "wandb")
        if "config.yaml" in files:
            below.clear()
            yield Path(folder)


def _records(folder: Path, place: str) -> list[Run]:
    """The run's own record, then those that genzoo.score added, whose overrides are the run's own and further ones."""
    own = read(folder, place)
    given = len(own.provenance.get("overrides") or [])
    variants = sorted(path.stem.removeprefix("metrics") for path in folder.glob("metrics-*.json"))
    again = [read(folder, place, variant) for variant in variants]
    return [own, *(replace(run, added=tuple(map(str, run.provenance.get("overrides") or []))[given:]) for run in again)]


def read(folder: Path, place: str, variant: str = "") -> Run:
    """Reads one record of a run folder; what cannot be read is logged and gives a run in state "unreadable"."""
    config: dict[str, Any] = {}
    try:
        started = (folder / "config.yaml").exists()
        config = _config(folder / "config.yaml") if started else {}
        path = folder / f"metrics{variant}.json"
        if started and path.exists():
            return Run(folder, place, "finished", config, _metrics(path), variant=variant)
    except (OSError, ValueError, yaml.YAMLError) as error:
        log.warning("%s cannot be read: %s", folder, error)
        return Run(folder, place, "unreadable", config, note=str(error))
    if is_locked(folder):
        return Run(folder, place, "running", config)
    if (folder / "failed.txt").exists():
        note = (folder / "failed.txt").read_text("utf-8", errors="replace")
        return Run(folder, place, "failed", config, note=note.strip())
    return Run(folder, place, "unfinished" if started else "not started", config)


def is_locked(folder: Path) -> bool:
    """Whether a process holds the run's .lock (an exclusive flock); False without one, and where there is no flock.

    Asks for a shared lock, so that two that look at once do not take each other for the run.
    """
    try:
        import fcntl

        with open(folder / ".lock", "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except (ImportError, OSError):
        return False
    return False


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)


def _config(path: Path) -> dict[str, Any]:
    config = yaml.safe_load(path.read_text("utf-8"))
    _require(isinstance(config, dict), f"{path.name} holds no mapping.")
    return config


def _metrics(path: Path) -> dict[str, Any]:
    """metrics.json, checked to have its sections and a number in every score, else ValueError."""
    try:
        metrics = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path.name} is not JSON ({error}).") from error
    _require(isinstance(metrics, dict), f"{path.name} has no sections.")
    for key, kind in SECTIONS.items():
        _require(isinstance(metrics.get(key), kind), f"{path.name} has no {key!r} of type {kind.__name__}.")
    for row, scores in [("scores", metrics["scores"]), *metrics["calibration"].items()]:
        _require(isinstance(scores, dict), f"{path.name} has no scores for {row!r}.")
        for name, score in scores.items():
            _require(_is_score(score), f"{path.name} has no number, or a broken interval, for the score {name!r}.")
    _require(isinstance(metrics.get("budget", {}), dict), f"{path.name} has no 'budget' of type dict.")
    ways = metrics.get("likelihoods", [])
    whole = isinstance(ways, list) and all(map(_is_score, ways))
    _require(whole, f"{path.name} has no number, or a broken interval, in 'likelihoods'.")
    return metrics


def _is_score(score: object) -> bool:
    """Whether it holds a number and, if anything, two numbers as interval and numbers as repeats."""
    if not isinstance(score, dict):
        return False
    interval, repeats = score.get("ci95") or [0, 0], score.get("repeats") or []
    lists = isinstance(interval, list) and isinstance(repeats, list) and len(interval) == 2
    return lists and all(isinstance(number, (int, float)) for number in [score.get("value"), *interval, *repeats])


def samples(run: Run) -> dict[str, np.ndarray]:
    """The arrays of samples.npz; {} and a warning when it cannot be read.

    Always `fake` and `real`, each (k, C, H, W) uint8. Where they were kept `nearest` (of fake's shape) and `distance`
    (k,), `reconstruction` (of the first k of `real`), `interpolation` and `trajectory` (rows, steps, C, H, W),
    `classes` (classes, samples of each, C, H, W).
    """
    try:
        with np.load(run.folder / f"samples{run.variant}.npz", allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
        images = [found["fake"], found["real"], found.get("nearest", found["fake"])]
        fine = all(a.ndim == 4 and a.dtype == np.uint8 and a.size for a in images)
        _require(fine, "its arrays are not (k, C, H, W) uint8.")
        beside = (
            images[2].shape == images[0].shape and found.get("distance", images[0]).shape[:1] == images[0].shape[:1]
        )
        _require(beside, "its nearest images or distances are not one a sample.")
        for name, axes in OPTIONAL.items():
            a = found.get(name)
            fine = a is None or (a.ndim == axes and a.dtype == np.uint8 and a.size > 0)
            _require(fine, f"its {name!r} is no uint8 array of {axes} axes.")
        return found
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        log.warning("%s cannot be read: %s", run.folder / f"samples{run.variant}.npz", error)
        return {}


def curves(run: Run) -> dict[str, np.ndarray]:
    """curves.csv by name, each (points, 2): images seen and value, in the order of images.

    A line that does not parse is left out: a killed run may end in the middle of one. Without the file:
    {} and a warning.
    """
    found: dict[str, list[tuple[float, float]]] = {}
    try:
        with open(run.folder / "curves.csv", newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                try:
                    found.setdefault(row["name"], []).append((float(row["images"]), float(row["value"])))
                except (KeyError, TypeError, ValueError):
                    continue
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        log.warning("%s cannot be read: %s", run.folder / "curves.csv", error)
    return {name: np.array(sorted(points, key=itemgetter(0))) for name, points in found.items() if points}
