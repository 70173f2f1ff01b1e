"""Images a second into a training step: slices of one tensor against a DataLoader of image files in memory."""

import io
from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from experiments.benchmarks.race import Race
from genzoo.data.datamodule import DataModule
from genzoo.data.splits import Images, Splits

N, SHAPE, BATCH = 10_000, (3, 32, 32), 128


def pixels() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (N, *SHAPE), dtype=torch.uint8, generator=generator)


def source(x: Tensor) -> Splits:
    return Splits(Images(x, torch.zeros(len(x), dtype=torch.int64)), Images(x[:1]), Images(x[:1]))


class Files(Dataset):
    """Encoded images, opened, perhaps mirrored and made float one by one, as torchvision's transforms do."""

    def __init__(self, x: Tensor) -> None:
        self.files = [encoded(image) for image in x.permute(0, 2, 3, 1).numpy()]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        image = Image.open(io.BytesIO(self.files[i])).convert("RGB")
        image = ImageOps.mirror(image) if torch.rand(()) < 0.5 else image
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).float().div(127.5).sub(1), 0


def encoded(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def ours(data: DataModule) -> float:
    """The mean of all that one epoch gives, which nothing can leave out."""
    return sum(float(data.on_after_batch_transfer(batch, 0)[0].mean()) for batch in data.epoch()) / (N // BATCH)


def theirs(loader: DataLoader) -> float:
    return sum(float(x.mean()) for x, _ in loader) / (N // BATCH)


def races() -> Iterator[Race]:
    x = pixels()
    data = DataModule(partial(source, x), "noise", SHAPE, BATCH, flip=True)
    data.setup()
    files = Files(x)
    for workers in (0, 4):
        loader = DataLoader(files, BATCH, shuffle=True, drop_last=True, num_workers=workers)
        peer = f"DataLoader of PIL images, {workers} workers"
        yield Race(
            "an epoch of 10,000 images 3x32x32, shuffled, mirrored, float",
            peer,
            partial(ours, data),
            partial(theirs, loader),
            comparable=False,
        )
