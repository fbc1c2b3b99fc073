"""Readers for the files as published; what cannot be right stops here, with its line."""

import csv
import io
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from smartcity import domains
from smartcity.data.files import Source, locate
from smartcity.domains import MAIN, Domain, Format
from smartcity.errors import DataError


@dataclass(frozen=True)
class Readings:
    """The readings of one site, one row per line of the files, in their order.

    Attributes:
        frame: ``file``, ``line``, ``recorded_at`` (the station's clock: the publishers state no
            zone), each measured input and the target, as published, sentinels included.
        unreadable: Cells that hold no number or no known class: ``row``, ``column``, ``value``.
        blank: Blank lines passed over.
    """

    domain: Domain
    site: str
    sources: list[Source]
    frame: pd.DataFrame
    unreadable: pd.DataFrame
    blank: int

    @property
    def simulated(self) -> bool:
        """Whether any of it is the simulated demo city."""
        return any(source.simulated for source in self.sources)

    def until(self, as_of: str) -> "Readings":
        """Give what was known at a moment: nothing read later is checked, cleaned or shown.

        Args:
            as_of: A day, meaning its end, or a moment, ISO 8601; all readings when empty.

        Raises:
            DataError: The moment lies before the first reading.
        """
        frame = until(self.frame, as_of)
        if frame["recorded_at"].isna().all():
            raise DataError(
                f"as_of is {as_of}, before the first reading of {self.domain.name!r}, "
                f"{self.frame['recorded_at'].min():%Y-%m-%d %H:%M}. Give a later day, or none."
            )
        unreadable = self.unreadable[self.unreadable["row"].isin(frame.index)]
        return replace(self, frame=frame, unreadable=unreadable)


def moment(as_of: str) -> pd.Timestamp:
    """Give the last instant a date speaks for: a day's end, or the moment itself."""
    at = pd.Timestamp(as_of)
    is_day = len(as_of) == len("2004-12-31")
    return at + pd.Timedelta(days=1) - pd.Timedelta(microseconds=1) if is_day else at


def until(frame: pd.DataFrame, as_of: str) -> pd.DataFrame:
    """Cut off the rows after a moment.

    Args:
        frame: Rows with ``recorded_at``; one without a time goes with the row before it.
        as_of: A day, meaning its end, or a moment, ISO 8601; all rows stay when empty.
    """
    return frame[~(frame["recorded_at"].ffill() > moment(as_of))] if as_of else frame


def read(name: str, site: str = MAIN) -> Readings:
    """Read all files of a domain's site, joined in their order.

    Args:
        name: The domain.
        site: Which of its sites.

    Returns:
        The readings, faults still in them: see ``check``.

    Raises:
        UsageError: No such domain or site.
        DataError: A file is missing, empty, cut off, or not of this domain.
    """
    domain = domains.load(name)
    sources = locate(domain, site)
    return (
        published(domain, site, sources) if site in domain.sites else _kept(domain, site, sources)
    )


def _kept(domain: Domain, site: str, sources: list[Source]) -> Readings:
    """Read the Parquet files of a site: ``recorded_at`` and our names; others are passed over."""
    parts, names = [], ["recorded_at", *domain.columns.values()]
    for path in (source.path for source in sources):
        try:
            part = pd.read_parquet(path, columns=names)
            part = part.astype({"recorded_at": "datetime64[us]"} | dict.fromkeys(names[1:], float))
        except (OSError, ValueError, TypeError) as error:
            raise DataError(
                f"{path} cannot be read as readings of {domain.name!r}: it must be a Parquet file "
                f"with the columns {names}, times without a zone ({error})."
            ) from None
        parts.append(part.assign(file=path.name, line=range(1, len(part) + 1)))
    frame = pd.concat(parts, ignore_index=True)[["file", "line", *names]]
    if frame.empty:
        raise DataError(f"{sources[0].path} holds no readings.")
    unreadable = _cells(frame["file"], frame["recorded_at"].isna() & False, "recorded_at")
    return Readings(domain, site, sources, frame, unreadable, 0)


def published(domain: Domain, site: str, sources: list[Source]) -> Readings:
    """Read files in the publisher's format, joined in their order; see ``read``."""
    parts = [_table(domain, source) for source in sources]
    table = pd.concat([part for part, _ in parts], ignore_index=True)
    unreadable: list[pd.DataFrame] = []
    frame = table[["file", "line"]].copy()
    frame["recorded_at"] = _times(domain.format, table)
    bad_time = frame["recorded_at"].isna()
    date, clock = domain.format.time_columns
    unreadable.append(_cells(table[date] + " " + table[clock], bad_time, "recorded_at"))
    for column, our_name in domain.columns.items():
        text = table[column].str.strip()
        if domain.target.levels and column == domain.target.column:
            numbers = {level.published: n for n, level in enumerate(domain.target.levels)}
            frame[our_name] = text.map(numbers).astype("float64")
        else:
            plain = text.str.replace(domain.format.decimal, ".", regex=False)
            frame[our_name] = pd.to_numeric(plain, errors="coerce").astype("float64")
        is_bad = frame[our_name].isna() & (text != "")
        unreadable.append(_cells(text, is_bad, our_name))
    bad = pd.concat(unreadable)
    _require_mostly_readable(frame, bad)
    blank = sum(count for _, count in parts)
    return Readings(domain, site, sources, frame, bad, blank)


