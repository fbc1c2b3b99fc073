"""The index of all reports: a page and a feed, made of the records there are; plain files."""

import math
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_OID, uuid4, uuid5

from smartcity import atomic, domains, runs, settings
from smartcity.domains import Domain
from smartcity.reporting import templates
from smartcity.runs import Run
from smartcity.store import alarms
from smartcity.store.database import DatabaseError

_REPORT = "05_report"
#: What a reader may want of a run, and what it is called; CSV files come after.
_FILES = {
    "report.html": "Page",
    "report.pdf": "PDF",
    "notebook.ipynb": "Notebook",
    "metrics.json": "Figures",
}
#: Entries of the feed.
_NEWS = 50
#: Reports a trend is drawn of, at most.
_TREND = 60


def write() -> None:
    """Make ``index.html`` and ``feed.xml`` in the reports folder anew, each in one step.

    Only the records and the facts they state are read, so it may be done after each run.

    Raises:
        StorageError: The reports folder cannot be written.
    """
    home = settings.current().reports
    with atomic.lock(home):  # who comes later knows more, and must not be overtaken
        known = domains.load_all()
        titles = {name: domain.title for name, domain in known.items()}
        every = sorted(_shown(), key=lambda run: run.id, reverse=True)
        lines = [_line(run, titles) for run in every]
        cards = [_card(domain, lines) for domain in known.values()]
        page = templates.render("index.html.j2", cards=cards, lines=lines, alarms=_alarms(titles))
        atomic.write(home / "index.html", page)
        news = sorted(lines, key=lambda line: str(line["updated"]), reverse=True)[:_NEWS]
        feed = templates.render("feed.xml.j2", id=_identity(home / "feed.xml"), lines=news)
        atomic.write(home / "feed.xml", feed)


def _alarms(titles: dict[str, str]) -> list[dict[str, Any]]:
    """List the alarms that go on, each with where it is and what people made of it."""
    now = datetime.now(UTC)
    try:
        found = alarms.listed()
    except DatabaseError:  # none can have been noted
        return []
    return [
        vars(alarm)
        | {
            "where": titles.get(alarm.domain, alarm.domain)
            + f", {alarm.site}" * (alarm.site != "main"),
            "state": alarm.state(now),
        }
        for alarm in found
    ]


def everything() -> list[Run]:
    """List all runs there are."""
    places = sorted((settings.current().reports / "runs").glob("*/[!.]*/"))
    return [run for place in places for run in runs.listed(place.parent.name, place.name)]


def _shown() -> Iterator[Run]:
    """Give all runs of main sites, and of others the newest of each notebook."""
    for place in (settings.current().reports / "runs").glob("*/[!.]*/"):
        found = runs.listed(place.parent.name, place.name)
        yield from islice(found, 1) if "@" in place.name else found


def _line(run: Run, titles: dict[str, str]) -> dict[str, Any]:
    """Gather what is told of a run."""
    facts = runs.facts(run) or {}
    address = run.folder.relative_to(settings.current().reports).as_posix()
    there = {path.name for path in run.folder.glob("*")}
    said = str(facts.get("sentence", ""))
    if run.error:
        said = f"Failed in cell {run.error.get('cell')}: {run.error.get('message')}"
    elif run.refused:
        said = f"Its model is not served: {' '.join(run.refused)}"
    return {
        "run": run,
        "facts": facts,
        "domain": titles.get(run.domain, run.domain),
        "kind": run.notebook.partition("_")[2].capitalize() or run.notebook,
        "site": run.parameters.get("site", "main"),
        "until": str(facts.get("to") or run.parameters.get("as_of") or ""),
        "said": said,
        "files": {_FILES[name]: f"{address}/{name}" for name in _FILES if name in there},
        "tables": {n: f"{address}/{n}" for n in sorted(there) if n.endswith(".csv")},
        "updated": _utc(run.ended_at or run.started_at),
        "urn": uuid5(NAMESPACE_OID, f"smartcity/{run.notebook}/{run.domain}/{run.id}").urn,
    }


def _utc(at: str) -> str:
    """Write a moment as RFC 3339 wants it."""
    known = datetime.fromisoformat(at)
    return (known if known.tzinfo else known.replace(tzinfo=UTC)).isoformat(timespec="seconds")


def _identity(feed: Path) -> str:
    """Give the feed's id: the one it has, or a new one, so that no two cities share it."""
    old = feed.read_text(encoding="utf-8") if feed.is_file() else ""
    found = re.search(r"<id>(urn:uuid:[0-9a-f-]{36})</id>", old)
    return found[1] if found else uuid4().urn


def _card(domain: Domain, lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Tell one question: its newest good report, and how the figure went over those before."""
    good = [
        line
        for line in lines
        if line["run"].domain == domain.name
        and line["run"].notebook == _REPORT
        and line["run"].status == "succeeded"
        and _figure(line) is not None
    ]
    if not good:
        return {"title": domain.title, "question": domain.question, "line": None}
    asked = [(line["site"], line["run"].parameters.get("days")) for line in good]
    alike = (line for line, its in zip(good, asked, strict=True) if its == asked[0])
    # Made twice of the same readings, it is one figure.
    once = {line["until"]: line for line in reversed(list(alike))}
    kept = [once[until] for until in sorted(once)][-_TREND:]
    values = [value for line in kept if (value := _figure(line)) is not None]
    unit = "of readings high or above" if domain.target.levels else domain.target.unit
    return {
        "title": domain.title,
        "question": domain.question,
        "line": good[0],
        "value": _said(domain, values[-1]),
        "unit": unit,
        "points": _points(values),
        "trend": f"{len(values)} reports, {kept[0]['until'][:10]} to {kept[-1]['until'][:10]}: "
        f"between {_said(domain, min(values))} and {_said(domain, max(values))} {unit}",
    }


def _figure(line: dict[str, Any]) -> float | None:
    """Give a report's figure; None if it states none."""
    value = line["facts"].get("value")
    is_one = isinstance(value, int | float) and math.isfinite(value)
    return float(value) if is_one else None


def _said(domain: Domain, value: float) -> str:
    return f"{value:.0%}" if domain.target.levels else f"{value:,.2f}"


def _points(values: Sequence[float]) -> list[tuple[float, float]]:
    """Lay values out in a box of 160 by 44, the oldest on the left; none for fewer than two."""
    if len(values) < 2:
        return []
    low, span = min(values), (max(values) - min(values)) or 1.0
    step = 152 / (len(values) - 1)
    return [
        (round(4 + n * step, 1), round(40 - 36 * (value - low) / span, 1))
        for n, value in enumerate(values)
    ]
