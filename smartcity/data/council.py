"""What a council asks of a period: guidelines, levels, energy, quality, and what is new."""

import json
import math
from typing import Any

import pandas as pd

from smartcity import domains
from smartcity.data.checks import check, clean
from smartcity.data.readings import Readings, moment, read
from smartcity.data.summary import by_hour_of_week, scored, summarise
from smartcity.domains import Domain, Table
from smartcity.errors import DataError

#: Share of its readings a mean needs, and of its means a day (Directive 2008/50/EC, Annex XI).
_ENOUGH = 0.75

Facts = dict[str, Any]


def day(at: str | pd.Timestamp) -> str:
    """Write a day as people do."""
    at = pd.Timestamp(at)
    return f"{at.day} {at:%B %Y}"


def stretch(facts: Facts) -> str:
    """Write the days between ``from`` and ``to``, which may be one."""
    first, last = pd.Timestamp(facts["from"]), pd.Timestamp(facts["to"])
    if first.date() == last.date():
        return day(last)
    shared = {f"{first:%Y %m}": f"{first.day}", f"{first:%Y}": f"{first.day} {first:%B}"}
    begin = shared.get(f"{last:%Y %m}") or shared.get(f"{last:%Y}") or day(first)
    return f"{begin} to {day(last)}"


def glance(own: Readings, facts: Facts, *, as_of: str, days: int) -> list[Facts]:
    """Say in a sentence each how every question stands.

    Args:
        own: The readings of the report's own question, which comes first.
        facts: What ``summarise`` says of them.
        as_of: Moment the others are cut at too; all their readings when empty.
        days: Length of the period.

    Returns:
        ``domain``, ``title``, ``from``, ``to``, ``sentence`` and ``simulated``; ``from`` and ``to``
        are None where there are no readings to speak of.
    """
    told = [_glance(own, facts)]
    for other in domains.load_all().values():
        if other.name == own.domain.name:
            continue
        try:
            readings = read(other.name, other.sites[0]).until(as_of)
            tidy = clean(readings, check(readings))
            told.append(_glance(readings, summarise(other, tidy, days=days)))
        except DataError:  # another question's readings are no reason to fail this one
            said = {"sentence": "There are no readings of these days.", "simulated": False}
            about = {"domain": other.name, "title": other.title, "from": None, "to": None}
            told.append(about | said)
    return told


def _glance(readings: Readings, facts: Facts) -> Facts:
    about = {"domain": readings.domain.name, "title": readings.domain.title}
    kept = {name: facts[name] for name in ("from", "to", "sentence")}
    return about | kept | {"simulated": readings.simulated}


def listed(told: list[Facts]) -> str:
    """Write what ``glance`` gives as a Markdown list; what is simulated says so."""
    lines = []
    for each in told:
        days = f", {stretch(each)}" if each["from"] else ""
        simulated = " (simulated)" if each["simulated"] else ""
        lines.append(f"- **{each['title']}**{days}{simulated}: {each['sentence']}")
    return "\n".join(lines)


def compare(domain: Domain, now: pd.DataFrame, before: pd.DataFrame) -> Facts:
    """Put a period beside the one before.

    Args:
        domain: The question.
        now: Clean readings of the period.
        before: Of the period before; may be empty.

    Returns:
        ``now`` and ``before``, each ``from`` and ``to``, and ``rows``: ``name``, ``unit``
        (``share`` for 0 to 1), ``now`` and ``before``. None where nothing was read.
    """
    rows = zip(_figures(domain, now), _figures(domain, before), strict=True)
    return {
        "now": _edges(now),
        "before": _edges(before),
        "rows": [
            {"name": name, "unit": unit, "now": _plain(here), "before": _plain(there)}
            for (name, unit, here), (_, _, there) in rows
        ],
    }


