"""Execute a notebook with given parameters, and take out of the copy what it drew and stated."""

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import papermill
from jupyter_client.provisioning.factory import KernelProvisionerFactory
from nbclient.exceptions import CellTimeoutError
from papermill.engines import NBClientEngine, papermill_engines
from papermill.exceptions import PapermillExecutionError
from traitlets.config import Config

from smartcity import atomic, charts, errors, runs
from smartcity.reporting import scrub

Progress = Callable[[int, int], None]


class _Saving(NBClientEngine):
    """Saves the copy once, however it ends; after every cell takes half a second of a run."""

    @classmethod
    def execute_managed_notebook(
        cls, nb_man: Any, kernel_name: str, *, copy: Path, **given: Any
    ) -> None:
        try:
            super().execute_managed_notebook(nb_man, kernel_name, **given)
        finally:
            nbformat.write(nb_man.nb, copy)


papermill_engines.register("smartcity", _Saving)


def execute(
    notebook: Path,
    home: Path,
    values: dict[str, Any],
    *,
    seconds: float | None = None,
    progress: Progress = lambda done, cells: None,
) -> dict[str, Any] | None:
    """Run all cells of a copy; secrets and the machine's paths are taken out of it.

    Args:
        notebook: What to run.
        home: Folder for ``notebook.ipynb``, and for ``figures.json`` and ``metrics.json`` if all
            went well.
        values: Its parameters, checked.
        seconds: Longest all cells together may take.
        progress: Called with (cells done, cells in all).

    Returns:
        None, or what failed: ``cell``, ``error``, ``message``.

    Raises:
        StorageError: The copy cannot be written.
    """
    copy = home / "notebook.ipynb"
    failure = _run(notebook, copy, values, seconds, progress)
    if copy.exists():
        executed: Any = nbformat.read(copy, as_version=4)
        executed.metadata.setdefault("papermill", {})["output_path"] = copy.name
        executed = scrub.cleaner().clean(executed)
        with atomic.storage(copy):
            nbformat.write(executed, copy)
        if failure is None:
            _extract(executed, home)
    return scrub.cleaner().clean(failure) if failure else None


def _run(
    notebook: Path, copy: Path, values: dict[str, Any], seconds: float | None, progress: Progress
) -> dict[str, Any] | None:
    cells = len(nbformat.read(notebook, as_version=4).cells) + 1
    done, end = 0, 0.0

    def report(**_: object) -> None:
        nonlocal done
        done += 1
        progress(min(done, cells), cells)

    def left(_: object) -> float | None:
        nonlocal end
        end = end or time.monotonic() + (seconds or 0)  # counted from the first cell
        return max(end - time.monotonic(), 0.1) if seconds else None

    KernelProvisionerFactory.instance().default_provisioner_name = "smartcity-report"
    # The kernel listens on files in a private folder: no ports to collide, nobody else can read.
    with atomic.storage(copy), tempfile.TemporaryDirectory(prefix="smartcity-") as sockets:
        try:
            papermill.execute_notebook(
                str(notebook),
                str(copy),
                parameters=values,
                kernel_name="python3",
                progress_bar=False,
                log_output=False,
                on_cell_executed=report,
                engine_name="smartcity",
                request_save_on_cell_execute=False,
                copy=copy,
                timeout_func=left,
                config=Config({"KernelManager": {"transport": "ipc", "ip": f"{sockets}/kernel"}}),
                # A kernel that is told to stop calls that an error; real ones come as messages.
                extra_arguments=["--IPKernelApp.log_level=CRITICAL"],
            )
        except PapermillExecutionError as error:
            ours = hasattr(errors, error.ename)
            message = error.evalue if ours else f"{error.ename}: {error.evalue}"
            return {"cell": error.exec_count, "error": error.ename, "message": message}
        except CellTimeoutError:
            message = f"Timeout: not done after {seconds:g} s"
            return {"cell": done + 1, "error": "Timeout", "message": message}
        except RuntimeError as error:  # the kernel did not start, or died under a cell
            message = f"Kernel lost: {error}"
            return {"cell": done + 1, "error": type(error).__name__, "message": message}
    return None


def _extract(executed: Any, home: Path) -> None:
    """Write the charts and facts an executed notebook shows to files of their own."""
    outputs = [
        output["data"]
        for cell in executed.cells
        for output in cell.get("outputs", [])
        if "data" in output
    ]
    drawn = [data[charts.MIME] for data in outputs if charts.MIME in data]
    named = {
        chart["layout"]["meta"]["name"]: {"data": chart["data"], "layout": chart["layout"]}
        for chart in drawn
        if "name" in chart["layout"].get("meta", {})
    }
    facts = [data["application/json"] for data in outputs if "application/json" in data]
    with atomic.storage(home):
        (home / "figures.json").write_text(json.dumps(named), encoding="utf-8")
        if facts:
            (home / "metrics.json").write_text(json.dumps(facts[-1], indent=2), encoding="utf-8")


def summaries(home: Path) -> list[str]:
    """Give one sentence per chart of a run that went well."""
    named = runs.content(home, "figures.json") or {}
    return [chart["layout"]["meta"]["summary"] for chart in named.values()]
