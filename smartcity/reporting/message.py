"""What is said about a run: the same facts for programs, as plain text and as a small HTML page."""

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from email.message import EmailMessage
from email.policy import SMTP
from pathlib import Path
from typing import Any, Literal, NamedTuple

import nbformat
from pydantic import BaseModel

from smartcity import domains, runs, settings
from smartcity.domains import MAIN
from smartcity.reporting import templates
from smartcity.runs import Change, Run

Kind = Literal["success", "failure", "change", "alarm"]
_WORDS = {
    "success": "Report made",
    "change": "Figures changed",
    "failure": "Report failed",
    "alarm": "Alarm",
}
_CHANGED = {
    "value": "Key figure",
    "to": "Readings reach to",
    "missing_share": "Share missing",
    "model_version": "Model",
    "verdict": "Model's quality",
    "simulated": "Simulated",
    "site": "Site",
    "days": "Days",
}
#: What is attached: the first that is there, if it has at most so many bytes.
_ATTACHED = {"report.pdf": ("application", 10_000_000), "report.html": ("text", 2_000_000)}
_SOURCE_CHARACTERS = 4000
_TRACEBACK_LINES = 15
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")
# What is not ASCII is encoded: not every server passes it on as it is.
_POLICY = SMTP.clone(cte_type="7bit")


class Retry(NamedTuple):
    """What happens after a failed run: how many attempts there are, and when the next is."""

    attempts: int = 1
    next_at: datetime | None = None


class Message(BaseModel):
    """What is said about one run; a webhook gets it as JSON.

    Attributes:
        sentence: The report's, or what failed.
        glance: The report's sentences about the other questions.
        alarms: What goes on at sensors, a sentence each.
        todo: What to do about it.
        figures: Name and value of each figure, as people read them.
        changes: ``kind``, ``before`` and ``after`` of what differs from the last report.
        error: Of a failed run: ``cell``, ``error``, ``message``, ``source`` and ``traceback``.
        outlook: Of a failed run: which attempt it was, and what happens next.
        url: Where the report can be opened; empty if that is not known.
    """

    report: str
    run_id: str
    notebook: str
    domain: str
    site: str = MAIN
    status: str
    kind: Kind
    simulated: bool
    sentence: str
    glance: list[str] = []
    alarms: list[str] = []
    todo: list[str] = []
    figures: list[tuple[str, str]] = []
    changes: list[dict[str, Any]] = []
    error: dict[str, Any] | None = None
    outlook: str = ""
    url: str = ""


def compose(run: Run, report: str, kind: Kind, changes: Sequence[Change], retry: Retry) -> Message:
    """Say what there is to say about a run, from its record.

    Args:
        run: The run, kept.
        report: Its entry in the schedule.
        kind: As what it is told.
        changes: What it states otherwise than the last report.
        retry: For a failed run, what happens next.
    """
    facts = runs.facts(run) or {}
    error = _error(run)
    if error:
        sentence = f"{run.notebook} failed in cell {error['cell']}: {error['message']}"
    else:
        sentence = facts.get("sentence") or f"{run.notebook} was run; its page shows the rest."
    base = settings.current().reports_url.rstrip("/")
    page = f"{base}/runs/{run.notebook}/{run.name}/{run.id}/report.html"
    told = {
        **run.model_dump(include={"notebook", "domain", "status", "simulated"}),
        "site": run.site,
        "report": report,
        "run_id": run.id,
        "kind": kind,
        "sentence": sentence,
        "glance": list(_others(run.domain, facts)),
        "alarms": [
            said for e in facts.get("events", ()) if e["until"] is None for said in e["said"]
        ],
        "todo": facts.get("todo", []),
        "figures": list(_figures(run.domain, facts)),
        "changes": [change._asdict() for change in changes],
        "error": error,
        "outlook": _outlook(run, retry) if error else "",
        "url": page if base else "",
    }
    return Message.model_validate(_clean(told))


def _clean(value: Any) -> Any:
    """Take out what neither a database nor a mail can hold."""
    if isinstance(value, str):
        return _CONTROL.sub("", value)
    if isinstance(value, dict):
        return {name: _clean(item) for name, item in value.items()}
    return [_clean(item) for item in value] if isinstance(value, list | tuple) else value


def _others(domain: str, facts: Mapping[str, Any]) -> Iterator[str]:
    """Say in a sentence each how the other questions stand."""
    for each in facts.get("glance", ()):
        if each["domain"] != domain:
            simulated = " (simulated)" if each["simulated"] else ""
            yield f"{each['title']}{simulated}: {each['sentence']}"


