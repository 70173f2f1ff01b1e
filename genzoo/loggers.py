"""Where losses and scores go: always curves.csv in the run folder, and on request W&B, which never prompts."""

import csv
import netrc
import os
import secrets
import sys
import time
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np
from pytorch_lightning.loggers import Logger, WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from genzoo.files import told, write_bytes

STRIPS = ("interpolation", "trajectory", "classes", "asked", "reconstruction")  # of samples.npz, shown row by row
SMALL_FILES = ("metrics.json", "config.yaml", "curves.csv", "samples.png")


class CurvesFile(Logger):
    """Appends rows `images,seconds,name,value` to curves.csv; a resumed run goes on in the same file."""

    def __init__(self, folder: str | Path) -> None:
        super().__init__()
        self.path = Path(folder) / "curves.csv"
        self.start = time.time()

    @property
    def name(self) -> str:
        return "curves"

    @property
    def version(self) -> int:
        return 0

    def size(self) -> int:
        """Bytes written."""
        return self.path.stat().st_size if self.path.exists() else 0

    @rank_zero_only
    def cut(self, size: int) -> None:
        """Drop all after the first `size` bytes, which a resumed run writes again; the clock goes on from there."""
        if not self.path.exists():
            return
        with told(self.path):
            os.truncate(self.path, min(size, self.size()))
        rows = complete_rows(self.path)[1:]
        self.start = time.time() - float(rows[-1][1] if rows else 0)

    @rank_zero_only
    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Nothing: config.yaml has them."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """One row a metric; `step` counts images."""
        new = not self.size()
        with told(self.path), self.path.open("a", newline="") as file:
            rows = csv.writer(file)
            if new:
                rows.writerow(["images", "seconds", "name", "value"])
            for name, value in metrics.items():
                rows.writerow([step, f"{time.time() - self.start:.2f}", name, f"{value:.6g}"])


def complete_rows(path: Path) -> list[list[str]]:
    """The rows of curves.csv with its head; a killed run may leave half of one at the end."""
    with path.open(newline="") as file:
        return [row for row in csv.reader(file) if len(row) == 4]


def moments(path: Path, images: int) -> Iterator[dict[str, float]]:
    """What curves.csv holds up to `images`, moment by moment: {"images": 640, "train/loss": 1.5, ...}."""
    rows = complete_rows(path)[1:] if path.exists() else []
    for step, together in groupby((row for row in rows if int(row[0]) <= images), key=lambda row: row[0]):
        yield {"images": int(step), **{name: float(value) for _, _, name, value in together}}


def wandb_mode() -> str:
    """ "online" when a key is at hand (WANDB_API_KEY, or `wandb login` was run), else "offline"; WANDB_MODE decides."""
    if "WANDB_MODE" in os.environ:
        return os.environ["WANDB_MODE"]
    if os.environ.get("WANDB_API_KEY"):
        return "online"
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return "online" if netrc.netrc(os.environ.get("NETRC")).authenticators(host) else "offline"
    except (OSError, netrc.NetrcParseError):
        return "offline"


@rank_zero_only
def run_id(folder: str | Path) -> str:
    """The id of the W&B run that a folder belongs to: drawn once, then kept in wandb/id there.

    So the same command goes on with the same W&B run, while a folder that was deleted and filled anew, or the same
    path on another machine, which a hash of the path could not tell apart, is another one.
    """
    path = Path(folder) / "wandb" / "id"
    known = path.read_text().strip() if path.is_file() else ""
    if not known:
        known = secrets.token_hex(6)  # not `random`, which every run of one seed has in the same state
        write_bytes(path, known.encode())
    return known


class WandbCurves(WandbLogger):
    """W&B with images seen as the x-axis of everything, one W&B run for one run folder however often it is resumed.

    Without a login it is offline: nothing is asked and nothing waits; `wandb sync` sends the run later.
    save_dir: the run folder. artifact: whether `finish` also sends the folder's small files. The other arguments are
    wandb.init's.
    """

    def __init__(self, save_dir: str, artifact: bool = False, **settings: Any) -> None:
        Path(save_dir).mkdir(parents=True, exist_ok=True)
        super().__init__(save_dir=save_dir, **{"id": run_id(save_dir), "mode": wandb_mode(), **settings})
        self.folder, self.artifact = Path(save_dir), artifact
        self.sent = -1  # images up to which W&B has the curves already

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any]) -> None:
        """The composed configuration; opens the run."""
        self.experiment.define_metric("images")
        self.experiment.define_metric("*", step_metric="images", overwrite=True)  # Lightning's own is its step
        super().log_hyperparams(params)

    @rank_zero_only
    def resume(self, images: int) -> None:
        """Let the W&B run hold every point up to `images` once, wherever the last session was stopped.

        A server has the points that it was sent. Offline each session is a file, and W&B keeps the last that is
        synchronised, so the curves so far are written again from curves.csv.
        """
        if self.experiment.resumed:
            self.sent = self.experiment.summary.get("images", -1)
            return
        for values in moments(self.folder / "curves.csv", images):
            self.experiment.log(values)

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """`step` counts images."""
        if step is None or step > self.sent:
            self.experiment.log({**metrics, "images": step})

    @rank_zero_only
    def finish(self, record: dict[str, Any]) -> None:
        """The run's metrics.json as summary and tag, its rows of pictures and, if asked for, its small files."""
        run = self.experiment
        run.log({**pictures(self.folder / "samples.npz"), "images": record["cost"]["images_seen"]})
        run.summary.update(summary(record))
        run.tags = tuple({*(run.tags or ()), f"protocol {record['protocol_id']}"})
        if self.artifact:
            run.log_artifact(bundle(f"run-{run.id}", "run", (self.folder / name for name in SMALL_FILES)))


