"""Where results that can be computed again are kept, and how they are written: whole or not at all."""

import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor


def cache_folder(cache_dir: str | Path | None) -> Path:
    """`cache_dir`; None is $XDG_CACHE_HOME/genzoo, else ~/.cache/genzoo."""
    return Path(cache_dir or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "genzoo")


def write_atomically(path: Path, content: bytes) -> None:
    """Write by a temporary file and a rename, so that a killed or a parallel run leaves no half file.

    A place that cannot be written only warns: the next run computes again.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(content)
        os.replace(file.name, path)
    except OSError as error:
        warnings.warn(f"{path} cannot be kept ({error}): point XDG_CACHE_HOME elsewhere.", stacklevel=2)


def kept(path: Path, compute: Callable[[], Tensor]) -> Tensor:
    """The tensor kept in the safetensors file `path`, computed and written there if it is absent or damaged."""
    try:
        return load(path.read_bytes())["kept"]
    except (OSError, SafetensorError, KeyError):
        value = compute()
        write_atomically(path, save({"kept": value.cpu().contiguous()}))
        return value