def _figures(domain: str, facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Name the figures of a report; what it does not state is left out."""
    if facts.get("value") is not None:
        yield "Key figure", _value(domain, facts["value"])
    if facts.get("before") is not None:
        yield "In the period before", _value(domain, facts["before"])
    if facts.get("from") and facts.get("to"):
        yield "Period", f"{_day(facts['from'])} to {_day(facts['to'])}"
    if facts.get("missing_share") is not None:
        yield "Readings complete", f"{1 - facts['missing_share']:.0%}"
    if facts.get("model_version"):
        yield "Model", facts["model_version"]
    if facts.get("verdict"):
        yield "Model's quality", facts["verdict"]


def _value(domain: str, value: float) -> str:
    target = domains.load(domain).target
    high = f"{value:.0%} of readings high or above"
    return high if target.levels else f"{value:,.2f} {target.unit}".strip()


def _day(at: str) -> str:
    return at[:16].replace("T", " ")


def _outlook(run: Run, retry: Retry) -> str:
    told = f"This was attempt {run.attempt} of {max(run.attempt, retry.attempts)}."
    if retry.next_at:
        return f"{told} The next is at {retry.next_at:%Y-%m-%d %H:%M %Z}."
    return f"{told} There is no further one; the last good report stays."


def _error(run: Run) -> dict[str, Any] | None:
    """Describe what failed, with the cell as it stands in the kept notebook."""
    if run.error is None:
        return None
    told = {"cell": "?", "error": "", "message": ""} | run.error
    try:
        cells = nbformat.read(run.folder / "notebook.ipynb", as_version=4).cells
    except Exception:  # noqa: BLE001  # whatever is wrong with it, the failure is to be told
        cells = []
    code = [cell for cell in cells if cell.cell_type == "code"]
    raised = [(c.source, o.traceback) for c in code for o in c.outputs if o.output_type == "error"]
    reached: list[tuple[str, list[str]]] = [
        (c.source, []) for c in code if c.execution_count == told["cell"]
    ]
    source, lines = (raised + reached or [("", [])])[0]
    from nbconvert.filters import strip_ansi  # takes half a second; only failures need it

    traceback = strip_ansi("\n".join(lines)).splitlines()
    return told | {
        "source": source[:_SOURCE_CHARACTERS],
        "traceback": "\n".join(traceback[-_TRACEBACK_LINES:])[-_SOURCE_CHARACTERS:],
    }


def mail(told: Message, target: str, at: datetime, *, key: str) -> EmailMessage:
    """Write a message as a mail, plain and as HTML, with the report attached.

    Args:
        told: What to say.
        target: To whom; one address.
        at: The time.
        key: Names the message; the same at every try, so that a reader's mail program shows one.

    Raises:
        ValueError: An address or the subject is not fit for a header.
    """
    known = settings.current()
    title = domains.load(told.domain).title + f", {told.site}" * (told.site != MAIN)
    simulated = " (simulated)" if told.simulated else ""
    letter = EmailMessage(policy=_POLICY)
    letter["From"] = known.mail_from
    letter["To"] = target
    letter["Subject"] = f"{_WORDS[told.kind]}: {title}, {told.report}{simulated}"
    letter["Date"] = at
    letter["Message-ID"] = f"<{key}@{known.mail_from.rpartition('@')[2].strip('> ')}>"
    letter["Auto-Submitted"] = "auto-generated"  # so that nobody's holiday answers
    folder = runs.place(told.notebook, told.domain, told.site) / told.run_id
    attached, note = _attachment(folder)
    parts = {
        "told": told,
        "title": f"{_WORDS[told.kind]}: {title}",
        "changes": [_changed(told.domain, change) for change in told.changes],
        "note": note,
    }
    letter.set_content(templates.render("mail.txt.j2", **parts))
    letter.add_alternative(templates.render("mail.html.j2", **parts), subtype="html")
    if attached:
        kind, _ = _ATTACHED[attached.name]
        name = f"{told.notebook}-{told.domain}-{told.run_id}{attached.suffix}"
        letter.add_attachment(
            attached.read_bytes(), maintype=kind, subtype=attached.suffix[1:], filename=name
        )
    return letter


def _changed(domain: str, change: Mapping[str, Any]) -> tuple[str, str, str]:
    """Write a change for people: what, before, now."""

    def said(value: Any) -> str:
        if value is None:
            return "not stated"
        if change["kind"] == "value":
            return _value(domain, value)
        if change["kind"] == "missing_share":
            return f"{value:.0%}"
        return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)

    moment = change["kind"] in {"to", "started_at"}
    before, after = (
        _day(str(v)) if moment and v else said(v) for v in (change["before"], change["after"])
    )
    return _CHANGED.get(change["kind"], "Report made"), before, after


def _attachment(folder: Path) -> tuple[Path | None, str]:
    """Choose the file to attach, or say in a sentence why there is none."""
    for name, (_, most) in _ATTACHED.items():
        path = folder / name
        if path.is_file():
            size = path.stat().st_size
            if size <= most:
                return path, ""
            return None, f"{name} is too large to attach ({size / 1e6:.1f} MB)."
    return None, "The report's files are no longer kept."
