"""Keeper of ``reports/runs/``: what each notebook run leaves behind, and where to find it."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from smartcity import atomic, logs, settings

log = logs.get(__name__)


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


def _read(run: Run, name: str) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads((run.folder / name).read_bytes())
    except (OSError, ValueError):
        return None
    return found
