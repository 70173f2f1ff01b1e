"""Files that are there whole or not at all, whatever is killed, full or forbidden meanwhile."""

import errno
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

PART = ".part"  # the end of a temporary file's name


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let `write` fill a file beside `path`, then put it in its place; a reader sees the old file or the new one.

    Both the file and its folder reach the disk before this returns. Raises OSError naming `path` and the remedy when
    that cannot be done; the old file is then untouched and no other is left.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}{PART}")
    with told(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(part, "wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def write_bytes(path: Path, content: bytes) -> None:
    write_whole(path, lambda file: file.write(content))


def sync_folder(folder: Path) -> None:
    """Bring a rename in this folder to the disk, where the system can do that for folders."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def told(path: Path) -> Iterator[None]:
    """Around work on a file: errors of the system become one sentence with the path and the remedy."""
    try:
        yield
    except OSError as error:
        raise OSError(f"{path} cannot be written: {remedy(error, path)}") from error


def remedy(error: OSError, path: Path) -> str:
    """What went wrong, and what to do about it."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full ({megabytes(free_space(path))} MB are free); free some space and repeat the command"
    if error.errno in (errno.EEXIST, errno.ENOTDIR):
        return f"{path.parent} is no folder; choose another"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{error.strerror.lower()}; change the rights of {path.parent} or work elsewhere"
    return f"{error.strerror or error}; mend that and repeat the command"


def free_space(path: Path) -> int:
    """Bytes that are free where `path` is to be, which need not exist yet."""
    folder = next(folder for folder in path.absolute().parents if folder.is_dir())
    return shutil.disk_usage(folder).free


def megabytes(size: int) -> str:
    return f"{size / 2**20:.1f}"


def sweep_parts(folder: Path, older: float = 0.0) -> None:
    """Remove the temporary files below a folder that killed processes have left there, at least so many seconds ago."""
    for part in folder.rglob(f"*{PART}"):
        with suppress(FileNotFoundError):  # another process may be at it
            if time.time() - part.stat().st_mtime >= older:
                part.unlink()
