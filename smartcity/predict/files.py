"""Whole files: every row of a table answered, or set aside with the reason."""

import csv
import itertools
import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smartcity.domains import Domain
from smartcity.errors import SmartCityError, StorageError, UsageError
from smartcity.predict import files_in, files_out
from smartcity.predict.files_in import Batch, Parquet, Text, number
from smartcity.predict.files_rows import ANSWER, REFUSED, Answered, Rows
from smartcity.predict.predictor import Predictor

#: The model lets others run while it works; more than two threads would only hold more in memory.
_THREADS = min(2, os.cpu_count() or 1)
#: Changes whenever a file would fall into other batches, or be written otherwise.
_LAYOUT = 1


@dataclass(frozen=True)
class Progress:
    """How far a file is.

    Attributes:
        share: Of the input, by bytes or rows.
        answered: Rows answered.
        refused: Rows set aside.
        blank: Rows with nothing in any cell, passed over.
        resumed: Rows of these an earlier run had done.
        note: Why an earlier run is not continued.
        rejected: At the end, the file of the refused rows, if there are any.
    """

    share: float
    answered: int
    refused: int
    blank: int
    resumed: int = 0
    note: str = ""
    rejected: Path | None = None


def answer_file(
    predictor: Predictor,
    source: Path,
    target: Path,
    told: Callable[[Progress], object] = lambda _: None,
) -> Progress:
    """Answer a CSV or Parquet file, whatever its size.

    Ended early, by whatever, the same call goes on where it was; the result is the same. Nothing is
    under the target's name before all of it is.

    Args:
        predictor: The domain's predictor.
        source: A table with a header of input names, or of the published columns; other columns
            are carried along.
        target: The table to write: answered rows in order, all columns, then the answer. Beside
            it, as ``<stem>.rejected.csv``, the rows that have none, and why.
        told: Called with the progress now and then.

    Raises:
        UsageError: A name ends in what we do not know, or source and target are the same.
        SmartCityError: The file cannot be read, or is no such table.
        StorageError: The target cannot be written; run it again to go on.
    """
    rejected = target.resolve().with_name(f"{target.stem}.rejected.csv")
    if target.suffix.lower() not in {".csv", ".parquet"}:
        raise UsageError(f"--output {target} must end in .csv or .parquet.")
    if source.resolve() in {target.resolve(), rejected}:
        raise UsageError(f"--output is the same file as --input, {source}; name another.")
    if target.exists() and not target.is_file():
        raise StorageError(f"Cannot write {target}: it is no ordinary file. Choose another name.")
    table = files_in.opened(source)
    _check(predictor.domain, table)
    if target.suffix.lower() == ".csv" and isinstance(table, Parquet) and table.no_text:
        raise UsageError(f"Columns {table.no_text} cannot be CSV: give --output as .parquet.")
    output = files_out.Output(target.resolve(), rejected, table.header)
    rows = Rows(predictor, table.header, table.delimiter, typed=output.is_parquet)
    stat = source.stat()
    about = {
        "input": str(source.resolve()),
        "size of the input": stat.st_size,
        "time of the input": stat.st_mtime_ns,
        "domain": predictor.domain.name,
        "model version": predictor.card.version,
        "layout": _LAYOUT,
    }
    with output.open(about) as note:
        done = output.done
        resumed = done.answered + done.refused

        def at(share: float, rejected: Path | None = None) -> Progress:
            counts = (done.answered, done.refused, done.blank)
            return Progress(share, *counts, resumed, note, rejected)

        told(at(0.0))
        try:
            _run(rows, table, output, lambda: told(at(table.share)))
        except BaseException:
            with suppress(StorageError):
                output.commit()  # what is done is done
            raise
        if not done.answered + done.refused:
            output.discard()
            raise SmartCityError(f"{source} has no row. Its first line is {table.first[:80]!r}.")
        last = at(1.0, output.finish())
        told(last)
        return last


