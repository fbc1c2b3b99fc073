"""One notebook, one domain, one record: the executed copy, its page, charts and manifest."""

import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex
from typing import Any

import nbformat
import papermill
from papermill.exceptions import PapermillExecutionError
from traitlets.config import Config

from smartcity import (
    __version__,
    atomic,
    charts,
    data,
    domains,
    errors,
    logs,
    registry,
    runs,
    settings,
)
from smartcity.errors import ModelError, RunError, UsageError, unknown
from smartcity.reporting import page, parameters
from smartcity.runs import Run

log = logs.get(__name__)

Progress = Callable[[int, int], None]
#: The rooms whose code decides what a notebook shows; a change there makes runs stale.
_MAKING = ("domains/*.py", "data/*.py", "modelling/*.py", "features.py", "charts.py")


def find(name: str) -> Path:
    """Find a notebook by its name, with or without number and ending.

    Raises:
        UsageError: There is none; the message lists those there are.
    """
    notebooks = sorted(settings.current().notebooks.glob("[0-9][0-9]_*.ipynb"))
    wanted = Path(name).name.removesuffix(".ipynb")
    for path in notebooks:
        if wanted in {path.stem, path.stem[3:]}:
            return path
    if not notebooks:
        raise UsageError(f"There are no notebooks in {settings.current().notebooks}.")
    raise unknown("notebook", name, [path.stem for path in notebooks])


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
    for source in data.locate(domain, values.get("site", "main")):
        digest.update(f"{source.path.name} {source.sha256} {source.simulated}".encode())
    text = notebook.read_text(encoding="utf-8")
    if "registry" in text or "Predictor" in text:  # it reads the served model
        digest.update((_served(domain.name) or "").encode())
    return digest.hexdigest()


def _served(domain: str) -> str | None:
    try:
        return registry.current(domain)
    except ModelError:
        return None


def run(
    name: str, given: Mapping[str, object], *, progress: Progress = lambda done, cells: None
) -> Run:
    """Run a notebook and keep its record.

    Args:
        name: The notebook.
        given: Its parameters, ``domain`` among them.
        progress: Called with (cells done, cells in all).

    Returns:
        The record of the run, which succeeded.

    Raises:
        UsageError: No such notebook, parameter or domain, or a wrong type; nothing was started.
        DataError: The readings are missing; nothing was started.
        RunError: A cell failed; the record is kept and named.
        StorageError: The record cannot be kept.
    """
    notebook = find(name)
    started = datetime.now(UTC)
    run_id = f"{started:%Y%m%dT%H%M%SZ}-{token_hex(3)}"
    values = parameters.check(notebook, given)
    domain = domains.load(str(values.get("domain", "")))
    values["domain"] = domain.name
    digest = fingerprint(notebook, values)
    if "run_id" in values:
        values["run_id"] = run_id
    sources = data.locate(domain, values.get("site", "main"))
    clock, served = time.monotonic(), False
    with atomic.storage(settings.current().reports):
        settings.current().reports.mkdir(parents=True, exist_ok=True)
        home = Path(tempfile.mkdtemp(prefix=".running-", dir=settings.current().reports))
    try:
        failure = _execute(notebook, home / "notebook.ipynb", values, progress)
        summaries = _extract(home) if failure is None else []
        made = registry.of_run(domain.name, run_id)
        gate = registry.card(domain.name, made).gate if made and not failure else None
        record = Run(
            id=run_id,
            notebook=notebook.stem,
            domain=domain.name,
            parameters=values,
            status="failed" if failure else "succeeded",
            started_at=started.isoformat(timespec="seconds"),
            seconds=round(time.monotonic() - clock, 2),
            fingerprint=digest,
            inputs=[source.record() for source in sources],
            simulated=any(source.simulated for source in sources),
            model_version=made if made and not failure else _served(domain.name),
            refused=gate.reasons if gate else [],
            smartcity=__version__,
            error=failure,
            summaries=summaries,
        )
        page.write(home / "notebook.ipynb", home / "report.html", record)
        runs.keep(record, home)
        if made and not failure:
            served = True  # or refused by its gate: then it stays, to be looked at
            if record.refused:
                log.warning("model not served", domain=domain.name, reasons=record.refused)
            else:
                registry.promote(domain.name, made)
    finally:
        shutil.rmtree(home, ignore_errors=True)
        # What a failed run published was never served, and goes.
        if not served and (made := registry.of_run(domain.name, run_id)):
            registry.discard(domain.name, made)
    if failure:
        log.error("run failed", run=run_id, notebook=notebook.stem, domain=domain.name, **failure)
        raise RunError(
            f"{notebook.stem} for {domain.name!r} failed in cell {failure['cell']}: "
            f"{failure['message'].rstrip('.')}. Nothing was published. "
            f"The run is kept in {record.folder}; open report.html there."
        )
    log.info("run finished", run=run_id, notebook=notebook.stem, domain=domain.name)
    return record


def _execute(
    notebook: Path, copy: Path, values: dict[str, Any], progress: Progress
) -> dict[str, Any] | None:
    """Run all cells; give what failed, or None. The copy holds all that was run either way."""
    cells = len(nbformat.read(notebook, as_version=4).cells) + 1
    done = 0

    def report(**_: object) -> None:
        nonlocal done
        done += 1
        progress(min(done, cells), cells)

    # The kernel listens on files in a private folder: no ports to collide, nobody else can read.
    sockets = tempfile.TemporaryDirectory(prefix="smartcity-")
    transport = {"transport": "ipc", "ip": f"{sockets.name}/kernel"}
    try:
        with sockets, atomic.storage(copy):
            papermill.execute_notebook(
                str(notebook),
                str(copy),
                parameters=values,
                kernel_name="python3",
                progress_bar=False,
                log_output=False,
                on_cell_executed=report,
                config=Config({"KernelManager": transport}),
                # A kernel that is told to stop calls that an error; real ones come as messages.
                extra_arguments=["--IPKernelApp.log_level=CRITICAL"],
            )
    except PapermillExecutionError as error:
        message = error.evalue if hasattr(errors, error.ename) else f"{error.ename}: {error.evalue}"
        return {"cell": error.exec_count, "error": error.ename, "message": message}
    except RuntimeError as error:  # the kernel did not start, or died under a cell
        return {"cell": done + 1, "error": type(error).__name__, "message": f"Kernel lost: {error}"}
    return None


def _extract(home: Path) -> list[str]:
    """Take the charts and facts out of an executed notebook; give the charts' summaries."""
    executed = nbformat.read(home / "notebook.ipynb", as_version=4)
    outputs = [
        output["data"]
        for cell in executed.cells
        for output in cell.get("outputs", [])
        if "data" in output
    ]
    drawn = [data[charts.MIME] for data in outputs if charts.MIME in data]
    drawn = [chart for chart in drawn if "name" in chart["layout"].get("meta", {})]
    named = {
        chart["layout"]["meta"]["name"]: {"data": chart["data"], "layout": chart["layout"]}
        for chart in drawn
    }
    facts = [data["application/json"] for data in outputs if "application/json" in data]
    with atomic.storage(home):
        (home / "figures.json").write_text(json.dumps(named), encoding="utf-8")
        if facts:
            (home / "metrics.json").write_text(json.dumps(facts[-1], indent=2), encoding="utf-8")
    return [chart["layout"]["meta"]["summary"] for chart in named.values()]
