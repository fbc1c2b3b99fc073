"""Run notebooks for many domains and sites, each one's in order, side by side."""

import multiprocessing
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from smartcity import engine, parameters, registry, runs, settings
from smartcity.domains import ALL, MAIN
from smartcity.errors import SmartCityError, UsageError
from smartcity.reporting import runner
from smartcity.runs import Run

#: Explore, train, evaluate, report: each domain's chain.
CHAIN = ("01_explore", "02_train", "03_evaluate", "05_report")
TRAIN = "02_train"
Outcome = Literal["made", "up to date", "failed", "not started"]
Progress = Callable[[str, str, int, int], None]


@dataclass(frozen=True)
class Step:
    """What became of one notebook for one site of a domain."""

    domain: str
    notebook: str
    outcome: Outcome
    run: Run | None
    error: str | None
    site: str = MAIN


def build(
    names: Sequence[str],
    *,
    sites: Mapping[str, Sequence[str]] | None = None,
    quick: bool = False,
    notebooks: Sequence[str] = CHAIN,
    progress: Progress = lambda domain, notebook, done, cells: None,
    finished: engine.Progress = lambda done, chains: None,
) -> list[Step]:
    """Bring all notebooks of some domains up to date.

    A step is up to date if a good run had the same notebook, parameters, code, readings and
    served model. A failed step stops its own site; the others go on. On a Dask cluster, whose
    workers must find the same folders as we do, each site's chain is a task.

    Args:
        names: The domains.
        sites: Domain -> its sites, the main one if left out. ``all`` only trains, for all sites
            at once, and does so before sites begin, as theirs have to do better.
        quick: Train one quick candidate each, to have something to serve; what a thorough search
            made is up to date all the same.
        notebooks: Which of the chain, in order; all by default.
        progress: Called with (domain, notebook, cells done, cells in all), from several threads;
            not from a cluster.
        finished: Called with (chains done, chains in all).

    Returns:
        What became of every step, in order.
    """
    asked = [(name, site) for name in names for site in (sites or {}).get(name, (MAIN,))]
    steps: list[Step] = []
    for is_pool in (True, False):
        chains = [
            (*each, [n for n in notebooks if n == TRAIN] if is_pool else notebooks, quick)
            for each in asked
            if (each[1] == ALL) == is_pool
        ]
        steps += _spread(_chain, chains, progress, finished)
    return steps


def fan_out(
    notebook: str,
    names: Sequence[str],
    *,
    sites: Mapping[str, Sequence[str]] | None = None,
    given: Mapping[str, object] | None = None,
    finished: engine.Progress = lambda done, reports: None,
) -> list[Step]:
    """Run one notebook for every site of some domains, up to date or not.

    Args:
        notebook: Which.
        names: The domains.
        sites: Domain -> its sites, the main one if left out.
        given: Parameters beside domain and site, the same for all.
        finished: Called with (runs done, runs in all).

    Returns:
        What became of each, in order; one that failed stops no other.
    """
    tasks = [
        (name, site, notebook, dict(given or {}))
        for name in names
        for site in (sites or {}).get(name, (MAIN,))
    ]
    return _spread(_made, tasks, lambda domain, notebook, done, cells: None, finished)


def _spread(
    work: Callable[..., list[Step]],
    tasks: Sequence[tuple[Any, ...]],
    progress: Progress,
    finished: engine.Progress,
) -> list[Step]:
    """Do the work, bring the index up to date once, and give all steps."""
    known = settings.current()
    # What tells of every cell stays here: it does not travel.
    shown = None if known.scheduler else progress
    here = (os.getpid(), str(known.reports), shown)
    found = engine.each(
        _there, [(work, here, *task) for task in tasks], progress=finished, in_threads=True
    )
    if tasks:
        runner.list_runs()
    return [step for steps in found for step in steps]


def _there(
    work: Callable[..., list[Step]], here: tuple[int, str, Progress | None], *task: Any
) -> list[Step]:
    """Work here, or on a worker that keeps its runs where we do."""
    caller, reports, progress = here
    if os.getpid() != caller:
        # A training in here would wait for workers that wait for it.
        os.environ["SMARTCITY_SCHEDULER"] = ""
        settings.current.cache_clear()
        # Dask marks its workers so that they may start no process; ours end with the worker.
        multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]  # noqa: SLF001
    if str(settings.current().reports) != reports:
        raise UsageError(
            f"SMARTCITY_REPORTS is {settings.current().reports} on a worker and {reports} here. "
            "Set all SMARTCITY_ folders to the same shared folders on every machine."
        )
    return work(progress or (lambda domain, notebook, done, cells: None), *task)


def _chain(
    progress: Progress, domain: str, site: str, notebooks: Sequence[str], quick: bool
) -> list[Step]:
    steps: list[Step] = []
    for notebook in notebooks:
        if any(step.outcome == "failed" for step in steps):
            steps.append(Step(domain, notebook, "not started", None, None, site))
            continue
        try:
            steps.append(_step(domain, site, notebook, progress, quick=quick))
        except SmartCityError as error:
            steps.append(Step(domain, notebook, "failed", None, str(error), site))
    return steps


def _step(domain: str, site: str, notebook: str, progress: Progress, *, quick: bool) -> Step:
    path = parameters.find(notebook)
    given: dict[str, object] = {"domain": domain}
    given |= {"site": site} if site != MAIN else {}
    wanted = {runner.fingerprint(path, parameters.check(path, given))}
    if quick and notebook == TRAIN:
        given["thorough"] = False
        wanted.add(runner.fingerprint(path, parameters.check(path, given)))
    for run in runs.listed(notebook, domain, site):
        if run.status == "succeeded" and run.fingerprint in wanted and _stands(run):
            progress(domain, notebook, 1, 1)
            return Step(domain, notebook, "up to date", run, None, site)
    made = runner.run(
        notebook,
        given,
        progress=lambda done, cells: progress(domain, notebook, done, cells),
        is_alone=False,
    )
    return Step(domain, notebook, "made", made, None, site)


def _made(
    _: Progress, domain: str, site: str, notebook: str, given: Mapping[str, object]
) -> list[Step]:
    try:
        given = {**given, "domain": domain} | ({"site": site} if site != MAIN else {})
        made = runner.run(notebook, given, is_alone=False)
    except SmartCityError as error:
        return [Step(domain, notebook, "failed", None, str(error), site)]
    return [Step(domain, notebook, "made", made, None, site)]


def _stands(run: Run) -> bool:
    """Tell whether what a run published is still there."""
    return run.notebook != TRAIN or run.model_version in registry.versions(run.name)
