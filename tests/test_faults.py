"""What happens to a run may not cost it anything: real signals, real kills, full disks and damaged files."""

import os
import random
import resource
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch

import genzoo
from genzoo import checkpoints, run, runs
from genzoo.checkpoints import LAST, NEXT, PREVIOUS, SealedIO
from genzoo.files import write_bytes

from . import torture
from .conftest import composed
from .torture import alike, born, ended

# --- Files.


def saved(folder: Path, **names: int) -> Path:
    """A folder of checkpoints, each with the images it was saved at."""
    for name, images in names.items():
        SealedIO().save_checkpoint({"images_seen": images, "x": torch.randn(1000)}, folder / f"{name}.ckpt")
    return folder


@pytest.mark.parametrize("spoil", [lambda c: c[:-1], lambda c: c[: len(c) // 2], lambda c: b"", lambda c: c + b"\0"])
def test_a_damaged_checkpoint_is_noticed_and_the_one_before_is_taken(spoil, tmp_path: Path) -> None:
    folder = saved(tmp_path, last=20, previous=10)
    assert checkpoints.newest(folder) == folder / LAST
    (folder / LAST).write_bytes(spoil((folder / LAST).read_bytes()))
    with pytest.warns(UserWarning, match=r"last.ckpt is damaged: going on from previous.ckpt"):
        assert checkpoints.newest(folder) == folder / PREVIOUS
    with pytest.raises(ValueError, match=r"last.ckpt is damaged"):
        checkpoints.read(folder / LAST)
    (folder / PREVIOUS).write_bytes(b"")
    with pytest.raises(ValueError, match=r"last.ckpt and .*previous.ckpt: every checkpoint is damaged; delete"):
        checkpoints.newest(folder)


def test_every_single_flipped_bit_is_noticed(tmp_path: Path) -> None:
    path = saved(tmp_path, last=1) / LAST
    content = path.read_bytes()
    pick = random.Random(0)
    for i in [*range(4), *pick.sample(range(len(content)), 60), *range(len(content) - 4, len(content))]:
        path.write_bytes(torture.flipped(content[i : i + 1], pick).join([content[:i], content[i + 1 :]]))
        assert not checkpoints.is_whole(path), i


def test_a_sealed_checkpoint_is_an_archive_that_torch_reads(tmp_path: Path) -> None:
    path = saved(tmp_path, last=7) / LAST
    assert torch.load(path, weights_only=True)["images_seen"] == 7
    assert not shutil.which("unzip") or subprocess.run(["unzip", "-tq", path], capture_output=True).returncode == 0


def test_a_checkpoint_that_was_just_written_is_the_newest(tmp_path: Path) -> None:
    """A kill between the two renames."""
    folder = saved(tmp_path, next=20, previous=10)
    assert checkpoints.newest(folder) == folder / NEXT


def test_no_file_is_left_by_a_write_that_fails(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_bytes(path, b"old")
    with pytest.raises(ZeroDivisionError):
        checkpoints.write_whole(path, lambda file: file.write(b"new") and 1 / 0)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
    with pytest.raises(OSError, match=r"^/dev/null/a cannot be written: /dev/null is no folder"):
        write_bytes(Path("/dev/null/a"), b"")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """4 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", place], capture_output=True).returncode:
        pytest.skip("needs the right to mount")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_full_disk_keeps_the_older_checkpoint_and_says_what_is_needed(small_disk: Path) -> None:
    saved(small_disk, last=10)
    (small_disk / "ballast").write_bytes(bytes(2**20))
    size = 4 * 2**20
    with pytest.raises(OSError, match=r"next.ckpt cannot be written: the disk is full .* a checkpoint takes 4.0 MB"):
        SealedIO().save_checkpoint({"x": torch.zeros(size // 4)}, small_disk / NEXT)
    assert sorted(path.name for path in small_disk.iterdir()) == ["ballast", LAST]
    assert checkpoints.read(small_disk / LAST)["images_seen"] == 10


# --- Runs.


def settings(folder: Path, *overrides: str) -> dict:
    return composed(f"folder='{folder}'", *torture.FAMILIES["vae"], *torture.TINY, "budget.images=2048", *overrides)


@pytest.mark.slow
def test_a_short_torture(tmp_path: Path) -> None:
    faults = [
        "kill -9 in the middle of writing a checkpoint",
        "one bit of the last checkpoint flipped",
        "half files left behind",
        "no room for a file",
    ]
    of = lambda folder, family: settings(folder, *torture.OFTEN)
    counts = torture.suffer(of, "vae", tmp_path / "vae-0", faults, seed=3)
    assert counts == dict.fromkeys(((name, True) for name in faults), 1)


class Cramped:
    """Little more memory for the training than the process has at its beginning."""

    def __call__(self) -> None:
        enough_memory = run.enough_memory

        def cramped(*arguments):
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            most = pages * resource.getpagesize() + 100 * 2**20
            resource.setrlimit(resource.RLIMIT_AS, (most, most))
            return enough_memory(*arguments)

        run.enough_memory = cramped


def test_a_batch_without_room_ends_the_run_with_a_remedy(tmp_path: Path) -> None:
    given = settings(tmp_path / "run", "width=64", "data.batch_size=1000")
    assert ended(born(given, tmp_path / "run", Cramped())) == 2
    said = (tmp_path / "run.log").read_text()
    assert "vae: a batch of 1000 images does not fit in memory: data.batch_size=500 trainer.accumulate_grad" in said


class Slurm:
    """The environment of a job, with an scontrol that only writes down what it is asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self) -> None:
        os.environ |= {
            "SLURM_NTASKS": "1", "SLURM_JOB_ID": "77", "SLURM_JOB_NAME": "train", "SLURM_PROCID": "0",
            "SLURM_LOCALID": "0", "SLURM_NODEID": "0", "PATH": f"{self.folder}:{os.environ['PATH']}",
        }  # fmt: skip


def test_slurm_puts_the_job_back_into_its_queue(tmp_path: Path) -> None:
    control, asked = tmp_path / "scontrol", tmp_path / "asked"
    control.write_text(f'#!/bin/sh\necho "$@" >> {asked}\n')
    control.chmod(control.stat().st_mode | stat.S_IXUSR)
    given = settings(tmp_path / "run", *torture.OFTEN, "budget.images=64_000")
    process = born(given, tmp_path / "run", Slurm(tmp_path))
    wait_until(lambda: (tmp_path / "run/checkpoints" / PREVIOUS).exists())
    os.kill(process.pid, signal.SIGUSR1)
    wait_until(asked.exists)
    process.terminate()  # as SLURM does
    assert ended(process) == 143
    assert asked.read_text().split() == ["requeue", "77"]
    assert torture.images(tmp_path / "run") > 0


@pytest.mark.slow
def test_sigterm_ends_every_rank_after_the_same_step(tmp_path: Path) -> None:
    overrides = ["trainer=ddp", "data.batch_size=32", "budget.images=6400", *torture.OFTEN]
    process = born(settings(tmp_path / "run", *overrides), tmp_path / "run")
    wait_until(lambda: (tmp_path / "run/checkpoints" / PREVIOUS).exists())
    process.terminate()
    assert ended(process) == 143
    for name in ("run", "whole"):
        assert ended(born(settings(tmp_path / name, *overrides), tmp_path / name)) == 0
    alike(tmp_path / "whole", tmp_path / "run")


def wait_until(holds: Callable[[], bool], most: float = 60.0) -> None:
    end = time.monotonic() + most
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_data_that_changed_since_the_checkpoint_are_noticed(tmp_path: Path, monkeypatch) -> None:
    """So that a resumed run is the one that began."""
    from PIL import Image

    for i in range(40):
        (tmp_path / f"{i % 2}").mkdir(exist_ok=True)
        Image.new("L", (8, 8), 6 * i).save(tmp_path / f"{i % 2}" / f"{i}.png")
    folder = tmp_path / ".run"
    own = [
        "data=folder",
        f"data.path='{tmp_path}'",
        "data.size=8",
        "data.channels=1",
        "features=pixels",
        "data.batch_size=8",
    ]
    given = settings(folder, *own, "budget.images=64", "metrics.n=2")
    monkeypatch.setattr(run, "share_buffers", partial(stop, 0))
    with pytest.raises(RuntimeError, match="0"):
        run.finish(given, folder, [])
    monkeypatch.undo()
    Image.new("L", (8, 8), 255).save(tmp_path / "0" / "0.png")
    with pytest.raises(ValueError, match=r"^data folder: the training images are no longer those that this run began"):
        run.finish(given, folder, [])
    Image.new("L", (8, 8), 0).save(tmp_path / "0" / "0.png")
    run.finish(given, folder, [])


def stop(code: int, *_: object) -> None:
    raise RuntimeError(code)


def test_load_takes_a_checkpoint_by_name(tmp_path: Path) -> None:
    given = settings(tmp_path, "budget.images=128", "budget.checks=1")
    run.finish(given, tmp_path, [])
    at = tmp_path / "checkpoints"
    assert genzoo.load(at / LAST).images_seen == 128
    (at / LAST).write_bytes(b"damaged")
    with pytest.warns(UserWarning, match="going on from previous.ckpt"):
        assert genzoo.load(tmp_path).images_seen == 128
    with pytest.raises(ValueError, match=r"last.ckpt is damaged"):
        genzoo.load(at / LAST)
    with pytest.raises(FileNotFoundError, match=r"no.ckpt: no checkpoint"):
        genzoo.load(at / "no.ckpt")
    assert runs.finished(tmp_path)
