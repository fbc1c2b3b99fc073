"""One notebook, one domain, one record: the executed copy, its page, charts and manifest."""

import hashlib
import json
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex
from typing import Any

from smartcity import (
    __version__,
    atomic,
    data,
    domains,
    lineage,
    logs,
    parameters,
    registry,
    runs,
    settings,
)
from smartcity.data import Source
from smartcity.domains import ALL, MAIN
from smartcity.errors import DataError, ModelError, RunError, SmartCityError
from smartcity.monitoring import report
from smartcity.reporting import crate, execution, index, page, pdf, scrub
from smartcity.reporting.execution import Progress
from smartcity.reporting.ticket import Ticket
from smartcity.runs import Run

log = logs.get(__name__)

#: The rooms whose code decides what a notebook shows; a change there makes runs stale.
_MAKING = ("domains/*.py", "data/*.py", "modelling/*.*", "features.py", "charts.py")
#: Whose versions a record names.
_PACKAGES = ("numpy", "pandas", "scikit-learn", "onnxruntime", "plotly")
#: What is made for the council: without code, with a document to print.
COUNCIL = "05_report"


def fingerprint(notebook: Path, values: Mapping[str, Any]) -> str:
    """Digest all that decides what a run shows: notebook, parameters, code, readings, model.

    Raises:
        DataError: The readings are missing.
    """
    domain = domains.load(values["domain"])
    digest = hashlib.sha256(json.dumps([dict(values), __version__], sort_keys=True).encode())
    digest.update(domain.model_dump_json().encode())
    package = Path(__file__).parents[1]
    for path in [notebook, *(p for room in _MAKING for p in sorted(package.glob(room)))]:
        digest.update(path.read_bytes())
    for source in sources(notebook, values):
        digest.update(f"{source.path.name} {source.sha256} {source.simulated}".encode())
    text, site = notebook.read_text(encoding="utf-8"), values.get("site", MAIN)
    if "registry" in text or "Predictor" in text:  # it reads the served model
        digest.update((_served(domain.name, site) or "").encode())
    elif site not in {MAIN, ALL}:  # a site's model has to do better than that of all sites
        digest.update((_served(domain.name, ALL) or "").encode())
    return digest.hexdigest()


def _served(domain: str, site: str) -> str | None:
    """Name the version that answers for a site, or None."""
    try:
        return registry.told(*registry.answering(domain, site))
    except ModelError:
        return None


def sources(notebook: Path, values: Mapping[str, Any]) -> list[Source]:
    """List the files a run reads: its question's, and the others' where it glances at them.

    Raises:
        DataError: Its question's are missing.
    """
    asked = domains.load(values["domain"])
    found = data.locate(asked, values.get("site", MAIN))
    if "data.glance" in notebook.read_text(encoding="utf-8"):
        for other in domains.load_all().values():
            if other.name != asked.name:
                with suppress(DataError):  # the report says so itself
                    found = [*found, *data.locate(other)]
    return found


def _named(as_of: str, started: datetime) -> str:
    """Name a run after the moment it speaks for, so that names sort as its readers would."""
    moment = f"{started:%Y%m%dT%H%M%SZ}"
    if as_of:
        day = datetime.fromisoformat(as_of)
        end = day.replace(hour=23, minute=59, second=59) if "T" not in as_of else day
        moment = f"{end:%Y%m%dT%H%M%SZ}"
    return f"{moment}-{token_hex(3)}"


def _filled(notebook: Path, values: Mapping[str, Any], run_id: str) -> dict[str, Any]:
    """Give what is known only when a run starts, as far as the notebook asks for it."""
    domain = values["domain"]
    before = runs.before(notebook.stem, domain, run_id, values) if "previous" in values else None
    known = {
        "run_id": run_id,
        "version": values.get("version") or _served(domain, values.get("site", MAIN)) or "",
        "previous": json.dumps(before) if before else "",
        # A kernel knows no password, so it could not ask every database itself.
        "answers": json.dumps(report.answers(domains.load(domain))) if "answers" in values else "",
    }
    return {name: value for name, value in known.items() if name in values}


def run(
    name: str,
    given: Mapping[str, object],
    *,
    ticket: Ticket = Ticket(),
    progress: Progress = lambda done, cells: None,
    is_alone: bool = True,
) -> Run:
    """Run a notebook and keep its record.

    Args:
        name: The notebook.
        given: Its parameters, ``domain`` among them.
        ticket: What a schedule adds.
        progress: Called with (cells done, cells in all).
        is_alone: Bring the index up to date; else who runs many does so at their end.

    Returns:
        The record of the run, which succeeded.

    Raises:
        UsageError: No such notebook, parameter or domain, or a wrong value; nothing was started.
        DataError: The readings are missing; nothing was started.
        RunError: A cell failed, or readings are missing on schedule; the record is kept and named.
        StorageError: The record cannot be kept.
    """
    notebook = parameters.find(name)
    values = parameters.check(notebook, given)
    values["domain"] = domains.load(str(values.get("domain", ""))).name
    started = datetime.now(UTC)
    run_id = ticket.id or _named(values.get("as_of", ""), started)
    try:
        digest, read = fingerprint(notebook, values), sources(notebook, values)
    except DataError as error:
        if not ticket.report:
            raise
        # Nobody sits there to read it: it is kept, and told like any other failure.
        record = _record(notebook, values, run_id, started, [], ticket)
        fault = {"cell": 0, "error": "DataError", "message": str(error)}
        record = record.model_copy(update={"error": scrub.cleaner().clean(fault)})
        with _scratch() as home:
            shutil.copyfile(notebook, home / "notebook.ipynb")
            record = _keep(record, home, ticket)
    else:
        values |= _filled(notebook, values, run_id)
        record = _record(notebook, values, run_id, started, read, ticket)
        record = record.model_copy(update={"fingerprint": digest})
        record = _started(notebook, record, ticket, progress)
    if is_alone:
        list_runs()
    _tell(record)
    return record


