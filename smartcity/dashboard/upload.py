"""A visitor's own table, in memory only: how it is written, what is wrong, and its answers."""

import csv
import io
import itertools
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from difflib import get_close_matches
from typing import Any

import numpy as np

from smartcity.dashboard.words import english
from smartcity.domains import Domain, Input
from smartcity.errors import InputError, SmartCityError
from smartcity.predict import Predictor

#: A row that is not blank: the line it begins in, and its cells; None where quotes leave no row.
Line = tuple[int, list[str] | None]
#: Input name, ``timestamp`` or ``time`` -> place of its column.
Places = dict[str, int]
#: What should be looked at: a key of ``TEXTS``, and what stands in its gaps.
Note = tuple[str, Mapping[str, object]]

MAX_BYTES, MAX_ROWS, MAX_COLUMNS = 5_000_000, 50_000, 200
DELIMITERS, DECIMALS = (",", ";", "\t", "|"), (".", ",")
#: In the order they are tried; the last reads anything.
ENCODINGS = ("utf-8-sig", "cp1252", "latin-1")
_FIGURES = ("prediction", "label", "low", "high", "confidence")
_FLAGS = ("inputs_outside_training", "inputs_at_edge", "unusual_combination", "warnings")
#: What is written after a row's own columns, and before a refused row's.
ANSWER = (*_FIGURES, *_FLAGS, "model_version", "simulated")
REFUSED = ("input_line", "problems")
#: What may be chosen beside the inputs.
TIMES = {"timestamp": "Date and time", "time": "Time of day, if in its own column"}
#: What is said here, so that it can be said in another language.
TEXTS = english("file")
#: First bytes of files chosen by mistake.
KINDS = {
    b"PK": "an Excel workbook or a zip archive",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook",
    b"PAR1": "a Parquet file",
    b"\x1f\x8b": "a gzip archive",
    b"%PDF": "a PDF",
}
#: Characters and rows looked at to guess how a file is written; rows answered at once.
_HEAD, _FIRST, _BATCH = 1 << 16, 50, 1000
#: Rows of a sample, and of a broken one.
_SAMPLE, _BROKEN = 60, 20
_DATE = re.compile(r"\d{4}-\d\d-\d\d([T ]|$)")
_COMMA, _POINT = (re.compile(rf"[+-]?\d*[{mark}]\d+") for mark in ",.")
#: What begins a formula where a table is opened as a spreadsheet, and what XML cannot hold.
_FORMULA, _UNWRITABLE = tuple("=+-@\uff1d\uff0b\uff0d\uff20"), re.compile("[\ufffe\uffff]")


class UploadError(SmartCityError):
    """A file, or what was chosen for it, cannot be used.

    Attributes:
        text: One of ``TEXTS``, gaps and all.
        values: What stands in the gaps; names in tuples are ours, others the file's.
    """

    def __init__(self, what: str, /, **values: object) -> None:
        """Say what is wrong."""
        self.text, self.values = TEXTS[what], values
        said = {k: ", ".join(v) if isinstance(v, tuple) else v for k, v in values.items()}
        super().__init__(self.text.format(**said))


@dataclass(frozen=True)
class Layout:
    """How a file is written, and which of its columns is what.

    Attributes:
        columns: Names of the file's columns, each once.
        mapping: Which column is what.
        notes: What should be looked at.
    """

    encoding: str
    delimiter: str
    decimal: str
    header: bool
    columns: tuple[str, ...]
    mapping: Mapping[str, int]
    notes: tuple[Note, ...] = ()


@dataclass(frozen=True)
class Refused:
    """A row set aside.

    Attributes:
        line: Where it begins in the file.
        problems: Column, what stands there, what is wrong; column ``row`` where it is the whole.
        cells: As many as the file has columns.
    """

    line: int
    problems: tuple[tuple[str, str, str], ...]
    cells: tuple[str, ...]

    @property
    def why(self) -> str:
        """All of it in one line, as ``smartcity predict`` writes it."""
        return "; ".join(f"{column}: {problem}" for column, _, problem in self.problems)


