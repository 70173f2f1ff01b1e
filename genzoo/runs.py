"""A run is a folder: its config.yaml, its checkpoint, its metrics.json; written whole or not at all."""

import fcntl
import json
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
import yaml
from hydra.utils import instantiate
from torch import Tensor

from genzoo.checkpoints import newest, read
from genzoo.files import told, write_bytes, write_whole
from genzoo.generator import Generator
from genzoo.metrics.evaluate import GALLERY, Evaluation
from genzoo.metrics.inputs import quantised
from genzoo.metrics.protocol import short_hash
from genzoo.nets import lora
from genzoo.pictures import save_grid
from genzoo.trust import check

SETTINGS, METRICS, CHECKPOINTS, LOCK = "config.yaml", "metrics.json", "checkpoints", ".lock"


def write_json(path: Path, content: dict[str, Any]) -> None:
    write_bytes(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


def read_settings(run_dir: str | Path) -> dict[str, Any]:
    """The configuration of a run. Raises FileNotFoundError when the folder is not a run."""
    path = Path(run_dir) / SETTINGS
    if not path.is_file():
        raise FileNotFoundError(
            f"{run_dir} is not a run folder: it has no {SETTINGS}; give a folder that genzoo.run wrote"
        )
    try:
        settings = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}): delete the run and repeat its command") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{path} is damaged, it has no settings: delete the run and repeat its command")
    return settings


def essence(settings: dict[str, Any]) -> dict[str, Any]:
    """What decides the outcome of a run: not where files lie, who logs, or which device computes."""
    keep = {key: settings[key] for key in ("seed", "budget", "model", "features", "metrics")}
    shaping = ("learning_rate", "ema")
    return {
        **keep,
        **{key: settings[key] for key in ("from", "lora", "prior") if settings.get("from")},
        "data": {key: value for key, value in settings["data"].items() if key != "root"},
        "callbacks": {name: settings["callbacks"].get(name) for name in shaping},
        "precision": settings["trainer"].get("precision"),
        "accumulate": settings["trainer"].get("accumulate_grad_batches", 1),
        "processes": [settings["trainer"].get(key, 1) for key in ("devices", "num_nodes")],  # a step's images
    }


def fingerprint(settings: dict[str, Any]) -> str:
    return short_hash(essence(settings))


def differences(a: Any, b: Any, key: str = "") -> list[str]:
    """The dotted keys under which two configurations differ."""
    if isinstance(a, dict) and isinstance(b, dict):
        return [
            d for k in sorted(a.keys() | b.keys()) for d in differences(a.get(k), b.get(k), f"{key}.{k}".strip("."))
        ]
    return [] if a == b else [f"{key} ({a} there, {b} now)"]


