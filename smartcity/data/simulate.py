"""A seeded demo city in the publishers' formats, faults included, always labelled simulated."""

import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from smartcity import atomic, domains, settings
from smartcity.data.files import SIMULATED, SIMULATED_SITE, Source, within
from smartcity.domains import Domain, Simulated

_START = pd.Timestamp("2025-01-06")  # a Monday
_NOTE = """These readings are simulated: made by `smartcity data simulate` with seed {seed}.
No sensor measured them. Faults were put in on purpose, for the checks to find.
"""


class _Manner(NamedTuple):
    """What a site has of its own: how much, how noisy, how many hours late, how busy on Sundays."""

    level: float = 1.0
    noise: float = 1.0
    late: float = 0.0
    weekend: float = 0.6


_USUAL = _Manner()


def simulate(domain: Domain, seed: int = 42, *, rows: int = 3000) -> list[Source]:
    """Write the demo city's files of a domain's default site.

    The same seed gives the same files, byte for byte.

    Args:
        domain: The question; how each column is made stands in its TOML.
        seed: Seed of the random numbers.
        rows: Readings to make, at least 400 for all the faults to fit.

    Returns:
        The files written.

    Raises:
        StorageError: The folder cannot be written.
    """
    rng = np.random.default_rng([seed, zlib.crc32(domain.name.encode())])
    text = _as_text(domain, _with_faults(domain, _city(domain, rows, rng), rng))
    home = settings.current().demo / domain.name
    files = [file for file in domain.files if file.site == domain.sites[0]]
    atomic.write(home / SIMULATED, _NOTE.format(seed=seed))
    for file, part in zip(files, np.array_split(np.arange(len(text)), len(files)), strict=True):
        shape = domain.format
        lines = [shape.delimiter.join(shape.header)]
        lines += [shape.delimiter.join(cells) for cells in text.iloc[part].to_numpy()]
        atomic.write(home / file.name, shape.newline.join([*lines, ""]))
    return within(home, domain)


def simulate_sites(
    domain: Domain, count: int, seed: int = 42, *, rows: int = 3000
) -> Iterator[Source]:
    """Write readings of more sites, one after the other, each as its partition in Parquet.

    Sites differ in level, noise and daily shape. A site of the same seed is the same whatever the
    count.

    Args:
        domain: The question.
        count: How many; they are named ``s0001`` and so on.
        seed: Seed of the random numbers.
        rows: Readings of each, at least 400.

    Yields:
        The file of each site.

    Raises:
        StorageError: The folder cannot be written.
    """
    for number in range(1, count + 1):
        rng = np.random.default_rng([seed, zlib.crc32(domain.name.encode()), number])
        manner = _Manner(
            level=float(np.exp(rng.normal(0, 0.25))),
            noise=rng.uniform(0.6, 1.6),
            late=rng.normal(0, 1),
            weekend=rng.uniform(0.4, 1.0),
        )
        frame = _with_faults(domain, _city(domain, rows, rng, manner), rng)
        home = settings.current().demo / domain.name
        place = domains.partition(home, f"s{number:04d}")
        atomic.write(place / SIMULATED_SITE, _NOTE.format(seed=seed))
        atomic.write(place / "simulated.parquet", frame.to_parquet(index=False))
        yield from within(home, domain, f"s{number:04d}")


def _activity(
    times: pd.DatetimeIndex, rng: np.random.Generator, manner: _Manner
) -> NDArray[np.float64]:
    """Make how busy the city is, 0 to 1: two rush hours, quiet nights and weekends, weather."""
    hours = times.hour.to_numpy() + times.minute.to_numpy() / 60 - manner.late
    rush = np.exp(-((hours - 8) ** 2) / 6) + 1.1 * np.exp(-((hours - 18.5) ** 2) / 9)
    day = 0.35 * np.exp(-((hours - 13) ** 2) / 30)
    weekend = np.where(times.day_of_week.to_numpy() >= 5, manner.weekend, 1.0)
    drift = np.zeros(len(times))
    for n, shock in enumerate(rng.normal(0, 0.06, len(times) - 1), start=1):
        drift[n] = 0.85 * drift[n - 1] + shock
    return np.clip(0.7 * (rush + day) * weekend + drift + 0.05, 0, 1)


