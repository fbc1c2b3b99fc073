"""Tables on disk, read as a stream of batches: CSV, plain or gzipped, and Parquet."""

import codecs
import csv
import gzip
import io
import zlib
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smartcity.errors import SmartCityError, UsageError

_TEXTS = (".csv", ".csv.gz", ".tsv", ".txt")
#: Bytes of text, or rows of Parquet, to a batch: enough to be quick, few enough to stay small.
_BLOCK, _ROWS = 1 << 19, 1 << 13
#: A header lies within so many bytes.
_HEAD = 1 << 20
#: Broken rows: line, number of fields, text.
Broken = tuple[int, int, str]


@dataclass(frozen=True)
class Batch:
    """Some rows as they were read.

    Attributes:
        columns: One Arrow array per name in the header; strings where the table is text.
        lines: Where each row stands in the input, shape (rows,).
        broken: Rows with more or fewer fields than the header.
    """

    columns: list[Any]
    lines: NDArray[np.int64]
    broken: list[Broken] = field(default_factory=list)


def number(text: str, delimiter: str | None) -> float | str | None:
    """Read a cell: nothing is a missing reading; decimal commas go with semicolons."""
    plain = text.strip()
    if delimiter == ";":
        plain = plain.replace(",", ".")
    try:
        return float(plain) if plain else None
    except ValueError:
        return text


class _Tap(io.BufferedIOBase):
    """A file on its way to Arrow, with what was seen going by."""

    def __init__(self, path: Path) -> None:
        self._raw = path.open("rb")
        self._size = max(path.stat().st_size, 1)
        is_packed = path.suffix.lower() == ".gz"
        self._file: Any = gzip.GzipFile(fileobj=self._raw) if is_packed else self._raw
        self._path, self._lines, self.quotes = path, 1, 0
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    def read(self, size: int | None = -1, /) -> bytes:
        data: bytes = self._file.read(size)
        try:
            self._decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            line = self._lines + data.count(b"\n", 0, error.start)
            raise SmartCityError(
                f"{self._path}, line {line}, is not UTF-8. Save the file as UTF-8."
            ) from None
        self._lines += data.count(b"\n")
        self.quotes += data.count(b'"')
        return data

    def head(self) -> bytes:
        """Give at least the first line with anything in it, though what follows be damaged."""
        head = b""
        while (
            b"\n" not in head.lstrip() and len(head) < _HEAD and (more := self._file.read1(_HEAD))
        ):
            head += more
        return head

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._raw.close()
        super().close()

    @property
    def share(self) -> float:
        return 1.0 if self._raw.closed else self._raw.tell() / self._size


