"""IDX files: where they are looked for, what is refused, and whose sha256s are the known ones."""

import gzip
import hashlib
import resource
import struct
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch

from genzoo.data import idx as module
from genzoo.data.idx import FASHION_MNIST, MNIST, MOST_READ, Archive, fashion_mnist, idx_splits, read_idx
from genzoo.fetch import fetch

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


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder without a word."""

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that is served at the address in its file `url`; http, which users are refused."""
    folder = tmp_path / "server"
    folder.mkdir()
    monkeypatch.setattr(module, "fetch", partial(fetch, schemes=("http",)))
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as http:
        threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
        (folder / "url").write_text(f"http://127.0.0.1:{http.server_port}")
        yield folder
        http.shutdown()


def served(tiny: dict[str, np.ndarray], server: Path) -> Archive:
    """The data set on the server."""
    data = {file: gzip.compress(idx(array)) for file, array in tiny.items()}
    for file, raw in data.items():
        (server / f"{file}.gz").write_bytes(raw)
    sha256 = {file: hashlib.sha256(raw).hexdigest() for file, raw in data.items()}
    return Archive("tiny", (server / "url").read_text(), sha256, tuple("0123456789"))


def check(splits: tuple, tiny: dict[str, np.ndarray]) -> None:
    """The last two training images are the validation split, and nothing else moves."""
    (x, y, test_x, test_y) = (torch.from_numpy(tiny[file]) for file in FILES)
    train, val, test, _ = splits
    for part, want_x, want_y in ((train, x[:7], y[:7]), (val, x[7:], y[7:]), (test, test_x, test_y)):
        assert torch.equal(part.x, want_x[:, None]) and torch.equal(part.y, want_y.long())


def test_missing_files_are_downloaded_once(tiny: dict[str, np.ndarray], server: Path, tmp_path: Path) -> None:
    archive, root = served(tiny, server), tmp_path / "new" / "root"
    check(idx_splits(archive, str(root), val=2), tiny)
    assert {path.name for path in root.iterdir()} == {f"{file}.gz" for file in FILES}  # no leftovers
    gone = archive._replace(url="https://127.0.0.1:9")
    check(idx_splits(gone, str(root), val=2), tiny)


def test_raw_files_are_read_too(tiny: dict[str, np.ndarray], tmp_path: Path) -> None:
    for file, array in tiny.items():
        (tmp_path / file).write_bytes(idx(array))
    check(idx_splits(MNIST, str(tmp_path), val=2), tiny)


def test_a_wrong_download_is_refused_and_not_kept(tiny: dict[str, np.ndarray], server: Path, tmp_path: Path) -> None:
    archive = served(tiny, server)
    (server / f"{FILES[2]}.gz").write_bytes(gzip.compress(b"something else"))
    with pytest.raises(ValueError, match=f"{FILES[2]}.* known sha256"):
        idx_splits(archive, str(tmp_path / "root"))
    assert {path.name for path in (tmp_path / "root").iterdir()} == {f"{file}.gz" for file in FILES[:2]}


def test_a_download_may_not_be_larger_than_these_files_are(
    tiny: dict[str, np.ndarray], server: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_FETCHED", 50)
    with pytest.raises(ValueError, match=f"{FILES[0]}.* MB of the known file"):
        idx_splits(served(tiny, server), str(tmp_path / "root"))
    assert not (tmp_path / "root").exists()


def test_users_are_served_by_https_alone(
    tiny: dict[str, np.ndarray], server: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "fetch", fetch)
    with pytest.raises(ValueError, match="only https is safe"):
        idx_splits(served(tiny, server), str(tmp_path / "root"))
    assert all(archive.url.startswith("https://") for archive in (MNIST, FASHION_MNIST))


def test_without_a_network_the_remedy_is_named(tmp_path: Path) -> None:
    archive = MNIST._replace(url="https://127.0.0.1:9", package="dataset-nowhere")
    with pytest.raises(FileNotFoundError, match=r"data\.root.*apt-get install dataset-nowhere"):
        idx_splits(archive, str(tmp_path / "root"))


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\0\0\x0d\1\0\0\0\4abcd",
        b"\0\0\x08\1\0\0\0\5abcd",
        b"\0\0\x08\1\0\0\0\3abcd",
        b"\0\0\x08\xff\0\0\0\3abcd",
        b"\x1f\x8bcut",
        gzip.compress(b"\0\0\x08\1\0\0\0\4abcd", mtime=0)[:-9],
        gzip.compress(b"\0\0\x08\1\0\0\0\4abcde", mtime=0),
    ],
)
def test_a_file_of_another_kind_is_named(raw: bytes, tmp_path: Path) -> None:
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(raw)
    with pytest.raises(ValueError, match="train-images-idx3-ubyte is not an IDX file"):
        read_idx(path)


def bomb(path: Path, shape: tuple[int, ...], mebibytes: int) -> None:
    """An IDX file with a header of these sizes, and zeros that gzip makes a thousandth of."""
    zeros = gzip.compress(bytes(2**20))
    with open(path, "wb") as file:
        file.write(gzip.compress(bytes([0, 0, 8, len(shape)]) + struct.pack(f">{len(shape)}I", *shape)))
        file.write(zeros * mebibytes)  # gzip's members follow one another


@pytest.mark.parametrize("shape", [(10, 28, 28), (0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF), (MOST_READ + 1,)])
def test_a_bomb_does_not_go_off(shape: tuple[int, ...], tmp_path: Path) -> None:
    """It would take 2 GiB; the process that reads it may take 100 MiB more than before."""
    bomb(path := tmp_path / "images", shape, 2048)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=r"images is not an IDX file of bytes \((its sizes .* over|more bytes than)"):
        read_idx(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024  # KiB


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
@pytest.mark.parametrize("shape", [(0, 28, 28), (3,), (2, 3, 4, 5)])
def test_any_sizes_are_read(shape: tuple[int, ...], compress, tmp_path: Path) -> None:
    array = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    (tmp_path / "images").write_bytes(compress(idx(array)))
    assert np.array_equal(read_idx(tmp_path / "images").numpy(), array)


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
