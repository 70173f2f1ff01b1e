"""Where results that can be computed again are kept: each with its checksum, whole or not at all."""

import hashlib
import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from genzoo.files import sweep_parts, write_bytes
from genzoo.metrics.protocol import images_sha256


def cache_folder(cache_dir: str | Path | None) -> Path:
    """`cache_dir`; None is $XDG_CACHE_HOME/genzoo, else ~/.cache/genzoo."""
    return Path(cache_dir or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "genzoo")


def keep(path: Path, content: bytes) -> None:
    """Write a file whole. A place that cannot be written only warns: the next run computes again."""
    try:
        write_bytes(path, content)
        sweep_parts(path.parent, older=3600)  # of processes that were killed, not of those at work beside this one
    except OSError as error:
        why = getattr(error.__cause__, "strerror", None) or error
        warnings.warn(f"{path} cannot be kept ({why}): point XDG_CACHE_HOME elsewhere.", stacklevel=2)


def kept(path: Path, compute: Callable[[], Tensor]) -> Tensor:
    """The tensor kept in the safetensors file `path`, computed and written there if it is absent or damaged."""
    value = tensor_in(path)
    if value is None:
        value = compute().cpu().contiguous()
        keep(path, save({"kept": value}, {"sha256": images_sha256(value)}))
    return value


def tensor_in(path: Path) -> Tensor | None:
    """The tensor that `kept` wrote; None where it is absent, or not as it was written."""
    try:
        with safe_open(path, "pt") as file:
            value, sha256 = file.get_tensor("kept").clone(), file.metadata()["sha256"]
            return value if images_sha256(value) == sha256 else None
    except (OSError, SafetensorError, KeyError, TypeError):  # the latter two: a file without a checksum
        return None


def keep_rows(path: Path, rows: dict[str, Any]) -> None:
    """Write JSON values with the sha256 of their text."""
    keep(path, json.dumps({"rows": rows, "sha256": rows_sha256(rows)}).encode())


def rows_in(path: Path) -> dict[str, Any] | None:
    """The values that `keep_rows` wrote; None where they are absent, or not as they were written."""
    try:
        content = json.loads(path.read_bytes())
        return content["rows"] if content["sha256"] == rows_sha256(content["rows"]) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def rows_sha256(rows: dict[str, Any]) -> str:
    """Raises ValueError for NaN and infinity, which JSON does not have."""
    return hashlib.sha256(json.dumps(rows, sort_keys=True, allow_nan=False).encode()).hexdigest()
