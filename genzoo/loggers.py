"""Where losses and scores go: always curves.csv in the run folder, and on request W&B, which never prompts."""

import csv
import netrc
import os
import sys
import time
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger, WandbLogger
from pytorch_lightning.utilities import rank_zero_only


class CurvesFile(Logger):
    """Appends rows `images,seconds,name,value` to curves.csv, so that a resumed run goes on in the same file."""

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

    @rank_zero_only
    def resume(self, images: int) -> None:
        """Drop the rows after `images`, which are about to be written again, and let the clock go on from the rest."""
        if not self.path.exists():
            return
        with self.path.open(newline="") as file:
            rows = [row for row in csv.reader(file) if len(row) == 4]
        kept = [row for row in rows[1:] if int(row[0]) <= images]
        with self.path.open("w", newline="") as file:
            csv.writer(file).writerows([rows[0], *kept])
        self.start = time.time() - float(kept[-1][1] if kept else 0)

    @rank_zero_only
    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Nothing: config.yaml has them."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """One row a metric; `step` counts images."""
        new = not self.path.exists()
        with self.path.open("a", newline="") as file:
            rows = csv.writer(file)
            if new:
                rows.writerow(["images", "seconds", "name", "value"])
            for name, value in metrics.items():
                rows.writerow([step, f"{time.time() - self.start:.2f}", name, f"{value:.6g}"])


def wandb_mode() -> str:
    """ "online" when a key is at hand (WANDB_API_KEY, or `wandb login` was run), else "offline"; WANDB_MODE decides."""
    if "WANDB_MODE" in os.environ:
        return os.environ["WANDB_MODE"]
    if os.environ.get("WANDB_API_KEY"):
        return "online"
    try:
        return "online" if netrc.netrc().authenticators("api.wandb.ai") else "offline"
    except (OSError, netrc.NetrcParseError):
        return "offline"


class WandbCurves(WandbLogger):
    """W&B with images seen as the x-axis of everything.

    Without a login it is offline: nothing is asked and nothing waits; `wandb sync` sends the run later. Arguments are
    WandbLogger's.
    """

    def __init__(self, save_dir: str, **settings: Any) -> None:
        Path(save_dir).mkdir(parents=True, exist_ok=True)
        super().__init__(save_dir=save_dir, mode=wandb_mode(), **settings)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any]) -> None:
        """The composed configuration; opens the run."""
        self.experiment.define_metric("images")
        self.experiment.define_metric("*", step_metric="images")
        super().log_hyperparams(params)

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """`step` counts images."""
        self.experiment.log({**metrics, "images": step})


def finish_wandb(summary: dict[str, Any]) -> None:
    """Write the scores into the open W&B run, if there is one, and close it: the next run of a sweep is another."""
    wandb = sys.modules.get("wandb")
    if wandb is not None and wandb.run is not None:
        wandb.run.summary.update(summary)
        wandb.finish()
