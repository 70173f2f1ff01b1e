"""The datamodule under Lightning: what a model sees, in which order, also after a resume."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor, nn

from genzoo.data import datamodule
from genzoo.data.batches import epoch_batches
from genzoo.data.datamodule import DataModule, near, to_float
from genzoo.data.splits import Images, Splits

SHAPE = (1, 3, 2)


def numbered(n: int = 37, labelled: bool = True) -> Splits:
    """n images per split, each of one grey level: its number."""
    x = torch.arange(n, dtype=torch.uint8).view(n, 1, 1, 1).expand(n, *SHAPE).contiguous()
    return Splits(*[Images(x.clone(), torch.arange(n) if labelled else None) for _ in range(3)])


def data(**options: Any) -> DataModule:
    return DataModule(numbered, "numbered", SHAPE, batch_size=5, seed=3, **options)


class Recorder(LightningModule):
    """Remembers the batches it is trained and validated on."""

    def __init__(self, stop_at: int = -1) -> None:
        super().__init__()
        self.net = nn.Linear(6, 1)
        self.stop_at = stop_at
        self.seen: list[list[int]] = []
        self.validated: list[Tensor] = []
        self.kinds: set[Any] = set()

    def training_step(self, batch: tuple[Tensor, Tensor | None], i: int) -> Tensor:
        x, y = batch
        self.kinds.add((x.dtype, None if y is None else y.dtype, float(x.min()) >= -1, float(x.max()) <= 1))
        levels = (x[:, 0, 0, 0] * 127.5 + 128).long()  # the repo's to_uint8
        self.seen.append(levels.tolist())
        assert y is None or torch.equal(levels, y)
        if len(self.seen) == self.stop_at:
            raise KeyboardInterrupt
        return self.net(x.flatten(1)).mean()

    def validation_step(self, batch: tuple[Tensor, Tensor | None], i: int) -> None:
        self.validated.append(batch[0])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(folder: Path, epochs: int, callbacks: Sequence[Any] = ()) -> Trainer:
    return Trainer(
        max_steps=7 * epochs, check_val_every_n_epoch=None, val_check_interval=7,
        accelerator="cpu", logger=False, callbacks=[*callbacks], default_root_dir=folder,
        enable_checkpointing=bool(callbacks), enable_progress_bar=False, enable_model_summary=False,
        use_distributed_sampler=False, num_sanity_val_steps=0,
    )  # fmt: skip


def expected(epochs: int) -> list[list[int]]:
    return [batch.tolist() for e in range(epochs) for batch in epoch_batches(37, 5, 3, e)]


def test_lightning_follows_the_order_of_seed_and_epoch(tmp_path: Path) -> None:
    model = Recorder()
    torch.manual_seed(11)
    trainer(tmp_path, 3).fit(model, datamodule=data())
    assert model.seen == expected(3) and len(model.seen) == 21
    assert model.kinds == {(torch.float32, torch.int64, True, True)}
    levels = torch.cat(model.validated)[:37, 0, 0, 0]
    assert torch.equal((levels * 127.5 + 128).long(), torch.arange(37))  # in order, the ragged batch too


def test_no_labels_are_none_all_the_way(tmp_path: Path) -> None:
    model, plain = Recorder(), data(labelled=False)
    trainer(tmp_path, 1).fit(model, datamodule=plain)
    assert model.kinds == {(torch.float32, None, True, True)} and plain.num_classes == 0


@pytest.mark.parametrize("batches_before", [4, 7, 10])
def test_a_resumed_run_goes_on_with_the_next_batch(tmp_path: Path, batches_before: int) -> None:
    keep = ModelCheckpoint(tmp_path, save_last=True, every_n_train_steps=1)
    first = Recorder(stop_at=batches_before + 1)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        trainer(tmp_path, 3, [keep]).fit(first, datamodule=data())
    second = Recorder()
    trainer(tmp_path, 3).fit(second, datamodule=data(), ckpt_path=tmp_path / "last.ckpt")
    assert first.seen[:batches_before] + second.seen == expected(3)


def test_training_draws_nothing_from_the_global_generators() -> None:
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    loaded = DataModule(numbered, "numbered", SHAPE, 5, flip=True)
    assert len(list(loaded.epoch())) == 7
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)


def test_flips_mirror_about_half_of_the_training_images_only() -> None:
    x = torch.tensor([[0, 255]], dtype=torch.uint8).expand(400, 1, 1, 2).contiguous()
    loaded = DataModule(lambda: Splits(Images(x), Images(x), Images(x)), "pair", (1, 1, 2), 40, flip=True)
    flipped = torch.cat([batch[:, 0, 0, 0] == 255 for batch, _ in loaded.epoch()])
    assert abs(flipped.double().mean() - 0.5) < 5 * 0.5 / 20
    assert all(torch.equal(batch, x[:40]) for batch, _ in loaded.val_dataloader())


def test_every_level_survives_the_round_trip() -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    x = to_float(levels)
    assert x.min() == -1 and x.max() == 1
    assert torch.equal((x * 127.5 + 128).clip(0, 255).to(torch.uint8), levels)
    points = torch.randn(3)
    assert to_float(points) is points


def test_the_content_hash_is_of_shape_dtype_and_bytes() -> None:
    x = np.repeat(np.arange(37, dtype=np.uint8), 6)
    want = hashlib.sha256(b"(37, 1, 3, 2) torch.uint8" + x.tobytes()).hexdigest()
    assert data().content_hash("test") == want
    assert data(n=36).content_hash("test") != want


def test_the_source_is_called_once() -> None:
    calls = []

    def source() -> Splits:
        calls.append(1)
        return numbered()

    loaded = DataModule(source, "counted", SHAPE, 5)
    assert not calls
    loaded.prepare_data()
    loaded.setup("fit")
    loaded.setup("test")
    assert loaded.split("val").x.shape == (37, *SHAPE) and loaded.num_classes == 37 and calls == [1]


def test_mistakes_are_named_with_their_remedy() -> None:
    with pytest.raises(ValueError, match=r"sise.*own keys: n, labelled"):
        data(sise=3)
    with pytest.raises(ValueError, match=r"data\.image_shape=\[1,3,2\]"):
        DataModule(numbered, "numbered", (1, 8, 8), 5).setup()
    with pytest.raises(ValueError, match="train, val or test"):
        data().split("training")


@pytest.mark.parametrize(("free", "moves"), [(1000, True), (500, False)])
def test_images_move_to_the_gpu_only_when_they_leave_it_room(
    monkeypatch: pytest.MonkeyPatch, free: int, moves: bool
) -> None:
    sent = []
    x = numbered().train.x  # 37 * 6 = 222 bytes
    monkeypatch.setattr(datamodule.torch.cuda, "mem_get_info", lambda device: (free, 10**6))
    monkeypatch.setattr(Tensor, "to", lambda self, device: sent.append(device) or self)
    near(Images(x, torch.zeros(37)), torch.device("cuda", 0))
    assert sent == ([torch.device("cuda", 0)] * 2 if moves else [])
