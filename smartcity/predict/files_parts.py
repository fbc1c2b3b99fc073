"""A folder of Parquet files in parts: each answered anywhere, and there whole or not at all."""

import hashlib
import json
import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
from numpy.typing import NDArray
from pyarrow import parquet

from smartcity import atomic, registry
from smartcity.domains import Domain
from smartcity.errors import SmartCityError
from smartcity.features import Matrix
from smartcity.predict.files_in import Parquet
from smartcity.predict.files_rows import ANSWER, REFUSED, Rows, as_lines
from smartcity.predict.predictor import Predictor

#: Changes whenever the same rows would fall into other parts, or be written otherwise.
_LAYOUT = 1
#: Rows of a row group, answered before they are written: at most so many wait in memory.
_GROUP = 1 << 17
#: Rows a model answers on the thread that asks; about more it would use every core.
_AT_ONCE = 1 << 9
#: Columns of which few values come again and again.
_REPEATING = ("label", "confidence", "warnings", "model_version")
#: Where a part's footer says what it was made of.
_FOOTER = b"smartcity"
#: Folder of the refused rows; whoever opens the folder above as one table passes over it.
REJECTED = "_rejected"

#: The predictor this process opened last, by its model's checksum.
_opened: dict[str, Predictor] = {}


@dataclass(frozen=True)
class Asked:
    """The model that answers, as tasks name it.

    Attributes:
        domain: The question.
        site: Whose readings they are.
        name: The model's name in the registry.
        version: Its version.
        checksum: Of the version's checksums.
    """

    domain: Domain
    site: str
    name: str
    version: str
    checksum: str


@dataclass(frozen=True)
class Part:
    """Some row groups of a file, and where their answers go.

    Attributes:
        source: The file, below the folder that is read.
        first: The first of its row groups.
        last: The one behind the last.
        rows: How many rows they hold.
        mark: What the answers hang on, as a checksum.
    """

    source: str
    first: int
    last: int
    rows: int
    mark: str

    @property
    def table(self) -> str:
        """The part, below the folder that is written."""
        return f"{self.source.removesuffix('.parquet')}-{self.first:05}.parquet"

    @property
    def rejected(self) -> str:
        """Its refused rows, if there are any."""
        return f"{REJECTED}/{self.table.removesuffix('.parquet')}.csv"


@dataclass(frozen=True)
class Made:
    """What became of a part: rows answered and refused, and the checksum of its file."""

    answered: int
    refused: int
    sha256: str


def mark(asked: Asked, folder: Path, source: str, first: int, last: int) -> str:
    """Say what the answers to some row groups hang on: the file as it is now, and the model."""
    stat = (folder / source).stat()
    about = [source, stat.st_size, stat.st_mtime_ns, first, last, _LAYOUT]
    about += [asked.name, asked.site, asked.version, asked.checksum]
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()


def made(folder: Path, table: str) -> tuple[str, Made] | None:
    """Read a part's mark and what became of it; None if it is not one of ours, or damaged."""
    try:
        footer = parquet.read_metadata(folder / table)
        told = json.loads((footer.metadata or {})[_FOOTER])
        with (folder / table).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return told["mark"], Made(footer.num_rows, told["refused"], digest)
    except (OSError, ValueError, KeyError):  # Arrow's are among it
        return None


def answer_part(
    asked: Asked, packed: NDArray[np.uint8], source: Path, target: Path, part: Part
) -> Made:
    """Answer a part; done twice, it comes out the same and is there once.

    Args:
        asked: The model.
        packed: Its files, for a machine that lacks them.
        source: The folder that is read.
        target: The folder that is written.
        part: The part.

    Raises:
        ModelError: The model cannot be had as it was asked for.
        SmartCityError: The file cannot be read here, or is no longer what it was.
        StorageError: The part cannot be written.
    """
    predictor, table = _predictor(asked, packed), Parquet(source / part.source)
    if mark(asked, source, part.source, part.first, part.last) != part.mark:
        raise SmartCityError(
            f"{table.path} changed while it was answered. Run the same command again."
        )
    rows = Rows(predictor, table.header, table.delimiter, typed=True)
    batches = table.batches(range(part.first, part.last))
    path, names, refused = target / part.table, [*table.header, *ANSWER], 0
    with ExitStack() as stack:
        file = stack.enter_context(_whole(path))
        aside: BinaryIO | None = None  # most parts need none
        writer: Any = None
        waiting: list[Any] = []
        for read in batches:
            columns, lines, bad = rows.answer(read())
            if bad and aside is None:
                aside = stack.enter_context(_whole(target / part.rejected))
                aside.write(as_lines([[*REFUSED, *table.header]]))
            if aside is not None:
                aside.write(lines)
            refused += bad
            waiting.append(pa.Table.from_arrays(columns, names))
            writer = writer or stack.enter_context(_writer(file, waiting[0].schema))
            if sum(map(len, waiting)) >= _GROUP:
                _write(writer, waiting)
        if waiting:
            _write(writer, waiting)
        told = {"mark": part.mark, "refused": refused}
        writer.add_key_value_metadata({_FOOTER: json.dumps(told)})
    now = made(target, part.table)
    if now is None or now[0] != part.mark:
        raise SmartCityError(f"{path} is not what was written. Run the same command again.")
    return now[1]


class _OneCore(registry.Model):
    """A model that leaves the other cores to the tasks beside."""

    def scores(self, rows: Matrix, part: str = registry.NOW) -> NDArray[np.float64]:
        """Run one of its parts, on this thread."""
        found = [
            registry.Model.scores(self, rows[n : n + _AT_ONCE], part)
            for n in range(0, len(rows), _AT_ONCE)
        ]
        return np.concatenate(found)


def _predictor(asked: Asked, packed: NDArray[np.uint8]) -> Predictor:
    """Open the model, once in a process."""
    known = _opened.get(asked.checksum)
    if known is None or (known.domain, known.site) != (asked.domain, asked.site):
        folder = registry.unpack(packed, asked.name, asked.version, asked.checksum)
        card = registry.card(asked.name, asked.version, folder)
        known = Predictor(asked.domain, _OneCore(card, folder), asked.site)
        _opened.clear()
        _opened[asked.checksum] = known
    return known


def _writer(file: BinaryIO, schema: Any) -> Any:
    """Begin a Parquet file: to look for what repeats in every reading costs more than it saves."""
    words = [field.name for field in schema if not pa.types.is_primitive(field.type)]
    return parquet.ParquetWriter(file, schema, use_dictionary=[*words, *_REPEATING])


def _write(writer: Any, waiting: list[Any]) -> None:
    """Write what waits as a row group, its texts in one dictionary."""
    writer.write_table(pa.concat_tables(waiting).unify_dictionaries(), row_group_size=1 << 30)
    waiting.clear()


@contextmanager
def _whole(path: Path) -> Iterator[BinaryIO]:
    """Write a file that has its name only when all of it is on disk.

    Raises:
        StorageError: The folder cannot be written; nothing is left behind.
    """
    beside = path.with_name(f".tmp-{uuid.uuid4().hex}")
    with atomic.storage(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with beside.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)


def cut(groups: Sequence[int], rows: int) -> Iterator[tuple[int, int]]:
    """Cut a file's row groups into ranges of so many rows, one group at least.

    >>> list(cut([5, 5, 9, 1, 0], 10))
    [(0, 2), (2, 4)]
    """
    first, held = 0, 0
    for place, size in enumerate(groups):
        if held and held + size > rows:
            yield first, place
            first, held = place, 0
        held += size
    if held:
        yield first, len(groups)
