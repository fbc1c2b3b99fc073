"""Whole files: every row of a table answered, or set aside with the reason."""

import itertools
import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smartcity.domains import Domain
from smartcity.errors import SmartCityError, StorageError, UsageError
from smartcity.predict import files_in, files_out
from smartcity.predict.files_in import Batch, Parquet, Text
from smartcity.predict.files_rows import ANSWER, REFUSED, Rows
from smartcity.predict.predictor import Predictor

#: The model lets others run while it works; more than two threads would only hold more in memory.
_THREADS = min(2, os.cpu_count() or 1)
#: Changes whenever a file would fall into other batches, or be written otherwise.
_LAYOUT = 3


@dataclass(frozen=True)
class Progress:
    """How far a file is.

    Attributes:
        share: Of the input, by bytes or rows.
        answered: Rows answered.
        refused: Rows set aside.
        resumed: Rows of these an earlier run had done.
        rejected: At the end, the file of the refused rows, if there are any.
    """

    share: float
    answered: int
    refused: int
    resumed: int = 0
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
            are carried along, rows with nothing in any cell are passed over.
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
    check(predictor.domain, table)
    output = files_out.Output(target.resolve(), rejected, table.header)
    rows = Rows(predictor, table.header, table.delimiter, typed=output.is_parquet)
    stat, card = source.stat(), predictor.card
    about = [str(source.resolve()), stat.st_size, stat.st_mtime_ns]
    about += [card.name, predictor.site, card.version]
    with output.open([*about, _LAYOUT]):
        done = output.done
        resumed = done.answered + done.refused

        def at(share: float, rejected: Path | None = None) -> Progress:
            return Progress(share, done.answered, done.refused, resumed, rejected)

        told(at(0.0))
        _run(rows, table, output, lambda: told(at(table.share)))
        if not done.answered + done.refused:
            raise SmartCityError(f"{source} has no row.")
        last = at(1.0, output.finish())
    told(last)
    return last


def _run(
    rows: Rows, table: Text | Parquet, output: files_out.Output, told: Callable[[], object]
) -> None:
    """Answer batches on several threads, and write them in their order."""

    def work(read: Callable[[], Batch]) -> tuple[int, Any, int, bytes]:
        columns, rejected, refused = rows.answer(read())
        return len(columns[0]), output.render(columns), refused, rejected

    waiting: deque[Future[tuple[int, Any, int, bytes]]] = deque()

    def write(most: int) -> None:
        while len(waiting) > most:
            output.add(*waiting.popleft().result())
            told()

    with ThreadPoolExecutor(_THREADS) as pool:
        for read in itertools.islice(table.batches(), output.done.batches, None):
            waiting.append(pool.submit(work, read))
            write(_THREADS)
        write(0)


def check(domain: Domain, table: Text | Parquet) -> None:
    """Refuse a table whose every row would be refused, or whose columns say things twice.

    Raises:
        SmartCityError: The message names the columns.
    """
    names = {spec.name: {spec.name, spec.column or spec.name} for spec in domain.inputs}
    names["timestamp"] = {"timestamp"}
    found = {name: [n for n in table.header if n in known] for name, known in names.items()}
    taken = [n for n in table.header if n in {*ANSWER, *REFUSED}]
    taken += [column for columns in found.values() for column in columns if len(columns) > 1]
    if taken:
        raise SmartCityError(f"{table.path}: columns {taken} are ours or there twice; rename them.")
    lacking = [
        spec.name
        for spec in domain.inputs
        if not (found[spec.name] or spec.sum_of or (spec.from_time and found["timestamp"]))
    ]
    if lacking:
        raise SmartCityError(
            f"{table.path} has no column {', '.join(lacking)}, only {', '.join(table.header)[:80]}."
            f" Add what is missing; where a sensor gave nothing, the cell stays empty."
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
    table = Text(source)
    known = {*domain.names, *domain.columns, domain.target.name, "timestamp"} & {*table.header}
    if "timestamp" not in known:
        raise SmartCityError(f"{source} has no column 'timestamp', as in 2022-02-01T08:20.")
    rows: list[dict[str, Any]] = []
    for read in table.batches():
        batch = read()
        if batch.broken:
            line, _ = batch.broken[0]
            raise SmartCityError(f"{source}, line {line} has more or fewer fields than the header.")
        for cells in zip(*[column.to_pylist() for column in batch.columns], strict=True):
            row = dict(zip(table.header, cells, strict=True))
            if any(cells):
                rows.append({name: files_in.number(row[name], table.delimiter) for name in known})
    return rows
