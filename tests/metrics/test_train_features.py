"""The command that trains extractors: what it writes can be read back."""

import io
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from genzoo.data.digits import digits
from genzoo.metrics.classifier import cifar10, load_classifier
from genzoo.metrics.features import extract
from genzoo.metrics.train_features import Split, accuracy, jitter, main, make, mirrored

TINY = {"size": 8, "channels": [8, 16], "num_features": 6, "num_classes": 10, "name": "FD-tiny"}


def test_makes_a_file_that_describes_itself(tmp_path: Path) -> None:
    data, out = digits(), tmp_path / "new" / "tiny.safetensors"
    augment = partial(jitter, shift=0.1, turn=0.15, zoom=0.1)
    score = make(TINY, Split(*data.train), Split(*data.test), epochs=4, augment=augment, out=out)
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


def test_half_of_the_images_are_mirrored() -> None:
    x = torch.rand(1000, 2, 3, 4)
    same = (mirrored(x) == x).flatten(1).all(1)
    torch.manual_seed(1)
    twice = mirrored(x)
    turned = (twice == x.flip(3)).flatten(1).all(1)
    assert 420 < same.sum() < 580  # five standard deviations
    assert ((twice == x).flatten(1).all(1) ^ turned).all()


@pytest.fixture
def hues(tmp_path: Path) -> Path:
    """A folder of parquet files like CIFAR-10's: 32 x 32 pictures whose class, of three, is their hue."""
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rng = np.random.default_rng(0)

    def picture(label: int) -> dict[str, bytes]:
        pixels = rng.integers(0, 120, (32, 32, 3), dtype=np.uint8)
        pixels[:, :, label] += 120
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "png")
        return {"bytes": file.getvalue(), "path": None}

    folder = tmp_path / "hues"
    folder.mkdir()
    for split, n in (("train", 160), ("test", 60)):
        labels = [i % 3 for i in range(n)]
        images = pa.array([picture(i) for i in labels], pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
        parquet.write_table(pa.table({"img": images, "label": labels}), folder / f"{split}-0.parquet")
    return folder


def test_cifar10_is_trained_from_parquet_files(
    hues: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    pytest.importorskip("datasets")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    main(["data=cifar10", f"data.path={hues}"])
    net = cifar10()  # found without being told where
    assert (net.name, net.num_features, net.in_channels) == ("FD-cifar10", 128, 3)
    assert net.sha256 in capsys.readouterr().out
    assert sum(p.numel() for p in net.parameters()) < 1.5e6
    flat = torch.zeros(3, 3, 32, 32, dtype=torch.uint8) + 60
    flat[range(3), range(3)] = 180
    assert net.classify(extract(flat, net)).argmax(1).tolist() == [0, 1, 2]


def test_missing_images_are_said_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"genzoo: There is no train\*.parquet in .*set data.path"):
        main(["data=cifar10", f"data.path={tmp_path}", f"out={tmp_path / 'out.safetensors'}"])


@pytest.mark.parametrize(
    "arguments", [[], ["data=svhn"], ["digits"], ["data=digits", "epoch=3"], ["data=digits", "data.path=here"]]
)
def test_usage(arguments: list[str]) -> None:
    with pytest.raises(SystemExit, match="usage"):
        main(arguments)