def summary(record: dict[str, Any]) -> dict[str, Any]:
    """A metrics.json as flat keys: each score with the ends of its 95% interval, likelihoods, costs, protocol_id."""
    ways = {f"bits/dim, {row['method']}": row for row in record.get("likelihoods", [])}
    found: dict[str, Any] = {"protocol_id": record["protocol_id"]}
    for name, row in {**ways, **record["scores"]}.items():
        low, high = row.get("ci95") or (None, None)
        found |= {name: row["value"], f"{name} low": low, f"{name} high": high, f"{name} n": row.get("n")}
    found |= {f"cost/{name}": value for name, value in record["cost"].items()}
    return {name: value for name, value in found.items() if value is not None}


def pictures(path: Path) -> dict[str, Any]:
    """The rows of images in samples.npz, each array as one wandb.Image; reconstructions below their originals.

    {} for points, which are no pictures.
    """
    import wandb

    if not path.is_file():
        return {}
    with np.load(path, allow_pickle=False) as arrays:
        rows = {name: arrays[name] for name in STRIPS if name in arrays}
        found = {name: images for name, images in rows.items() if images.shape[-3] in (1, 3)}
        if "reconstruction" in found:
            found["reconstruction"] = np.stack(
                [arrays["real"][: len(found["reconstruction"])], found["reconstruction"]]
            )
    return {name: wandb.Image(strip(images)) for name, images in found.items()}


def strip(images: np.ndarray) -> np.ndarray:
    """(rows, columns, C, H, W) -> one picture (rows * H, columns * W, 3); grey images have three equal channels."""
    rows, columns, channels, height, width = images.shape
    picture = images.transpose(0, 3, 1, 4, 2).reshape(rows * height, columns * width, channels)
    return np.repeat(picture, 3, axis=2) if channels == 1 else picture


def bundle(name: str, kind: str, files: Iterable[Path]) -> Any:
    """A wandb.Artifact of those of the files that exist."""
    import wandb

    artifact = wandb.Artifact(name, type=kind)
    for path in filter(Path.is_file, files):
        artifact.add_file(str(path))
    return artifact


def finish_wandb(record: dict[str, Any], loggers: Iterable[Logger] = ()) -> None:
    """Give a run's metrics.json to its W&B loggers and close the open W&B run: the next run of a sweep is another.

    An empty record marks it as failed.
    """
    for logger in loggers:
        if isinstance(logger, WandbCurves):
            logger.finish(record)
    wandb = sys.modules.get("wandb")
    if wandb is not None and wandb.run is not None:
        wandb.finish(exit_code=0 if record else 1)
