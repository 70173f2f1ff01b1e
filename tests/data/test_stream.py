"""Streams: an epoch goes on in its middle exactly, and dead workers and unreadable images are told in a sentence."""

import io
import multiprocessing
import os
import signal
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from pyarrow import parquet
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from genzoo.data.batches import epoch_flips
from genzoo.data.hub import hub
from genzoo.data.stream import Stream

datasets = pytest.importorskip("datasets")
SHAPE = (3, 4, 6)
Batches = list[tuple[torch.Tensor, torch.Tensor | None]]


@pytest.fixture(autouse=True)
def no_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """`datasets` sleeps five seconds at the end of every shuffled pass; not here."""
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0.01, raising=False)


@pytest.fixture
def bounded() -> Iterator[None]:
    """A test that hangs fails."""

    def stop(*_: Any) -> None:
        raise TimeoutError("it hangs")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def encoded(i: int) -> dict[str, Any]:
    """Image number i as PNG: its first two pixels say i."""
    pixels = np.random.default_rng(i).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    pixels[0, 0, :2] = divmod(i, 256)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return {"bytes": file.getvalue(), "path": f"{i}.png"}


def stream_of(
    folder: Path, *files: int, bad: dict[int, bytes] | None = None, hidden: bool = False, **options: Any
) -> Stream:
    """Files of so many training images each, those in `bad` with other bytes; no validation or test among them."""
    struct, start = pa.struct([("bytes", pa.binary()), ("path", pa.string())]), 0
    for number, n in enumerate(files):
        rows = [encoded(i) for i in range(start, start + n)]
        for row, i in zip(rows, range(start, start + n)):
            row["bytes"] = (bad or {}).get(i, row["bytes"])
        table = pa.table(
            {"image": pa.array(rows, struct), "label": [-1 if hidden else i % 3 for i in range(start, start + n)]}
        )
        parquet.write_table(table, folder / f"train-{number}.parquet")
        start += n
    held = pa.table({"image": pa.array([encoded(5000)], struct), "label": [0]})
    for name in ("val", "test"):
        parquet.write_table(held, folder / f"{name}-0.parquet")
    return hub(SHAPE, path=str(folder), stream=True, **{"head": 4, "buffer": 8, **options}).train


def numbers(batches: Iterator | Batches) -> list[int]:
    """Of all images; their labels are checked."""
    found = []
    for x, y in batches:
        found += (x[:, 0, 0, 0].long() * 256 + x[:, 1, 0, 0]).tolist()
        assert (y == torch.tensor(found[-len(x) :]) % 3).all()
    return found


def equal(a: Batches, b: Batches) -> bool:
    return len(a) == len(b) and all(map(torch.equal, sum(a, ()), sum(b, ())))


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_goes_on_in_its_middle(tmp_path: Path, workers: int) -> None:
    stream = stream_of(tmp_path, 20, 61, workers=workers)  # unequal files: one worker ends long before the other
    flips = partial(epoch_flips, seed=5, rank=0)
    for epoch, flip in ((0, None), (3, flips)):
        whole = list(stream.epoch(4, 7, epoch, flips=flip))
        assert 18 <= len(whole) <= 20
        for skip in (1, 9, len(whole) - 1, len(whole)):
            assert equal(list(stream.epoch(4, 7, epoch, skip, flip)), whole[skip:]), skip


@pytest.mark.parametrize("workers", [0, 2])
def test_hidden_labels_are_none(tmp_path: Path, workers: int) -> None:
    batches = list(stream_of(tmp_path, 20, 20, hidden=True, workers=workers).epoch(4, 7, 0, skip=3))
    assert len(batches) == 7 and all(y is None for _, y in batches)


