"""Answers on their way to a file: a run that ends too early is continued, not begun again."""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa  # type: ignore[import-untyped]
from pyarrow import csv as arrow
from pyarrow import parquet

from smartcity import atomic
from smartcity.errors import SmartCityError, StorageError
from smartcity.predict.files_rows import ANSWER, REFUSED, as_lines

#: Batches after which what is written is noted as done.
_COMMIT = 8


@contextmanager
def alone(target: Path, folder: Path) -> Iterator[None]:
    """Hold a folder's lock, that no two runs write the same.

    Raises:
        StorageError: It cannot be written, or another run holds it.
    """
    with atomic.storage(target):
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StorageError(f"Another run is writing {target}. Wait for it.") from None
        yield


@dataclass
class Done:
    """How far a file is answered: batches, what their rows came to, and bytes written."""

    batches: int = 0
    answered: int = 0
    refused: int = 0
    bytes: tuple[int, ...] = (0, 0)


class Output:
    """Two growing files and a note of how much of them counts, in a folder beside the output.

    One holds the answered rows: CSV as it will be, or Arrow's stream, for Parquet has no place to
    go on from and is made at the end. The other holds the refused rows.
    """

    def __init__(self, target: Path, rejected: Path, header: Sequence[str]) -> None:
        """Name what is to be written.

        Args:
            target: The table of answers, CSV or Parquet.
            rejected: The CSV of refused rows.
            header: The input's columns.
        """
        self._target, self._rejected, self._header = target, rejected, header
        self._folder = target.with_name(f"{target.name}.parts")
        self._note = self._folder / "state.json"
        self._paths = (self._folder / "answers", self._folder / "refused")
        self.is_parquet = target.suffix.lower() == ".parquet"
        self.done = Done()
        self._files: list[BinaryIO] = []

    @contextmanager
    def open(self, about: Sequence[object]) -> Iterator[None]:
        """Go on where a run about the same ended, or begin.

        Args:
            about: What the answers hang on; as JSON.

        Raises:
            StorageError: The folder cannot be written, or another run is writing there.
        """
        self._about = list(about)
        with ExitStack() as stack, atomic.storage(self._target):
            stack.enter_context(alone(self._target, self._folder))
            stack.callback(self._tidy)
            state = json.loads(self._note.read_text("utf-8")) if self._note.exists() else {}
            if state.get("about") == self._about:
                self.done = Done(**state["done"])
            else:
                self._note.unlink(missing_ok=True)
            for path, size in zip(self._paths, self.done.bytes, strict=True):
                file = stack.enter_context(path.open("ab"))
                file.seek(size)
                file.truncate()
                self._files.append(file)
            if not self.done.batches:
                if not self.is_parquet:
                    self._files[0].write(as_lines([[*self._header, *ANSWER]]))
                self._files[1].write(as_lines([[*REFUSED, *self._header]]))
            yield

    def _tidy(self) -> None:
        """Leave nothing behind but what can be continued."""
        if not self._note.exists():
            shutil.rmtree(self._folder, ignore_errors=True)

    def render(self, columns: list[Any]) -> Any:
        """Make of answered rows what ``add`` writes; from any thread.

        Raises:
            SmartCityError: A column cannot be CSV.
        """
        own, answers = columns[: -len(ANSWER)], columns[-len(ANSWER) :]
        plain = [c.dictionary_decode() if pa.types.is_dictionary(c.type) else c for c in answers]
        table = pa.Table.from_arrays([*own, *plain], [*self._header, *ANSWER])
        for quotes in ("none", "needed"):
            sink = pa.BufferOutputStream()
            with suppress(pa.ArrowInvalid):
                if self.is_parquet:
                    with pa.ipc.new_stream(sink, table.schema) as stream:
                        stream.write_table(table)
                else:
                    how = arrow.WriteOptions(include_header=False, quoting_style=quotes)
                    arrow.write_csv(table, sink, how)
                return sink.getvalue()
        raise SmartCityError("A column of it cannot be CSV: give --output as .parquet.")

    def add(self, answered: int, answers: Any, refused: int, rejected: bytes) -> None:
        """Write the next batch: its rows answered, and those set aside.

        Raises:
            StorageError: The disk is full or read-only; what was noted before can be continued.
        """
        with atomic.storage(self._target):
            self._files[0].write(answers)
            self._files[1].write(rejected)
        self.done.batches += 1
        self.done.answered += answered
        self.done.refused += refused
        if self.done.batches % _COMMIT == 0:
            self._commit()

    def _commit(self) -> None:
        """Note that all batches added so far are done."""
        with atomic.storage(self._target):
            for file in self._files:
                file.flush()
                os.fsync(file.fileno())
            self.done.bytes = tuple(file.tell() for file in self._files)
        atomic.write(self._note, json.dumps({"about": self._about, "done": asdict(self.done)}))

    def finish(self) -> Path | None:
        """Put the files where they belong, and say where the refused rows are, if there are any.

        Raises:
            StorageError: The disk is full or read-only.
        """
        self._commit()
        with atomic.storage(self._target):
            answers = self._as_parquet() if self.is_parquet else self._paths[0]
            self._note.unlink()  # it tells of files about to leave
            if self.done.refused:
                self._paths[1].replace(self._rejected)
            else:
                self._rejected.unlink(missing_ok=True)  # an earlier run's
            answers.replace(self._target)
        return self._rejected if self.done.refused else None

    def _as_parquet(self) -> Path:
        path = self._folder / "table"
        with path.open("wb") as sink, pa.OSFile(str(self._paths[0])) as file:
            schema = pa.ipc.open_stream(file).schema
            file.seek(0)
            with parquet.ParquetWriter(sink, schema) as table:
                while some := [
                    pa.ipc.open_stream(file).read_all()
                    for _ in range(_COMMIT)  # enough for a row group
                    if file.tell() < self.done.bytes[0]
                ]:
                    table.write_table(pa.concat_tables(some))
            sink.flush()
            os.fsync(sink.fileno())
        return path
