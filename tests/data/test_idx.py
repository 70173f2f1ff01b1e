"""IDX files: where they are looked for, what is refused, and whose sha256s are the known ones."""

import gzip
import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from genzoo.data.idx import FASHION_MNIST, MNIST, Archive, fashion_mnist, idx_splits, read_idx

FILES = tuple(MNIST.sha256)
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
# Upstream's .gz files differ from Debian's in the header alone: they keep name and time of compression.
COMPRESSED_AT = dict(zip(FASHION_MNIST.sha256, (1504176606, 1504176606, 1504176627, 1504176627)))


def idx(array: np.ndarray) -> bytes:
    """An IDX file, written by the format's definition."""
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.fixture
def tiny() -> dict[str, np.ndarray]:
    """The four arrays of a data set with 9 training and 4 test images of 3 x 5."""
    random = np.random.default_rng(0)
    shapes = ((9, 3, 5), (9,), (4, 3, 5), (4,))
    return {file: random.integers(0, 10, shape, dtype=np.uint8) for file, shape in zip(FILES, shapes)}


def served(tiny: dict[str, np.ndarray], server: Path) -> Archive:
    """The data set on a server: a file:// URL is answered like an https one."""
    server.mkdir()
    data = {file: gzip.compress(idx(array)) for file, array in tiny.items()}
    for file, raw in data.items():
        (server / f"{file}.gz").write_bytes(raw)
    sha256 = {file: hashlib.sha256(raw).hexdigest() for file, raw in data.items()}
    return Archive("tiny", server.as_uri(), sha256, tuple("0123456789"))


def check(splits: tuple, tiny: dict[str, np.ndarray]) -> None:
    """The last two training images are the validation split, and nothing else moves."""
    (x, y, test_x, test_y) = (torch.from_numpy(tiny[file]) for file in FILES)
    train, val, test, _ = splits
    for part, want_x, want_y in ((train, x[:7], y[:7]), (val, x[7:], y[7:]), (test, test_x, test_y)):
        assert torch.equal(part.x, want_x[:, None]) and torch.equal(part.y, want_y.long())


def test_missing_files_are_downloaded_once(tiny: dict[str, np.ndarray], tmp_path: Path) -> None:
    archive, root = served(tiny, tmp_path / "server"), tmp_path / "new" / "root"
    check(idx_splits(archive, str(root), val=2), tiny)
    assert {path.name for path in root.iterdir()} == {f"{file}.gz" for file in FILES}  # no leftovers
    gone = archive._replace(url=(tmp_path / "gone").as_uri())
    check(idx_splits(gone, str(root), val=2), tiny)


def test_raw_files_are_read_too(tiny: dict[str, np.ndarray], tmp_path: Path) -> None:
    for file, array in tiny.items():
        (tmp_path / file).write_bytes(idx(array))
    check(idx_splits(MNIST, str(tmp_path), val=2), tiny)


def test_a_wrong_download_is_refused_and_not_kept(tiny: dict[str, np.ndarray], tmp_path: Path) -> None:
    archive = served(tiny, tmp_path / "server")
    (tmp_path / "server" / f"{FILES[2]}.gz").write_bytes(gzip.compress(b"something else"))
    with pytest.raises(ValueError, match=f"{FILES[2]}.* known sha256"):
        idx_splits(archive, str(tmp_path / "root"))
    assert not (tmp_path / "root" / f"{FILES[2]}.gz").exists()


def test_without_a_network_the_remedy_is_named(tiny: dict[str, np.ndarray], tmp_path: Path) -> None:
    archive = served(tiny, tmp_path / "server")._replace(url="http://127.0.0.1:9", package="dataset-nowhere")
    with pytest.raises(FileNotFoundError, match=r"data\.root.*apt-get install dataset-nowhere"):
        idx_splits(archive, str(tmp_path / "root"))


@pytest.mark.parametrize("raw", [b"", b"\0\0\x0d\1\0\0\0\4abcd", b"\0\0\x08\1\0\0\0\5abcd", b"\x1f\x8bcut"])
def test_a_file_of_another_kind_is_named(raw: bytes, tmp_path: Path) -> None:
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(raw)
    with pytest.raises(ValueError, match="train-images-idx3-ubyte is not an IDX file"):
        read_idx(path)


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="needs Debian's dataset-fashion-mnist")
class TestDebian:
    """With the Debian package installed."""

    def test_fashion_mnist_is_found_there(self, tmp_path: Path) -> None:
        splits = fashion_mnist(str(tmp_path / "empty"))
        assert [len(part.x) for part in splits[:3]] == [55_000, 5_000, 10_000]
        assert (splits.test.y.bincount() == 1000).all() and splits.test.x.shape == (10_000, 1, 28, 28)
        sandals, coats = (splits.train.x[splits.train.y == label].float().mean() for label in (5, 4))
        assert splits.class_names[5] == "sandal" and sandals < coats / 2  # a sandal covers far fewer pixels

    @pytest.mark.parametrize("file", FASHION_MNIST.sha256)
    def test_with_upstreams_header_it_has_upstreams_sha256(self, file: str) -> None:
        debian = (DEBIAN / f"{file}.gz").read_bytes()
        time = struct.pack("<I", COMPRESSED_AT[file])
        header = b"\x1f\x8b\x08\x08" + time + b"\0\x03" + file.encode() + b"\0"
        assert hashlib.sha256(header + debian[10:]).hexdigest() == FASHION_MNIST.sha256[file]