def test_skipped_batches_are_not_decoded(tmp_path: Path) -> None:
    decoded = []
    stream = stream_of(tmp_path, 40, workers=0)
    counting = stream._replace(decoded=lambda rows: decoded.extend(rows) or stream.decoded(rows))
    assert len(list(counting.epoch(4, 7, 0, skip=8))) == 2
    assert len(decoded) == 8


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_images_are_left_out_of_full_batches(
    tmp_path: Path, workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    bad = {3: b"", 17: b"no image", 30: encoded(30)["bytes"][:40]}
    stream = stream_of(tmp_path, 20, 23, bad=bad, on_bad="skip", workers=workers, head=2)
    whole = list(stream.epoch(4, 7, 0))
    list(stream.epoch(4, 7, 1))
    told = [record.message.partition(" (")[0] for record in caplog.records]
    # the ragged end of each worker's rows comes to no batch
    assert 1 <= len(told) == len(set(told)) and set(told) <= {
        f"data.on_bad=skip: Cannot read the image {i}.png" for i in bad
    }
    assert workers or len(told) == 3
    assert {len(x) for x, _ in whole} == {4}
    assert set(range(43)) - bad.keys() >= set(numbers(whole)) and len(set(numbers(whole))) == len(whole) * 4 >= 36
    assert equal(list(stream.epoch(4, 7, 0, skip=5)), whole[5:])


def test_an_unreadable_image_is_told_by_workers_as_without(tmp_path: Path) -> None:
    said = []
    for workers in (0, 2):
        with pytest.raises(ValueError) as error:
            list(stream_of(tmp_path, 20, 20, bad={30: b"text"}, workers=workers).epoch(4, 7, 0))
        said.append(str(error.value))
    assert said == ["Cannot read the image 30.png (it is in no format that Pillow knows); repair or remove it."] * 2


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (
            lambda file: file.write_bytes(file.read_bytes()[:900]),
            "train-1.parquet is no readable parquet file: fetch it",
        ),
        (lambda file: file.write_bytes(b""), "train-1.parquet is no readable parquet file: fetch it again"),
        (lambda file: file.unlink(), r"^The rows of .* cannot be read \(.*No such file.*train-1.parquet'\): fetch its"),
        (lambda file: flip(file), r"^The rows of .* cannot be read \(Corrupt.*\): fetch its files again"),
    ],
    ids=["truncated", "empty", "gone", "flipped"],
)
def test_a_damaged_file_is_told(tmp_path: Path, damage: Any, told: str) -> None:
    stream = stream_of(tmp_path, 20, 20)
    damage(tmp_path / "train-1.parquet")
    for workers in (0, 2):
        with pytest.raises(ValueError, match=told) as error:
            list(stream._replace(workers=workers).epoch(4, 7, 0))
        assert "\n" not in str(error.value)
    if (tmp_path / "train-1.parquet").exists():
        with pytest.raises(ValueError, match=told):
            hub(SHAPE, path=str(tmp_path))


def flip(file: Path) -> None:
    """Bytes of the compressed rows, not of the footer."""
    content = bytearray(file.read_bytes())
    for i in range(200, 1200, 7):
        content[i] ^= 0x55
    file.write_bytes(content)


def test_a_killed_worker_is_told_in_a_sentence(tmp_path: Path, bounded: None, monkeypatch) -> None:
    monkeypatch.setattr(_MultiProcessingDataLoaderIter._try_get_data, "__defaults__", (0.1,))  # it looks every 5 s
    before = signal.getsignal(signal.SIGCHLD)
    batches = stream_of(tmp_path, 200, 200, workers=2).epoch(4, 7, 0)
    next(batches)
    assert signal.getsignal(signal.SIGCHLD) is before  # a death is told here and nowhere else in the main thread
    victim = multiprocessing.active_children()[0].pid
    os.kill(victim, signal.SIGKILL)
    told = rf"^A data worker \(pid {victim}\) was killed by SIGKILL.*lower data\.workers=2.*last checkpoint\.$"
    with pytest.raises(ChildProcessError, match=told) as error:  # whose traceback holds the loader
        list(batches)
    assert error and not multiprocessing.active_children()


def test_workers_leave_ctrl_c_to_the_main_process(tmp_path: Path, bounded: None) -> None:
    stream = stream_of(tmp_path, 60, 60, workers=2)
    whole, batches = list(stream.epoch(4, 7, 0)), stream.epoch(4, 7, 0)
    given = list(islice(batches, 2))
    for child in multiprocessing.active_children():
        os.kill(child.pid, signal.SIGINT)
    assert equal(given + list(batches), whole)