def _city(
    domain: Domain, rows: int, rng: np.random.Generator, manner: _Manner = _USUAL
) -> pd.DataFrame:
    """Make faultless readings, named as we name them."""
    shape = domain.format
    start = pd.Timestamp(shape.first_day) if shape.first_day else _START
    times = pd.date_range(start, periods=rows, freq=f"{shape.step_minutes}min")
    activity = _activity(times, rng, manner)

    def column(made: Simulated, level: float) -> NDArray[np.float64]:
        noise = made.noise * manner.noise * rng.normal(size=rows)
        values = level * np.maximum(made.base + made.swing * activity + noise, made.base / 4)
        return np.asarray(np.round(values, made.decimals), dtype=np.float64)

    frame = pd.DataFrame({"recorded_at": times})
    for spec in domain.inputs:
        if spec.simulated:
            made = column(spec.simulated, manner.level)
            frame[spec.name] = np.clip(made, spec.low, spec.high)
        elif spec.sum_of:
            frame[spec.name] = frame[list(spec.sum_of)].sum(axis="columns")
    # Classes are what a site calls busy, whatever its level: each has all of them.
    target = column(domain.target.simulated, 1.0 if domain.target.levels else manner.level)
    if domain.target.levels:
        target = np.digitize(target, domain.target.thresholds).astype(float)
    frame[domain.target.name] = target
    return frame


def _with_faults(domain: Domain, frame: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Put in each kind of fault the format can hold, at places the seed chooses."""
    spots = np.sort(rng.choice(np.arange(50, len(frame) - 50, 20), size=9, replace=False))
    measured = [
        n for n in domain.columns.values() if not (domain.target.levels and n == domain.target.name)
    ]
    name = measured[0]
    if domain.format.sentinel is not None:
        frame.loc[spots[0] : spots[0] + 8, measured] = domain.format.sentinel
        frame.loc[spots[1] : spots[1] + 40, domain.target.name] = domain.format.sentinel
    flat = domain.format.flat_line_rows
    frame.loc[spots[2] : spots[2] + flat, name] = frame.loc[spots[2], name]
    frame.loc[spots[3], name] += 3 * (frame[name].max() - frame[name].min())
    frame.loc[spots[4], name] = -1.0
    sums = [spec for spec in domain.inputs if spec.sum_of]
    for spec in sums:
        frame[spec.name] = frame[list(spec.sum_of)].sum(axis="columns")
        frame.loc[spots[5], spec.name] += 7
    frame.loc[spots[6], "recorded_at"] = frame.loc[spots[6] - 1, "recorded_at"]
    order = frame.index.to_numpy().copy()
    order[[spots[7], spots[7] + 1]] = order[[spots[7] + 1, spots[7]]]
    return frame.iloc[order].drop(index=range(spots[8], spots[8] + 10))


def _as_text(domain: Domain, frame: pd.DataFrame) -> pd.DataFrame:
    """Write readings the way the publisher does, every column of the header in its place."""
    shape, times = domain.format, frame["recorded_at"]
    text = pd.DataFrame("", index=frame.index, columns=range(len(shape.header)))
    date, clock = (shape.header.index(column) for column in shape.time_columns)
    if shape.first_day:
        text[date] = times.dt.day.astype(str)
        text[clock] = times.dt.strftime(shape.time_format)
    else:
        whole = times.dt.strftime(shape.time_format)
        text[clock] = whole.str.rsplit(" ", n=1).str[1]
        text[date] = whole.str.rsplit(" ", n=1).str[0]
    for column, name in domain.columns.items():
        place = shape.header.index(column)
        if domain.target.levels and name == domain.target.name:
            words = [level.published for level in domain.target.levels]
            text[place] = [words[int(number)] for number in frame[name]]
        else:
            text[place] = [f"{v:.10g}".replace(".", shape.decimal) for v in frame[name]]
    return text
