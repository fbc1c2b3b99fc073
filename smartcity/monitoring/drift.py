"""Watch the readings themselves: sensors that stick, fall silent, jump, drift or change places.

What a sensor ought to read follows from the others at the same time of day. Its deviation from
that is Hawkins' regression-adjusted variable (D. M. Hawkins, Technometrics 33, 1991): with the
covariance S of what was read in quiet times and d the deviation from its mean, sensor k reads
(S⁻¹d)ₖ / (S⁻¹)ₖₖ above what the others say. Seasons and weather move all sensors together and
nearly cancel out; a fault of one does not.

All is computed from the readings alone, each moment from what was read before it, so a replay
gives what the watch gave at the time.
"""

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations
from statistics import NormalDist
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from smartcity.domains import Domain, Input

Kind = Literal["stuck", "bursts", "silent", "outage", "step", "drift"]
Matrix = NDArray[np.float64]
Marks = NDArray[np.bool_]


@dataclass(frozen=True)
class View:
    """One way of looking for a shift: the last days beside those before them.

    Attributes:
        kind: What a shift seen this way is called.
        days: Length of the stretch that is looked at.
        before: Days before it that it is compared with.
        hours: How long it has to be seen, without a break, before it is told.
        least: Smallest shift that is worth an alarm; 0.07 is 7 %.
    """

    kind: Literal["step", "drift"]
    days: int
    before: int
    hours: int
    least: float

    @property
    def noise(self) -> float:
        """Give how far chance alone moves it, beside other views of the same readings."""
        return math.sqrt(1 / self.days + 1 / self.before)


#: Several lengths, as a large shift shows within a day and a small one within weeks.
STEPS = tuple(
    View("step", days, before, hours=6, least=0.07)
    for days, before in ((1, 14), (2, 14), (4, 14), (8, 28))
)
DRIFT = View("drift", 28, 56, hours=48, least=0.085)
#: Shifts a year that chance may raise in all sensors of a domain together.
FALSE_A_YEAR = 2.0
#: Drift: days between the day and what is learned from, so that it does not teach itself; and days
#: that have to be learned from, as fewer told of the first summer's coming.
_GAP, _LEARNED = 56, 70
#: Drift: days around the same day of earlier years in which the same shift is the season's.
_SEASON = 21
#: Days before, from which it is learned how sensors go together when looking for a step.
_RECENT = 56
#: Days without a sign of it after which an alarm is over.
QUIET: dict[Kind, int] = {
    "stuck": 1,
    "bursts": 7,
    "silent": 1,
    "outage": 1,
    "step": 14,
    "drift": 28,
}
#: Hours before an alarm that are looked at for sensors that have changed places.
PATIENCE = 6
#: Hours within which alarms of several sensors are one.
TOGETHER = 36
#: Days of readings without which nothing can be said about a shift.
LEAST_DAYS = 28
#: Rows a relation between sensors is learned from at least, and those of any sensor in it.
_LEAST_ROWS, _LEAST_OWN = 100, 200
#: Added to the diagonal of the covariance, as a share of it: keeps near copies apart.
_RIDGE = 1e-3
#: Days from which a sensor's usual wandering is measured: all seasons, and more than a wild one.
_USUAL = 365
#: Wandering is read off the shift that this share of days stays below; with Gaussian shifts that
#: is so many standard deviations, and a day tells so much of what its square would.
_SHARE, _BELOW, _TELLING = 0.75, 1.150, 0.598
#: Wandering below this is none: no sensor is that steady.
_STEADIEST = 0.005
#: Swapped: how much nearer to the usual two sensors must come, and how near for each of all.
_SWAP_GAIN, _SWAP_NEAR = 10.0, 3.0
#: More sensors than this that move together are no fault of one.
_MANY = 3
_SAID: dict[Kind, str] = {
    "stuck": "{name} has read the same for hours",
    "bursts": "{name} is missing again and again",
    "silent": "{name} has read nothing for longer than it used to",
    "outage": "The station sends nothing",
    "step": "{name} reads {size}, within days",
    "drift": "{name} reads {size}, over weeks",
}
_SEVERAL = "{name} and {more} more have read nothing for longer than they used to"
_ADVICE: dict[Kind, str] = {
    "outage": "check its power and its line.",
    "stuck": "its readings are none; check the sensor and its line.",
    "bursts": "check its power and its line.",
    "silent": "check its power and its line.",
    "step": "check it, or calibrate it; retrain once it is known to be right.",
    "drift": "calibrate it; retrain if the air, not the sensor, has changed.",
}
#: Strength of what leaves no doubt: it comes before any shift.
_CERTAIN = 100.0
#: Share of what an alarm needs below which there is no sign of it.
_WARM = 0.5
#: Interruptions within this many hours make a burst, where there are more than this sensor has had.
_BURST_HOURS, _BURST_LEAST = 48, 3
#: Hours a sensor that reads must be away to count as silent.
_SILENT_HOURS = 24