def _figures(domain: Domain, frame: pd.DataFrame) -> list[tuple[str, str, float]]:
    """Give a period's figures: name, unit, value."""
    shown, target = domain.shown, frame[domain.target.name]
    told = [
        (f"{shown.label}, mean", shown.unit, frame[shown.name].mean()),
        (f"{shown.label}, highest", shown.unit, frame[shown.name].max()),
        ("Readings without a value", "share", target.isna().mean()),
    ]
    if domain.target.levels:
        share = scored(domain, target.dropna()).mean()
        told.insert(0, (f"Readings at {_highest(domain)}", "share", share))
    return told


def _plain(value: float) -> float | None:
    return None if pd.isna(value) else float(value)


def _edges(frame: pd.DataFrame) -> Facts | None:
    if frame.empty:
        return None
    times = frame["recorded_at"]
    return {"from": times.iloc[0].isoformat(), "to": times.iloc[-1].isoformat()}


def _highest(domain: Domain) -> str:
    return " or ".join(level.label for level in domain.target.levels[-2:])


def account(
    domain: Domain, readings: pd.DataFrame, facts: Facts, *, tariff: float, grid_factor: float
) -> Facts:
    """Say what a period amounts to, by what this question can be held against.

    Args:
        domain: The question.
        readings: Clean readings up to the period's end, those before it too: a mean that ends in
            the period may begin before it.
        facts: What ``summarise`` says of the period.
        tariff: Assumed price of a kWh; 0 leaves cost out.
        grid_factor: Assumed emissions, kg CO₂e per kWh; 0 leaves them out.

    Returns:
        ``guidelines``, ``levels`` or ``energy``, whichever there are; see there.
    """
    times, given = readings["recorded_at"], {}
    period = readings[times.between(facts["from"], facts["to"])]
    if any(table.hours for table in domains.tables(domain.target.pollutant)):
        given["guidelines"] = guidelines(domain, readings, since=facts["from"], to=facts["to"])
    if domain.target.levels:
        given["levels"] = levels(domain, period)
    if domain.target.adds_up and domain.target.unit == "kWh":
        given["energy"] = energy(domain, period, tariff=tariff, grid_factor=grid_factor)
    return given


def guidelines(domain: Domain, readings: pd.DataFrame, *, since: str, to: str) -> Facts:
    """Hold running means against the first limit of each guideline table.

    A mean needs three quarters of its readings, and a day three quarters of its means; a mean
    belongs to the day it ends on. A reading stands for the hour that begins at its time.

    Args:
        domain: The question.
        readings: Clean readings, those before the period too.
        since: Begin of the period, ISO 8601.
        to: Its end.

    Returns:
        ``daily``: averaging time -> day -> its highest mean. ``tables``: for each ``standard``,
        ``edition``, ``averaging``, ``source``, ``stated`` (the first limit as the table has it),
        ``limit`` (in our unit) and its ``label``; ``means`` and ``days`` judged, how many of either
        lie above (``means_above``, ``days_above``); the ``highest`` mean and ``highest_at``, None
        where no mean has readings enough.
    """
    step = domain.format.step_minutes
    even = readings.set_index("recorded_at")[domain.target.name].resample(f"{step}min").mean()
    told: Facts = {"unit": domain.target.unit, "daily": {}, "tables": []}
    for table in domains.tables(domain.target.pollutant):
        size = table.hours * 60 // step
        if size:
            means = even.rolling(size, min_periods=math.ceil(_ENOUGH * size)).mean()
            means = means.loc[since:to].dropna()
            by_day = means.resample("D").agg(["max", "size"])
            whole = by_day.loc[by_day["size"] >= _ENOUGH * 24 * 60 / step, "max"]
            told["daily"][table.averaging] = _by_name(whole)
            told["tables"].append(_held_against(table, means, whole))
    return told


def _by_name(days: pd.Series) -> dict[str, float]:
    return {f"{at:%Y-%m-%d}": float(value) for at, value in days.items()}


def _held_against(table: Table, means: pd.Series, days: pd.Series) -> Facts:
    limit, label = table.bands[0]
    kept = {name: getattr(table, name) for name in ("standard", "edition", "averaging", "source")}
    return kept | {
        "stated": f"{limit:g} {table.unit}",
        "limit": limit * table.scale,
        "label": label,
        "means": len(means),
        "means_above": int((table.places(means.to_numpy()) > 0).sum()),
        "days": len(days),
        "days_above": int((table.places(days.to_numpy()) > 0).sum()),
        "highest": float(means.max()) if len(means) else None,
        "highest_at": str(means.idxmax()).replace(" ", "T") if len(means) else None,
    }


