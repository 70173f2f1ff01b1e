"""Caches: whatever happens to a file, what is read is what was computed."""

import json
import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save, save_file
from torch import Tensor

from genzoo.metrics.cache import keep, keep_rows, kept, rows_in, tensor_in
from genzoo.metrics.protocol import images_sha256

VALUE = torch.arange(12.0).view(3, 4)
ROWS = {"real test": {"FD": {"value": 1.5, "n": 3, "ci95": [1.0, 2.0]}}}


def written(path: Path) -> bytes:
    kept(path, lambda: VALUE)
    return path.read_bytes()


def computed() -> Tensor:
    return VALUE + 100


def test_a_kept_tensor_is_not_computed_again(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "x.safetensors"
    written(path)
    assert torch.equal(kept(path, computed), VALUE)
    assert torch.equal(load_file(path)["kept"], VALUE)  # a file like any other
    assert [file.name for file in path.parent.iterdir()] == ["x.safetensors"]


def test_every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    whole = written(path)
    for i in range(len(whole)):
        path.write_bytes(whole[:i] + bytes([whole[i] ^ 1 << i % 8]) + whole[i + 1 :])
        found = tensor_in(path)
        assert found is None or torch.equal(found, VALUE), i
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert torch.equal(kept(path, computed), computed())
    assert torch.equal(kept(path, lambda: VALUE), computed())  # and mended


@pytest.mark.parametrize("length", [0, 5, 60, -1])
def test_a_truncated_file_is_computed_again(tmp_path: Path, length: int) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(written(path)[:length])
    assert torch.equal(kept(path, computed), computed())


def test_files_of_another_version_are_computed_again(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    for metadata in (None, {"format": "pt"}, {"sha256": "0" * 64}):
        save_file({"kept": VALUE}, path, metadata)
        assert torch.equal(kept(path, computed), computed())
    save_file({"other": VALUE}, path, {"sha256": "0" * 64})
    assert torch.equal(kept(path, computed), computed())


def test_every_flipped_bit_of_rows_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    keep_rows(path, ROWS)
    assert rows_in(path) == ROWS
    whole = path.read_bytes()
    for i in range(len(whole)):
        path.write_bytes(whole[:i] + bytes([whole[i] ^ 1 << i % 7]) + whole[i + 1 :])
        assert rows_in(path) in (None, ROWS), i
    for other in (b"", b"{}", b"[1]", b"null", b'{"half', json.dumps(ROWS).encode()):
        path.write_bytes(other)
        assert rows_in(path) is None


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_rows_are_strict_json(tmp_path: Path, bad: float) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        keep_rows(tmp_path / "x.json", {"real test": {"FD": {"value": bad}}})
    assert not list(tmp_path.iterdir())


def fill(path: Path, start: Any) -> None:
    """Write again and again what another process writes, too; exit 1 if anything else is ever read."""
    start.wait()
    for _ in range(60):
        keep(path, save({"kept": VALUE}, {"sha256": images_sha256(VALUE)}))
        if not torch.equal(kept(path, computed), VALUE):
            os._exit(1)


def test_two_processes_fill_one_cache(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    barrier, path = fork.Barrier(2), tmp_path / "x.safetensors"
    processes = [fork.Process(target=fill, args=(path, barrier)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert torch.equal(tensor_in(path), VALUE)
    assert [file.name for file in tmp_path.iterdir()] == ["x.safetensors"]