def _started(notebook: Path, record: Run, ticket: Ticket, progress: Progress) -> Run:
    """Run the notebook, keep the record, and serve what it published."""
    model, kept = record.name, False
    clock = time.monotonic()
    try:
        with _scratch() as home:
            failure = execution.execute(
                notebook, home, record.parameters, seconds=ticket.seconds, progress=progress
            )
            made = None if failure else registry.of_run(model, record.id)
            done = {
                "status": "failed" if failure else "succeeded",
                "error": failure,
                "summaries": [] if failure else execution.summaries(home),
                "seconds": round(time.monotonic() - clock, 2),
                "ended_at": datetime.now(UTC).isoformat(timespec="seconds"),
            }
            done |= _published(model, made) if made else {}
            record = _keep(record.model_copy(update=done), home, ticket)
        kept = not failure  # refused by its gate or not: then it stays, to be looked at
        if made and not record.refused:
            registry.promote(model, made)
    finally:
        # What a failed run published was never served, and goes.
        if not kept and (made := registry.of_run(model, record.id)):
            registry.discard(model, made)
    return record


@contextmanager
def _scratch() -> Iterator[Path]:
    """Give a folder to fill, and remove what killed runs left of theirs."""
    reports = settings.current().reports
    atomic.sweep(reports, ".running-*")
    with atomic.scratch(".running-", reports) as home:
        yield home


def _record(
    notebook: Path,
    values: dict[str, Any],
    run_id: str,
    started: datetime,
    read: list[Source],
    ticket: Ticket,
) -> Run:
    """Write down what a run is made from, and by what."""
    at, site = started.isoformat(timespec="seconds"), values.get("site", MAIN)
    served = values.get("version") or _served(values["domain"], site)
    return Run(
        id=run_id,
        notebook=notebook.stem,
        domain=values["domain"],
        parameters=values,
        status="failed",
        started_at=at,
        ended_at=at,
        seconds=0,
        fingerprint="",
        inputs=[source.record() for source in read],
        simulated=any(source.simulated for source in read),
        model_version=served,
        smartcity=__version__,
        report=ticket.report,
        attempt=ticket.attempt,
        code=code(notebook, values["domain"], served, site),
        git=lineage.git(),
        machine=lineage.machine() | lineage.environment(_PACKAGES),
        seed=values.get("seed"),
    )


def code(
    notebook: Path, domain: str, version: str | None, site: str = MAIN
) -> dict[str, str | None]:
    """Give the sha256 of what decides a run's figures beside its inputs; see ``Run.code``."""
    named = registry.answering(domain, site, version) if version else (domain, "None")
    sums = settings.current().models.joinpath(*named) / registry.SUMS
    return {
        "notebook": lineage.digest(notebook),
        "model": lineage.digest(sums),
        "lock": lineage.lock(),
    }


def _published(model: str, version: str) -> dict[str, Any]:
    """Give what a record says of the version its run made."""
    gate = registry.card(model, version).gate
    return {"model_version": version, "refused": gate.reasons if gate else []}


def _keep(record: Run, home: Path, ticket: Ticket) -> Run:
    """Make of an executed notebook what people open, and put all of it in its place."""
    page.write(home / "notebook.ipynb", home / "report.html", record)
    if record.notebook == COUNCIL and record.status == "succeeded":
        why_not = pdf.write(home / "report.html", home / "report.pdf")
        if why_not:
            log.warning("report without PDF", run=record.id, reason=why_not)
    made = {path.name: str(lineage.digest(path)) for path in sorted(home.iterdir())}
    record = record.model_copy(update={"outputs": made})
    crate.write(record, domains.load(record.domain), home)
    ticket.confirm()
    runs.keep(record, home)
    return record


def list_runs() -> None:
    """Bring the index of all runs up to date; where that fails, the runs are kept all the same."""
    try:
        index.write()
    except SmartCityError as error:
        log.warning("index not written", error=str(error))


def _tell(record: Run) -> None:
    """Say how it went.

    Raises:
        RunError: It failed.
    """
    named = {"run": record.id, "notebook": record.notebook, "domain": record.domain}
    named |= {"site": record.site} if record.site != MAIN else {}
    if record.refused:
        log.warning("model not served", **named, reasons=record.refused)
    if not record.error:
        log.info("run finished", **named)
        return
    log.error("run failed", **named, **record.error)
    where = f" in cell {record.error['cell']}" if record.error["cell"] else ""
    raise RunError(
        f"{record.notebook} for {record.name!r} failed{where}: "
        f"{record.error['message'].rstrip('.')}. Nothing was published. "
        f"The run is kept in {record.folder}; open report.html there.",
        record.id,
    )
