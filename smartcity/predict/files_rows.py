"""Batches of a table answered: quickly where a row is surely good, by ``row_model`` elsewhere."""

import calendar
import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from operator import itemgetter
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]
from numpy.typing import NDArray

from smartcity import features
from smartcity.domains import Input
from smartcity.errors import InputError
from smartcity.features import Times
from smartcity.predict.files_in import Batch, number
from smartcity.predict.files_notes import Notes
from smartcity.predict.limits import Mask
from smartcity.predict.predictor import Predictor
from smartcity.registry import NOW

#: What is written after a row's own columns.
ANSWER = ("prediction", "label", "low", "high", "confidence", "warnings", "model_version")
#: What stands before a refused row's own columns: where it is, and why.
REFUSED = ("input_line", "problems")
#: Numbers and times that Arrow and Python read alike; ``row_model`` is asked about others.
_NUMBER = r"^-?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]+)?$"
_TIME = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}(:[0-9]{2})?$"
_YEARS = (np.datetime64("1950"), np.datetime64("2150"))
_NEVER = np.datetime64("NaT")
_DAYS = np.array([calendar.monthrange(2024, month)[1] for month in range(1, 13)])

Numbers = NDArray[np.float64]


class Rows:
    """A table's rows, answered batch by batch, from any thread."""

    def __init__(
        self, predictor: Predictor, header: Sequence[str], delimiter: str, *, typed: bool
    ) -> None:
        """Find the columns that matter.

        Args:
            predictor: The domain's predictor.
            header: Names of the columns; each input at most once.
            delimiter: What separates cells of text.
            typed: Whether inputs read from text are given back as the numbers they are.
        """
        self._predictor, self._domain, self._card = predictor, predictor.domain, predictor.card
        self._header, self._delimiter, self._typed = header, delimiter, typed
        names = {spec.column: spec.name for spec in self._domain.inputs if spec.column}
        names |= {name: name for name in (*self._domain.names, "timestamp")}
        self._places = {names[name]: n for n, name in enumerate(header) if name in names}
        self._asked = [header[place] for place in self._places.values()]
        view = self._card.parts[self._card.champion].view
        self._timed = self._card.champion if view.clock and not view.history else NOW
        self._notes = {
            part: Notes(self._card, self._card.parts[part].view.inputs)
            for part in (self._timed, NOW)
        }

    def answer(self, batch: Batch) -> tuple[list[Any], bytes, int]:
        """Answer what can be answered, and say why not the rest.

        Returns:
            The answered rows, their own columns, then the answers; the others as lines of CSV;
            how many these are.
        """
        own = list(batch.columns)
        values, at, sure = self.read(batch)
        kept = np.ones(len(at), dtype=bool)
        if all(column.null_count for column in own):  # blank rows are not
            kept = np.logical_or.reduce([~_nulls(column) for column in own])
        unsure, refused = np.flatnonzero(kept & ~sure), dict[int, str]()
        if len(unsure):
            values, at = {name: found.copy() for name, found in values.items()}, at.copy()
            refused = self._ask(batch, unsure, values, at)
        kept[list(refused)] = False
        if not kept.all():
            own = [column.filter(pa.array(kept)) for column in own]
            values, at = {name: found[kept] for name, found in values.items()}, at[kept]
        for name in values.keys() & self._places.keys() if self._typed else ():
            if pa.types.is_string(own[self._places[name]].type):
                own[self._places[name]] = pa.array(values[name], from_pandas=True)
        columns = [*own, *self._answers(values, at)]
        lines = self._lines(batch, refused) if refused or batch.broken else b""
        return columns, lines, len(refused) + len(batch.broken)

    def read(self, batch: Batch) -> tuple[dict[str, Numbers], Times, Mask]:
        """Read the inputs of a batch.

        Returns:
            Each input's values, NaN where missing; each row's time; and which rows ``row_model``
            would surely accept. What stands in the other rows means nothing.
        """
        size = len(batch.lines)
        at, sure = np.full(size, _NEVER, dtype="M8[us]"), np.ones(size, dtype=bool)
        if "timestamp" in self._places:
            at, sure = _times(batch.columns[self._places["timestamp"]])
        values: dict[str, Numbers] = {}
        for spec in self._domain.inputs:
            if spec.name in self._places:
                column = batch.columns[self._places[spec.name]]
                values[spec.name] = self._numbers(column)
                sure &= self._fit(spec, values[spec.name], column)
                if spec.from_time:
                    sure &= np.isnat(at)  # not both
            elif spec.from_time:
                values[spec.name] = features.time_part(at, spec.from_time).astype(np.float64)
                sure &= ~np.isnat(at)
        return values, at, sure & self._agree(values)

    def _agree(self, values: Mapping[str, Numbers]) -> Mask:
        """Say where sums add up and days exist."""
        agrees = np.ones(1, dtype=bool)
        for spec in self._domain.inputs:
            if spec.sum_of and spec.name in values:
                total = sum(values[part] for part in spec.sum_of)
                agrees = agrees & (np.isnan(values[spec.name]) | (values[spec.name] == total))
        times = {s.from_time: values[s.name] for s in self._domain.inputs if s.from_time}
        if {"day", "month"} <= times.keys():
            months = np.clip(np.nan_to_num(times["month"], nan=1), 1, 12).astype(np.int64)
            agrees = agrees & (times["day"] <= _DAYS[months - 1])
        return agrees

    def _fit(self, spec: Input, values: Numbers, column: Any) -> Mask:
        """Say which values of an input are surely allowed."""
        fits: Mask = (values >= spec.low) & (values <= spec.high)
        if self._domain.format.sentinel is not None:
            fits &= values != self._domain.format.sentinel
        if spec.whole:
            fits &= values == np.floor(values)
        may_lack = column.null_count and (spec.optional or spec.sum_of)
        return fits | _nulls(column) if may_lack else fits

    def _numbers(self, column: Any) -> Numbers:
        """Read a column: its values, NaN where there is none, or none we are sure of."""
        kind = column.type
        if not (_is_text(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind)):
            return np.full(len(column), np.nan)
        if _is_text(kind) and self._delimiter == ";":
            column = pc.replace_substring(column, ",", ".")
        try:
            found = column.cast(pa.float64(), safe=False)
        except pa.ArrowInvalid:
            text = pc.utf8_trim_whitespace(column)
            is_number = pc.match_substring_regex(text, _NUMBER)
            found = pc.if_else(is_number, text, None).cast(pa.float64())
        numbers: Numbers = found.to_numpy(zero_copy_only=False)
        return numbers

    def _ask(
        self, batch: Batch, rows: NDArray[np.intp], values: dict[str, Numbers], at: Times
    ) -> dict[int, str]:
        """Let ``row_model`` decide on rows, and take the values of those it accepts.

        Returns:
            Row -> what is wrong with it.
        """
        refused: dict[int, str] = {}
        cells = _cells([batch.columns[place] for place in self._places.values()], rows)
        for n, given in zip(rows.tolist(), cells, strict=True):
            asked = [number(cell, self._delimiter) for cell in given]
            try:
                row = self._predictor.check(dict(zip(self._asked, asked, strict=True)))
            except InputError as error:
                refused[n] = str(error)
                continue
            at[n] = row["timestamp"] or _NEVER
            for name, found in values.items():
                found[n] = np.nan if row[name] is None else row[name]
        return refused

    def _lines(self, batch: Batch, refused: dict[int, str]) -> bytes:
        """Write refused rows down: where, why, and what stood there."""
        cells = _cells(batch.columns, np.array([*refused], dtype=np.int64))
        told: list[tuple[Any, ...]] = [
            (batch.lines[n], problems, *given)
            for (n, problems), given in zip(refused.items(), cells, strict=True)
        ]
        wanted = len(self._header)
        for line, text in batch.broken:
            [found] = csv.reader(io.StringIO(text, newline=""), delimiter=self._delimiter)
            why = f"row: it has {len(found)} fields, the header has {wanted}"
            told.append((line, why, *found[:wanted], *[""] * (wanted - len(found))))
        return as_lines(sorted(told, key=itemgetter(0)))

    def _answers(self, values: dict[str, Numbers], at: Times) -> list[Any]:
        """Answer checked rows, as columns in the order of ``ANSWER``."""
        size = len(at)
        inputs = features.matrix(self._domain, values)
        figures: Numbers = np.full((4, size), np.nan)  # prediction, low, high, confidence
        said, texts = np.zeros(size, dtype=np.int32), dict[str, int]()
        timed = ~np.isnat(at) & (self._timed != NOW)
        note = "The model was trained on simulated readings, not on a real city."
        note = note if self._predictor.simulated else ""
        for part, rows in ((self._timed, timed), (NOW, ~timed)):
            if not rows.any():
                continue
            asked, when = inputs[rows], None if part == NOW else at[rows].astype("M8[s]")
            scored = self._predictor.score(asked, when)
            figures[0, rows] = scored.values
            figures[3, rows] = self._card.parts[part].coverage["level"]
            if scored.low is not None and scored.high is not None:
                figures[1, rows], figures[2, rows] = scored.low, scored.high
            if scored.shares is not None:  # Python's own rounding, as every other answer has it
                figures[3, rows] = [round(p, 4) for p in scored.shares.max(axis=1).tolist()]
            places, noted = self._notes[part].shared(asked)
            # Each text once: with doubles, Arrow ends the page of them in what memory held before.
            once = [texts.setdefault(f"{text} {note}".strip(), len(texts)) for text in noted]
            said[rows] = np.array(once, dtype=np.int32)[places]
        words = pa.array([level.label for level in self._domain.target.levels], pa.string())
        labels = pa.nulls(size, pa.string())
        if len(words):
            labels = pa.DictionaryArray.from_arrays(figures[0].astype(np.int8), words)
        prediction, low, high, confidence = (pa.array(row, from_pandas=True) for row in figures)
        warnings = pa.DictionaryArray.from_arrays(said, pa.array([*texts], pa.string()))
        version = pa.array([self._predictor.version])
        versions = pa.DictionaryArray.from_arrays(np.zeros(size, dtype=np.int32), version)
        return [prediction, labels, low, high, confidence, warnings, versions]