@dataclass(frozen=True)
class Answered:
    """What became of a file.

    Attributes:
        names: The file's columns, then ``ANSWER``.
        lines: Where each answered row begins in the file.
        rows: The answered rows; inputs as the numbers they were read as.
        warnings: What speaks against trusting each answer, a sentence each.
        refused: The rows set aside.
    """

    layout: Layout
    names: tuple[str, ...]
    lines: list[int] = field(default_factory=list)
    rows: list[tuple[Any, ...]] = field(default_factory=list)
    warnings: list[list[str]] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)

    def reasons(self) -> list[tuple[str, str, int]]:
        """Count what was wrong: column, problem and times, most frequent first."""
        found = Counter((column, why) for r in self.refused for column, _, why in r.problems)
        return [(*what, count) for what, count in found.most_common()]


def fields(domain: Domain) -> dict[str, Input]:
    """Give what columns can be chosen for; ``optional`` are those a file can do without."""
    known = {
        name: Input(name=name, label=label, unit="", low=0, high=0, optional=True)
        for name, label in TIMES.items()
    }
    for spec in domain.inputs:
        spared = spec.optional or bool(spec.sum_of or spec.from_time)
        known[spec.name] = spec.model_copy(update={"optional": spared})
    return known


def guess(
    content: bytes,
    domain: Domain,
    *,
    encoding: str = "",
    delimiter: str = "",
    decimal: str = "",
    header: bool | None = None,
) -> Layout:
    """Guess how a file is written and which column is what; what is given is taken as given.

    Args:
        content: The file.
        domain: The question it is about.
        encoding: One of ``ENCODINGS``.
        delimiter: One of ``DELIMITERS``.
        decimal: One of ``DECIMALS``.
        header: Whether the first row holds names.

    Raises:
        UploadError: It is no table of text, or too large; the message says which.
    """
    encoding, text = _decoded(content, encoding)
    delimiter, head = _split(text, delimiter, domain)
    if header is None:
        header = bool(_named(head[0], domain)[0]) or not any(map(_is_reading, head[0]))
    names, rows = head[0] if header else [""] * len(head[0]), head[header:]
    if not decimal:  # commas where `smartcity predict` takes them, or where each row has some
        cells = [cell.strip() for row in rows for cell in row]
        commas, points = (len([*filter(mark.fullmatch, cells)]) for mark in (_COMMA, _POINT))
        decimal = "," if commas > (0 if delimiter == ";" else max(points, len(rows) / 2)) else "."
    mapping, notes = _named(names, domain, nearly=True)
    mapping = _timed(mapping, names, rows, domain)
    if not header:
        mapping |= _in_order(mapping, len(names), domain)
        notes.append(("unnamed", {}))
    mapping = dict(sorted(mapping.items(), key=lambda item: item[1]))
    return Layout(encoding, delimiter, decimal, header, _unique(names), mapping, tuple(notes))


def _decoded(content: bytes, encoding: str = "") -> tuple[str, str]:
    """Read a file's text, and say in which encoding it is; refuse what is none."""
    if len(content) > MAX_BYTES:
        raise UploadError(
            "too_large", size=math.ceil(len(content) / 1e5) / 10, limit=MAX_BYTES / 1e6
        )
    for start, what in KINDS.items():
        if content.startswith(start):
            raise UploadError("not_text", what=(what,))
    for each in (encoding,) if encoding else ENCODINGS:
        with suppress(UnicodeDecodeError):
            text = content.decode(each)
            if "\0" in text:
                raise UploadError("binary", line=text.count("\n", 0, text.index("\0")) + 1)
            if not text.strip():
                raise UploadError("empty")
            return each, text
    raise UploadError("encoding", encoding=encoding)


