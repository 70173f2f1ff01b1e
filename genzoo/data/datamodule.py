"""One datamodule for every source: uint8 images in memory, batches (x, y) with x in [-1, 1]."""

import hashlib
import inspect
import logging
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from typing import Any

import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor

from genzoo.data.batches import (
    Batch,
    Batches,
    Epochs,
    batches_of_epoch,
    epoch_batches,
    epoch_flips,
    ordered_batches,
)
from genzoo.data.splits import Images, Splits

log = logging.getLogger("genzoo")
GPU_SHARE = 0.4  # of the free memory: the rest is for the model and its activations


def to_float(x: Tensor) -> Tensor:
    """uint8 levels to float32 in [-1, 1]; floating-point points as they are."""
    return x.float().div_(127.5).sub_(1) if x.dtype == torch.uint8 else x


def near(images: Images, device: torch.device) -> Images:
    """`images` on a CUDA device with room for them, else where they are (host)."""
    x, y = images
    size = sum(part.nbytes for part in images if part is not None)
    if device.type != "cuda" or size > GPU_SHARE * torch.cuda.mem_get_info(device)[0]:
        return images
    return Images(x.to(device), None if y is None else y.to(device))


def tensor_hash(x: Tensor) -> str:
    """sha256 over shape, dtype and bytes."""
    x = x.cpu().contiguous()
    digest = hashlib.sha256(f"{tuple(x.shape)} {x.dtype}".encode())
    digest.update(x.numpy().data)
    return digest.hexdigest()


