"""Writes that are whole or not there: beside, fsync, rename."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from smartcity.errors import StorageError

_REMEDY = "Free some space or check the folder's permissions, then run the same command again."


def _sync(path: Path) -> None:
    """Ask the disk to hold a file or folder before anyone is told it exists."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def storage(path: Path) -> Iterator[None]:
    """Turn the system's errors about a full or read-only disk into ours.

    Raises:
        StorageError: Any ``OSError`` inside, naming the path and the remedy.
    """
    try:
        yield
    except OSError as error:
        raise StorageError(f"Cannot write {path}: {error.strerror or error}. {_REMEDY}") from error


def write(path: Path, content: str | bytes) -> None:
    """Replace a file in one step; readers see the old content or the new, never half.

    Raises:
        StorageError: The folder cannot be written; the old file is untouched.
    """
    data = content.encode() if isinstance(content, str) else content
    path = path.resolve()  # a link stays a link; what it leads to is replaced
    if path.exists() and not path.is_file():
        raise StorageError(f"Cannot write {path}: it is no ordinary file. Choose another name.")
    beside = path.with_name(f".tmp-{path.name}-{os.getpid()}")
    with storage(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with beside.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
            _sync(path.parent)
        finally:
            beside.unlink(missing_ok=True)


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Let one process at a time number and name things in a folder; others wait.

    Raises:
        StorageError: The folder cannot be written.
    """
    with storage(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("w")
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def folder(path: Path) -> Iterator[Path]:
    """Fill a new folder that appears under its name only when all of it is on disk.

    Yields:
        A hidden folder beside ``path`` to write into.

    Raises:
        StorageError: It cannot be written, or ``path`` exists already; nothing is left behind.
    """
    with storage(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".tmp-{path.name}-", dir=path.parent))
    try:
        yield beside
        with storage(path):
            beside.chmod(0o755)
            for file in [*beside.rglob("*"), beside]:
                _sync(file)
            beside.rename(path)
            _sync(path.parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
