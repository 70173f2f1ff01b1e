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


def epoch(loader: Any, number_of_epoch: int) -> list[int]:
    loader.sampler.set_epoch(number_of_epoch)
    return [i for x, y in loader for i in number(x) if torch.equal(y, torch.tensor(number(x)) % 3)]


def test_a_stream_trains_on_what_memory_would(files: str) -> None:
    whole, data = read(path=files, val=0.2), streamed(files, workers=0)
    assert number(data.split("test").x) == list(range(300, 320))
    assert number(data.split("val").x) == number(whole.val.x)[:20]
    assert number(data.split("train").x) == number(whole.train.x)[:20]
    seen = epoch(data.train_dataloader(), 0)
    assert set(seen) <= set(number(whole.train.x))
    assert len(seen) == len(set(seen)) == len(whole.train.x) // 8 * 8


def test_the_order_of_a_stream_is_of_seed_and_epoch(files: str) -> None:
    before = torch.get_rng_state()
    loader = streamed(files).train_dataloader()
    first, second = epoch(loader, 0), epoch(loader, 1)
    assert first != second and first != sorted(first) and len(first) == len(set(first)) > 150
    assert epoch(streamed(files).train_dataloader(), 1) == second  # as a resumed run would ask
    assert torch.equal(torch.get_rng_state(), before)


def test_lightning_tells_a_stream_its_epoch(files: str, tmp_path: Path) -> None:
    class Recorder(LightningModule):
        seen: list[int] = []

        def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], i: int) -> None:
            self.seen.extend(number((batch[0] * 127.5 + 128).to(torch.uint8)))

        def configure_optimizers(self) -> None:
            return None

    data = streamed(files, workers=0)
    trainer = Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(Recorder(), datamodule=data)
    loader = streamed(files, workers=0).train_dataloader()
    assert Recorder.seen == epoch(loader, 0) + epoch(loader, 1)


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_of_a_stream_share_nothing(files: str, world: int) -> None:
    stream = streamed(files).splits.train
    shares = [set(epoch(stream.batches(8, seed=5, rank=rank, world=world), 1)) for rank in range(world)]
    assert sum(map(len, shares)) == len(set.union(*shares)) and all(shares)


def test_a_stream_is_flipped_by_seed_and_epoch(files: str) -> None:
    plain, flipped = streamed(files, 0).train_dataloader(), streamed(files, 0, flip=True).train_dataloader()
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
        monkeypatch.setattr(hub_module, "reachable", lambda url, seconds, found=found: found)
        before = constants.HF_HUB_OFFLINE
        with offline_if_unreachable():
            assert constants.HF_HUB_OFFLINE == datasets.config.HF_HUB_OFFLINE == (before or not found)
        assert constants.HF_HUB_OFFLINE == before
