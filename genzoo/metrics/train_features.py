"""python -m genzoo.metrics.train_features data=digits: train a classifier whose features measure distances.

The shipped ones again, or that of CIFAR-10, which genzoo does not ship. Prints the accuracy on the test split,
which training never sees, and writes a file that `classifier.load_classifier` reads.
"""

import json
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor
from tqdm import tqdm

from genzoo.files import write_bytes
from genzoo.metrics.classifier import Classifier, cifar10_file
from genzoo.metrics.frozen import file_sha256
from genzoo.metrics.protocol import images_sha256

USAGE = (
    "usage: python -m genzoo.metrics.train_features data=digits|fashion_mnist|cifar10 "
    "[data.path=FOLDER] [out=FILE.safetensors]"
)
Augment = Callable[[Tensor], Tensor]


class Split(NamedTuple):
    """x: uint8 (N, C, H, W); y: int64 (N,) class ids."""

    x: Tensor
    y: Tensor


def jitter(x: Tensor, shift: float, turn: float, zoom: float) -> Tensor:
    """Each image moved by up to `shift` half-widths, turned by `turn` radians, zoomed by `zoom`."""
    u = torch.rand(4, len(x)) * 2 - 1
    angle, scale = u[0] * turn, 1 + u[1] * zoom
    cos, sin, right, down = scale * angle.cos(), scale * angle.sin(), u[2] * shift, u[3] * shift
    theta = torch.stack([cos, -sin, right, sin, cos, down], 1).view(-1, 2, 3)  # (n, 2, 3)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)  # (n, H, W, 2)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


def mirrored(x: Tensor) -> Tensor:
    """Each image (n, C, H, W), or with probability 1/2 its mirror image."""
    return torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x.flip(3), x)


def train(net: Classifier, data: Split, epochs: int, augment: Augment, batch_size: int = 64) -> None:
    """AdamW on a one-cycle schedule, cross-entropy with smoothed labels, augmented images."""
    batches = len(data.x) // batch_size
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=epochs * batches)
    net.train()
    for _ in tqdm(range(epochs), desc="epochs", disable=None):
        for index in torch.randperm(len(data.x))[: batches * batch_size].split(batch_size):
            logits = net.logits(augment(net.prepare(data.x[index])))
            optimizer.zero_grad()
            F.cross_entropy(logits, data.y[index], label_smoothing=0.05).backward()
            optimizer.step()
            schedule.step()
    net.eval()


@torch.no_grad()
def accuracy(net: Classifier, data: Split) -> float:
    """The share of images whose highest class score is their class."""
    batches = zip(data.x.split(500), data.y.split(500), strict=True)
    return sum((net.logits(net.prepare(x)).argmax(1) == y).sum().item() for x, y in batches) / len(data.x)


def make(
    architecture: dict[str, Any], train_data: Split, test_data: Split, epochs: int, augment: Augment, out: Path
) -> float:
    """Train `Classifier(**architecture)` from seed 0 and write it to `out`; returns its test accuracy."""
    out.parent.mkdir(parents=True, exist_ok=True)  # a folder that cannot be made says so before the training
    torch.manual_seed(0)
    net = Classifier(**architecture)
    train(net, train_data, epochs, augment)
    score = accuracy(net, test_data)
    made_from = {
        "architecture": architecture,
        "test_accuracy": round(score, 4),
        "train_images_sha256": images_sha256(train_data.x),
        "test_images_sha256": images_sha256(test_data.x),
    }
    # One key, since safetensors writes several in random order and the file's hash would change each time.
    write_bytes(out, save(net.state_dict(), {"genzoo": json.dumps(made_from)}))
    return score


def make_digits(out: Path) -> float:
    """Twenty seconds on one CPU core."""
    from genzoo.data.digits import digits

    data = digits()
    net = {"size": 8, "channels": [32, 64], "num_features": 32, "num_classes": 10, "name": "FD-digits"}
    augment = partial(jitter, shift=0.15, turn=0.15, zoom=0.1)
    return make(net, Split(*data.train), Split(*data.test), epochs=60, augment=augment, out=out)


def make_fashion_mnist(out: Path, path: str | None = None) -> float:
    """About eight minutes on one CPU core; the images lie in `path`, else where conf/data/fashion_mnist.yaml says."""
    from genzoo.data.idx import fashion_mnist

    data = fashion_mnist(path or os.environ.get("GENZOO_DATA", "~/.cache/genzoo/data") + "/fashion_mnist")
    net = {"size": 28, "channels": [16, 32, 64], "num_features": 64, "num_classes": 10, "name": "FD-fashion"}
    augment = partial(jitter, shift=0.07, turn=0.15, zoom=0.1)
    return make(net, Split(*data.train), Split(*data.test), epochs=8, augment=augment, out=out)


def make_cifar10(out: Path, path: str | None = None) -> float:
    """About twelve minutes on one CPU core; parquet files in the folder `path`, else from the hub.

    It gets 83% of the test images right. It learns from all 50,000 training images, those included that genzoo
    validates models on.
    """
    from genzoo.data.hub import hub

    data = hub((3, 32, 32), repo="uoft-cs/cifar10", path=path)
    seen = Split(*(torch.cat(parts) for parts in zip(data.train, data.val, strict=True)))
    net = {
        "size": 32,
        "channels": [16, 32, 64, 128],
        "num_features": 128,
        "num_classes": 10,
        "name": "FD-cifar10",
        "in_channels": 3,
    }
    return make(net, seen, Split(*data.test), epochs=10, augment=shifted_and_mirrored, out=out)


def shifted_and_mirrored(x: Tensor) -> Tensor:
    """For small photographs: up to two pixels of 32, a few degrees, and the mirror."""
    return mirrored(jitter(x, shift=0.125, turn=0.1, zoom=0.1))


def main(arguments: list[str]) -> None:
    """Raises SystemExit with the usage for any argument it does not know, with one sentence for missing data."""
    options = dict(argument.partition("=")[::2] for argument in arguments)
    name, path = options.get("data"), options.get("data.path")
    makers = {
        "digits": make_digits,
        "fashion_mnist": partial(make_fashion_mnist, path=path),
        "cifar10": partial(make_cifar10, path=path),
    }
    if name not in makers or not options.keys() <= {"data", "out", "data.path"} or (name == "digits" and path):
        raise SystemExit(USAGE)
    default = cifar10_file() if name == "cifar10" else Path(f"outputs/features/{name}.safetensors")
    out = Path(options.get("out") or default)
    try:
        score = makers[name](out)
    except (FileNotFoundError, ImportError, ValueError) as error:
        raise SystemExit(f"genzoo: {error}") from error
    print(f"{out}: test accuracy {score:.2%}, {out.stat().st_size / 1e6:.2f} MB, sha256 {file_sha256(out)}")


if __name__ == "__main__":
    main(sys.argv[1:])