def lock(file: TextIO) -> bool:
    """Take the system's lock on an open file, unless another process has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def held(run_dir: Path) -> Iterator[None]:
    """Keep other processes out of a run folder for as long as the block runs; the system lets go of a dead one's hold.

    Raises ValueError when another process is at work there.
    """
    with told(run_dir / LOCK):
        run_dir.mkdir(parents=True, exist_ok=True)
        file = open(run_dir / LOCK, "w")  # noqa: SIM115
    with file:
        if not lock(file):
            time.sleep(0.1)  # a report that looks whether the folder is held holds it for a moment
            if not lock(file):
                raise ValueError(f"another process is at work in {run_dir}: wait for it or set study=NAME")
        yield


def claim(run_dir: Path, settings: dict[str, Any]) -> None:
    """Write config.yaml, or make sure that the one there is of the same configuration.

    Raises ValueError when the folder holds a run of another one.
    """
    path = run_dir / SETTINGS
    if path.is_file():
        other = differences(essence(read_settings(run_dir)), essence(settings))
        if other:
            raise ValueError(
                f"{run_dir} holds a run of another configuration, different in {', '.join(other[:3])}; "
                "delete that folder or set study=NAME to write elsewhere"
            )
    else:
        write_bytes(path, yaml.safe_dump(settings, sort_keys=False).encode())


def forget(run_dir: Path) -> None:
    """Remove the folder of a run that was refused: Hydra has made it for a log that holds nothing."""
    log = run_dir / "run.log"
    if log.is_file() and not log.stat().st_size:
        log.unlink()
        with suppress(OSError):  # something else is there
            run_dir.rmdir()
            run_dir.parent.rmdir()


def finished(run_dir: Path) -> dict[str, Any] | None:
    """The contents of a complete metrics.json, or None."""
    try:
        return json.loads((run_dir / METRICS).read_text())
    except (FileNotFoundError, ValueError):  # half of it, or no text at all
        return None


def save_gallery(
    run_dir: Path, judged: Evaluation, reals: Tensor, more: dict[str, np.ndarray], variant: str = ""
) -> None:
    """samples.npz, and samples.png of 64 fakes. reals: held-out images (N, C, H, W), uint8 or points in [-1, 1].

    The arrays, each of as many images, uint8 (k, C, H, W): `fake`, `real`, and where there are scores `nearest`, the
    training image closest to each fake, with its `distance` (k,) in feature space; and `more` of `showcase`.
    """
    fake, real = judged.fakes[:GALLERY].numpy(), quantised(reals[:GALLERY]).cpu().numpy()
    arrays = {"fake": fake, "real": real, **more}
    if judged.neighbours is not None:
        arrays |= {"nearest": judged.neighbours.numpy(), "distance": judged.distances.numpy()}
    write_whole(run_dir / f"samples{variant}.npz", lambda file: np.savez_compressed(file, **arrays))
    save_grid(fake if fake.shape[2:] == (1, 1) else fake[:64], run_dir / f"samples{variant}.png")


def build(settings: dict[str, Any]) -> Generator:
    """The untrained model of a configuration, with LoRA's terms where it asks for them."""
    model = instantiate(settings["model"], _convert_="all")
    return lora.adapt(model, **settings["lora"]) if has_lora(settings) else model


def has_lora(settings: dict[str, Any]) -> bool:
    return bool(settings.get("from") and settings["lora"]["rank"])


def folder_of(run: str | Path) -> Path:
    """The folder of a run that is named by it or by one of its checkpoints."""
    return Path(run).parents[1] if Path(run).suffix == ".ckpt" else Path(run)


def load(run_dir: str | Path, map_location: str | torch.device = "cpu", allow: Iterable[str] = ()) -> Generator:
    """The trained model of a run, its averaged weights in place, LoRA's terms added to them, in evaluation mode.

    run_dir: the folder of a run, or one of its checkpoints by name, or a folder that genzoo.export wrote.
    allow: packages whose code it may name beside that of genzoo.trust, as ["mypackage"]: only if you trust it.
    Raises FileNotFoundError when it is no run or has no checkpoint, ValueError when the checkpoint is damaged (of a
    folder: all of them), does not hold this model, or the folder names other code.
    """
    from genzoo import export  # which imports this file

    if run_dir is None:
        raise ValueError("no run is named to load: set first_stage=RUN_FOLDER of a trained autoencoder")
    if export.is_shared(run_dir):
        return export.load(run_dir, map_location, allow)
    path, folder = Path(run_dir), folder_of(run_dir)
    settings = read_settings(folder)
    check(settings, allow)
    path = path if path.suffix == ".ckpt" else newest(folder / CHECKPOINTS)
    if path is None or not path.is_file():
        raise FileNotFoundError(f"{path or run_dir}: no checkpoint; the run has not saved yet, repeat its command")
    checkpoint = read(path, map_location)
    model = build(settings)
    weights = {**checkpoint["state_dict"], **checkpoint.get("ema", {"average": {}})["average"]}
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(
            f"{path} does not fit the model of {SETTINGS} ({error}); put back its own checkpoint or {SETTINGS}"
        ) from error
    model = lora.merge(model) if has_lora(settings) else model
    model.images_seen = checkpoint["images_seen"]
    return model.to(map_location).eval()
