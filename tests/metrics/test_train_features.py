"""The command that trains the shipped extractors: what it writes can be read back."""

from pathlib import Path

import pytest
import torch

from genzoo.data.digits import digits
from genzoo.metrics.features import load_classifier
from genzoo.metrics.train_features import Split, accuracy, jitter, main, make

TINY = {"size": 8, "channels": [8, 16], "num_features": 6, "num_classes": 10, "name": "FD-tiny"}


def test_makes_a_file_that_describes_itself(tmp_path: Path) -> None:
    data, out = digits(), tmp_path / "new" / "tiny.safetensors"
    score = make(TINY, Split(*data.train), Split(*data.test), epochs=4, shift=0.1, out=out)
    net = load_classifier(out)
    assert score > 0.6
    assert accuracy(net, Split(*data.test)) == pytest.approx(score, abs=0.005)
    assert (net.name, net.num_features, net(data.test.x[:2]).shape) == ("FD-tiny", 6, (2, 6))


def test_no_jitter_is_the_identity() -> None:
    x = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(jitter(x, 0, 0, 0), x, atol=1e-5)


def test_jitter_moves_within_its_bounds() -> None:
    x = torch.zeros(200, 1, 9, 9)
    x[:, :, 4, 4] = 1
    torch.manual_seed(0)
    moved = jitter(x, shift=2 / 9, turn=0, zoom=0)  # at most one pixel
    assert torch.allclose(moved.sum((1, 2, 3)), torch.ones(200), atol=1e-4)
    assert moved[:, :, 3:6, 3:6].sum().item() == pytest.approx(200, abs=1e-2)
    assert moved[:, :, 4, 4].min() < 0.3


@pytest.mark.parametrize("arguments", [[], ["data=cifar10"], ["digits"], ["data=digits", "epoch=3"]])
def test_usage(arguments: list[str]) -> None:
    with pytest.raises(SystemExit, match="usage"):
        main(arguments)