def _rows(text: str, delimiter: str) -> Iterator[Line]:
    """Yield the rows that are not blank."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    while True:
        line, cells = reader.line_num + 1, None
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if "limit" in str(error):
                limit = csv.field_size_limit()
                raise UploadError("long", line=line, limit=limit) from None
            if "unexpected end" in str(error):
                raise UploadError("quote", line=line) from None
        if cells is None or any(map(str.strip, cells)):
            yield line, cells


def _split(text: str, delimiter: str, domain: Domain) -> tuple[str, list[list[str]]]:
    """Find the delimiter, unless it is given, and read the first rows with it."""
    heads, wrong = dict[str, list[list[str]]](), list[UploadError]()
    for each in delimiter or DELIMITERS:
        try:
            heads[each] = _head(text, each)
        except UploadError as error:
            wrong.append(error)
    if not heads:
        raise wrong[0]
    best = max(heads, key=lambda each: _likeness(heads[each], domain))
    if (width := len(heads[best][0])) > MAX_COLUMNS:
        raise UploadError("too_wide", columns=width, limit=MAX_COLUMNS)
    return best, heads[best]


def _head(text: str, delimiter: str) -> list[list[str]]:
    """Read the names, or the first row, and some rows after it; broken ones tell nothing."""
    line, first = next(_rows(text, delimiter), (0, []))
    if not first:
        raise UploadError("empty") if first == [] else UploadError("stray_name", line=line)
    start = text[: max(text.rfind(mark, 0, _HEAD) for mark in "\r\n") + 1]
    rows = [first]
    with suppress(UploadError):  # it is raised when the row is come to
        found = _rows(text if len(text) < _HEAD else start, delimiter)
        rows += [cells for _, cells in itertools.islice(found, 1, _FIRST) if cells]
    return rows


def _likeness(head: Sequence[Sequence[str]], domain: Domain) -> tuple[float, ...]:
    """Say how much rows look like a table: known names, equal widths, readings in the cells."""
    width, known = len(head[0]), _named(head[0], domain)[0]
    even = sum(len(row) == width > 1 for row in head) / len(head)
    cells = [cell for row in head[len(head) > 1 :] for cell in row]
    readings = sum(_is_reading(cell) or not cell.strip() for cell in cells) / len(cells)
    return len(known), even, readings, width


def _is_reading(cell: str) -> bool:
    """Say whether a cell holds a number or a date."""
    return isinstance(_number(cell, ","), float) or bool(_DATE.match(cell.strip()))


def _number(cell: str, decimal: str) -> float | str | None:
    """Read a cell as ``smartcity predict`` does: nothing is a missing reading."""
    plain = cell.strip()
    try:
        return float(plain.replace(",", ".") if decimal == "," else plain) if plain else None
    except ValueError:
        return plain


def _unique(names: Iterable[str]) -> tuple[str, ...]:
    """Name every column, none as another or as one of ours."""
    ours = (*ANSWER, *REFUSED)
    taken = dict.fromkeys(ours)
    for n, given in enumerate(names, start=1):
        base = given.strip() or f"column {n}"
        more = (f"{base} ({count})" for count in itertools.count(2))
        taken[next(name for name in itertools.chain([base], more) if name not in taken)] = None
    return tuple(taken)[len(ours) :]


def _key(name: str) -> str:
    """Bring a name down to what stays the same however it is written."""
    return re.sub(r"[\W_]+", "", name[:80]).casefold()


def _named(
    cells: Sequence[str], domain: Domain, *, nearly: bool = False
) -> tuple[Places, list[Note]]:
    """Find columns by name: ours or the publisher's, written alike, or nearly so."""
    exact = {s.name: (s.name, s.column or s.name) for s in domain.inputs}
    exact["timestamp"] = ("timestamp", "recorded_at")
    alike = {s.name: (*exact[s.name], s.label, f"{s.label} {s.unit}") for s in domain.inputs}
    alike["timestamp"] = (*exact["timestamp"], "datetime", "date and time")
    keys = {name: [*map(_key, names)] for name, names in alike.items()}
    free = {n: cell.strip() for n, cell in enumerate(cells[:MAX_COLUMNS]) if _key(cell)}
    mapping, notes = Places(), list[Note]()
    tests = [lambda name, cell: cell in exact[name], lambda name, cell: _key(cell) in keys[name]]
    if nearly:
        tests.append(lambda name, cell: bool(get_close_matches(_key(cell), keys[name], 1, 0.85)))
    for test, name in itertools.product(tests, exact):
        found = [n for n, cell in free.items() if name not in mapping and test(name, cell)]
        if found:
            mapping[name] = found[0]
            free = {n: cell for n, cell in free.items() if n not in found}
        for other in found[1:]:
            both = {"first": cells[found[0]].strip(), "second": cells[other].strip()}
            notes.append(("twice", {**both, "field": (fields(domain)[name].label,)}))
    return mapping, notes


