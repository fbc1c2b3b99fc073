"""Facts of a report as tables for readers: a caption that says it, headed columns and rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import pandas as pd

from smartcity.data.council import day, stretch
from smartcity.domains import Domain

#: More days than this are told by the month.
_MOST_DAYS = 31
_WHEN = ("now", "before")
_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


@dataclass(frozen=True)
class Table:
    """A table as a notebook shows it; the first cell of a row is its head.

    Attributes:
        caption: What it says, in a sentence.
        columns: Head of each column, with its unit.
        rows: Cells, as they are to be read.
    """

    caption: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]

    def _repr_html_(self) -> str:
        if not self.rows:
            return f"<p>{escape(self.caption)}</p>"
        head = "".join(f'<th scope="col">{escape(name)}</th>' for name in self.columns)
        body = "".join(
            f'<tr><th scope="row">{escape(row[0])}</th>'
            + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:])
            + "</tr>"
            for row in self.rows
        )
        return (
            f"<table><caption>{escape(self.caption)}</caption><thead><tr>{head}</tr></thead>"
            f"<tbody>{body}</tbody></table>"
        )


def comparison(told: dict[str, Any]) -> Table:
    """Set a period beside the one before; see ``compare``."""
    now, before = stretch(told["now"]), told["before"] and stretch(told["before"])
    mean = next(row for row in told["rows"] if row["name"].endswith(", mean"))
    caption = f"There are no readings from before {day(told['now']['from'])} to compare with."
    if before:
        caption = (
            f"{mean['name']}: {_figure(mean['now'], mean['unit'])}, "
            f"in the period before {_figure(mean['before'], mean['unit'])}."
        )
    rows = [
        (
            f"{row['name']}, {row['unit']}" if row["unit"] not in {"", "share"} else row["name"],
            *(_figure(row[when], "share" if row["unit"] == "share" else "") for when in _WHEN),
        )
        for row in told["rows"]
    ]
    return Table(caption, ("Figure", now, before or "Before"), rows)


def _figure(value: float | None, unit: str) -> str:
    """Write a number with its unit, rounded as far as it tells something."""
    if value is None:
        return "–"
    if unit == "share":
        return f"{value:.1%}"
    return f"{value:,.{2 if abs(value) < 100 else 0}f} {unit}".rstrip()


def account(domain: Domain, told: dict[str, Any]) -> list[Table]:
    """Set out what a period amounts to; see ``account``, of the facts."""
    tables = []
    if "guidelines" in told:
        tables.append(_guidelines(told["guidelines"]))
    if "levels" in told:
        tables.append(_levels(domain, told["levels"]))
    if "energy" in told:
        tables.append(_energy(told["energy"]))
    return tables


def _guidelines(told: dict[str, Any]) -> Table:
    tables, unit = told["tables"], told["unit"]
    days = max(table["days"] for table in tables)
    above = [f"{t['standard']} on {t['days_above']}" for t in tables if t["days_above"]]
    caption = (
        f"Of {days} days with readings enough, running means lay above the first limit of: "
        f"{', '.join(above) or 'none'}. A mean needs three quarters of its readings and belongs to "
        "the day it ends on."
        if days
        else "No day has readings enough to be held against a guideline."
    )
    rows = [
        (
            f"{t['standard']}, {t['edition']}",
            t["averaging"],
            t["stated"] if " " in t["label"] else f"{t['stated']} ({t['label']})",
            f"{t['days_above']} of {t['days']}",
            f"{t['means_above']} of {t['means']}",
            _figure(t["highest"], ""),
            day(t["highest_at"]) if t["highest_at"] else "–",
            t["source"],
        )
        for t in tables
    ]
    columns = ("Guideline", "Mean over", "First limit", "Days above", "Running means above")
    return Table(caption, (*columns, f"Highest, {unit}", "On", "Source"), rows)


def _levels(domain: Domain, told: dict[str, Any]) -> Table:
    busy, caption = told["busy"], f"In no hour of the week was it mostly {told['highest']}."
    if busy:
        top = busy[0]
        caption = (
            f"{domain.target.label} was mostly {told['highest']} in {len(busy)} of "
            f"{told['hours_read']} hours of the week, most on {_WEEKDAYS[top['weekday']]} at "
            f"{top['hour']}:00 ({top['share']:.0%} of readings)."
        )
    rows = [
        (label, f"{share:.1%}", f"{told['hours'][label]:,.1f}")
        for label, share in told["shares"].items()
    ]
    return Table(caption, (domain.target.label, "Share of readings", "Hours"), rows)


def _energy(told: dict[str, Any]) -> Table:
    caption = f"{_figure(told['kwh'], 'kWh')} were read"
    if told["days"]:
        caption += f", {_figure(told['per_day'], 'kWh')} a day over the {told['days']} read whole"
    if told["cv"] is not None:
        caption += f"; the days' coefficient of variation is {told['cv']:.0%}"
    caption += "."
    if told["tariff"]:
        caption += f" Assumed: {told['tariff']:g} per kWh."
    if told["grid_factor"]:
        caption += f" Assumed: {told['grid_factor']:g} kg CO₂e per kWh."
    by = pd.Series(told["by_day"])
    is_long = len(by) > _MOST_DAYS
    sums = by.groupby(by.index.str[:7]).sum() if is_long else by
    priced = [
        (head, factor)
        for head, factor in (("Cost", told["tariff"]), ("CO₂e, kg", told["grid_factor"]))
        if factor
    ]
    rows = [
        (str(name), f"{kwh:,.1f}", *(f"{kwh * factor:,.2f}" for _, factor in priced))
        for name, kwh in [*sums.items(), ("In all", told["kwh"])]
    ]
    columns = ("Month" if is_long else "Day", "kWh", *(head for head, _ in priced))
    return Table(caption, columns, rows)


def quality(told: dict[str, Any]) -> Table:
    """Set out what was found in the readings; see ``quality``, of the facts."""
    rows = [
        (each["reason"], each["action"], f"{each['in_period']:,}", f"{each['in_all']:,}")
        for each in told["findings"]
    ]
    head = ("Finding", "What is done", "In the period", "In all readings so far")
    return Table(told["sentence"], head, rows)


def drift(told: dict[str, Any]) -> Table:
    """Set out how far each input has moved; see ``drift``, of the facts."""
    rows = [
        (
            each["label"],
            "no reading" if each["outside"] is None else f"{each['outside']:.1%}",
            "–" if each["shift"] is None else f"{each['shift']:+.2f}",
        )
        for each in told["inputs"]
    ]
    head = ("Input", "Beyond what it has seen", "Moved by, in usual widths")
    return Table(told["sentence"], head, rows)
