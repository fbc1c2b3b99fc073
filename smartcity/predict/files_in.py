"""Tables on disk, read as a stream of batches: CSV, plain or gzipped, and Parquet."""

import csv
import gzip
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
from numpy.typing import NDArray
from pyarrow import csv as arrow
from pyarrow import parquet

from smartcity.errors import SmartCityError, UsageError

#: Bytes of text, or rows of Parquet, to a batch: enough to be quick, few enough to stay small.
_BLOCK, _ROWS = 1 << 19, 1 << 13
#: Cells of Parquet that are read at once, at most.
_CELLS = 1 << 20
#: Quoted cells, and those right behind them, up to the end of the text if need be.
_QUOTED = rb'(?<![^%b\r\n])"[^"]*+(?:"(?:"|%b")[^"]*+)*+"?'
_NO_BREAKS = bytes.maketrans(b"\r\n", b"  ")


@dataclass(frozen=True)
class Batch:
    """Some rows as they were read.

    Attributes:
        columns: One Arrow array per name in the header; strings where the table is text.
        lines: Where each row stands in the input, shape (rows,).
        broken: Line and text of rows with more or fewer fields than the header.
    """

    columns: list[Any]
    lines: NDArray[np.int64]
    broken: list[tuple[int, str]] = field(default_factory=list)


def number(cell: Any, delimiter: str) -> Any:
    """Read a cell: nothing is a missing reading; decimal commas go with semicolons."""
    if not isinstance(cell, str):
        return cell
    plain = cell.strip()
    try:
        return float(plain.replace(",", ".") if delimiter == ";" else plain) if plain else None
    except ValueError:
        return plain


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, ValueError, zlib.error, csv.Error) as error:  # Arrow's are among it
        raise SmartCityError(f"Cannot read {path}: {error}. Fetch or save it again.") from None


class Text:
    """A CSV file: commas, semicolons with decimal commas, or tabs."""

    def __init__(self, path: Path) -> None:
        """Read the header.

        Raises:
            SmartCityError: It cannot be read, or is no table.
        """
        self.path, self.share = path, 0.0
        self._open: Any = gzip.open if path.suffix.lower() == ".gz" else open
        with _reading(path), self._open(path, "rb") as file:
            head = self._decoded(file.readline(_BLOCK), 1).removeprefix("\ufeff").rstrip("\r\n")
            self.delimiter = max(",;\t", key=head.count)
            [cells] = csv.reader([head], delimiter=self.delimiter)
        self.header = [name.strip() for name in cells]
        self._quoted = re.compile(_QUOTED % ((self.delimiter.encode(),) * 2))

    def _decoded(self, data: bytes, line: int) -> str:
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            line += data.count(b"\n", 0, error.start)
            raise SmartCityError(f"{self.path}, line {line}, is not UTF-8. Save it so.") from None

    def batches(self) -> Iterator[Callable[[], Batch]]:
        """Cut the rows into batches, always the same; each is read where it is called.

        Raises:
            SmartCityError: The file cannot be read further; the message says where and why.
        """
        size = max(self.path.stat().st_size, 1)
        with _reading(self.path), self._open(self.path, "rb") as file:
            raw = getattr(file, "fileobj", file)
            file.readline()
            line, left, is_last = 2, b"", False
            while not is_last:
                more = file.read(_BLOCK)
                is_last = not more
                left += more or b"\n"
                bare = left  # the same without line breaks in cells
                if b'"' in left:
                    bare = self._quoted.sub(lambda cells: cells[0].translate(_NO_BREAKS), left)
                end = bare.rfind(b"\n") + 1
                here = line + left.count(b"\n", 0, end)
                if len(left) - end > (0 if is_last else _BLOCK):
                    raise SmartCityError(
                        f"{self.path}, line {here}: a quote is opened and not closed within "
                        f"{_BLOCK} bytes. Close it."
                    )
                self.share = raw.tell() / size
                if end:
                    yield partial(self._read, line, left[:end], bare[:end])
                line, left = here, left[end:]

    def _read(self, line: int, block: bytes, bare: bytes) -> Batch:
        """Read whole rows, of which the first begins in a line."""
        self._decoded(block, line)
        broken: list[Any] = []

        def note(row: Any) -> str:
            broken.append(row)
            return "skip"

        names = [str(n) for n in range(len(self.header))]
        # Rows have numbers only without Arrow's own threads.
        read = arrow.ReadOptions(use_threads=False, block_size=len(block), column_names=names)
        parse = arrow.ParseOptions(
            delimiter=self.delimiter, newlines_in_values=True, invalid_row_handler=note
        )
        parse.ignore_empty_lines = False  # they count
        types = dict.fromkeys(names, pa.string())
        convert = arrow.ConvertOptions(
            column_types=types, strings_can_be_null=True, null_values=[""], check_utf8=False
        )
        table = arrow.read_csv(pa.BufferReader(block), read, parse, convert)
        columns = [column.combine_chunks() for column in table.columns]
        text = np.frombuffer(bare.replace(b"\r\n", b" \n"), np.uint8)
        ends = np.flatnonzero((text == ord("\n")) | (text == ord("\r")))
        breaks = np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n"))
        lines = line + np.searchsorted(breaks, np.append(-1, ends[:-1]), side="right")
        places = [row.number - 1 for row in broken]
        told = [(int(lines[n]), row.text) for n, row in zip(places, broken, strict=True)]
        return Batch(columns, np.delete(lines, places), told)


class Parquet:
    """A Parquet file; its rows are counted from 1."""

    delimiter = ","

    def __init__(self, path: Path) -> None:
        """Read its schema.

        Raises:
            SmartCityError: It cannot be read, or is no Parquet file.
        """
        self.path, self.share = path, 0.0
        with _reading(path):
            # Read as needed: a row group may hold the whole file.
            self._file = parquet.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20)
        self.header = [name.strip() for name in self._file.schema_arrow.names]
        about = self._file.metadata
        #: Rows of each row group.
        self.groups = [about.row_group(n).num_rows for n in range(about.num_row_groups)]

    def batches(self, groups: Sequence[int] | None = None) -> Iterator[Callable[[], Batch]]:
        """Read the rows; the same file always falls into the same batches.

        Args:
            groups: Row groups to read, one after the other; all when left out.

        Raises:
            SmartCityError: The file is damaged.
        """
        groups = range(len(self.groups)) if groups is None else groups
        done = sum(self.groups[: groups[0]]) if groups else 0
        # Several batches are read at once, unless that is too much: each time costs a little.
        at_once = _ROWS * min(max(_CELLS // (_ROWS * len(self.header)), 1), 8)
        with _reading(self.path), self._file:
            for read in self._file.iter_batches(at_once, groups, use_threads=False):
                for start in range(0, len(read), _ROWS):
                    some = read.slice(start, _ROWS)
                    lines = np.arange(done + 1, done + 1 + len(some))
                    done += len(some)
                    self.share = done / sum(self.groups)
                    yield partial(Batch, some.columns, lines)

    def close(self) -> None:
        """Let go of a file that is not read further."""
        self._file.close()


def opened(path: Path) -> Text | Parquet:
    """Open a table by the ending of its name.

    Raises:
        UsageError: The ending is none of those known.
        SmartCityError: It cannot be read, or is no table.
    """
    name = path.name.lower()
    if not name.endswith((".parquet", ".csv", ".csv.gz")):
        raise UsageError(f"--input {path} must end in .csv, .csv.gz or .parquet.")
    return Parquet(path) if name.endswith(".parquet") else Text(path)