def levels(domain: Domain, period: pd.DataFrame) -> Facts:
    """Count the time at each level, and find the hours of the week that are mostly busy.

    Returns:
        ``shares`` and ``hours``: level -> of the readings, 0 to 1, and of time. ``busy``: the hours
        of the week at one of the two highest levels in more than half of their readings, the
        busiest first: ``weekday`` (0 is Monday), ``hour``, ``share``. ``hours_read``: hours of the
        week, of 168, with any reading. ``highest``: what the two levels are called.
    """
    target = period[domain.target.name].dropna()
    counts = {level.label: int((target == n).sum()) for n, level in enumerate(domain.target.levels)}
    week = by_hour_of_week(period.loc[target.index].assign(busy=scored(domain, target)), "busy")
    read = [
        {"weekday": weekday, "hour": hour, "share": share}
        for weekday, hours in enumerate(week)
        for hour, share in enumerate(hours)
        if not math.isnan(share)
    ]
    busy = [each for each in read if each["share"] > 0.5]
    return {
        "shares": {label: count / len(target) for label, count in counts.items()},
        "hours": {n: count * domain.format.step_minutes / 60 for n, count in counts.items()},
        "busy": sorted(busy, key=lambda each: -each["share"]),
        "hours_read": len(read),
        "highest": _highest(domain),
    }


def energy(domain: Domain, period: pd.DataFrame, *, tariff: float, grid_factor: float) -> Facts:
    """Add up the energy of a period; what was not read is not filled in.

    Returns:
        ``kwh``; ``by_day`` (day -> kWh); ``days``, those with three quarters of their readings,
        their mean ``per_day`` and coefficient of variation ``cv``; the assumed ``tariff`` and
        ``grid_factor`` with ``cost`` and ``co2e_kg``. None for what cannot be told.
    """
    values = period.set_index("recorded_at")[domain.target.name]
    by_day = values.resample("D").agg(["sum", "count"])
    by_day = by_day[by_day["count"] > 0]  # a day not read is no day without use
    enough = _ENOUGH * 24 * 60 / domain.format.step_minutes
    whole, total = by_day.loc[by_day["count"] >= enough, "sum"], float(values.sum())
    return {
        "kwh": total,
        "by_day": _by_name(by_day["sum"]),
        "days": len(whole),
        "per_day": _plain(whole.mean()),
        "cv": _plain(whole.std() / whole.mean()) if whole.any() else None,
        "tariff": tariff or None,
        "grid_factor": grid_factor or None,
        "cost": total * tariff if tariff else None,
        "co2e_kg": total * grid_factor if grid_factor else None,
    }


def quality(
    domain: Domain, readings: pd.DataFrame, findings: pd.DataFrame, facts: Facts, *, as_of: str
) -> Facts:
    """Say how far the readings of a period can be trusted.

    Args:
        domain: The question.
        readings: Clean readings.
        findings: What ``check`` found in them.
        facts: What ``summarise`` says of the period.
        as_of: Moment the report speaks for; empty for the newest reading's.

    Returns:
        ``readings`` and ``missing_share`` of the period; ``findings``: ``reason``, ``action`` and
        how many ``in_period`` and ``in_all``; ``gaps``, the ``gap_hours`` they sum up to;
        ``silent_hours`` for which readings came after the period and none had a value; ``age``,
        hours from the newest value to ``as_of``, None when that is empty; ``sentence``.
    """
    first, last = pd.Timestamp(facts["from"]), pd.Timestamp(facts["to"])
    counted = findings.assign(is_in=findings["recorded_at"].between(first, last))
    by_reason = counted.groupby(["reason", "action"])["is_in"].agg(["sum", "size"])
    times = readings["recorded_at"]
    pauses = times.diff()[times.between(first, last)].dt.total_seconds() / 3600
    gaps = pauses[pauses > domain.format.gap_minutes / 60] - domain.format.step_minutes / 60
    age = (moment(as_of) - last) / pd.Timedelta(hours=1) if as_of else None
    silent = readings["recorded_at"].iloc[-1] - last
    told = {
        "readings": facts["readings"],
        "missing_share": facts["missing_share"],
        "findings": [
            {"reason": reason, "action": action, "in_period": int(here), "in_all": int(size)}
            for (reason, action), here, size in by_reason.itertuples()
        ],
        "gaps": len(gaps),
        "gap_hours": float(gaps.sum()),
        "silent_hours": silent / pd.Timedelta(hours=1),
        "age": None if age is None else round(age, 2),
    }
    return told | {"sentence": _quality_in_words(told, as_of, last)}


