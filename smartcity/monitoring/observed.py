"""How truth finds the answers it belongs to: by their ids, or by the very time they speak of."""

import csv
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from smartcity.domains import Domain
from smartcity.errors import UsageError
from smartcity.store import answers

#: Most faults of a file that are told one by one.
_MOST = 20
_HEADER = ["id", "observed"]


@dataclass(frozen=True)
class Joined:
    """What joining did.

    Attributes:
        noted: Answers whose truth is known now, and was not before.
        known: Answers of which the same was known before.
        elsewhere: Answers that ask of a time of which there is no reading.
        supposed: Answers to inputs other than those read at their time: what if, not what was.
    """

    noted: int
    known: int = 0
    elsewhere: int = 0
    supposed: int = 0


def from_file(path: Path) -> Joined:
    """Note what a CSV file of ``id,observed`` tells: every line of it, or nothing.

    Raises:
        UsageError: Lines cannot be noted; each is named, with what is wrong.
        DatabaseError: The database is out of reach.
    """
    truths, places, faults = dict[UUID, float](), dict[UUID, int](), dict[int, str]()
    for number, cells in _lines(path):
        try:
            key, observed = _pair(cells)
        except ValueError:
            faults[number] = f"{','.join(cells)[:80]!r} is not an answer's id and a number"
            continue
        if truths.setdefault(key, observed) != observed:
            faults[number] = f"line {places[key]} says {truths[key]:g} of the same answer"
        places.setdefault(key, number)
    noted = 0
    if not faults:
        noted, found = answers.observe(truths)
        faults = {places[key]: f"{truths[key]:g}: {fault}" for key, fault in found.items()}
    if faults:
        told = [f"line {n}: {fault}" for n, fault in sorted(faults.items())[:_MOST]]
        more = f"; and {len(faults) - _MOST} more" if len(faults) > _MOST else ""
        raise UsageError(
            f"Nothing was noted. {path}, {'; '.join(told)}{more}. Mend or remove these lines."
        )
    return Joined(noted, len(truths) - noted)


def _lines(path: Path) -> list[tuple[int, list[str]]]:
    try:
        lines = list(csv.reader(path.read_text(encoding="utf-8-sig").splitlines()))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"Cannot read {path} as a table: {error}") from None
    if not lines or lines[0] != _HEADER:
        raise UsageError(f"{path} must begin with the line {','.join(_HEADER)}.")
    return [(number, cells) for number, cells in enumerate(lines, start=1) if cells][1:]


def _pair(cells: list[str]) -> tuple[UUID, float]:
    key, observed = cells
    return UUID(key), float(observed)


def from_readings(domain: Domain, readings: Iterable[Mapping[str, datetime | float]]) -> Joined:
    """Note what was read at exactly the times that answers speak of.

    Answers without a time are left alone, and so are those to other inputs than were read then:
    nothing is guessed. All answers about one time get its truth.

    Args:
        domain: The question.
        readings: ``recorded_at``, the target and the inputs, NaN where one is missing; each time
            once.

    Raises:
        UsageError: A reading is none the target can have; nothing was noted.
        DatabaseError: The database is out of reach.
    """
    by_time: dict[object, Mapping[str, Any]] = {row["recorded_at"]: row for row in readings}
    truths, elsewhere, supposed = dict[UUID, float](), 0, 0
    for key, given in answers.unobserved(domain.name):
        row = by_time.get(datetime.fromisoformat(given["timestamp"]))
        if row is None:
            elsewhere += 1
        elif all(_same(row[name], value) for name, value in given.items() if name in row):
            truths[key] = row[domain.target.name]
        else:
            supposed += 1
    noted, faults = answers.observe(truths)
    if faults:
        key, fault = next(iter(faults.items()))
        raise UsageError(f"Nothing was noted. The reading {truths[key]:g} {fault}.")
    return Joined(noted, 0, elsewhere, supposed)


def _same(read: float, given: float | None) -> bool:
    return math.isnan(read) if given is None else math.isclose(read, given)
