"""Readings or a request -> the model's matrix; one code for training and serving."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict

from smartcity.domains import Domain, TimePart

Matrix = NDArray[np.float32]
Times = NDArray[np.datetime64]
#: Minutes.
DAY, HALF = 1440, 30
CLOCK = ("hour of day", "sin day", "cos day", "sin half day", "cos half day", "weekday", "weekend")


def time_part(times: Times, part: TimePart) -> NDArray[np.int64]:
    """Take one part of each time, as counted on a clock or calendar.

    Args:
        times: Times of shape (rows,), without zone.
        part: ``day`` (1-31), ``month`` (1-12), ``hour`` (0-23) or ``minute`` (0-59).

    Returns:
        Whole numbers of shape (rows,).

    >>> time_part(np.array(["2022-01-31T16:55"], dtype="datetime64[m]"), "hour")
    array([16])
    """
    months = times.astype("datetime64[M]")
    days = times.astype("datetime64[D]")
    hours = times.astype("datetime64[h]")
    parts: dict[TimePart, NDArray[Any]] = {
        "day": (days - months).astype(np.int64) + 1,
        "month": months.astype(np.int64) % 12 + 1,
        "hour": (hours - days).astype(np.int64),
        "minute": (times.astype("datetime64[m]") - hours).astype(np.int64),
    }
    return parts[part]


def matrix(
    domain: Domain, columns: Mapping[str, ArrayLike], *, recorded_at: Times | None = None
) -> Matrix:
    """Build the model's matrix, inputs in the domain's order.

    Sums are always computed, never taken; parts of time are computed when the times are given.

    Args:
        domain: The question asked.
        columns: Input name -> values of shape (rows,), NaN where a sensor gave nothing.
        recorded_at: When each row was read, shape (rows,); needed only where ``columns`` lacks
            the parts of time.

    Returns:
        Array of shape (rows, inputs). float32, as scikit-learn's trees compare: doubles fed to an
        exported tree fall on the other side of a threshold now and then.
    """
    ready: dict[str, NDArray[np.float64]] = {}
    for spec in domain.inputs:
        if spec.sum_of:
            ready[spec.name] = np.sum([ready[part] for part in spec.sum_of], axis=0)
        elif spec.from_time and recorded_at is not None:
            ready[spec.name] = time_part(recorded_at, spec.from_time).astype(np.float64)
        else:
            ready[spec.name] = np.asarray(columns[spec.name], dtype=np.float64)
    columns_first = np.array([ready[name] for name in domain.names], dtype=np.float32)
    return np.ascontiguousarray(columns_first.T)


def on_log_scale(values: NDArray[Any]) -> NDArray[np.float64]:
    """Give sign(x) log(1 + |x|): sensors' readings spread in proportion to their size."""
    return np.asarray(np.sign(values) * np.log1p(np.abs(values)), dtype=np.float64)