def _quality_in_words(told: Facts, as_of: str, last: pd.Timestamp) -> str:
    said = f"Of {told['readings']:,} readings {told['missing_share']:.1%} lack a value; "
    many = f"{told['gaps']} gap{'s' if told['gaps'] > 1 else ''}"
    said += f"{many} of {told['gap_hours']:.1f} hours in all." if told["gaps"] else "no gaps."
    if told["silent_hours"]:
        said += f" What came in the {told['silent_hours']:,.1f} hours after it has no value."
    if (told["age"] or 0) > 24:
        said += (
            f" The newest value, of {day(last)}, is {told['age'] / 24:,.0f} days older than "
            f"{as_of[:10]}, which this report speaks for."
        )
    return said


def learned_later(learned_to: str, as_of: str) -> str:
    """Say so where a model has learned from readings after a moment; empty where it has not."""
    if not as_of or pd.Timestamp(learned_to) <= moment(as_of):
        return ""
    return (
        f"The model has learned from readings to {day(learned_to)}, later than {as_of[:10]}: what "
        "it says of the time before is no test of it."
    )


def changed(domain: Domain, previous: str, facts: Facts) -> Facts:
    """Tell what a report states otherwise than the last one.

    Args:
        domain: The question.
        previous: The last report's ``run`` (its id), ``to``, ``value``, ``missing_share``,
            ``model_version``, ``verdict`` and ``simulated`` as JSON; empty if there is none.
        facts: What this one states.

    Returns:
        ``since``, the last report's run id or None, and ``sentences``.
    """
    if not previous:
        return {"since": None, "sentences": ["There is no earlier report to compare with."]}
    last: Facts = json.loads(previous)
    unit = domain.target.unit
    mean = f"The share of readings at {_highest(domain)}" if domain.target.levels else "The mean"
    form = "{:.0%}" if domain.target.levels else "{:.2f}"
    told = [
        _moved(mean, form, unit, last.get("value"), facts["value"]),
        _moved("The share of missing values", "{:.1%}", "", *_both("missing_share", last, facts)),
    ]
    before, now = (day(at) if at else None for at in _both("to", last, facts))
    if before and before != now:
        told.append(f"Readings now reach to {now}, before to {before}.")
    before, now = _both("simulated", last, facts)
    if before != now and None not in {before, now}:
        told.append(f"The readings are {'simulated' if now else 'real'} now, before they were not.")
    before, now = _both("model_version", last, facts)
    if before != now:
        told.append(f"The model is now {now}, before {before}.")
    before, now = _both("verdict", last, facts)
    if before != now:
        told.append(f"How far the model can be trusted has changed; before: {before}")
    told = [each for each in told if each]
    return {"since": last.get("run"), "sentences": told or ["Nothing has changed."]}


def _both(name: str, last: Facts, facts: Facts) -> tuple[Any, Any]:
    return last.get(name), facts.get(name)


def _moved(name: str, form: str, unit: str, before: float | None, now: float | None) -> str:
    """Say which way a figure went, or nothing if it did not go as far as it is written."""
    if before is None or now is None or form.format(before) == form.format(now):
        return ""
    side = "rose" if now > before else "fell"
    return f"{name} {side} from {form.format(before)} to {form.format(now)} {unit}".rstrip() + "."