def _run(
    rows: Rows, table: Text | Parquet, output: files_out.Output, told: Callable[[], object]
) -> None:
    """Answer batches on several threads, and write them in their order."""

    def work(batch: Batch) -> tuple[Answered, Any]:
        answered = rows.answer(batch)
        return answered, output.render(answered)

    waiting: deque[Future[tuple[Answered, Any]]] = deque()

    def write(most: int) -> None:
        while len(waiting) > most:
            output.add(*waiting.popleft().result())
            told()

    with ThreadPoolExecutor(_THREADS) as pool:
        try:
            for batch in itertools.islice(table.batches(), output.done.batches, None):
                waiting.append(pool.submit(work, batch))
                write(_THREADS)
        except SmartCityError:
            with suppress(StorageError):
                write(0)  # what was read before is good
            raise
        write(0)


def _check(domain: Domain, table: Text | Parquet) -> None:
    """Refuse a table whose every row would be refused, or whose columns say things twice."""
    header = table.header
    inputs = [spec for spec in domain.inputs if not spec.sum_of]
    names = {spec.name: {spec.name, spec.column or spec.name} for spec in domain.inputs}
    names["timestamp"] = {"timestamp"}
    found = {name: [n for n in header if n in known] for name, known in names.items()}
    doubled = [column for columns in found.values() if len(columns) > 1 for column in columns]
    taken = [n for n in header if n in {*ANSWER, *REFUSED}] + doubled
    if taken:
        raise SmartCityError(
            f"{table.path}: its columns {taken} are ours or there twice; rename them."
        )
    if not any(found.values()):
        known = ", ".join(sorted(set().union(*names.values())))
        raise SmartCityError(
            f"{table.path} has no row, or none of the columns {known}. "
            f"Its first line is {table.first[:80]!r}."
        )
    lacking = [
        s.name for s in inputs if not (found[s.name] or (s.from_time and found["timestamp"]))
    ]
    if lacking:
        raise SmartCityError(
            f"{table.path} has no column {', '.join(lacking)}. Add what is missing; where a sensor "
            f"gave nothing, the cell stays empty."
        )


def read_recent(domain: Domain, source: Path) -> list[dict[str, Any]]:
    """Read recent readings from a CSV file, as a forecast takes them.

    Args:
        domain: The question.
        source: A table with ``timestamp`` and the inputs and the target, by our names or the
            published ones; other columns are passed over.

    Raises:
        SmartCityError: The file cannot be read, or is no such table.
    """
    known = {*domain.names, *domain.columns, domain.target.name, "timestamp"}
    header, rows, delimiter = _read(source, known)
    if "timestamp" not in header:
        raise SmartCityError(f"{source} has no column 'timestamp', as in 2022-02-01T08:20.")
    short = next((n for n, cells in enumerate(rows, start=2) if len(cells) != len(header)), None)
    if short:
        raise SmartCityError(f"{source}, line {short} has more or fewer fields than the header.")
    named = [{k: v for k, v in zip(header, cells, strict=True) if k in known} for cells in rows]
    return [
        {k: v if k == "timestamp" else number(v, delimiter) for k, v in row.items()}
        for row in named
    ]


def _read(source: Path, known: set[str]) -> tuple[list[str], Sequence[list[str]], str]:
    """Read a small CSV file as header, rows and delimiter, refusing one without what we know."""
    table = Text(source)
    with source.open(encoding="utf-8-sig", newline="") as file:
        try:
            rows = [cells for cells in csv.reader(file, delimiter=table.delimiter) if cells]
        except (UnicodeDecodeError, csv.Error) as error:
            raise SmartCityError(f"{source} is not a table: {error}.") from None
    if len(rows) < 2 or not known & set(table.header):
        raise SmartCityError(
            f"{source} has no row, or none of the columns {', '.join(sorted(known))}. "
            f"Its first line is {table.first[:80]!r}."
        )
    return table.header, rows[1:], table.delimiter
