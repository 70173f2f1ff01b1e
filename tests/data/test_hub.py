"""Hub data from local parquet files, in memory and streamed; and what is said when there is no hub."""

import io
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from pyarrow import parquet
from pytorch_lightning import LightningModule, Trainer

from genzoo.data import hub as hub_module
from genzoo.data.datamodule import DataModule
from genzoo.data.hub import hub, offline_if_unreachable

datasets = pytest.importorskip("datasets")
SHAPE = (3, 4, 6)


@pytest.fixture(autouse=True)
def no_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """`datasets` sleeps five seconds at the end of every shuffled pass; not here."""
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0.01, raising=False)


def picture(i: int) -> np.ndarray:
    """Image number i, which carries i in its first pixel: uint8 (4, 6, 3)."""
    pixels = np.random.default_rng(i).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    pixels[0, 0, :2] = divmod(i, 256)
    return pixels


def number(x: torch.Tensor) -> list[int]:
    """The numbers of pictures x (n, 3, 4, 6)."""
    return (x[:, 0, 0, 0].long() * 256 + x[:, 1, 0, 0]).tolist()


def encoded(i: int) -> dict[str, Any]:
    file = io.BytesIO()
    Image.fromarray(picture(i)).save(file, "png")
    return {"bytes": file.getvalue(), "path": None}


def write(path: Path, numbers: range, **columns: list) -> None:
    """A parquet file as any tool would write it: no metadata of `datasets`."""
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = pa.array([encoded(i) for i in numbers], struct)
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.table({"picture": images, "kind": [i % 3 for i in numbers], **columns}), path)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> str:
    """300 training images in three files, and 40 test images."""
    folder = tmp_path_factory.mktemp("parquet")
    for shard in range(3):
        write(folder / f"train-{shard}.parquet", range(100 * shard, 100 * shard + 100))
    write(folder / "test-0.parquet", range(300, 340))
    return str(folder)


def read(**options: Any) -> Any:
    return hub(SHAPE, **options)


def test_a_folder_of_parquet_files(files: str) -> None:
    splits = read(path=files, val=0.2)
    assert number(splits.test.x) == list(range(300, 340))
    train, val = number(splits.train.x), number(splits.val.x)
    assert sorted(train + val) == list(range(300)) and 30 < len(val) < 90
    for part in splits[:3]:
        for i, x, label in zip(number(part.x), *part):
            assert np.array_equal(x.permute(1, 2, 0), picture(i)) and label == i % 3


def test_equal_images_fall_into_one_split(tmp_path: Path) -> None:
    write(tmp_path / "train-0.parquet", range(200))
    write(tmp_path / "train-1.parquet", range(200))
    parts = [set(number(part.x)) for part in read(path=str(tmp_path), val=0.2, test=0.2)[:3]]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 200


def test_typed_columns_win_and_names_decide(tmp_path: Path) -> None:
    classes = datasets.ClassLabel(names=["a", "b", "c"])
    features = datasets.Features({"id": datasets.Value("int64"), "png": datasets.Image(), "what": classes})
    rows = {"id": list(range(30)), "png": [encoded(i) for i in range(30)], "what": [i % 3 for i in range(30)]}
    for split in ("train", "validation", "test"):
        datasets.Dataset.from_dict(rows, features).to_parquet(tmp_path / f"{split}-0.parquet")
    splits = read(path=str(tmp_path))
    assert splits.class_names == ("a", "b", "c") and splits.val.y.tolist() == rows["what"]
    assert read(path=str(tmp_path), label_column="id").test.y.tolist() == rows["id"]
    with pytest.raises(ValueError, match=r"'whom'.*id, png, what"):
        read(path=str(tmp_path), label_column="whom")


def test_without_labels_or_with_hidden_ones_y_is_none(tmp_path: Path) -> None:
    features = datasets.Features({"png": datasets.Image(), "label": datasets.Value("int64")})
    rows = {"png": [encoded(i) for i in range(9)], "label": [-1] * 9}
    datasets.Dataset.from_dict(rows, features).to_parquet(tmp_path / "test-0.parquet")
    bare = datasets.Dataset.from_dict({**rows, "label": [1] * 9}, features)
    bare.to_parquet(tmp_path / "train-0.parquet")
    splits = read(path=str(tmp_path), val=0.4)
    assert splits.test.y is None and splits.train.y is not None


def test_other_sizes_and_greys_are_brought_to_the_shape(files: str) -> None:
    assert hub((1, 8, 8), path=files).test.x.shape == (40, 1, 8, 8)


def streamed(files: str, workers: int = 2, **options: Any) -> DataModule:
    source = partial(hub, SHAPE, path=files, val=0.2, stream=True, head=20, buffer=16, workers=workers)
    return DataModule(source, "streamed", SHAPE, batch_size=8, seed=5, **options)


def numbers(batches: Any) -> list[int]:
    return [i for x, y in batches for i in number(x) if torch.equal(y, torch.tensor(number(x)) % 3)]


def test_a_stream_trains_on_what_memory_would(files: str) -> None:
    whole, data = read(path=files, val=0.2), streamed(files, workers=0)
    assert number(data.split("test").x) == list(range(300, 320))
    assert number(data.split("val").x) == number(whole.val.x)[:20]
    assert number(data.split("train").x) == number(whole.train.x)[:20]
    seen = numbers(data.epoch(0))
    assert set(seen) <= set(number(whole.train.x))
    assert len(seen) == len(set(seen)) == len(whole.train.x) // 8 * 8


