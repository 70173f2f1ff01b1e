"""MNIST and Fashion-MNIST from IDX files: a folder, Debian's package, or a checked download."""

import gzip
import math
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple

import torch
from torch import Tensor

from genzoo.data.splits import Images, Splits
from genzoo.fetch import fetch
from genzoo.files import megabytes

MOST_FETCHED, MOST_READ = 2**26, 2**28  # bytes: the largest of these files has 26 MB, and 47 MB without compression


class Archive(NamedTuple):
    """Where four IDX files live. sha256: of each compressed file at `url`, by its name without .gz."""

    name: str
    url: str
    sha256: Mapping[str, str]
    class_names: tuple[str, ...]
    package: str | None = None  # Debian package dataset-X, which puts the files in /usr/share/datasets/X


MNIST = Archive(  # Y. LeCun, C. Cortes, C. Burges, The MNIST database of handwritten digits, 1998
    name="mnist",
    url="https://storage.googleapis.com/cvdf-datasets/mnist",
    sha256={
        "train-images-idx3-ubyte": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "train-labels-idx1-ubyte": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "t10k-images-idx3-ubyte": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "t10k-labels-idx1-ubyte": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    },
    class_names=tuple("0123456789"),
)

FASHION_MNIST = Archive(  # H. Xiao, K. Rasul, R. Vollgraf, arXiv 1708.07747; the files of 31 August 2017
    name="fashion_mnist",
    url="https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion",
    sha256={
        "train-images-idx3-ubyte": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        "train-labels-idx1-ubyte": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        "t10k-images-idx3-ubyte": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        "t10k-labels-idx1-ubyte": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    },
    class_names=(
        "T-shirt/top", "trouser", "pullover", "dress", "coat",
        "sandal", "shirt", "sneaker", "bag", "ankle boot",
    ),
    package="dataset-fashion-mnist",
)  # fmt: skip


def mnist(root: str) -> Splits:
    """MNIST: train 55,000, validation the last 5,000 training images, test 10,000; uint8 (1, 28, 28).

    root: folder of the four IDX files, .gz or not; a missing file is downloaded there.
    Raises FileNotFoundError when a file is neither there nor reachable, ValueError when its bytes are wrong.
    """
    return idx_splits(MNIST, root)


def fashion_mnist(root: str) -> Splits:
    """Fashion-MNIST, cut like `mnist`; also found where Debian's dataset-fashion-mnist puts it."""
    return idx_splits(FASHION_MNIST, root)


def idx_splits(archive: Archive, root: str, val: int = 5_000) -> Splits:
    """The splits of an archive; validation is the last `val` images of the training file."""
    x, y, test_x, test_y = (read_idx(find(archive, file, Path(root).expanduser())) for file in archive.sha256)
    if not (len(x) == len(y) and len(test_x) == len(test_y)):
        raise ValueError(f"{archive.name}: {root} has unequal numbers of images and labels; fetch them again.")
    x, test_x = x[:, None], test_x[:, None]  # (N, 1, H, W)
    train, held = Images(x[:-val], y[:-val].long()), Images(x[-val:], y[-val:].long())
    return Splits(train, held, Images(test_x, test_y.long()), archive.class_names)


def read_idx(path: Path) -> Tensor:
    """The uint8 array in an IDX file, compressed or not: 0, 0, type 8, rank, big-endian sizes, data.

    No more of the file is read or decompressed than its sizes say, and no more than MOST_READ bytes.
    Raises ValueError for a file of another kind or with more or fewer bytes.
    """
    try:
        with open(path, "rb") as raw:
            compressed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            return decoded(gzip.GzipFile(fileobj=raw) if compressed else raw)
    except (EOFError, OSError, ValueError, struct.error, zlib.error) as error:
        raise ValueError(f"{path} is not an IDX file of bytes ({error}); fetch it again.") from error


def decoded(file: BinaryIO | gzip.GzipFile) -> Tensor:
    """The array of an open, decompressed IDX file."""
    magic, kind, rank = struct.unpack(">HBB", file.read(4))
    if (magic, kind) != (0, 8):
        raise ValueError("type is not unsigned byte")
    shape = struct.unpack(f">{rank}I", file.read(4 * rank))
    size = math.prod(shape)
    if size > MOST_READ:
        raise ValueError(f"its sizes {shape} are {megabytes(size)} MB, over the limit of {megabytes(MOST_READ)}")
    data = bytearray(file.read(size + 1))  # of which one byte has to be missing; torch wants to own what it takes
    if len(data) != size:
        raise ValueError(f"{'more' if len(data) > size else 'fewer'} bytes than its sizes {shape} say")
    return torch.frombuffer(data, dtype=torch.uint8).reshape(shape) if size else torch.empty(shape, dtype=torch.uint8)


def find(archive: Archive, file: str, root: Path) -> Path:
    """The path of one IDX file: in root, in the Debian package's folder, or downloaded into root."""
    folders = [root]
    if archive.package:
        folders.append(Path("/usr/share/datasets") / archive.package.removeprefix("dataset-"))
    for folder in folders:
        for path in (folder / f"{file}.gz", folder / file):
            if path.is_file():
                return path
    return download(archive, file, root)


def download(archive: Archive, file: str, root: Path) -> Path:
    """Fetch `file`.gz into root; the file appears there whole, and only if its sha256 is right."""
    url, target = f"{archive.url}/{file}.gz", root / f"{file}.gz"
    try:
        return fetch(url, target, archive.sha256[file], MOST_FETCHED)
    except ConnectionError as error:
        package = f", or run `apt-get install {archive.package}`" if archive.package else ""
        raise FileNotFoundError(
            f"{archive.name}: {target} is missing and {error}; "
            f"put the file there, or set data.root to its folder{package}."
        ) from error