def tempered(probabilities: NDArray[np.float64], divisor: float) -> NDArray[np.float64]:
    """Apply a temperature (Guo et al. 2017) to class probabilities of shape (rows, classes)."""
    logits = np.log(np.clip(probabilities, 1e-6, 1)) / divisor
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def bounds(
    tables: Sequence[Mapping[str, Any]],
    predicted: NDArray[np.float64],
    ahead: NDArray[np.int64],
    *,
    low: float,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Give the interval around each answer: a card's offsets, interpolated between its levels.

    Args:
        tables: One per distance: minutes ``ahead``; at which answers (``at``), how far ``below``
            and ``above``.
        predicted: Answers, shape (rows,).
        ahead: Minutes ahead of each, shape (rows,).
        low: Nothing lies below it.

    Returns:
        Lower and upper ends, shape (rows,) each.
    """
    lows, highs = np.full(len(predicted), np.nan), np.full(len(predicted), np.nan)
    for table in tables:
        rows = ahead == table["ahead"]
        asked = predicted[rows]
        lows[rows] = asked - np.interp(asked, table["at"], table["below"])
        highs[rows] = asked + np.interp(asked, table["at"], table["above"])
    return np.maximum(lows, low), np.maximum(highs, low)


class View(BaseModel):
    """What a model looks at: which blocks of columns its matrix has, and in which order.

    Attributes:
        inputs: The readings at the time asked about, by name; none for a forecast.
        follow: What is looked back at; see ``traced``.
        clock: Hour (as a circle, too), weekday and weekend of the time asked about.
        elapsed: Minutes between the last recent reading and the time asked about.
        last: How many of the latest recent readings.
        means: Minutes, counted back from the last recent reading, to average over.
        usual: What is looked up on other days.
        days: Readings this many days before the time asked about, give or take half an hour, and
            their mean.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    inputs: tuple[str, ...] = ()
    follow: tuple[str, ...] = ()
    clock: bool = False
    elapsed: bool = False
    last: int = 0
    means: tuple[int, ...] = ()
    usual: tuple[str, ...] = ()
    days: tuple[int, ...] = ()

    @property
    def history(self) -> int:
        """How many minutes of recent readings it needs; 0 if none."""
        return max((*self.means, *(d * DAY for d in self.days), 60 if self.last else 0))

    @property
    def names(self) -> tuple[str, ...]:
        """Name every column of the matrix."""
        names = [*self.inputs]
        names += CLOCK if self.clock else ()
        names += ["elapsed"] if self.elapsed else []
        names += [f"{c} last {n}" for n in range(1, self.last + 1) for c in self.follow]
        names += [f"{c} mean {m} min" for m in self.means for c in self.follow]
        names += [f"{c} day -{d}" for d in self.days for c in self.usual]
        return tuple(names + [f"{c} usual" for c in self.usual])


def traced(domain: Domain) -> tuple[str, ...]:
    """Name what is followed over time: the measured inputs, the target, and each of its levels."""
    levels = tuple(f"{domain.target.name}={n}" for n in range(len(domain.target.levels)))
    measured = tuple(i.name for i in domain.inputs if not i.from_time)
    return (*measured, domain.target.name, *levels)


@dataclass(frozen=True)
class History:
    """Recent readings in time order, summed up once so that any stretch of them is cheap.

    Attributes:
        times: Minutes since 1970, shape (rows,).
        readings: What is followed, NaN where missing, shape (rows, columns).
    """

    times: NDArray[np.float64]
    readings: NDArray[np.float64]
    sums: NDArray[np.float64]
    counts: NDArray[np.float64]

    @classmethod
    def of(cls, domain: Domain, columns: Mapping[str, ArrayLike], recorded_at: Times) -> "History":
        """Take recent readings.

        A target that adds up between readings is brought to what it is in one usual step, as a
        reading after a pause holds several steps' worth.

        Args:
            domain: The question.
            columns: Name of an input or the target -> values of shape (rows,); absent: all missing.
            recorded_at: When each row was read, ascending.
        """
        times = minutes(recorded_at)
        missing = np.full(len(times), np.nan)
        known = {n: np.asarray(v, dtype=np.float64) for n, v in columns.items()}
        for spec in domain.inputs:
            if spec.sum_of:
                known[spec.name] = np.sum([known.get(p, missing) for p in spec.sum_of], axis=0)
        target = known.get(domain.target.name, missing)
        if domain.target.adds_up:
            step = domain.format.step_minutes
            pause = np.diff(times, prepend=times[:1] - step)
            target = target * step / np.where(pause <= 3 * step, np.maximum(pause, step / 2), step)
        known[domain.target.name] = target
        for number in range(len(domain.target.levels)):
            is_level = np.where(np.isnan(target), np.nan, target == number)
            known[f"{domain.target.name}={number}"] = is_level
        values = np.column_stack([known.get(name, missing) for name in traced(domain)])
        start = np.zeros((1, values.shape[1]))
        return cls(
            times,
            values,
            np.concatenate([start, np.cumsum(np.nan_to_num(values), axis=0)]),
            np.concatenate([start, np.cumsum(~np.isnan(values), axis=0)]),
        )

    def only(self, domain: Domain, names: tuple[str, ...]) -> "History":
        """Keep some of the columns."""
        places = [traced(domain).index(name) for name in names]
        kept = (self.readings[:, places], self.sums[:, places], self.counts[:, places])
        return History(self.times, *kept)

    def mean(self, first: NDArray[np.int64], last: NDArray[np.int64]) -> NDArray[np.float64]:
        """Average rows ``first`` to before ``last``, for each pair; NaN where nothing was read."""
        count = self.counts[last] - self.counts[first]
        return (self.sums[last] - self.sums[first]) / np.where(count > 0, count, np.nan)

    def row(self, place: NDArray[np.int64]) -> NDArray[np.float64]:
        """Give single rows; NaN before the first."""
        found = self.readings[np.maximum(place, 0)]
        return np.where((place >= 0)[:, None], found, np.nan)


def minutes(times: Times) -> NDArray[np.float64]:
    """Count minutes since 1970."""
    return times.astype("datetime64[s]").astype(np.float64) / 60


def _clock(at: Times) -> NDArray[np.float64]:
    now = minutes(at)
    turn = 2 * np.pi * (now % DAY) / DAY
    weekday = (now // DAY + 3) % 7  # 1970 began on a Thursday
    parts = [now % DAY / 60, np.sin(turn), np.cos(turn), np.sin(2 * turn), np.cos(2 * turn)]
    return np.column_stack([*parts, weekday, weekday >= 5])


def seen(
    domain: Domain,
    view: View,
    columns: Mapping[str, ArrayLike],
    *,
    at: Times,
    history: History | None = None,
    known: NDArray[np.int64] | None = None,
) -> Matrix:
    """Build the matrix of a view, one row per time asked about.

    Args:
        domain: The question.
        view: What to look at.
        columns: Input name -> values of shape (rows,), for the inputs of the view.
        at: The times asked about, shape (rows,).
        history: Recent readings; needed where the view looks back.
        known: How many rows of the history are known when each question is asked, shape (rows,).
            Nothing after them is looked at.

    Returns:
        float32 array of shape (rows, columns of the view), NaN where something is missing.
    """
    blocks: list[NDArray[Any]] = []
    if view.inputs:
        everything = matrix(domain, columns, recorded_at=at)
        blocks.append(everything[:, [domain.names.index(name) for name in view.inputs]])
    if view.clock:
        blocks.append(_clock(at))
    if view.history:
        if history is None or known is None:
            raise ValueError("this view needs recent readings")
        blocks += _looking_back(domain, view, minutes(at), history, known)
    return np.column_stack(blocks).astype(np.float32)


def _looking_back(
    domain: Domain, view: View, at: NDArray[np.float64], history: History, known: NDArray[np.int64]
) -> list[NDArray[np.float64]]:
    newest = history.times[np.maximum(known - 1, 0)]
    blocks = [(at - newest)[:, None]] if view.elapsed else []
    followed = history.only(domain, view.follow)
    blocks += [followed.row(known - n) for n in range(1, view.last + 1)]
    for length in view.means:
        since = np.searchsorted(history.times, newest - length, "right")
        blocks.append(followed.mean(since, known))
    if not view.days:
        return blocks
    looked_up, days = history.only(domain, view.usual), []
    for day in view.days:
        first = np.searchsorted(history.times, at - day * DAY - HALF)
        last = np.searchsorted(history.times, at - day * DAY + HALF, "right")
        days.append(looked_up.mean(np.minimum(first, known), np.minimum(last, known)))
    stacked = np.stack(days)
    count = (~np.isnan(stacked)).sum(axis=0)
    usual = np.nansum(stacked, axis=0) / np.where(count > 0, count, np.nan)
    return [*blocks, *days, usual]