@dataclass(frozen=True)
class Alarm:
    """Something that one sensor does and did not do before.

    Attributes:
        sensor: Name of the input.
        kind: stuck, bursts of missing readings, silent, outage (nothing of any), step or drift.
        since: When it was noticed, the station's clock.
        until: When it was over, or had become what is usual; None while it goes on.
        size: Of a shift, where it was plainest: how far it reads from what the others say, 0.15
            for 15 % above; where zero is arbitrary, as a share of half the input's usual range.
        amount: Of a shift: the same in the input's unit, at the values usual then.
        strength: How far beyond what is needed for an alarm; 1 is just enough.
        others: Of many that fell silent in one moment, those beside the first.
    """

    sensor: str
    kind: Kind
    since: pd.Timestamp
    until: pd.Timestamp | None
    size: float | None = None
    amount: float | None = None
    strength: float = _CERTAIN
    others: tuple[str, ...] = ()


@dataclass(frozen=True)
class Event:
    """Alarms that began together: one cause, one message.

    Attributes:
        since: When the first began.
        alarms: The strongest first.
        swapped: Two sensors that read right if they change places, if there are two.
    """

    since: pd.Timestamp
    alarms: tuple[Alarm, ...]
    swapped: tuple[str, str] | None = None

    @property
    def until(self) -> pd.Timestamp | None:
        """When the last of its alarms was over; None while one goes on."""
        ends = [alarm.until for alarm in self.alarms]
        return None if None in ends else max(end for end in ends if end is not None)


def sensors(domain: Domain) -> list[Input]:
    """Give the inputs measured by themselves: no part of the time, no sum; else the target."""
    measured = [spec for spec in domain.inputs if spec.column and not spec.sum_of]
    known = domain.target.model_dump(include={"name", "label", "unit", "low", "high", "column"})
    return measured or [Input(**known)]


def sentences(domain: Domain, event: Event) -> list[str]:
    """Say each of an event's alarms in a sentence, sizes in the input's unit."""
    specs = {spec.name: spec for spec in sensors(domain)}
    return [
        (_SEVERAL if a.others and a.kind == "silent" else _SAID[a.kind]).format(
            name=specs[a.sensor].label, size=_size(a, specs), more=len(a.others)
        )
        for a in event.alarms
    ]


def advice(domain: Domain, event: Event) -> str:
    """Say what to do about an event."""
    labels = {spec.name: spec.label for spec in sensors(domain)}
    if event.swapped:
        one, other = (labels[name] for name in event.swapped)
        return f"{one} and {other} seem to have changed places: check the wiring or the columns."
    first = event.alarms[0]
    if len(event.alarms) > _MANY and first.kind in {"step", "drift"}:
        return "Many sensors moved together: look at the site and the weather, then retrain."
    where = "The station" if first.kind == "outage" else labels[first.sensor]
    return f"{where}: {_ADVICE[first.kind]}"


def _size(alarm: Alarm, specs: dict[str, Input]) -> str:
    if alarm.size is None or alarm.amount is None:
        return ""
    where, spec = "above" if alarm.size > 0 else "below", specs[alarm.sensor]
    share = "" if spec.low < 0 else f"{abs(alarm.size):.0%}, "
    return f"{share}{abs(alarm.amount):.3g} {spec.unit}, {where} what the others say"


def watch(domain: Domain, readings: pd.DataFrame) -> list[Event]:
    """Look through readings from their beginning.

    Args:
        domain: Whose.
        readings: ``recorded_at`` and the inputs, in their units, as read: impossible values and
            sentinels may be in it.

    Returns:
        What was noticed, in time order; those without an end go on.
    """
    table = _grid(domain, readings)
    grid = _Grid(domain, table)
    found = [*_broken(grid), *_shifts(grid)]
    return _together(grid, sorted(found, key=lambda alarm: alarm.since))