def test_the_order_of_a_stream_is_of_seed_and_epoch(files: str) -> None:
    before = torch.get_rng_state()
    data = streamed(files)
    first, second = numbers(data.epoch(0)), numbers(data.epoch(1))
    assert first != second and first != sorted(first) and len(first) == len(set(first)) > 150
    assert numbers(streamed(files).epoch(1)) == second  # as a resumed run would ask
    assert torch.equal(torch.get_rng_state(), before)


def test_lightning_sees_one_epoch_after_another(files: str, tmp_path: Path) -> None:
    class Recorder(LightningModule):
        seen: list[int] = []

        def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], i: int) -> None:
            self.seen.extend(number((batch[0] * 127.5 + 128).to(torch.uint8)))

        def configure_optimizers(self) -> None:
            return None

    data = streamed(files, workers=0)
    expected = numbers(data.epoch(0)) + numbers(data.epoch(1))
    trainer = Trainer(
        max_epochs=1, limit_train_batches=len(expected) // 8, accelerator="cpu", logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        use_distributed_sampler=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(Recorder(), datamodule=data)
    assert Recorder.seen == expected


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_of_a_stream_share_nothing(files: str, world: int) -> None:
    stream = streamed(files).splits.train
    shares = [set(numbers(stream.epoch(8, 5, 1, rank=rank, world=world))) for rank in range(world)]
    assert sum(map(len, shares)) == len(set.union(*shares)) and all(shares)


def test_a_stream_is_flipped_by_seed_and_epoch(files: str) -> None:
    plain, flipped = streamed(files, 0).epoch(), streamed(files, 0, flip=True).epoch()
    pairs = [(a, b) for (a, _), (b, _) in zip(plain, flipped)]
    same = torch.cat([(a == b).flatten(1).all(1) for a, b in pairs])
    mirrored = torch.cat([(a.flip(-1) == b).flatten(1).all(1) for a, b in pairs])
    assert torch.equal(same, ~mirrored) and 0.35 < same.double().mean() < 0.65
    masks = same.view(-1, 8)
    assert len(masks.unique(dim=0)) > 10  # not the same mask for every batch


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no train\*\.parquet.*data\.path"):
        read(path=str(tmp_path))
    with pytest.raises(ValueError, match=r"data\.repo=OWNER/NAME"):
        read()
    write(tmp_path / "train-0.parquet", range(20))
    with pytest.raises(ValueError, match=r"test split is empty.*data\.test"):
        read(path=str(tmp_path), test=0.0)
    parquet.write_table(pa.table({"text": ["a"], "n": [1]}), tmp_path / "train-0.parquet")
    with pytest.raises(ValueError, match=r"text, n.*data\.image_column"):
        read(path=str(tmp_path))


def test_a_broken_image_is_named(tmp_path: Path) -> None:
    rows = [{"bytes": b"no image", "path": "seven.png"}] * 9
    for split in ("train", "test"):
        parquet.write_table(pa.table({"image": rows}), tmp_path / f"{split}-0.parquet")
    with pytest.raises(ValueError, match=r"Cannot read the image seven\.png"):
        read(path=str(tmp_path), val=0.5)


def test_bad_images_are_skipped_and_listed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = {"train": 60, "test": 9}
    rows = {split: [encoded(i) | {"path": f"{i}.png"} for i in range(n)] for split, n in whole.items()}
    bad = {3: {"bytes": b"", "path": "3.png"}, 20: {"bytes": b"text", "path": "20.png"}, 41: None}
    for split, images in rows.items():
        table = {"picture": [bad.get(i, image) if split == "train" else image for i, image in enumerate(images)]}
        parquet.write_table(
            pa.table({**table, "kind": [i % 3 for i in range(len(images))]}), tmp_path / f"{split}-0.parquet"
        )
    with pytest.raises(ValueError, match="Cannot read"):
        read(path=str(tmp_path), val=0.3)
    splits = read(path=str(tmp_path), val=0.3, on_bad="skip")
    assert sorted(number(splits.train.x) + number(splits.val.x)) == sorted(set(range(60)) - bad.keys())
    for part in splits[:3]:
        assert part.y.tolist() == [i % 3 for i in number(part.x)]
    assert all(f"image {name}" in caplog.text for name in ("3.png", "20.png")) and "a row has none" in caplog.text
    with pytest.raises(ValueError, match=r"data\.on_bad=drop: choose stop or skip"):
        read(path=str(tmp_path), val=0.3, on_bad="drop")


def test_a_hub_of_bad_images_alone_is_an_error(tmp_path: Path) -> None:
    rows = [{"bytes": b"no image", "path": f"{i}.png"} for i in range(9)]
    for split in ("train", "test"):
        parquet.write_table(pa.table({"image": rows}), tmp_path / f"{split}-0.parquet")
    with pytest.raises(ValueError, match=r"^All \d train images are unreadable"):
        read(path=str(tmp_path), val=0.5, on_bad="skip")


def test_without_the_extra_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch, files: str) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match="pip install datasets"):
        read(path=files)


def test_without_a_hub_it_says_so_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    started = time.monotonic()
    with pytest.raises(FileNotFoundError, match=r"no-one/nothing is not in the local cache.*data\.path"):
        read(repo="no-one/nothing")
    assert time.monotonic() - started < 15  # its own retries take 24 seconds


def test_offline_mode_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    for found in (True, False):
        monkeypatch.setattr(hub_module, "reachable", lambda url, found=found: found)
        before = constants.HF_HUB_OFFLINE
        with offline_if_unreachable():
            assert constants.HF_HUB_OFFLINE == datasets.config.HF_HUB_OFFLINE == (before or not found)
        assert constants.HF_HUB_OFFLINE == before
