"""Run a kept run again, and say in what it differs."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from smartcity import atomic, lineage, parameters, registry, runs, settings
from smartcity.errors import RunError, UsageError
from smartcity.reporting import execution, runner
from smartcity.runs import Run

#: Largest difference that is none: relative, and absolute for what is nought.
TOLERANCE = 1e-6
_FROM_ZERO = 1e-9


class Difference(NamedTuple):
    """Where a run made again is not what was kept; None where one of the two has nothing."""

    where: str
    kept: Any
    again: Any


class Reproduced(NamedTuple):
    """What came of running again.

    Attributes:
        run: What was kept.
        compared: Figures and facts that were compared, one by one.
        differences: In inputs and in what was compared.
        notes: What is not the same although that alone is no difference: code, packages, model.
    """

    run: Run
    compared: int
    differences: list[Difference]
    notes: list[Difference]


def reproduce(run_id: str) -> Reproduced:
    """Run a kept run again with its own parameters and compare what comes out.

    Args:
        run_id: Which.

    Returns:
        What came of it; nothing is kept or published.

    Raises:
        UsageError: There is no such run, or it failed when it was made.
        ModelError: The model it asked is not there any more.
        RunError: It fails now.
    """
    run = runs.find(run_id)
    if run.status != "succeeded":
        raise UsageError(f"Run {run_id!r} failed when it was made; there is nothing to compare.")
    notebook = parameters.find(run.notebook)
    if version := run.parameters.get("version"):
        registry.card(*registry.answering(run.domain, run.site, version))
    values = run.parameters | ({"run_id": ""} if "run_id" in run.parameters else {})
    with atomic.scratch(".running-", settings.current().reports) as home:
        failure = execution.execute(notebook, home, values)
        if failure:
            message = f"in cell {failure['cell']}: {failure['message']}"
            raise RunError(f"Run {run_id!r} fails now, {message}")
        again = {name: runs.content(home, name) for name in ("metrics.json", "figures.json")}
    kept = {name: runs.content(run.folder, name) for name in again}
    inputs = list(_inputs(run, notebook))
    pairs = list(_pairs("", kept, again))
    differing = [pair for pair in pairs if not _same(pair.kept, pair.again)]
    return Reproduced(run, len(pairs), inputs + differing, list(_notes(run, notebook)))


def _inputs(run: Run, notebook: Path) -> Iterator[Difference]:
    """Compare the files read then with those there now."""
    kept = {source["name"]: source["sha256"] for source in run.inputs}
    now = {s.path.name: s.sha256 for s in runner.sources(notebook, run.parameters)}
    for name in sorted({*kept, *now}):
        if kept.get(name) != now.get(name):
            yield Difference(f"input {name}, sha256", kept.get(name), now.get(name))


def _notes(run: Run, notebook: Path) -> Iterator[Difference]:
    now = runner.code(notebook, run.domain, run.model_version, run.site)
    for name, kept in run.code.items():
        if kept != now[name]:
            yield Difference(f"{name}, sha256", kept, now[name])
    commit = lineage.git()
    if run.git and run.git != commit:
        yield Difference("git", run.git, commit)


def _pairs(where: str, kept: Any, again: Any) -> Iterator[Difference]:
    """Walk both side by side down to single values."""
    if isinstance(kept, dict) and isinstance(again, dict):
        for name in [*kept, *(name for name in again if name not in kept)]:
            at = f"{where}.{name}" if where else name
            yield from _pairs(at, kept.get(name), again.get(name))
    elif isinstance(kept, list) and isinstance(again, list) and len(kept) == len(again):
        for number, both in enumerate(zip(kept, again, strict=True)):
            yield from _pairs(f"{where}[{number}]", *both)
    else:
        yield Difference(where, kept, again)


def _same(kept: Any, again: Any) -> bool:
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in (kept, again))
    if numbers:
        return math.isclose(kept, again, rel_tol=TOLERANCE, abs_tol=_FROM_ZERO)
    return type(kept) is type(again) and kept == again
