"""Writes that are whole or not there: beside, fsync, rename."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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
def scratch(prefix: str, parent: Path) -> Iterator[Path]:
    """Give a folder that is gone afterwards; should this process be killed, ``sweep`` removes it.

    Args:
        prefix: What its name begins with; a dot hides it.
        parent: Where it is made.

    Raises:
        StorageError: It cannot be made.
    """
    with storage(parent):
        parent.mkdir(parents=True, exist_ok=True)
        made, handle = _locked(prefix, parent)
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)
        os.close(handle)


def _locked(prefix: str, parent: Path) -> tuple[Path, int]:
    """Make a folder and hold its lock, which no sweep can take before it is ours."""
    while True:
        made = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        handle = -1
        with suppress(FileNotFoundError):  # swept before it was locked
            handle = os.open(made, os.O_RDONLY)
            fcntl.flock(handle, fcntl.LOCK_EX)
            if made.exists():
                return made, handle
        if handle >= 0:
            os.close(handle)


def sweep(parent: Path, pattern: str) -> list[Path]:
    """Remove scratch folders that killed processes left behind, and name them.

    Args:
        parent: Where to look.
        pattern: Which, as in ``**/.tmp-*``.
    """
    removed = []
    for left in parent.glob(pattern):
        with suppress(OSError):  # somebody works there, or it is gone already
            handle = os.open(left, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left)
                removed.append(left)
            finally:
                os.close(handle)
    return removed


@contextmanager
def folder(path: Path) -> Iterator[Path]:
    """Fill a new folder that appears under its name only when all of it is on disk.

    Yields:
        A hidden folder beside ``path`` to write into.

    Raises:
        StorageError: It cannot be written, or ``path`` exists already; nothing is left behind.
    """
    with scratch(f".tmp-{path.name}-", path.parent) as beside:
        yield beside
        with storage(path):
            beside.chmod(0o755)
            for file in [*beside.rglob("*"), beside]:
                _sync(file)
            beside.rename(path)
            _sync(path.parent)
