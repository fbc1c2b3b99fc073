"""What the latest readings say, as numbers and one sentence."""

from typing import Any

import pandas as pd

from smartcity.domains import Domain
from smartcity.errors import UsageError


def summarise(domain: Domain, readings: pd.DataFrame, *, days: int) -> dict[str, Any]:
    """Describe the target over the last days, beside the days before them.

    Args:
        domain: The question.
        readings: Clean readings, in time order.
        days: Length of the period.

    Returns:
        ``from``, ``to`` (the station's clock), ``latest``, ``value`` (mean, or share of readings
        at the two highest levels), ``before`` (the same for the period before; None if there is
        none), ``readings``, ``missing_share`` and ``sentence``.
    """
    _require_days(days)
    times, target = readings["recorded_at"], readings[domain.target.name]
    end, span = times[target.notna()].max(), pd.Timedelta(days=days)
    period = target[(times > end - span) & (times <= end)]
    earlier = target[(times > end - 2 * span) & (times <= end - span)].dropna()
    value, latest_value = _typical(domain, period.dropna()), float(period.iloc[-1])
    before = _typical(domain, earlier) if len(earlier) else None
    return {
        "from": times[period.index[0]].isoformat(),
        "to": end.isoformat(),
        "latest": latest_value,
        "value": value,
        "before": before,
        "readings": len(period),
        "missing_share": float(period.isna().mean()),
        "sentence": _sentence(domain, value, before, days),
    }


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


def _typical(domain: Domain, values: pd.Series) -> float:
    if domain.target.levels:
        return float((values >= len(domain.target.levels) - 2).mean())
    return float(values.mean())


def _sentence(domain: Domain, value: float, before: float | None, days: int) -> str:
    if domain.target.levels:
        highest = " or ".join(level.label for level in domain.target.levels[-2:])
        said = (
            f"{domain.target.label} was {highest} in {value:.0%} of the last {days} days' readings"
        )
        change = None if before is None else value - before
        size = None if change is None else f"{abs(change) * 100:.0f} percentage points"
    else:
        said = (
            f"{domain.target.label} averaged {value:.2f} {domain.target.unit} a reading "
            f"over the last {days} days"
        )
        change = None if before is None else value - before
        size = None if change is None else f"{abs(change):.2f} {domain.target.unit}"
    if change is None:
        return f"{said}; there are no earlier days to compare with."
    side = "more" if change > 0 else "less"
    return f"{said}, {size} {side} than in the {days} days before."