def _timed(
    mapping: Places, names: Sequence[str], rows: Sequence[Sequence[str]], domain: Domain
) -> Places:
    """Find the columns that say when, by what stands in them; they do for the parts of time."""

    def tell(places: Sequence[int]) -> bool:
        texts = [" ".join(row[n].strip() for n in places) for row in rows if len(row) == len(names)]
        known = [bool(_DATE.match(_moment(text, domain))) and len(text) > 10 for text in texts]
        return 2 * sum(known) > len(texts)

    free = [n for n in range(len(names)) if n not in mapping.values()]
    places = {_key(names[n]): n for n in reversed(free)}
    pairs = [("date", "time"), tuple(map(_key, domain.format.time_columns))]
    found = [[places[key] for key in pair] for pair in pairs if {*pair} <= places.keys()]
    if "timestamp" not in mapping:
        told = next(filter(tell, [*found, *([n] for n in free)]), [])
        mapping = mapping | dict(zip(TIMES, told, strict=False))
    parts = {spec.name for spec in domain.inputs if spec.from_time and "timestamp" in mapping}
    return {name: place for name, place in mapping.items() if name not in parts}


def _in_order(mapping: Places, width: int, domain: Domain) -> Places:
    """Take columns without names as the inputs in their order, if there are as many."""
    free = [n for n in range(width) if n not in mapping.values()]
    specs = [s for s in domain.inputs if not (s.from_time and "timestamp" in mapping)]
    for wanted in (specs, [s for s in specs if not s.sum_of]):
        if len(wanted) == len(free):
            return {spec.name: n for spec, n in zip(wanted, free, strict=True)}
    return {}


def _moment(text: str, domain: Domain) -> str:
    """Bring a time as the publisher writes it to one as we read it; leave others alone."""
    if not _DATE.match(text) and domain.format.first_day is None:
        with suppress(ValueError):
            return datetime.strptime(text, domain.format.time_format).isoformat()  # noqa: DTZ007
    return text


def answer(content: bytes, layout: Layout, predictor: Predictor) -> Answered:
    """Check every row of a file, and answer those that can be answered.

    Args:
        content: The file.
        layout: How it is written.
        predictor: What answers.

    Raises:
        UploadError: It cannot be read so, is too long, or columns are not chosen as they must be.
    """
    _check(layout, predictor.domain)
    _, text = _decoded(content, layout.encoding)
    count = sum(1 for _ in _rows(text, layout.delimiter)) - layout.header
    if count > MAX_ROWS:
        raise UploadError("too_long", rows=count, limit=MAX_ROWS)
    if count < 1:
        raise UploadError("no_rows")
    done = Answered(layout, (*layout.columns, *ANSWER))
    rows = itertools.islice(_rows(text, layout.delimiter), int(layout.header), None)
    while some := [*itertools.islice(rows, _BATCH)]:
        _take(done, some, predictor)
    return done


