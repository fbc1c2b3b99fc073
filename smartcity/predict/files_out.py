"""Answers on their way to a file: a run that ends too early is continued, not begun again."""

import csv
import fcntl
import io
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from smartcity import atomic
from smartcity.errors import StorageError
from smartcity.predict.files_in import holds
from smartcity.predict.files_rows import ANSWER, REFUSED, Answered

#: Batches after which what is written is noted as done.
_COMMIT = 8
_NEEDS_QUOTES = b',"\r\n'


@dataclass
class Done:
    """How far a file is answered: batches, what their rows came to, and bytes written."""

    batches: int = 0
    answered: int = 0
    refused: int = 0
    blank: int = 0
    bytes: tuple[int, ...] = (0, 0)


class Output:
    """Two growing files and a note of how much of them counts, in a folder beside the output.

    One holds the answered rows: CSV as it will be, or Arrow's stream, for Parquet has no place to
    go on from; the table itself is written along. The other holds the refused rows.
    """

    def __init__(self, target: Path, rejected: Path, header: Sequence[str]) -> None:
        """Name what is to be written.

        Args:
            target: The table of answers, CSV or Parquet.
            rejected: The CSV of refused rows.
            header: The input's columns.
        """
        self.target, self._rejected, self._header = target, rejected, header
        self._folder = target.with_name(f"{target.name}.parts")
        self._paths = (self._folder / "answers", self._folder / "refused")
        self._table = self._folder / "table"
        self.is_parquet = target.suffix.lower() == ".parquet"
        self.done = Done()
        self._pending: list[Any] = []
        self._parquet: Any = None
        self._files: list[BinaryIO] = []

    @contextmanager
    def open(self, about: Mapping[str, object]) -> Iterator[str]:
        """Go on where a run about the same ended, or begin.

        Args:
            about: What the answers hang on; as JSON.

        Yields:
            Why an earlier run is not continued, if there is one.

        Raises:
            StorageError: The folder cannot be written, or another run is writing there.
        """
        self._about = dict(about)
        with ExitStack() as stack, atomic.storage(self.target):
            self._folder.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context((self._folder / "lock").open("w"))
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StorageError(f"Another run is writing {self.target}. Wait for it.") from None
            why = self._resume()
            for path, size in zip(self._paths, self.done.bytes, strict=True):
                file = stack.enter_context(path.open("r+b" if size else "w+b"))
                file.truncate(size)
                file.seek(size)
                self._files.append(file)
            if not self.done.batches:
                self._begin()
            elif self.is_parquet:
                self._restore()
            stack.callback(self._abandon)
            yield why

    def _resume(self) -> str:
        """Read how far an earlier run came; say why it does not count."""
        note = self._folder / "state.json"
        if not note.exists():
            return ""
        try:
            state = json.loads(note.read_text(encoding="utf-8"))
            done = Done(**state["done"])
            is_whole = all(
                p.stat().st_size >= n for p, n in zip(self._paths, done.bytes, strict=True)
            )
        except (OSError, ValueError, TypeError, KeyError):
            return "its notes are damaged"
        changed = [key for key, value in self._about.items() if state["about"].get(key) != value]
        if changed or not is_whole:
            note.unlink()
            return f"another {', '.join(changed)}" if changed else "part of it is gone"
        self.done = done
        return ""

    def _begin(self) -> None:
        answers, refused = self._files
        if not self.is_parquet:
            answers.write(_line([*self._header, *ANSWER]))
        refused.write(_line([REFUSED[0], REFUSED[1], *self._header, REFUSED[2]]))

    def _restore(self) -> None:
        """Write the table again as far as it is known."""
        import pyarrow as pa  # type: ignore[import-untyped]

        with pa.OSFile(str(self._paths[0])) as file:
            while file.tell() < self.done.bytes[0]:
                self._write_table(pa.ipc.open_stream(file).read_all())

    def _write_table(self, table: Any) -> None:
        from pyarrow import parquet

        if self._parquet is None:
            self._parquet = parquet.ParquetWriter(self._table, table.schema)
        self._parquet.write_table(table)

    def render(self, answered: Answered) -> Any:
        """Make of answered rows what ``add`` writes; from any thread."""
        import pyarrow as pa

        if self.is_parquet:
            names = [*self._header, *ANSWER]
            return pa.Table.from_arrays([pa.chunked_array([c]) for c in answered.columns], names)
        return as_csv(answered.columns)

    def add(self, answered: Answered, rendered: Any) -> None:
        """Write the next batch.

        Raises:
            StorageError: The disk is full or read-only; what was noted before can be continued.
        """
        with atomic.storage(self.target):
            if self.is_parquet:
                self._pending.append(rendered)
            else:
                self._files[0].write(rendered)
            self._files[1].write(answered.refused.encode())
        done, (good, bad, blank) = self.done, answered.counts
        done.batches, done.answered = done.batches + 1, done.answered + good
        done.refused, done.blank = done.refused + bad, done.blank + blank
        if done.batches % _COMMIT == 0:
            self.commit()

    def commit(self) -> None:
        """Note that all batches added so far are done.

        Raises:
            StorageError: The disk is full or read-only.
        """
        import pyarrow as pa

        with atomic.storage(self.target):
            if self._pending:
                table = pa.concat_tables(self._pending)
                with pa.ipc.new_stream(self._files[0], table.schema) as stream:
                    stream.write_table(table)
                self._write_table(table)
                self._pending.clear()
            for file in self._files:
                file.flush()
                os.fsync(file.fileno())
            self.done.bytes = tuple(file.tell() for file in self._files)
        note = {"about": self._about, "done": asdict(self.done)}
        atomic.write(self._folder / "state.json", json.dumps(note, indent=1))

    def finish(self) -> Path | None:
        """Put the files where they belong, and say where the refused rows are, if there are any.

        Raises:
            StorageError: The disk is full or read-only.
        """
        self.commit()
        with atomic.storage(self.target):
            answers = self._paths[0]
            if self._parquet is not None:
                self._parquet.close()
                answers = self._table
                with answers.open("rb") as file:
                    os.fsync(file.fileno())
            if self.done.refused:
                self._paths[1].replace(self._rejected)
            else:
                self._rejected.unlink(missing_ok=True)  # an earlier run's
            answers.replace(self.target)
            folder = os.open(self.target.parent, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)
        self.discard()
        return self._rejected if self.done.refused else None

    def discard(self) -> None:
        """Leave nothing behind."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _abandon(self) -> None:
        """Let go of the table; on a full disk that may fail, and it is written anew anyway."""
        with suppress(OSError):
            if self._parquet is not None:
                self._parquet.close()


def as_csv(columns: Sequence[Any]) -> Any:
    """Write columns as lines of CSV, quoted only where needed."""
    import pyarrow as pa
    import pyarrow.compute as pc  # type: ignore[import-untyped]

    if not len(columns[0]):
        return b""
    cells = [_quoted(column.cast(pa.string())) for column in columns]
    ends = [*[","] * (len(cells) - 1), "\n"]
    pieces = [piece for pair in zip(cells, ends, strict=True) for piece in pair]
    lines = pc.binary_join_element_wise(*pieces, "", null_handling="replace", null_replacement="")
    # The lines of a fresh array stand one after the other in memory: that is the file.
    return lines.buffers()[2]


def _quoted(column: Any) -> Any:
    import pyarrow.compute as pc

    if not holds(column, _NEEDS_QUOTES):
        return column
    doubled = pc.replace_substring(column, '"', '""')
    needs = pc.match_substring_regex(column, '[,"\r\n]')
    return pc.if_else(needs, pc.binary_join_element_wise('"', doubled, '"', ""), column)


def _line(cells: Sequence[object]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode()
