"""Keeper of ``reports/runs/``: what each notebook run leaves behind, and where to find it."""

import heapq
import json
import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ValidationError

from smartcity import atomic, domains, logs, settings

log = logs.get(__name__)

_REPORT = "05_report"
_FILES = ("report.html", "notebook.ipynb", "metrics.json")
_COMPARED = ("to", "value", "missing_share", "model_version", "verdict")


class Run(BaseModel):
    """The record of one run; ``manifest.json`` is this record."""

    id: str
    notebook: str
    domain: str
    parameters: dict[str, Any]
    status: Literal["succeeded", "failed"]
    started_at: str
    seconds: float
    fingerprint: str
    inputs: list[dict[str, Any]]
    simulated: bool
    model_version: str | None
    smartcity: str
    error: dict[str, Any] | None = None
    summaries: list[str] = []
    refused: list[str] = []  # why what it published is not served

    @property
    def folder(self) -> Path:
        """Where the run's notebook, page, figures and manifest lie."""
        return place(self.notebook, self.domain) / self.id


def place(notebook: str, domain: str) -> Path:
    """Give the folder that holds the runs of a notebook for a domain."""
    return settings.current().reports / "runs" / notebook / domain


def keep(run: Run, contents: Path) -> None:
    """Move a finished run's files to their place, its manifest with them, all or nothing.

    Raises:
        StorageError: The reports folder cannot be written.
    """
    with atomic.folder(run.folder) as folder, atomic.storage(run.folder):
        for file in contents.iterdir():
            shutil.copyfile(file, folder / file.name)
        (folder / "manifest.json").write_text(run.model_dump_json(indent=2), encoding="utf-8")


def listed(notebook: str, domain: str) -> Iterator[Run]:
    """Yield the runs of a notebook for a domain, the newest first."""
    home = place(notebook, domain)
    for path in sorted(home.glob("[!.]*/manifest.json"), reverse=True):
        try:
            yield Run.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            log.warning("run record unreadable", path=str(path), error=str(error))


def latest(notebook: str, domain: str) -> Run | None:
    """Give the newest run that succeeded, or None."""
    return next((run for run in listed(notebook, domain) if run.status == "succeeded"), None)


def figures(run: Run) -> dict[str, Any]:
    """Read a run's charts: name -> plotly figure as JSON data; empty if it drew none."""
    return _read(run, "figures.json") or {}


def facts(run: Run) -> dict[str, Any] | None:
    """Read the facts a report states, or None if it states none."""
    return _read(run, "metrics.json")


def reports(limit: int) -> list[Run]:
    """List the runs of the report over all domains, good and failed, the newest first."""
    each = (listed(_REPORT, name) for name in domains.load_all())
    return list(islice(heapq.merge(*each, key=lambda run: run.id, reverse=True), limit))


def files(run: Run) -> dict[str, int]:
    """Give the files a person may want of a run: those that are there, and their bytes."""
    paths = [run.folder / name for name in _FILES]
    return {path.name: path.stat().st_size for path in paths if path.is_file()}


class Change(NamedTuple):
    """What a report states otherwise than one before; None where one of them does not state it."""

    kind: str
    before: Any
    after: Any


def changes(domain: str) -> list[Change]:
    """Compare the newest good report with the newest before it that states something else.

    Returns:
        ``started_at`` of the two, then what differs, among ``site``, ``days``, ``simulated``,
        ``to``, ``value``, ``missing_share``, ``model_version`` and ``verdict``; empty if there are
        no two that differ.
    """
    good = (run for run in listed(_REPORT, domain) if run.status == "succeeded")
    stated = ((run.started_at, _stated(run)) for run in good)
    whole = ((at, told) for at, told in stated if told)
    at, told = next(whole, ("", {}))
    before, earlier = next(((b, e) for b, e in whole if e != told), (None, told))
    differing = [Change(n, earlier[n], told[n]) for n in told if earlier[n] != told[n]]
    return [Change("started_at", before, at), *differing] if differing else []


def _stated(run: Run) -> dict[str, Any] | None:
    """Take from a report what two are compared by."""
    told = facts(run)
    if told is None:
        return None
    asked = {name: run.parameters.get(name) for name in ("site", "days")}
    return asked | {"simulated": run.simulated} | {name: told.get(name) for name in _COMPARED}


def _read(run: Run, name: str) -> dict[str, Any] | None:
    try:
        found = json.loads((run.folder / name).read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
