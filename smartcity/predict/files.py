"""Whole files: every row of a table answered, or told why not."""

import csv
import io
from pathlib import Path
from typing import Any

from smartcity import atomic
from smartcity.domains import Domain
from smartcity.errors import InputError, SmartCityError
from smartcity.predict.predictor import Predictor

_ANSWER: dict[str, object] = dict.fromkeys(
    ("prediction", "label", "low", "high", "warnings", "error", "model_version"), ""
)


def answer_file(predictor: Predictor, source: Path, target: Path) -> tuple[int, int]:
    """Answer a CSV file row by row.

    Args:
        predictor: The domain's predictor.
        source: A table with a header of input names, or of the published columns; other columns
            are carried along.
        target: The table to write: all columns, then the answer or why there is none.

    Returns:
        How many rows were answered, and how many refused.

    Raises:
        SmartCityError: The file cannot be read, is no such table, or would be written over.
        StorageError: The target cannot be written.
    """
    domain = predictor.domain
    known = {*domain.names, *domain.columns, "timestamp"} - {domain.target.name}
    known.discard(domain.target.column)
    header, rows, delimiter = _read(source, known)
    taken = [n for n in header if n in _ANSWER or (n in known and header.count(n) > 1)]
    if taken:
        raise SmartCityError(f"{source}: its columns {taken} are ours or there twice; rename them.")
    if source.resolve() == target.resolve():
        raise SmartCityError(f"--output is the same file as --input, {source}; name another.")
    answers = [_line(predictor, header, cells, known, delimiter) for cells in rows]
    table = io.StringIO(newline="")
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow([*header, *_ANSWER])
    for cells, answer in zip(rows, answers, strict=True):
        kept = [*cells, *[""] * len(header)][: len(header)]
        writer.writerow([*kept, *answer.values()])
    atomic.write(target.absolute(), table.getvalue())
    failed = sum(bool(answer["error"]) for answer in answers)
    return len(answers) - failed, failed


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
        {k: v if k == "timestamp" else _number(v, delimiter) for k, v in row.items()}
        for row in named
    ]


def _read(source: Path, known: set[str]) -> tuple[list[str], list[list[str]], str]:
    """Read a CSV file as header, rows and delimiter, refusing one without any column we know."""
    try:
        text = source.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SmartCityError(f"Cannot read {source}: {error}") from None
    first = text.lstrip().partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    try:
        table = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        rows = [cells for cells in table if cells]
    except csv.Error as error:
        raise SmartCityError(f"{source} is not a table: {error}.") from None
    header = [name.strip() for name in rows[0]] if rows else []
    if len(rows) < 2 or not known & set(header):
        raise SmartCityError(
            f"{source} has no row, or none of the columns {', '.join(sorted(known))}. "
            f"Its first line is {first[:80]!r}."
        )
    return header, rows[1:], delimiter


def _line(
    predictor: Predictor, header: list[str], cells: list[str], known: set[str], delimiter: str
) -> dict[str, object]:
    """Answer one line of the table."""
    if len(cells) != len(header):
        return _ANSWER | {"error": "the line has more or fewer fields than the header"}
    named = zip(header, cells, strict=True)
    return _answer(predictor, {k: _number(v, delimiter) for k, v in named if k in known})


def _number(text: str, delimiter: str) -> float | str | None:
    """Read a cell: nothing is a missing reading; decimal commas go with semicolons."""
    plain = text.strip()
    if delimiter == ";":
        plain = plain.replace(",", ".")
    try:
        return float(plain) if plain else None
    except ValueError:
        return text


def _answer(predictor: Predictor, inputs: dict[str, Any]) -> dict[str, object]:
    blank = _ANSWER | {"model_version": predictor.card.version}
    try:
        given = predictor.predict(inputs)
    except InputError as error:
        return {**blank, "error": str(error)}
    return {
        **blank,
        "prediction": given.prediction,
        "label": given.label or "",
        "low": given.interval.low if given.interval else "",
        "high": given.interval.high if given.interval else "",
        "warnings": " ".join(given.warnings),
    }
