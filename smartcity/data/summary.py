"""What the latest readings say, as numbers and one sentence."""

import math
from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
import pandas as pd

from smartcity.domains import Domain
from smartcity.errors import DataError, UsageError
from smartcity.registry import CardInput

Standing = Literal["low", "usual", "high"]
Trend = Literal["falling", "steady", "rising"]
#: Days told one by one, and the share of the usual span below which a change is none.
_DAYS, _STEADY = 14, 0.05
#: Steps to midnight at which a reading is still the last of its day; some come a little late.
_LATE = 1.5


def summarise(domain: Domain, readings: pd.DataFrame, *, days: int) -> dict[str, Any]:
    """Describe the target over the last days, beside the days before them.

    Args:
        domain: The question.
        readings: Clean readings, in time order.
        days: Length of the period.

    Returns:
        ``from``, ``to`` (the station's clock), ``latest``, ``value`` (mean, or share of readings
        at the two highest levels), ``before`` (the same for the period before; None if that has
        not half as many), ``readings``, ``missing_share`` and ``sentence``; ``daily`` (``day``,
        ``value``, ``readings`` of the last days that have any), ``usual`` (``low`` to ``high``:
        where the days so far lie but for the outermost tenths), ``standing`` and ``trend`` of the
        period; ``band`` (its most frequent level, or where it stands) and the ``advice`` that goes
        with it.

    Raises:
        DataError: The target was never read.
    """
    now, ago = periods(domain, readings, days=days)
    times, target = readings["recorded_at"], readings[domain.target.name]
    period, earlier = now[domain.target.name], ago[domain.target.name].dropna()
    value, latest_value = _typical(domain, period.dropna()), float(period.iloc[-1])
    # A few hours are no period to compare one with.
    before = _typical(domain, earlier) if 2 * len(earlier) >= period.count() else None
    days_so_far = _by_day(domain, times, target)
    low, high = _usual(days_so_far)
    stands = standing(value, low, high)
    band, advice = _advice(domain, period, stands)
    return {
        "from": now["recorded_at"].iloc[0].isoformat(),
        "to": now["recorded_at"].iloc[-1].isoformat(),
        "latest": latest_value,
        "value": value,
        "before": before,
        "readings": len(period),
        "missing_share": float(period.isna().mean()),
        "sentence": _sentence(domain, value, before, days),
        "daily": [
            {"day": day.isoformat(), "value": float(mean), "readings": int(size)}
            for day, mean, size in days_so_far.tail(_DAYS).itertuples()
        ],
        "usual": {"low": low, "high": high},
        "standing": stands,
        "trend": trend(value, before, high - low),
        "band": band,
        "advice": advice,
    }