class Text:
    """A CSV file: commas, semicolons with decimal commas, or tabs."""

    def __init__(self, path: Path) -> None:
        """Read the header.

        Raises:
            SmartCityError: It cannot be read, or is no table.
        """
        self.path = path
        self._line = 0
        self._tap: _Tap | None = None
        self._broken: deque[Broken] = deque()
        with self._said():
            with _Tap(path) as tap:
                head = tap.head().decode("utf-8-sig", errors="replace")
            self.first = head.lstrip().partition("\n")[0]
            if {"\0", "\ufffd"} & set(self.first):
                raise UnicodeError
            self.delimiter = max(",;\t", key=self.first.count)
            table = csv.reader(io.StringIO(head, newline=""), delimiter=self.delimiter)
            cells = next((cells for cells in table if any(map(str.strip, cells))), [])
        self.header = [name.strip() for name in cells]
        self._line = self._skip = table.line_num

    @property
    def share(self) -> float:
        """How much of the file was read."""
        return self._tap.share if self._tap else 0.0

    def batches(self) -> Iterator[Batch]:
        """Read the rows; the same file always falls into the same batches.

        Raises:
            SmartCityError: The file cannot be read further; the message says where and why.
        """
        import pyarrow as pa  # type: ignore[import-untyped]

        record = self._skip + 1  # the number of the next row, as Arrow counts
        self._line, self._was_tall = self._skip, False
        self._broken.clear()
        with _Tap(self.path) as tap:
            self._tap = tap
            with self._said():
                stream = self._stream(tap)
            while True:
                with self._said():
                    read = next(stream, None)
                columns = [pa.nulls(0, pa.string())] * len(self.header)
                if read is not None:
                    columns = read.columns
                batch, record = self._numbered(columns, record, is_last=read is None)
                yield batch
                if read is None:
                    break
            if tap.quotes % 2 and self._was_tall:
                raise SmartCityError(
                    f"{self.path}, line {self._last}: a quote is opened and never closed. Close it."
                )

    def _stream(self, tap: _Tap) -> Iterator[Any]:
        import pyarrow as pa
        from pyarrow import csv as arrow

        def note(row: Any) -> str:
            self._broken.append((row.number, row.actual_columns, row.text))
            return "skip"

        names = [str(n) for n in range(len(self.header))]
        # Rows have numbers only without Arrow's own threads.
        read = arrow.ReadOptions(
            use_threads=False, block_size=_BLOCK, skip_rows=self._skip, column_names=names
        )
        parse = arrow.ParseOptions(
            delimiter=self.delimiter,
            newlines_in_values=True,
            ignore_empty_lines=False,  # they count
            invalid_row_handler=note,
        )
        convert = arrow.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()),
            strings_can_be_null=True,
            null_values=[""],
            check_utf8=False,  # done
        )
        return iter(arrow.open_csv(tap, read, parse, convert))

    def _numbered(self, columns: list[Any], record: int, *, is_last: bool) -> tuple[Batch, int]:
        """Say in which line each row begins; cells may hold line breaks."""
        import pyarrow.compute as pc  # type: ignore[import-untyped]

        # Arrow parses ahead: broken rows right after the last one go with the next batch.
        size, broken = len(columns[0]), list[Broken]()
        while self._broken and (is_last or self._broken[0][0] < record + size):
            broken.append(self._broken.popleft())
            size += 1
        records = np.arange(record, record + size)
        is_broken = np.isin(records, [number for number, *_ in broken])
        breaks = np.zeros(size, dtype=np.int64)
        breaks[is_broken] = [text.count("\n") for *_, text in broken]
        for column in columns:
            if holds(column, b"\n"):
                breaks[~is_broken] += pc.fill_null(pc.count_substring(column, "\n"), 0).to_numpy()
        begin = self._line + 1 + np.arange(size) + np.cumsum(breaks) - breaks
        self._line += size + int(breaks.sum())
        if size:
            self._last, self._was_tall = int(begin[-1]), bool(breaks[-1])
        named = zip(begin[is_broken].tolist(), broken, strict=True)
        told = [(line, fields, text) for line, (_, fields, text) in named]
        return Batch(columns, begin[~is_broken], told), record + size

    @contextmanager
    def _said(self) -> Iterator[None]:
        """Say what is wrong with the file, where, and what to do."""
        import pyarrow as pa

        try:
            yield
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            problem = f"the gzip file is cut short or damaged ({error}). Fetch it again."
        except UnicodeError:
            problem = "it is not UTF-8. Save it as UTF-8."
        except csv.Error as error:
            problem = f"it is not a table: {error}."
        except pa.ArrowInvalid as error:
            problem = self._in_words(str(error))
        except OSError as error:
            raise SmartCityError(f"Cannot read {self.path}: {error.strerror or error}.") from None
        else:
            return
        raise SmartCityError(f"{self.path}, after line {self._line}: {problem}")

    def _in_words(self, said: str) -> str:
        """Put Arrow's complaints into words with a remedy."""
        if "Could not skip" in said or "Empty CSV" in said:
            return "it has no row."
        if "straddling" in said or "out of sync" in said:
            return f"a quote is opened and not closed within {_BLOCK >> 10} kB. Close it."
        return f"it is not a table: {said}."


def holds(column: Any, these: bytes) -> bool:
    """Whether any of these bytes stands anywhere in a column of strings; by far the usual no."""
    _, offsets, content = column.buffers()
    if content is None:
        return False
    ends = np.frombuffer(offsets, dtype=np.int32)[column.offset : column.offset + len(column) + 1]
    found = np.frombuffer(content, dtype=np.uint8)[ends[0] : ends[-1]]
    return any(bool((found == byte).any()) for byte in these)


class Parquet:
    """A Parquet file; its rows are counted from 1."""

    delimiter = None

    def __init__(self, path: Path) -> None:
        """Read its schema.

        Raises:
            SmartCityError: It cannot be read, or is no Parquet file.
        """
        from pyarrow import parquet

        self.path, self.share = path, 0.0
        with self._said():
            # Read as needed: a row group may hold the whole file.
            self._file = parquet.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20)
        self.header = [name.strip() for name in self._file.schema_arrow.names]
        self.first = ", ".join(self.header)

    @property
    def no_text(self) -> list[str]:
        """Columns that cannot be written as text."""
        import pyarrow as pa

        schema = self._file.schema_arrow
        return [f.name for f in schema if pa.types.is_nested(f.type) or pa.types.is_binary(f.type)]

    def batches(self) -> Iterator[Batch]:
        """Read the rows; the same file always falls into the same batches.

        Raises:
            SmartCityError: The file is damaged.
        """
        done, rows = 0, max(self._file.metadata.num_rows, 1)
        with self._file:
            stream = self._file.iter_batches(_ROWS, use_threads=False)
            while True:
                with self._said():
                    read = next(stream, None)
                if read is None:
                    return
                yield Batch(read.columns, np.arange(done + 1, done + 1 + len(read)))
                done += len(read)
                self.share = done / rows

    @contextmanager
    def _said(self) -> Iterator[None]:
        import pyarrow as pa

        try:
            yield
        except (pa.ArrowInvalid, OSError) as error:
            raise SmartCityError(
                f"Cannot read {self.path}, after {self.share:.0%}: {error} Fetch it again."
            ) from None


def opened(path: Path) -> Text | Parquet:
    """Open a table by the ending of its name.

    Raises:
        UsageError: The ending is none of those known.
        SmartCityError: It cannot be read, or is no table.
    """
    name = path.name.lower()
    if name.endswith(".parquet"):
        return Parquet(path)
    if name.endswith(_TEXTS):
        return Text(path)
    raise UsageError(f"--input {path} must end in {', '.join(_TEXTS)} or .parquet.")
