"""Whole files: every row of a table answered, or told why not."""

import csv
import io
from pathlib import Path
from typing import Any

from smartcity import atomic
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
    try:
        text = source.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SmartCityError(f"Cannot read {source}: {error}") from None
    first = text.lstrip().partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, restkey="")
    try:
        rows = list(reader)
    except csv.Error as error:
        raise SmartCityError(f"{source} is not a table: {error}.") from None
    known = {*domain.names, *domain.columns, "timestamp"} - {domain.target.name}
    known.discard(domain.target.column)
    if not rows or not known & set(rows[0]):
        raise SmartCityError(
            f"{source} has no row, or none of the columns {', '.join(domain.names)}. "
            f"Its first line is {first[:80]!r}."
        )
    names = list(reader.fieldnames or [])
    taken = [name for name in names if name in _ANSWER or names.count(name) > 1]
    if taken or source.resolve() == target.resolve():
        raise SmartCityError(
            f"{source} would be written over: its columns {taken} are ours or there twice."
            if taken
            else f"--output is the same file as --input, {source}; name another."
        )
    answers = []
    for row in rows:
        inputs = {k: _number(v, delimiter) for k, v in row.items() if k in known}
        answer = _answer(predictor, inputs)
        if row.pop("", None) is not None or None in row.values():
            answer = _ANSWER | {"error": "the line has more or fewer fields than the header"}
        answers.append({**row, **answer})
    failed = sum(bool(answer["error"]) for answer in answers)
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, fieldnames=[*names, *_ANSWER], lineterminator="\n")
    writer.writeheader()
    writer.writerows(answers)
    atomic.write(target.absolute(), table.getvalue())
    return len(rows) - failed, failed


def _number(text: str | None, delimiter: str) -> float | str | None:
    """Read a cell: nothing is a missing reading; decimal commas go with semicolons."""
    plain = (text or "").strip()
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
