"""The spool: each process writes what it answered to a journal of its own, before it answers.

A file belongs to its writer as long as the writer holds its ``flock``. The importer reads along
without a lock, and removes a file once it can lock it: then the writer is done with it, or dead.
"""

import errno
import fcntl
import os
import secrets
import threading
import time
import weakref
from contextlib import suppress
from pathlib import Path

from smartcity import logs, settings
from smartcity.errors import StorageError

log = logs.get(__name__)

#: Bytes after which a file is left to the importer.
ROTATE_BYTES = 16 * 1024 * 1024
#: Longest the thread beside a spool looks away, in seconds.
_TICK = 1.0


class SpoolFullError(StorageError):
    """What was answered cannot be kept: the spool is at its limit, or its disk is full."""


def place() -> Path:
    """Give the folder of the spool files."""
    return settings.current().state / "spool"


def files(folder: Path | None = None) -> list[Path]:
    """List the spool files, oldest first; their names begin with the time."""
    return sorted((folder or place()).glob("[0-9]*.jsonl"))


def waiting(folder: Path | None = None) -> int:
    """Count the bytes in spool files, read along already or not."""
    total = 0
    for path in files(folder):
        with suppress(FileNotFoundError):  # imported since the folder was listed
            total += path.stat().st_size
    return total


class Spool:
    """One process's journal; any of its threads may write. A fork starts a file of its own.

    Attributes:
        folder: Where the files lie.
    """

    def __init__(self, folder: Path | None = None) -> None:
        """Make a spool; its file begins with the first lines."""
        known = settings.current()
        self.folder = folder or place()
        self._limit = known.spool_mb * 1024 * 1024
        self._sync_seconds = known.sync_seconds
        self._file: int | None = None
        self._begin()
        begin = weakref.WeakMethod(self._begin)  # the hook must not keep the spool alive
        os.register_at_fork(after_in_child=lambda: (again := begin()) and again())

    def _begin(self) -> None:
        """Start with no file and no thread; a forked child lets go of its parent's."""
        if self._file is not None:
            os.close(self._file)
        self._file = None
        self._written = 0  # bytes of whole lines in the file
        self._since = 0.0  # when its first line was written
        self._unsynced = False
        self._total = waiting(self.folder)
        self._full_until, self._reason = 0.0, ""  # what went wrong a moment ago
        self._writing = threading.Lock()
        self._tending = threading.Lock()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, lines: bytes) -> None:
        r"""Write whole lines, each ending in ``\n``; they survive the death of this process.

        Raises:
            SpoolFullError: They were not written, nor any part of them.
        """
        with self._writing:
            if self._total + len(lines) > self._limit:
                raise SpoolFullError(
                    f"{self.folder} holds {self._total >> 20} MB that wait for the database, at "
                    "most SMARTCITY_SPOOL_MB may. Look after the database: smartcity db check"
                )
            if time.monotonic() < self._full_until:
                raise SpoolFullError(self._reason)
            try:
                self._write(lines)
            except OSError as error:
                self._full_until = time.monotonic() + _TICK  # a full disk is asked once a second
                self._reason = (
                    f"Cannot write {self.folder}: {error.strerror or error}. Free some space or "
                    "check the folder's permissions."
                )
                raise SpoolFullError(self._reason) from error

    def _write(self, lines: bytes) -> None:
        if self._file is None:
            self._file = self._open()
        if os.write(self._file, lines) < len(lines):
            self._abandon(self._file)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if not self._written:
            self._since = time.monotonic()
        self._written += len(lines)
        self._total += len(lines)
        self._unsynced = True
        if self._sync_seconds == 0:
            os.fsync(self._file)

    def _abandon(self, file: int) -> None:
        """End a file after its last whole line.

        The importer may have read some of the lines that are cut off, and go on behind them, so
        no other line may take their place.
        """
        with suppress(OSError):
            os.ftruncate(file, self._written)
            os.fsync(file)
        os.close(file)
        self._file, self._written = None, 0

    def _open(self) -> int:
        """Start a file, locked before it has the name the importer looks for."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        name = f"{time.time_ns()}-{os.getpid()}-{secrets.token_hex(4)}.jsonl"
        beside = self.folder / f".{name}"
        file = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        fcntl.flock(file, fcntl.LOCK_EX)
        beside.rename(self.folder / name)
        self._written = 0
        if self._thread is None:
            self._thread = threading.Thread(target=self._tend, name="spool", daemon=True)
            self._thread.start()
        return file

    def _tend(self) -> None:
        """Do beside the answers what would hold them up."""
        while not self._closed.wait(min(self._sync_seconds or _TICK, _TICK)):
            try:
                total, mine = waiting(self.folder), self._written
                self._total = total
                old = time.monotonic() - self._since >= max(self._sync_seconds, _TICK)
                if mine and (old or mine >= ROTATE_BYTES or total >= self._limit / 2):
                    self.rotate()
                else:
                    self._sync()
            except OSError as error:
                log.warning("spool not synced", folder=str(self.folder), reason=error.strerror)

    def _sync(self) -> None:
        with self._tending:
            if self._file is not None and self._unsynced and self._sync_seconds < _TICK:
                self._unsynced = False
                os.fsync(self._file)

    def rotate(self) -> None:
        """Leave the file to the importer; the next line begins another."""
        with self._tending:
            with self._writing:
                file, self._file, self._written = self._file, None, 0
                self._unsynced = False
            if file is not None:
                try:
                    os.fsync(file)
                finally:
                    os.close(file)

    def close(self) -> None:
        """Leave everything to the importer."""
        self._closed.set()
        if self._thread:
            self._thread.join()
        self.rotate()