def _check(layout: Layout, domain: Domain) -> None:
    """Refuse columns chosen so that no row could be answered."""
    mapping, known = layout.mapping, fields(domain)
    for place, times in Counter(mapping.values()).items():
        if times > 1:
            shared = tuple(known[name].label for name in mapping if mapping[name] == place)
            raise UploadError("shared", column=layout.columns[place], fields=shared)
    lacking = [s.label for s in known.values() if not s.optional and s.name not in mapping]
    parts = [spec for spec in domain.inputs if spec.from_time]
    chosen = tuple(spec.label for spec in parts if spec.name in mapping)
    if chosen and "timestamp" in mapping:
        raise UploadError("both", time=(TIMES["timestamp"],), parts=chosen)
    if parts and "timestamp" not in mapping:
        missing = [spec.label for spec in parts if spec.name not in mapping]
        lacking += missing if chosen else [TIMES["timestamp"]]
    if lacking:
        raise UploadError("lacking", fields=tuple(lacking))


def _take(done: Answered, rows: Iterable[Line], predictor: Predictor) -> None:
    """Check some rows, answer the good ones, and set the others aside."""
    good, checked = list[list[Any]](), list[dict[str, Any]]()
    for line, cells in rows:
        own = cells or []
        try:
            checked.append(predictor.check(_asked(cells, done.layout, predictor.domain)))
        except InputError as error:
            done.refused.append(_refused(line, own, error, done.layout))
            continue
        good.append([*own])
        done.lines.append(line)
    for own, row, said in zip(good, checked, predictor.tell(checked), strict=True):
        for name, place in done.layout.mapping.items():
            own[place] = own[place] if name in TIMES else row[name]
        done.rows.append((*own, *_said(said)))
        done.warnings.append(said["warnings"])


def _asked(cells: list[str] | None, layout: Layout, domain: Domain) -> dict[str, object]:
    """Give a row as ``Predictor.check`` takes it.

    Raises:
        InputError: It is none.
    """
    wanted = len(layout.columns)
    if cells is None or len(cells) != wanted:
        why = f"it has {len(cells)} fields, the header has {wanted}" if cells else TEXTS["stray"]
        raise InputError([{"field": "row", "problem": why}])
    asked: dict[str, object] = {spec.name: None for spec in domain.inputs if spec.optional}
    for name, place in layout.mapping.items():
        if name not in TIMES:
            asked[name] = _number(cells[place], layout.decimal)
    if "timestamp" in layout.mapping:
        told = [cells[layout.mapping[name]].strip() for name in TIMES if name in layout.mapping]
        asked["timestamp"] = _moment(" ".join(told).strip(), domain) or None
    return asked


def _refused(line: int, cells: list[str], error: InputError, layout: Layout) -> Refused:
    width, problems = len(layout.columns), []
    cells = [*cells[:width], *[""] * (width - len(cells))]
    for fault in error.details:
        place = layout.mapping.get(str(fault["field"]))
        where = ("row", "") if place is None else (layout.columns[place], cells[place].strip())
        problems.append((*where, str(fault["problem"])))
    return Refused(line, tuple(problems), tuple(cells))


def _said(said: Mapping[str, Any]) -> tuple[Any, ...]:
    """Give an answer as columns, in the order of ``ANSWER``."""
    told = {**said, **(said["interval"] or {"low": None, "high": None})}
    told |= {name: ", ".join(said[name]) for name in ("inputs_outside_training", "inputs_at_edge")}
    told["warnings"] = " ".join(said["warnings"])
    return tuple(told[name] for name in ANSWER)


def as_csv(done: Answered) -> bytes:
    """Write the answered rows as CSV, with the delimiter and decimal mark of the file."""
    return _lines([done.names, *done.rows], done.layout.delimiter, done.layout.decimal)


def refused_as_csv(done: Answered) -> bytes:
    """Write the refused rows the same way: where, why, and what stood there."""
    rows = [(r.line, r.why, *r.cells) for r in done.refused]
    names = (*REFUSED, *done.layout.columns)
    return _lines([names, *rows], done.layout.delimiter, done.layout.decimal)


