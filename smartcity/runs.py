"""Keeper of ``reports/``: what each notebook run leaves behind, and what is asked for."""

import hashlib
import heapq
import json
import shutil
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ValidationError

from smartcity import atomic, domains, logs, settings
from smartcity.errors import UsageError, unknown

log = logs.get(__name__)

_REPORT = "05_report"
_FILES = ("report.html", "report.pdf", "notebook.ipynb", "metrics.json")
#: Letters of a run's id that name the moment it speaks for.
_MOMENT = len("20041231T235959Z")
#: Reports that may wait to be made because somebody asked on the page.
MOST_ASKED = 5
_COMPARED = ("to", "value", "missing_share", "model_version", "verdict")


class Run(BaseModel):
    """The record of one run; ``manifest.json`` is this record.

    Attributes:
        id: Begins with the moment it speaks for, so that by id the newest is what is newest to a
            reader, however late it was made.
        report: Entry of the schedule it was made for; empty if none.
        attempt: Which try at it this was.
        code: sha256 of what decides its figures beside the inputs: ``notebook``, ``model`` (of the
            version's card) and ``lock`` (the pinned dependencies); None for what there is not.
        git: ``commit`` and ``dirty``; None outside a checkout.
        machine: ``system``, ``python``, ``processors`` and the versions of the main libraries.
        outputs: Name of each file beside the manifest -> its sha256.
    """

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
    ended_at: str = ""
    report: str = ""
    attempt: int = 1
    code: dict[str, str | None] = {}
    git: dict[str, Any] | None = None
    machine: dict[str, Any] = {}
    seed: int | None = None
    outputs: dict[str, str] = {}

    @property
    def site(self) -> str:
        """Whose readings it is about."""
        return str(self.parameters.get("site", domains.MAIN))

    @property
    def name(self) -> str:
        """Name of the model it makes, where it makes one; see ``domains.at``."""
        return domains.at(self.domain, self.site)

    @property
    def folder(self) -> Path:
        """Where the run's notebook, page, figures and manifest lie."""
        return place(self.notebook, self.domain, self.site) / self.id


def place(notebook: str, domain: str, site: str = domains.MAIN) -> Path:
    """Give the folder that holds the runs of a notebook for a domain's site."""
    return settings.current().reports / "runs" / notebook / domains.at(domain, site)


def keep(run: Run, contents: Path) -> None:
    """Move a finished run's files to their place, its manifest with them, all or nothing.

    Raises:
        StorageError: The reports folder cannot be written.
    """
    with atomic.folder(run.folder) as folder, atomic.storage(run.folder):
        for file in contents.iterdir():
            shutil.copyfile(file, folder / file.name)
        (folder / "manifest.json").write_text(run.model_dump_json(indent=2), encoding="utf-8")


def find(run_id: str) -> Run:
    """Give the run of that id.

    Raises:
        UsageError: There is none; the message names the nearest.
    """
    home = settings.current().reports / "runs"
    paths = {path.parent.name: path for path in home.glob("*/*/[!.]*/manifest.json")}
    if run_id not in paths:
        raise unknown("run", run_id, sorted(paths)[-5:])
    return Run.model_validate_json(paths[run_id].read_bytes())


def listed(notebook: str, domain: str, site: str = domains.MAIN) -> Iterator[Run]:
    """Yield the runs of a notebook for a domain's site, the newest first."""
    home = place(notebook, domain, site)
    for path in sorted(home.glob("[!.]*/manifest.json"), reverse=True):
        try:
            yield Run.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            log.warning("run record unreadable", path=str(path), error=str(error))


def latest(notebook: str, domain: str, site: str = domains.MAIN) -> Run | None:
    """Give the newest run that succeeded, or None."""
    good = (run for run in listed(notebook, domain, site) if run.status == "succeeded")
    return next(good, None)


def figures(run: Run) -> dict[str, Any]:
    """Read a run's charts: name -> plotly figure as JSON data; empty if it drew none."""
    return content(run.folder, "figures.json") or {}


def facts(run: Run) -> dict[str, Any] | None:
    """Read the facts a report states, or None if it states none."""
    return content(run.folder, "metrics.json")


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


def before(
    notebook: str, domain: str, run_id: str, values: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Give what the last good run before another states, if it was asked for the same.

    Args:
        notebook: Which.
        domain: The question.
        run_id: Of the run that wants to know.
        values: Its parameters; site and length of the period have to be the same.

    Returns:
        ``run`` (its id), then as ``changes`` compares them; None if there is none.
    """
    for run in listed(notebook, domain, values.get("site", domains.MAIN)):
        same = all(run.parameters.get(name) == values.get(name) for name in ("site", "days"))
        is_before = run.id[:_MOMENT] < run_id[:_MOMENT]  # another of the same moment is no news
        if is_before and run.status == "succeeded" and same and (told := _stated(run)):
            return {"run": run.id, **told}
    return None


def _stated(run: Run) -> dict[str, Any] | None:
    """Take from a report what two are compared by."""
    told = facts(run)
    if told is None:
        return None
    asked = {name: run.parameters.get(name) for name in ("site", "days")}
    return asked | {"simulated": run.simulated} | {name: told.get(name) for name in _COMPARED}


def content(folder: Path, name: str) -> dict[str, Any] | None:
    """Read a JSON file of a run; None if it is not there or holds no object."""
    try:
        found = json.loads((folder / name).read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def ask(notebook: str, values: dict[str, Any]) -> Path:
    """Note that somebody wants a report; who keeps the schedule makes it.

    Args:
        notebook: Which.
        values: Its parameters, checked.

    Returns:
        The note; the same for the same wish.

    Raises:
        UsageError: Too many wait already.
        StorageError: The reports folder cannot be written.
    """
    text = json.dumps({"notebook": notebook, "parameters": values}, sort_keys=True)
    name = hashlib.sha256(text.encode()).hexdigest()[:16]
    path = settings.current().reports / "requests" / f"{name}.json"
    if not path.exists() and len(asked()) >= MOST_ASKED:
        raise UsageError(f"{MOST_ASKED} reports are waiting to be made; try again in some minutes.")
    atomic.write(path, text)
    return path


def asked() -> list[Path]:
    """List the notes of reports somebody wants, the oldest first."""
    notes = (settings.current().reports / "requests").glob("[!.]*.json")
    return sorted(notes, key=lambda path: path.stat().st_mtime)
