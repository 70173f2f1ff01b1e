"""Where a run came from: command, code and libraries. No secret, no environment."""

import shlex
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from genzoo import __version__

PACKAGES = ("torch", "pytorch-lightning", "torchmetrics", "hydra-core", "nflows", "numpy")


def provenance(overrides: list[str], started: float, **facts: Any) -> dict[str, Any]:
    """The command that repeats the run, its code and its libraries; `started` in seconds since 1970."""
    return {
        **facts,
        "overrides": overrides,
        "command": command_line("genzoo.run", overrides),
        **git_state(Path(__file__).parent),
        "versions": {
            "genzoo": __version__,
            "python": sys.version.split()[0],
            **{package: version(package) for package in PACKAGES},
        },
        "started": datetime.fromtimestamp(started, UTC).isoformat(timespec="seconds"),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def command_line(module: str, overrides: list[str]) -> str:
    """What to type into a shell."""
    return " ".join(["python -m", module, *map(shlex.quote, overrides)])


def git_state(folder: Path) -> dict[str, Any]:
    """Commit and dirty flag of the checkout that `folder` is in; None for both outside one."""

    def git(*arguments: str) -> str | None:
        try:
            call = subprocess.run(["git", "-C", folder, *arguments], capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return None
        return call.stdout.strip()

    if git("ls-files", "--error-unmatch", "provenance.py") is None:  # installed inside somebody else's checkout
        return {"git_commit": None, "git_dirty": None}
    return {"git_commit": git("rev-parse", "HEAD"), "git_dirty": bool(git("status", "--porcelain"))}
