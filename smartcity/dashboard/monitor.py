"""The page of reports and monitoring: how the service is, what is served, what was reported."""

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from html import escape
from typing import Any

import ipywidgets as widgets

from smartcity import domains, registry, runs
from smartcity.dashboard import health
from smartcity.dashboard.ask import Ask
from smartcity.dashboard.html import heading, moment, number, problem, section, table, text
from smartcity.dashboard.words import Words
from smartcity.errors import SmartCityError
from smartcity.predict import Predictors
from smartcity.runs import Run

#: Most reports listed.
_MOST = 30
_SIGNS = {"healthy": "✓", "partial": "⚠", "unhealthy": "✗", "unknown": "?"}
#: What a file of a report is called, and whether it is read rather than kept.
_FILES = {
    "report.html": "Open",
    "report.pdf": "PDF",
    "notebook.ipynb": "Notebook",
    "metrics.json": "Figures",
}


class Monitor:
    """Widgets of the page; ``look`` asks the API and reads what was made since.

    Attributes:
        children: The widgets, in their order.
    """

    def __init__(self, predictors: Predictors, words: Words, bare: Mapping[str, Any]) -> None:
        """Make room for what ``look`` brings.

        Args:
            predictors: What is served.
            words: The language.
            bare: Traits all widgets of the page share.
        """
        self._predictors, self._words = predictors, words
        self._health, self._rest = widgets.HTML(**bare), widgets.HTML(**bare)
        again = widgets.Button(description=words.say("Check again"), layout=bare["layout"])
        again.on_click(lambda _: self.look())
        title = widgets.HTML(heading(words, "Reports & monitoring"), **bare)
        self.children = [title, self._health, again, self._rest, _form(words, bare)]

    def look(self) -> None:
        """Look at everything anew."""
        words, now = self._words, health.ask()
        self._health.value = _service(words, now)
        self._rest.value = "".join(
            (
                _trust(words, self._predictors, now),
                _models(words, self._predictors),
                _reports(words),
            )
        )


def _form(words: Words, bare: Mapping[str, Any]) -> widgets.Widget:
    """Let a report be asked for, or say why that is not possible."""
    try:
        return Ask(words, layout=bare["layout"])
    except SmartCityError as error:
        return widgets.HTML(problem(words, "Make a report", str(error)), **bare)


def _service(words: Words, now: health.Health) -> str:
    """Write how the API is, and the specification's metrics."""
    told = f"{_SIGNS[now.status]} {words.say(now.status)}"
    minded = f'<p class="smartcity-warning">⚠ {text(words, now.problem)}</p>' if now.problem else ""
    rows = [
        [
            text(words, figure.name),
            text(words, _titles().get(figure.domain or "", "")),
            _value(words, figure.value, figure.unit),
            text(words, figure.note),
        ]
        for figure in now.figures
    ]
    measured = table(words, "What is measured", ["Metric", "Question", "Value", "Note"], rows)
    asked = f"{text(words, 'Asked')} {moment(words, now.asked_at.isoformat())}."
    return (
        f"{section(words, 'Is the service well?')}"
        f'<p role="status"><strong>{escape(told)}</strong> '
        f'<span class="smartcity-soft">{asked}</span></p>{minded}{measured if rows else ""}'
    )


def _value(words: Words, value: float | None, unit: str) -> str:
    if value is None:
        return text(words, "not yet")
    form = ",.0f" if unit in {"requests", "MB", "rows", "new"} else ",.2f"
    return f"{escape(number(words, value, form))}&nbsp;{text(words, unit)}"


def _titles() -> dict[str, str]:
    return {name: domain.title for name, domain in domains.load_all().items()}


def _trust(words: Words, predictors: Predictors, now: health.Health) -> str:
    """Write whether each model is still right, and whether its inputs have moved."""
    live = {f.domain: f for f in now.figures if f.name == "Live accuracy"}
    rows, moved = [], []
    for name, title in _titles().items():
        with suppress(SmartCityError):  # told among the models
            card = predictors.get(name).card
            found = live.get(name)
            held = card.parts[card.champion].coverage
            month, last = list(held["by_month"].items())[-1]
            rows.append(
                [
                    text(words, title),
                    number(words, held["overall"], ".1%"),
                    f"{number(words, last, '.1%')} ({escape(month)})",
                    _value(words, found.value, found.unit) if found else text(words, "not yet"),
                    text(words, found.note if found else "the API does not say"),
                ]
            )
        if watched := runs.latest("06_monitor", name):
            moved.append(_watched(words, title, watched))
        run = runs.latest("05_report", name)
        drift = (runs.facts(run) or {}).get("drift") if run else None
        moved += [_moved(words, title, drift)] if drift else []
    header = [
        "Question",
        "Ranges held, tested",
        "in the last month tested",
        "Live accuracy",
        "Note",
    ]
    caption = "Ranges are meant to hold in 90 % of cases"
    return (
        f"{section(words, 'Is the model still right?')}{table(words, caption, header, rows)}"
        f"{section(words, 'Have the readings moved?')}{''.join(moved)}"
    )


