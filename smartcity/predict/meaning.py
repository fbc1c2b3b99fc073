"""What an answer means outside the model: guidelines, street capacity, cost and emissions."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smartcity import domains
from smartcity.domains import Domain, Table

#: A mean counts when at least three quarters of its hours are known (2008/50/EC, Annex XI).
KNOWN_SHARE = 0.75
_CAUTION = "Indicative only: this is one hour, the tables are for longer means."


def guidance(
    domain: Domain, values: NDArray[np.float64], rows: Sequence[Mapping[str, Any]]
) -> list[list[str]]:
    """Say what answers mean, each in a few sentences.

    Args:
        domain: The question.
        values: The answers, or the numbers of their classes, shape (rows,).
        rows: The checked inputs, with options and recent readings where they were given.
    """
    if domain.target.levels:
        advice = [level.advice for level in domain.target.levels]
        numbers = values.astype(int).tolist()
        return [[advice[n], *_street(domain, row)] for n, row in zip(numbers, rows, strict=True)]
    known = [table.places(values) for table in domains.tables(domain.target.pollutant)]
    places = np.array(known).T.tolist() if known else [[]] * len(rows)
    return [
        [*_tables(domain, value, place, row.get("recent") or ()), *_bill(domain, value, row)]
        for value, place, row in zip(values.tolist(), places, rows, strict=True)
    ]


def _tables(
    domain: Domain, value: float, places: list[int], recent: Sequence[Mapping[str, Any]]
) -> Sequence[str]:
    """Compare a pollutant with the guideline tables, over their own averaging time if known."""
    if not recent:
        return _of_one_hour(domain.target.pollutant, tuple(places))
    said, is_single = [], False
    for table, place in zip(domains.tables(domain.target.pollutant), places, strict=True):
        mean = _running_mean(domain, value, recent, table.hours)
        if mean is None:
            is_single = True
            said.append(_single(table, place))
        else:
            said.append(
                f"{table.standard} ({table.edition}), {table.averaging} running mean {mean:.2f} "
                f"{domain.target.unit}: {table.band(mean)}."
            )
    return [*said, _CAUTION] if is_single else said


@lru_cache
def _of_one_hour(pollutant: str | None, places: tuple[int, ...]) -> tuple[str, ...]:
    """Say the same of a single hour: there are as many answers as bands go together."""
    said = tuple(map(_single, domains.tables(pollutant), places))
    return (*said, _CAUTION) if said else ()


def _single(table: Table, place: int) -> str:
    about = f"{table.standard} ({table.edition}, {table.averaging} mean)"
    return f"{about}: {table.labels[place]}."


def _running_mean(
    domain: Domain, value: float, recent: Sequence[Mapping[str, Any]], hours: int
) -> float | None:
    """Average the answer and what was measured in the hours before it; None if too few are known.

    Readings are hourly in the tables' sense only where the domain's are.
    """
    if domain.format.step_minutes != 60 or not hours:
        return None
    earlier = [reading[domain.target.name] for reading in recent[-(hours - 1) :]]
    known = [value, *(v for v in earlier if v is not None)]
    return sum(known) / len(known) if len(known) >= hours * KNOWN_SHARE else None


def _street(domain: Domain, row: Mapping[str, Any]) -> list[str]:
    """Turn counts into car units and, given lanes and capacity, into use of the street."""
    if not domain.car_units:
        return []
    volume = sum([row[name] * units for name, units in domain.car_units])
    said = [f"That is {volume:.0f} passenger car units an hour."]
    lanes, capacity = row.get("lanes"), row.get("capacity")
    if lanes and capacity:
        ratio = volume / (lanes * capacity)
        bands = [t.band(ratio) for t in domains.tables("volume over capacity")]
        said.append(f"Volume over capacity is {ratio:.2f}, level of service {bands[0]}.")
    return said


def _bill(domain: Domain, value: float, row: Mapping[str, Any]) -> list[str]:
    """Turn energy into cost and emissions, where a tariff or a grid factor is given."""
    said = []
    if row.get("tariff") is not None:
        said.append(f"At {row['tariff']:g} per {domain.target.unit}: {value * row['tariff']:.2f}.")
    if row.get("grid_factor") is not None:
        emitted = value * row["grid_factor"]
        said.append(f"At {row['grid_factor']:g} kg CO₂e per kWh: {emitted:.2f} kg CO₂e.")
    return said