class DataModule(LightningDataModule):
    """The data of a run.

    source: a function that returns `Splits`; called once, with `options`.
    name: how tables call the data.
    image_shape: (C, H, W) that every image must have.
    batch_size: images that one rank sees per step.
    flip: mirror half of the training images.
    seed: fixes order and flips, whatever torch's global generator does.

    Loaders give uint8 batches; `on_after_batch_transfer` makes them float in [-1, 1] once they are on the
    device. Make the Trainer with use_distributed_sampler=False: ranks are told apart here.
    Raises ValueError for an option that the source does not take, and for images of another shape.
    """

    def __init__(
        self,
        source: Callable[..., Splits],
        name: str,
        image_shape: Sequence[int],
        batch_size: int,
        flip: bool = False,
        seed: int = 0,
        **options: Any,
    ) -> None:
        super().__init__()
        self.source, self.options = source, options
        self.name, self.image_shape = name, tuple(image_shape)
        self.batch_size, self.flip, self.seed = batch_size, flip, seed
        self._trained: Images | None = None  # the training images, or what they were encoded to, on the device
        self._encoded: Images | None = None
        try:
            inspect.signature(source).bind(**options)
        except TypeError as error:
            known = ", ".join(inspect.signature(source).parameters) or "none"
            raise ValueError(f"data {name}: {error}; this source's own keys: {known}.") from error

    @cached_property
    def splits(self) -> Splits:
        """Train, validation and test, loaded at first use."""
        splits = self.source(**self.options)
        shape = tuple(splits.test.x.shape[1:])
        if shape != self.image_shape:
            raise ValueError(
                f"data {self.name}: images are {shape} (C, H, W), not {self.image_shape}; "
                f"set data.image_shape=[{','.join(map(str, shape))}]."
            )
        said = (splits.train if isinstance(splits.train, Images) else splits.val).y
        if self.flip and said is not None and said.dim() > 1:
            raise ValueError(f"data {self.name}: mirrored images would lie about left and right: set data.flip=false")
        return splits

    def prepare_data(self) -> None:
        """Let one process a machine download first; the others then find the files."""
        _ = self.splits

    def setup(self, stage: str | None = None) -> None:
        """Load the splits unless they are loaded."""
        _ = self.splits

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Name of each class id, where the source knows them."""
        return self.splits.class_names

    @property
    def num_classes(self) -> int:
        """Number of classes; 0 without labels, or where y is no class but a layout, a caption or a map."""
        y = self.split("train").y
        if y is None or y.dim() != 1:
            return 0
        return len(self.class_names or ()) or int(y.max()) + 1

    def split(self, name: str) -> Images:
        """The raw images of "train", "val" or "test"; of a streamed training split, its head."""
        if name not in ("train", "val", "test"):
            raise ValueError(f"No split {name!r}: ask for train, val or test.")
        images = getattr(self.splits, name)
        return images if isinstance(images, Images) else images.head

    def content_hash(self, name: str) -> str:
        """sha256 over shape, dtype and bytes of a split's images, in order; labels do not count."""
        return tensor_hash(self.split(name).x)

    @cached_property
    def training_hashes(self) -> dict[str, str]:
        """sha256 of what is trained on: the images, and their labels where there are any."""
        return {
            part: tensor_hash(tensor)
            for part, tensor in zip("xy", self.split("train"), strict=True)
            if tensor is not None
        }

    def state_dict(self) -> dict[str, str]:
        """What Lightning stores in the checkpoint, so that a resumed run can tell whether its data are the same."""
        return self.training_hashes

    def load_state_dict(self, state: dict[str, str]) -> None:
        """Raises ValueError when the training images or labels are not those of the checkpoint."""
        if state != self.training_hashes:
            raise ValueError(
                f"data {self.name}: the training images are no longer those that this run began with; "
                "put them back, or set study=NAME to begin another run"
            )

    def epoch(self, number: int = 0, skip: int = 0) -> Iterator[Batch]:
        """The shuffled batches of one epoch from `skip` on; a last one that is not full is dropped."""
        images, (rank, world, device) = self._encoded or self.splits.train, self._place()
        flips = partial(epoch_flips, seed=self.seed, rank=rank) if self.flip and self._encoded is None else None
        if not isinstance(images, Images):
            return images.epoch(self.batch_size, self.seed, number, skip, flips, rank, world)
        order = epoch_batches(len(images.x), self.batch_size, self.seed, number, rank, world)
        masks = flips(map(len, order), epoch=number) if flips else None
        return batches_of_epoch(self._near(device), order, masks, skip)

    @torch.no_grad()
    def encode_training(self, encode: Callable[[Tensor], Tensor]) -> bool:
        """Let training batches hold encode(x) of every image, and of its mirror where they are mirrored, computed once.

        encode: (n, C, H, W) in [-1, 1] on the training's device -> (n, ...). False, and nothing done, for a stream.
        """
        images, device = self.splits.train, self._place()[2]
        if not isinstance(images, Images):
            return False
        sides = (lambda x: x, lambda x: x.flip(-1)) if self.flip else (lambda x: x,)
        parts = [encode(to_float(side(x.to(device)))).cpu() for side in sides for x in images.x.split(256)]
        y = None if images.y is None else torch.cat([images.y] * len(sides))
        self._encoded, self._trained = Images(torch.cat(parts), y), None
        return True

    def train_dataloader(self) -> Epochs:
        """Batches without an end, reshuffled every epoch."""
        train = self.splits.train
        if isinstance(train, Images) and len(train.x) < self.batch_size:
            log.warning("data.batch_size=%d: every step takes all %d training images", self.batch_size, len(train.x))
        return Epochs(self.epoch)

    def val_dataloader(self) -> Batches:
        """Validation batches in order, none dropped."""
        return self._evaluation(self.splits.val)

    def test_dataloader(self) -> Batches:
        """Test batches in order, none dropped."""
        return self._evaluation(self.splits.test)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """(x, y) with x (n, C, H, W) float32 in [-1, 1], y as the source gave it, a row an image, or None."""
        x, y = batch
        return to_float(x), y

    def _evaluation(self, images: Images) -> Batches:
        rank, world, device = self._place()
        return Batches(near(images, device), ordered_batches(len(images.x), self.batch_size, rank, world))

    def _near(self, device: torch.device) -> Images:
        """The training images, brought to the device once."""
        if self._trained is None:
            self._trained = near(self._encoded or self.splits.train, device)
        return self._trained

    def _place(self) -> tuple[int, int, torch.device]:
        """(rank, world size, device): the trainer's, or one process on the host without a trainer."""
        if self.trainer is None:
            return 0, 1, torch.device("cpu")
        return self.trainer.global_rank, self.trainer.world_size, self.trainer.strategy.root_device