def _watched(words: Words, title: str, run: Run) -> str:
    """Write what the last monitoring report says, and what goes on at the sensors."""
    facts = runs.facts(run) or {}
    on = [event for event in facts.get("events", ()) if event["until"] is None]
    listed = "".join(
        f"<li>⚠ {' '.join(text(words, f'{said}.') for said in event['said'])} "
        f"{text(words, event['advice'])}</li>"
        for event in on
    )
    about = f"<strong>{text(words, title)}</strong>: {text(words, facts.get('sentence', ''))}"
    link = next(_links(words, run), "")
    return f"<p>{about} {link}</p>" + (f'<ul class="smartcity-warning">{listed}</ul>' if on else "")


def _moved(words: Words, title: str, drift: Mapping[str, Any]) -> str:
    rows = [
        [
            text(words, row["label"]),
            "–" if row["outside"] is None else number(words, row["outside"], ".1%"),
            "–" if row["shift"] is None else number(words, row["shift"], "+.2f"),
        ]
        for row in drift["inputs"]
    ]
    header = ["Input", "outside what was seen", "median moved by, usual spans"]
    shown = table(words, title, header, rows) if rows else ""
    return (
        f"<details><summary>{text(words, title)}: {text(words, drift['sentence'])}</summary>"
        f"{shown}</details>"
    )


def _models(words: Words, predictors: Predictors) -> str:
    """Write which version of each model is served, what is wrong, and what was served before."""
    rows, past = [], []
    for name, title in _titles().items():
        with suppress(SmartCityError):  # told below, as the predictors' own errors
            card = predictors.get(name).card
            made = moment(words, card.created_at)
            plain = [text(words, title), escape(card.version), made, text(words, card.verdict)]
            rows.append(plain)
        for change in reversed(registry.history(name)):
            what = " ".join(words.say(change.get(said, "")) for said in ("action", "why"))
            at, version = moment(words, change.get("at", "")), escape(change.get("version", ""))
            past.append([text(words, title), version, at, escape(what)])
    wrong = "".join(f"<li>⚠ {text(words, said)}</li>" for said in predictors.errors.values())
    header = ["Question", "Version", "Made", "On later time"]
    changes = table(words, "What was served before", ["Question", "Version", "When", "Why"], past)
    return (
        f"{section(words, 'Models')}{table(words, 'Models being served', header, rows)}"
        + (f'<ul class="smartcity-warning">{wrong}</ul>' if wrong else "")
        + f"<details><summary>{text(words, 'What was served before')}</summary>{changes}</details>"
    )


def _reports(words: Words) -> str:
    """Write the list of reports, each to open or to keep."""
    rows = [
        [
            text(words, _titles().get(run.domain, run.domain)),
            text(words, "✓ succeeded" if run.status == "succeeded" else "✗ failed"),
            moment(words, run.started_at),
            f"{escape(str(run.parameters.get('days', '')))} {text(words, 'days')}",
            " ".join(_links(words, run)),
        ]
        for run in runs.reports(_MOST)
    ]
    header = ["Question", "Status", "Made", "Period", "Files"]
    listed = table(words, "The last reports", header, rows)
    none = f"<p>{text(words, 'No report yet. Make them: smartcity build')}</p>"
    return f"{section(words, 'Reports')}{listed if rows else none}"


def _links(words: Words, run: Run) -> Iterator[str]:
    """Link a run's files where a page server of ours has them; name them elsewhere."""
    served = os.environ.get("SMARTCITY_PAGE")
    for name, size in runs.files(run).items():
        said, kilobytes = text(words, _FILES[name]), number(words, size / 1000, ",.0f")
        if not served:
            yield escape(name)
            continue
        folder = f"{run.notebook}/{run.domain}".removeprefix("05_report/")
        place = f"{served}smartcity/reports/{folder}/{run.id}/{name}"
        how = 'target="_blank"' if name == "report.html" else "download"
        yield f'<a href="{place}" {how}>{said} ({escape(kilobytes)} kB)</a>'