class _Grid:
    """Readings at even steps, as logarithms, beside the time of day."""

    def __init__(self, domain: Domain, table: pd.DataFrame) -> None:
        self.names = [str(name) for name in table]
        self.times = pd.DatetimeIndex(table.index)
        self.raw: Matrix = table.to_numpy(float)
        self.hour = max(1, 60 // domain.format.step_minutes)
        self.day = 24 * self.hour
        flat = _lasting(self.raw[1:] == self.raw[:-1], domain.format.flat_line_rows - 1)
        self.stuck = np.vstack([np.zeros((1, len(self.names)), bool), flat])
        self.scaled = _Scale(sensors(domain), self.raw, self.day)
        self.values = self.scaled(np.where(_spread(self.stuck, domain), np.nan, self.raw))
        turn = 2 * np.pi * (self.times.hour + self.times.minute / 60).to_numpy() / 24
        waves = [wave(n * turn) for n in (1, 2) for wave in (np.sin, np.cos)]
        self.table = np.column_stack([self.values, *waves, self.times.day_of_week >= 5])
        self.adjusted = np.full_like(self.values, np.nan)
        for start in range((LEAST_DAYS + 1) * self.day, len(self.raw), self.day):
            end = start - self.day
            rows = slice(start, min(start + self.day, len(self.raw)))
            known = slice(max(0, end - _RECENT * self.day), end)
            self.adjusted[rows] = _adjusted(self, rows, known)

    def told(self, moved: float, at: int, n: int) -> tuple[float, float]:
        """Give a shift as a share, and in the sensor's unit at what it usually reads."""
        if self.scaled.linear[n]:
            return moved, moved * float(self.scaled.half[n])
        share = float(np.expm1(moved))
        return share, share * float(np.nanmedian(self.raw[max(0, at - 14 * self.day) : at, n]))

    def at(self, time: pd.Timestamp) -> int:
        """Give the row of a time."""
        return int(self.times.searchsorted(time))


def _grid(domain: Domain, readings: pd.DataFrame) -> pd.DataFrame:
    """Put readings at even steps; what was not read, or cannot be, is missing."""
    step = f"{domain.format.step_minutes}min"
    names = [spec.name for spec in sensors(domain)]
    known = readings[readings["recorded_at"].notna()]
    values = known[names].where(known[names] != domain.format.sentinel)
    return values.groupby(known["recorded_at"].dt.floor(step)).first().asfreq(step)


class _Scale:
    """Values as logarithms, so that differences are shares; linear where zero is arbitrary."""

    def __init__(self, specs: list[Input], raw: Matrix, day: int) -> None:
        early = raw[: LEAST_DAYS * day]
        self.linear = np.array([spec.low < 0 for spec in specs])
        low, middle, high = (_columns(early, share) for share in (0.05, 0.5, 0.95))
        self.half = np.maximum((high - low) / 2, 1e-9)
        # Zero has a logarithm too, and what hardly differs from it does not stretch the scale.
        self._offset = 0.1 * np.maximum(np.abs(middle), 1e-9)

    def __call__(self, raw: Matrix) -> Matrix:
        shares = np.log(np.maximum(raw, 0) + self._offset)
        return np.where(self.linear, raw / self.half, shares)


def _columns(rows: Matrix, share: float) -> Matrix:
    """Give a quantile of each column, 1 for a column without any value."""
    return pd.DataFrame(rows).quantile(share).fillna(1.0).to_numpy(float)


def _spread(stuck: Marks, domain: Domain) -> Marks:
    """Mark the readings before a stuck one was noticed too: they were no readings either."""
    rows = domain.format.flat_line_rows
    return np.asarray(pd.DataFrame(stuck[::-1]).rolling(rows, min_periods=1).max()[::-1] > 0)


def _lasting(marks: Marks, rows: int) -> Marks:
    """Mark where something has held for a number of rows without a break."""
    held = pd.DataFrame(marks).rolling(rows).sum() == rows
    return np.asarray(held)


def _broken(grid: _Grid) -> Iterator[Alarm]:
    """Find sensors that stick or whose readings stay away, other than the whole station's."""
    missing = np.isnan(grid.raw)
    nothing: Marks = np.all(missing, axis=1)[:, None]
    alone = missing & ~nothing
    begins = alone & ~np.vstack([np.zeros((1, missing.shape[1]), bool), missing[:-1]])
    bursts = pd.DataFrame(begins).rolling(_BURST_HOURS * grid.hour, min_periods=1).sum()
    usual = bursts.cummax().shift(LEAST_DAYS * grid.day // 4).fillna(0)
    frayed = (bursts > np.maximum(usual, _BURST_LEAST - 1)).to_numpy()
    silent, outage = _silent(grid, missing, alone), _silent(grid, nothing, nothing)
    for alarm in _episodes(grid, grid.names[0], "outage", outage[:, 0], outage[:, 0]):
        yield replace(alarm, others=tuple(grid.names[1:]))
    learned = np.arange(len(grid.raw)) >= LEAST_DAYS * grid.day
    broken: dict[Kind, Marks] = {"stuck": grid.stuck, "bursts": frayed, "silent": silent}
    at_once = defaultdict[object, list[Alarm]](list)
    for n, name in enumerate(grid.names):
        for kind, marks in broken.items():
            for alarm in _episodes(grid, name, kind, marks[:, n] & learned, marks[:, n]):
                at_once[alarm.since if kind == "silent" else alarm].append(alarm)
    for same in at_once.values():
        yield from same if len(same) <= _MANY else [_several(same)]


def _several(alarms: list[Alarm]) -> Alarm:
    """Make one alarm of sensors that fell silent in one moment: it is over when all read again."""
    ends = [alarm.until for alarm in alarms if alarm.until is not None]
    until = max(ends) if len(ends) == len(alarms) else None
    return replace(alarms[0], until=until, others=tuple(alarm.sensor for alarm in alarms[1:]))


def _silent(grid: _Grid, missing: Marks, counted: Marks) -> Marks:
    """Mark what has been missing for longer than ever before, by those rows that are counted."""
    rows = counted.cumsum(axis=0)
    away = rows - np.maximum.accumulate(np.where(missing, 0, rows), axis=0)
    ended = np.vstack([np.zeros_like(away[:1]), np.where(missing[1:], 0, away[:-1])])
    longest = np.maximum.accumulate(ended, axis=0)
    return np.asarray(away > np.maximum(_SILENT_HOURS * grid.hour, 1.5 * longest))


def _shifts(grid: _Grid) -> Iterator[Alarm]:
    """Find sensors that jump, then those that drift, judged by what came after their last jump."""
    moved = [_jumped(grid, view) for view in STEPS]
    usual = [_wandering(grid, *pair) for pair in zip(STEPS, moved, strict=True)]
    jumps = list(_found(grid, list(zip(STEPS, moved, usual, strict=True))))
    yield from jumps
    # Months hold too few looks at months to tell how far those wander; from weeks it follows.
    wandering = usual[-1] * DRIFT.noise / STEPS[-1].noise
    yield from _found(grid, [(DRIFT, _unseasonal(grid, _drifted(grid, jumps)), wandering)])


def _times(sensors: int) -> float:
    """Give how many times its usual wandering a shift must be for an alarm.

    The city's false alarms are one family, shared out by Bonferroni's rule: over a year every
    sensor is looked at in each view as often as its days fit into the year, twice, as stretches
    overlap. With more sensors each of them has to move further, and all have the same together.
    """
    looks = sensors * sum(2 * 365 / view.days for view in (*STEPS, DRIFT))
    return NormalDist().inv_cdf(1 - FALSE_A_YEAR / looks / 2)


def _found(grid: _Grid, views: list[tuple[View, Matrix, Matrix]]) -> Iterator[Alarm]:
    """Make alarms of shifts that are worth one, seen in any of some views."""
    times = _times(len(grid.names))
    strength, size = np.zeros_like(grid.raw), np.zeros_like(grid.raw)
    warm: Marks = np.zeros(grid.raw.shape, bool)
    for view, moved, wandering in views:
        needed = np.maximum(view.least, times * wandering)
        beyond = np.abs(moved) / needed
        larger = _lasting(beyond > 1, view.hours * grid.hour) & (beyond > strength)
        strength[larger], size[larger] = beyond[larger], moved[larger]
        warm |= _lasting(beyond > _WARM, view.hours * grid.hour)
    for n, name in enumerate(grid.names):
        for alarm in _episodes(grid, name, views[0][0].kind, strength[:, n] > 0, warm[:, n]):
            course = strength[grid.times.slice_indexer(alarm.since, alarm.until), n]
            peak = grid.at(alarm.since) + int(np.argmax(course))
            share, amount = grid.told(float(size[peak, n]), peak, n)
            yield replace(alarm, size=share, amount=amount, strength=float(strength[peak, n]))


def _jumped(grid: _Grid, view: View) -> Matrix:
    """Give how far each sensor moved in the last days, hour by hour."""
    long, day = view.days * grid.day, grid.day
    now = _mean(grid.adjusted, long, 0.5)
    before = np.full_like(now, np.nan)
    before[long:] = _mean(grid.adjusted, view.before * day, 0.4)[:-long]
    return np.asarray(now - before)


def _drifted(grid: _Grid, jumps: list[Alarm]) -> Matrix:
    """Give how far each sensor moved in the last weeks, day by day; missing where it jumped."""
    found, day = np.full_like(grid.values, np.nan), grid.day
    long, whole = DRIFT.days * day, (DRIFT.days + DRIFT.before) * day
    fresh = _since_jump(grid, jumps)
    for start in range((_LEARNED + _GAP) * day, len(found), day):
        first = max(0, start - whole)
        rows = _adjusted(grid, slice(first, start), slice(0, start - _GAP * day))
        rows[np.arange(first, start)[:, None] < fresh[start]] = np.nan
        now, before = rows[-long:], rows[:-long]
        enough = (_count(now) >= 0.5 * long) & (_count(before) >= 0.25 * (whole - long))
        found[start : start + day, enough] = np.nanmean(now[:, enough], axis=0) - np.nanmean(
            before[:, enough], axis=0
        )
    return found


def _unseasonal(grid: _Grid, moved: Matrix) -> Matrix:
    """Leave of shifts what goes beyond those of the same season in any year before."""
    daily = pd.DataFrame(moved[:: grid.day])
    around = daily.rolling(2 * _SEASON + 1, center=True, min_periods=1)
    low, high = np.zeros_like(daily), np.zeros_like(daily)
    for days in range(365, len(daily), 365):
        low = np.fmin(low, around.min().shift(days))
        high = np.fmax(high, around.max().shift(days))
    beyond = (daily - daily.clip(low, high)).to_numpy()
    return np.repeat(beyond, grid.day, axis=0)[: len(moved)]


def _since_jump(grid: _Grid, jumps: list[Alarm]) -> NDArray[np.int64]:
    """Give, for each row and sensor, the row after its last jump; beyond it while one goes on."""
    fresh = np.zeros(grid.raw.shape, np.int64)
    for alarm in jumps:
        n, begin = grid.names.index(alarm.sensor), grid.at(alarm.since)
        end = len(fresh) if alarm.until is None else grid.at(alarm.until) + 1
        fresh[begin:end, n] = len(fresh)
        fresh[end:, n] = end
    return fresh


def _count(rows: Matrix) -> NDArray[np.int64]:
    return np.asarray((~np.isnan(rows)).sum(axis=0))


@dataclass(frozen=True)
class _Usual:
    """How sensors go together: which of them, their mean and covariance with the time of day."""

    used: NDArray[np.int64]
    mean: Matrix
    spread: Matrix


def _usual(table: Matrix) -> _Usual | None:
    """Learn from rows how sensors go together; None if they are too few."""
    there = (~np.isnan(table)).sum(axis=0)
    used = np.flatnonzero(there >= max(_LEAST_OWN, there.max(initial=0) / 2))
    known = table[:, used]
    whole = known[~np.isnan(known).any(axis=1)]
    if len(whole) < _LEAST_ROWS:
        return None
    around = whole - whole.mean(axis=0)
    spread = around.T @ around / (len(whole) - 1)
    spread += np.diag(_RIDGE * np.diag(spread) + 1e-12)
    return _Usual(used, np.nanmean(known, axis=0), spread)


def _adjusted(grid: _Grid, rows: slice, known: slice) -> Matrix:
    """Give what each sensor reads above what the others say, as other rows have it."""
    found = np.full((rows.stop - rows.start, len(grid.names)), np.nan)
    if usual := _usual(grid.table[known]):
        own = usual.used[usual.used < len(grid.names)]
        deviation = grid.table[rows][:, usual.used] - usual.mean
        found[:, own] = _regression_adjusted(deviation, usual.spread)[:, : len(own)]
    return found


def _regression_adjusted(deviation: Matrix, spread: Matrix) -> Matrix:
    """Hawkins' variables of rows of deviations, from whatever is there of each row."""
    found = np.full_like(deviation, np.nan)
    packed = np.ascontiguousarray(np.packbits(~np.isnan(deviation), axis=1))
    # Sorted as strings of bytes: many times quicker than as rows.
    _, first, which = np.unique(
        packed.view(f"S{packed.shape[1]}").ravel(), return_index=True, return_inverse=True
    )
    for n, there in enumerate(~np.isnan(deviation[first])):
        if there.any():
            precision = np.linalg.inv(spread[np.ix_(there, there)])
            rows = np.flatnonzero(which == n)
            part = deviation[np.ix_(rows, there)]
            found[np.ix_(rows, there)] = part @ precision / np.diag(precision)
    return found


def _mean(rows: Matrix, length: int, share: float) -> Matrix:
    """Give the mean of the last rows, where enough of them are there."""
    return np.asarray(pd.DataFrame(rows).rolling(length, min_periods=int(share * length)).mean())


def _wandering(grid: _Grid, view: View, moved: Matrix) -> Matrix:
    """Give how far a shift of nothing usually is from zero: a robust standard deviation.

    What is known from few independent looks is widened as Student's distribution has it, by the
    first terms of Cornish and Fisher's expansion, at the multiple that makes an alarm.
    """
    late = view.days + view.before // 4
    window = pd.DataFrame(np.abs(moved[:: grid.day])).rolling(_USUAL, min_periods=20)
    usual = (window.quantile(_SHARE) / _BELOW).shift(late).to_numpy()
    looks = np.maximum((window.count() * _TELLING / view.days).shift(late).to_numpy(), 0.1)
    times = _times(len(grid.names))
    unsure = 1 + (times**2 + 1) / (4 * looks)
    unsure += (5 * times**4 + 16 * times**2 + 3) / (96 * looks**2)
    daily = np.maximum(usual * unsure, _STEADIEST)
    return np.repeat(daily, grid.day, axis=0)[: len(moved)]


def _episodes(grid: _Grid, name: str, kind: Kind, hot: Marks, warm: Marks) -> Iterator[Alarm]:
    """Join marks into alarms: each begins with a hot mark and lasts while there are warm ones."""
    begun: int | None = None
    last = 0
    for at in map(int, np.flatnonzero(hot | warm)):
        if begun is not None and at - last > QUIET[kind] * grid.day:
            yield Alarm(name, kind, grid.times[begun], grid.times[last])
            begun = None
        if begun is None and hot[at]:
            begun = at
        last = at
    if begun is not None:
        over = len(hot) - 1 - last > QUIET[kind] * grid.day
        yield Alarm(name, kind, grid.times[begun], grid.times[last] if over else None)


def _together(grid: _Grid, alarms: list[Alarm]) -> list[Event]:
    """Make one event of alarms that began together."""
    groups: list[list[Alarm]] = []
    for alarm in alarms:
        if groups and alarm.since - groups[-1][0].since <= pd.Timedelta(hours=TOGETHER):
            groups[-1].append(alarm)
        else:
            groups.append([alarm])
    return [
        Event(
            group[0].since,
            tuple(sorted(group, key=lambda alarm: -alarm.strength)),
            _swapped(grid, group),
        )
        for group in groups
    ]


def _swapped(grid: _Grid, alarms: list[Alarm]) -> tuple[str, str] | None:
    """Tell which two sensors read as they should once they change places."""
    at = grid.at(alarms[0].since)
    rows = slice(max(0, at - PATIENCE * grid.hour), at + 1)
    if not (usual := _usual(grid.table[: max(0, rows.start - grid.day)])):
        return None
    plain = _distance(grid.table[rows], usual)
    suspects = [n for n in usual.used if n < len(grid.names) and np.isfinite(plain)]
    best, pair = plain / _SWAP_GAIN, None
    for one, other in combinations(suspects, 2):
        raw = grid.raw[rows].copy()
        raw[:, [one, other]] = raw[:, [other, one]]
        changed = np.hstack([grid.scaled(raw), grid.table[rows][:, len(grid.names) :]])
        if (distance := _distance(changed, usual)) < min(best, _SWAP_NEAR * len(usual.used)):
            best, pair = distance, (grid.names[one], grid.names[other])
    return pair


def _distance(table: Matrix, usual: _Usual) -> float:
    """Median squared Mahalanobis distance of the rows that are whole; NaN without any."""
    deviation = table[:, usual.used] - usual.mean
    whole = deviation[~np.isnan(deviation).any(axis=1)]
    squares = (whole @ np.linalg.inv(usual.spread) * whole).sum(axis=1)
    return float(np.median(squares)) if len(squares) else float("nan")
