"""python -m genzoo.metrics.train_features data=digits: train a shipped feature extractor again.

Prints the accuracy on the test split, which training never sees, and writes a file that
`features.load_classifier` reads.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from genzoo.metrics.features import Classifier, file_sha256
from genzoo.metrics.protocol import images_sha256

USAGE = "usage: python -m genzoo.metrics.train_features data=digits|fashion_mnist [out=FILE.safetensors]"


class Split(NamedTuple):
    """x: uint8 (N, 1, H, W); y: int64 (N,) class ids."""

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


def train(net: Classifier, data: Split, epochs: int, shift: float, batch_size: int = 64) -> None:
    """AdamW on a one-cycle schedule, cross-entropy with smoothed labels, jittered images."""
    x, batches = net.prepare(data.x), len(data.x) // batch_size
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=epochs * batches)
    net.train()
    for _ in tqdm(range(epochs), desc="epochs", disable=None):
        for index in torch.randperm(len(x))[: batches * batch_size].split(batch_size):
            logits = net.logits(jitter(x[index], shift, turn=0.15, zoom=0.1))
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
    architecture: dict[str, Any], train_data: Split, test_data: Split, epochs: int, shift: float, out: Path
) -> float:
    """Train `Classifier(**architecture)` from seed 0 and write it to `out`; returns its test accuracy."""
    torch.manual_seed(0)
    net = Classifier(**architecture)
    train(net, train_data, epochs, shift)
    score = accuracy(net, test_data)
    made_from = {
        "architecture": architecture,
        "test_accuracy": round(score, 4),
        "train_images_sha256": images_sha256(train_data.x),
        "test_images_sha256": images_sha256(test_data.x),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    # One key, since safetensors writes several in random order and the file's hash would change each time.
    save_file(net.state_dict(), out, {"genzoo": json.dumps(made_from)})
    return score


def make_digits(out: Path) -> float:
    """Twenty seconds on one CPU core."""
    from genzoo.data.digits import digits

    data = digits()
    net = {"size": 8, "channels": [32, 64], "num_features": 32, "num_classes": 10, "name": "FD-digits"}
    return make(net, Split(*data.train), Split(*data.test), epochs=60, shift=0.15, out=out)


def make_fashion_mnist(out: Path) -> float:
    """About eight minutes on one CPU core; the images lie where conf/data/fashion_mnist.yaml says."""
    from genzoo.data.idx import fashion_mnist

    data = fashion_mnist(os.environ.get("GENZOO_DATA", "~/.cache/genzoo/data") + "/fashion_mnist")
    net = {"size": 28, "channels": [16, 32, 64], "num_features": 64, "num_classes": 10, "name": "FD-fashion"}
    return make(net, Split(*data.train), Split(*data.test), epochs=8, shift=0.07, out=out)


def main(arguments: list[str]) -> None:
    """Raises SystemExit with the usage for any argument it does not know."""
    makers = {"digits": make_digits, "fashion_mnist": make_fashion_mnist}
    options = dict(argument.partition("=")[::2] for argument in arguments)
    name = options.get("data")
    if name not in makers or not options.keys() <= {"data", "out"}:
        raise SystemExit(USAGE)
    out = Path(options.get("out") or f"outputs/features/{name}.safetensors")
    score = makers[name](out)
    print(f"{out}: test accuracy {score:.2%}, {out.stat().st_size / 1e6:.2f} MB, sha256 {file_sha256(out)}")


if __name__ == "__main__":
    main(sys.argv[1:])