def _require_mostly_readable(frame: pd.DataFrame, unreadable: pd.DataFrame) -> None:
    """Refuse a file of which more than half of a column cannot be read: it is something else."""
    files = frame["file"].loc[unreadable["row"]].to_numpy()
    for (file, column), cells in unreadable.groupby([files, "column"]):
        lines = int((frame["file"] == file).sum())
        if len(cells) > lines / 2:
            raise DataError(
                f"{file}: {column} cannot be read in {len(cells)} of {lines} lines, as in "
                f"{cells['value'].iloc[0]!r}. Are columns swapped, or is the file damaged?"
            )


def _cells(values: pd.Series, chosen: pd.Series, column: str) -> pd.DataFrame:
    rows = values[chosen]
    return pd.DataFrame({"row": rows.index, "column": column, "value": rows.to_numpy()})


def _table(domain: Domain, source: Source) -> tuple[pd.DataFrame, int]:
    """Read one file as text, refusing one that is empty, cut off, or another domain's."""
    path, shape = source.path, domain.format
    text, rows = _rows(path, shape.delimiter)
    numbered = [(n, cells) for n, cells in enumerate(rows, start=1) if cells]
    header = [cell.strip() for cell in numbered[0][1]]
    wanted = list(dict.fromkeys([*shape.time_columns, *domain.columns]))
    missing = [column for column in wanted if column not in header]
    if missing:
        raise DataError(_not_this_file(domain, source, text.lstrip().splitlines()[0], missing))
    twice = [column for column in wanted if header.count(column) > 1]
    if twice:
        raise DataError(f"{path} names the columns {twice} twice; which one is meant?")
    for number, cells in numbered:
        if len(cells) != len(header):
            raise DataError(
                f"{path}, line {number}: {len(cells)} fields where the header has {len(header)}. "
                f"The file looks cut off or damaged there; fetch it again."
            )
    if not text.endswith("\n"):
        raise DataError(
            f"{path}, line {len(rows)}: the last line does not end, so the file may be cut off. "
            f"Fetch it again or, if it is whole, end its last line with a line break."
        )
    filled = [(n, cells) for n, cells in numbered[1:] if any(cells)]
    if not filled:
        raise DataError(f"{path} has a header and no readings.")
    table = pd.DataFrame([cells for _, cells in filled], columns=pd.Index(header))
    table = table[wanted].assign(file=path.name, line=[n for n, _ in filled])
    return table, len(rows) - 1 - len(filled)


def _rows(path: Path, delimiter: str) -> tuple[str, list[list[str]]]:
    """Read a file as text, and as rows of cells."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"Cannot read {path} as text: {error}") from None
    if not text.strip():
        raise DataError(f"{path} is empty. Fetch it again: smartcity data fetch")
    try:
        return text, list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
    except csv.Error as error:
        raise DataError(f"{path} is not a table: {error}. Is a quotation mark left open?") from None


def _not_this_file(domain: Domain, source: Source, first: str, missing: list[str]) -> str:
    """Say what the file seems to be instead."""
    message = f"{source.path} is not a file of {domain.name!r}: it lacks the columns {missing}."
    for other in domains.load_all().values():
        header = {cell.strip() for cell in first.split(other.format.delimiter)}
        if other is not domain and set(other.columns) <= header:
            return f"{message} Its first line is that of {other.name!r}."
    return (
        f"{message} Its first line is {first[:80]!r}; the delimiter is {domain.format.delimiter!r}."
    )


def _times(shape: Format, table: pd.DataFrame) -> pd.Series:
    """Read each line's time from its two columns, as shown by the station's clock."""
    first, second = (table[column].str.strip() for column in shape.time_columns)
    if shape.first_day is None:
        return pd.to_datetime(first + " " + second, format=shape.time_format, errors="coerce")
    # A bare day of the month, in order: a later day adds the difference, an earlier one starts
    # the next month and adds one. A line without a readable day has no time.
    days = pd.to_numeric(first, errors="coerce")
    days = days[days.isin(range(1, 32))]
    steps = days.diff().fillna(0.0)
    elapsed = steps.where(steps >= 0, 1.0).cumsum().reindex(first.index)
    clock = pd.to_datetime(second, format=shape.time_format, errors="coerce")
    since_midnight = clock - clock.dt.normalize()
    midnight = pd.Timestamp(shape.first_day) + pd.to_timedelta(elapsed, unit="D")
    return midnight + since_midnight