def periods(
    domain: Domain, readings: pd.DataFrame, *, days: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Cut out the last days, counted back from the newest reading of the target.

    Where that is the last of its day, whole days are meant.

    Args:
        domain: The question.
        readings: Clean readings, in time order.
        days: Length of the period.

    Returns:
        The rows of the period, and of the same length before it; the latter may be none.

    Raises:
        DataError: The target was never read.
    """
    _require_days(days)
    times, span = readings["recorded_at"], pd.Timedelta(days=days)
    end = times[readings[domain.target.name].notna()].max()
    if pd.isna(end):
        raise DataError(
            f"{domain.target.label} was not read once in {len(readings)} readings of "
            f"{domain.name!r}. Give a later as_of, or look at: smartcity data check {domain.name}"
        )
    midnight = end.normalize() + pd.Timedelta(days=1)
    if midnight - end <= _LATE * pd.Timedelta(minutes=domain.format.step_minutes):
        end = midnight - pd.Timedelta(microseconds=1)
    now = readings[(times > end - span) & (times <= end)]
    return now, readings[(times > end - 2 * span) & (times <= end - span)]


def standing(value: float, low: float, high: float) -> Standing:
    """Tell where a period stands beside what is usual; a bound itself is usual."""
    if value < low and not math.isclose(value, low):
        return "low"
    return "high" if value > high and not math.isclose(value, high) else "usual"


def trend(value: float, before: float | None, span: float) -> Trend | None:
    """Tell where a period goes beside the one before; None if there is none.

    Args:
        value: Of the period.
        before: Of the period before.
        span: How far usual days lie apart; changes below a twentieth of it are none.
    """
    if before is None:
        return None
    change = value - before
    if abs(change) < _STEADY * span or math.isclose(value, before):
        return "steady"
    return "rising" if change > 0 else "falling"


def drift(
    readings: pd.DataFrame, inputs: Iterable[CardInput], *, learned_to: str
) -> dict[str, Any]:
    """Compare readings with those a model has learned from.

    Args:
        readings: The latest, in time order.
        inputs: What the model has seen of each input, from its card.
        learned_to: Time of the last reading it learned from, from its card.

    Returns:
        ``outside``: share of the measured values beyond all the model has seen; None if there are
        none. ``fresh``: share of the readings newer than what it learned from.
        ``inputs``: for each measured input ``name``, ``label``, ``outside`` and ``shift``, the
        median's distance from the training median in widths of what lies between the card's edges;
        None where nothing was read. ``sentence``.
    """
    measured = [_moved(readings[i.name].dropna(), i) for i in inputs if i.name in readings]
    read = [int(readings[row["name"]].count()) for row in measured]
    beyond = sum(n * (row["outside"] or 0.0) for row, n in zip(measured, read, strict=True))
    outside = beyond / sum(read) if sum(read) else None
    fresh = float((readings["recorded_at"] > pd.Timestamp(learned_to)).mean())
    said = _moved_in_words(fresh, outside)
    return {"outside": outside, "fresh": fresh, "inputs": measured, "sentence": said}


def _moved_in_words(fresh: float, outside: float | None) -> str:
    if outside is None:
        return "No input was measured, so none can have moved."
    if not fresh and not outside:
        return "The model has learned from all of these readings: none lies beyond what it knows."
    return (
        f"{fresh:.0%} of these readings are newer than what the model has learned from; "
        f"{outside:.1%} of the measured values lie beyond all it has seen."
    )


def _moved(values: pd.Series, seen: CardInput) -> dict[str, Any]:
    """Compare one input's values with what the model has seen of it."""
    width, outside, shift = seen.edges[1] - seen.edges[0], None, None
    if len(values):
        # The card's range is rounded to what float32 can tell apart.
        low, high, plain = np.float32(seen.low), np.float32(seen.high), values.astype("float32")
        outside = float(((plain < low) | (plain > high)).mean())
        shift = float(values.median() - seen.typical) / width if width else None
    return {"name": seen.name, "label": seen.label, "outside": outside, "shift": shift}


def latest(readings: pd.DataFrame, *, days: int) -> pd.DataFrame:
    """Keep the rows of the last days, counted back from the newest row."""
    _require_days(days)
    since = readings["recorded_at"].max() - pd.Timedelta(days=days)
    recent: pd.DataFrame = readings[readings["recorded_at"] > since]
    return recent


def requests(readings: pd.DataFrame) -> list[dict[str, Any]]:
    """Give readings as a forecast takes them: ``timestamp`` and the values, None where missing."""
    times = [time.isoformat() for time in readings["recorded_at"]]
    plain = readings.drop(columns="recorded_at").astype(object)
    rows = plain.where(plain.notna(), None).to_dict("records")
    return [
        {"timestamp": t, **{str(k): v for k, v in r.items()}}
        for t, r in zip(times, rows, strict=True)
    ]


def _require_days(days: int) -> None:
    if not 1 <= days <= 36500:
        raise UsageError(f"days is {days}; it must lie in 1 to 36500.")


def by_hour_of_week(readings: pd.DataFrame, column: str) -> list[list[float]]:
    """Average a column over each hour of the week.

    Returns:
        7 rows, Monday first, of 24 hours; NaN where nothing was read.
    """
    times = readings["recorded_at"].dt
    means = readings.groupby([times.day_of_week, times.hour])[column].mean()
    cells = pd.MultiIndex.from_product([range(7), range(24)])
    return means.reindex(cells).to_numpy(dtype=float).reshape(7, 24).tolist()


def by_hour(readings: pd.DataFrame, column: str) -> dict[str, list[float]]:
    """Average a column over each hour of the day, on working days and at the weekend.

    Returns:
        24 hours for each of the two; NaN where nothing was read.
    """
    times = readings["recorded_at"].dt
    names = {False: "Monday to Friday", True: "Saturday and Sunday"}
    means = readings.groupby([times.day_of_week >= 5, times.hour])[column].mean()
    cells = pd.MultiIndex.from_product([names, range(24)])
    hours = means.reindex(cells).to_numpy(dtype=float).reshape(2, 24).tolist()
    return dict(zip(names.values(), hours, strict=True))


def scored(domain: Domain, values: pd.Series) -> pd.Series:
    """Give what is averaged: the values, or whether each is one of the two highest levels."""
    levels = domain.target.levels
    return (values >= len(levels) - 2).astype(float) if levels else values


def _typical(domain: Domain, values: pd.Series) -> float:
    return float(scored(domain, values).mean())


def _by_day(domain: Domain, times: pd.Series, target: pd.Series) -> pd.DataFrame:
    """Average each day that has readings, and count them."""
    known = target.dropna()
    days: pd.DataFrame = (
        scored(domain, known).groupby(times[known.index].dt.date).agg(["mean", "size"])
    )
    return days


def _usual(days: pd.DataFrame) -> tuple[float, float]:
    """Find where all but the outermost tenths of the days lie; days cut short tell nothing."""
    whole = days.loc[days["size"] >= days["size"].median() / 2, "mean"]
    return float(whole.quantile(0.1)), float(whole.quantile(0.9))


def _advice(domain: Domain, period: pd.Series, stands: Standing) -> tuple[str, str]:
    """Name the period's band, and what to do about it; of two levels as frequent, the higher."""
    if domain.target.levels:
        level = domain.target.levels[int(period.mode().max())]
        return level.label, level.advice
    return stands, str(getattr(domain.target.advice, stands))


def _sentence(domain: Domain, value: float, before: float | None, days: int) -> str:
    change = value - (before or 0.0)
    if domain.target.levels:
        highest = " or ".join(level.label for level in domain.target.levels[-2:])
        label = domain.target.label
        said = f"{label} was {highest} in {value:.0%} of the last {days} days' readings"
        size, unit = f"{abs(change) * 100:.0f}", "percentage points"
    else:
        unit = domain.target.unit
        said = (
            f"{domain.target.label} averaged {value:.2f} {unit} a reading over the last {days} days"
        )
        size = f"{abs(change):.2f}"
    if before is None:
        return f"{said}; there are too few earlier days to compare with."
    if not float(size):
        return f"{said}, as much as in the {days} days before."
    side = "more" if change > 0 else "less"
    return f"{said}, {size} {unit} {side} than in the {days} days before."
