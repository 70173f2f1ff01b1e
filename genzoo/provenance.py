"""What a run cost and where it came from: the figures beside its scores. No secret, no environment."""

import resource
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from genzoo import __version__
from genzoo.generator import Generator

PACKAGES = ("torch", "pytorch-lightning", "torchmetrics", "hydra-core", "nflows", "numpy")


def cost(model: Generator, seconds: float, sampling_seconds_per_image: float | None) -> dict[str, Any]:
    """Parameters, images seen, training seconds and speed, peak bytes, sampling seconds and network calls an image."""
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "images_seen": model.images_seen,
        "training_seconds": seconds,
        "images_per_second": model.images_seen / seconds if seconds else None,
        "peak_memory_bytes": peak_memory(model.device),
        "sampling_seconds_per_image": sampling_seconds_per_image,
        "nfe": model.nfe,
        "device": device_name(model.device),
    }


def peak_memory(device: torch.device) -> int:
    """Bytes: of tensors on a GPU; on the CPU of the whole process since it started."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads"


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