def _lines(rows: Iterable[Sequence[Any]], delimiter: str = ",", decimal: str = ".") -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter)
    writer.writerows([_cell(value, decimal) for value in row] for row in rows)
    return text.getvalue().encode("utf-8-sig")  # or spreadsheets take it for something else


def _cell(value: Any, decimal: str) -> str:
    """Write a value so that it is read as it is: numbers in full, and no text as a formula."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value).removesuffix(".0").replace(".", decimal)
    text = value or ""
    is_formula = text.lstrip().startswith(_FORMULA)
    return f"'{text}" if is_formula and not isinstance(_number(text, ","), float) else text


def as_parquet(done: Answered) -> bytes:
    """Write the answered rows as Parquet, each column with its type."""
    import pyarrow as pa  # type: ignore[import-untyped]
    from pyarrow import parquet

    mapping = done.layout.mapping
    numbers = {done.names[place] for name, place in mapping.items() if name not in TIMES}
    kinds = dict.fromkeys(done.names, pa.string())
    kinds |= dict.fromkeys({*numbers, *_FIGURES} - {"label"}, pa.float64())
    kinds |= dict.fromkeys(("unusual_combination", "simulated"), pa.bool_())
    columns = {
        name: pa.array([row[n] for row in done.rows], kinds[name])
        for n, name in enumerate(done.names)
    }
    file = io.BytesIO()
    parquet.write_table(pa.table(columns), file)
    return file.getvalue()


def as_xlsx(done: Answered) -> bytes:
    """Write the answered rows as an Excel workbook; text stays text, whatever it begins with."""
    import xlsxwriter  # type: ignore[import-untyped]

    def fit(value: Any) -> Any:  # a cell holds that much
        return _UNWRITABLE.sub("\ufffd", value[:32767]) if isinstance(value, str) else value

    file, plain = io.BytesIO(), {"strings_to_formulas": False, "strings_to_urls": False}
    with xlsxwriter.Workbook(file, {"in_memory": True, **plain}) as book:  # or it would use files
        sheet = book.add_worksheet()
        sheet.freeze_panes(1, 0)
        for n, row in enumerate([done.names, *done.rows]):
            sheet.write_row(n, 0, map(fit, row))
    return file.getvalue()


def sample(predictor: Predictor) -> bytes:
    """Make a file that can be answered: simulated rows around what the model card calls usual."""
    return _lines(_simulated(predictor))


def broken(predictor: Predictor) -> bytes:
    """Make the same file with every fault there is, one to a row."""
    rows, sentinel = _simulated(predictor)[:_BROKEN], predictor.domain.format.sentinel
    needed = [s.name for s in predictor.domain.inputs if not (s.optional or s.sum_of)]
    for n, fault in enumerate(("", "n/a", f"{sentinel or -200:g}", "1,5", "99999")):
        rows[2 * n + 2][rows[0].index(needed[n % len(needed)])] = fault
    rows[12].pop()
    rows[14].append("one too many")
    return _lines(rows)


def _simulated(predictor: Predictor) -> list[list[str]]:
    rng, columns = np.random.default_rng(0), dict[str, list[str]]()
    for spec, seen in zip(predictor.domain.inputs, predictor.card.inputs, strict=True):
        if not spec.sum_of:
            noise = rng.normal(0, 0.02, _SAMPLE) * (seen.edges[1] - seen.edges[0])
            values = np.clip(seen.typical + noise, seen.low, seen.high)
            decimals = 0 if spec.whole else len(f"{spec.step:g}".partition(".")[2])
            columns[spec.name] = [f"{value:.{decimals}f}" for value in values]
            for n in range(5, _SAMPLE, 10) if spec.optional else ():
                columns[spec.name][n] = ""  # a sensor gives nothing now and then
    columns["source"] = ["simulated"] * _SAMPLE
    return [[*columns], *map(list, zip(*columns.values(), strict=True))]