def as_lines(rows: Iterable[Sequence[object]]) -> bytes:
    """Write rows as lines of CSV."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def _is_text(kind: Any) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _nulls(column: Any) -> Mask:
    mask: Mask = column.is_null().to_numpy(zero_copy_only=False)
    return mask


def _cells(columns: Sequence[Any], rows: NDArray[np.intp]) -> Iterable[tuple[Any, ...]]:
    """Give some rows as Python's values."""
    taken = [column.take(pa.array(rows)) for column in columns]
    for n, column in enumerate(taken):
        if pa.types.is_timestamp(column.type):  # nanoseconds would ask for pandas
            taken[n] = column.cast(pa.timestamp("us", column.type.tz), safe=False)
    return zip(*(column.to_pylist() for column in taken), strict=True)


def _times(column: Any) -> tuple[Times, Mask]:
    """Read a column of times: each row's, NaT where there is none, and of which we are sure."""
    known, kind = pa.nulls(len(column), pa.timestamp("us")), column.type
    with suppress(pa.ArrowInvalid):  # the 31st of February
        if _is_text(kind):
            is_time = pc.match_substring_regex(column, _TIME)
            known = pc.if_else(is_time, column, None).cast(known.type)
        elif pa.types.is_timestamp(kind) and not kind.tz:
            known = column.cast(known.type, safe=False)
    at = np.array(known.to_numpy(zero_copy_only=False))
    return at, _nulls(column) | (at >= _YEARS[0]) & (at < _YEARS[1])
