"""Run every notebook that is not up to date, each domain's in order, domains side by side."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from smartcity import parameters, registry, runs, settings
from smartcity.errors import SmartCityError
from smartcity.reporting import runner
from smartcity.runs import Run

#: Explore, train, evaluate, report: each domain's chain.
CHAIN = ("01_explore", "02_train", "03_evaluate", "05_report")
Outcome = Literal["made", "up to date", "failed", "not started"]
Progress = Callable[[str, str, int, int], None]


@dataclass(frozen=True)
class Step:
    """What became of one notebook for one domain."""

    domain: str
    notebook: str
    outcome: Outcome
    run: Run | None
    error: str | None


def build(
    names: Sequence[str],
    *,
    quick: bool = False,
    notebooks: Sequence[str] = CHAIN,
    progress: Progress = lambda domain, notebook, done, cells: None,
) -> list[Step]:
    """Bring all notebooks of some domains up to date.

    A step is up to date if a good run had the same notebook, parameters, code, readings and
    served model. A failed step stops its own domain; the others go on.

    Args:
        names: The domains.
        quick: Train one quick candidate each, to have something to serve; what a thorough search
            made is up to date all the same.
        notebooks: Which of the chain, in order; all by default.
        progress: Called with (domain, notebook, cells done, cells in all), from several threads.

    Returns:
        What became of every step, in order.
    """
    with ThreadPoolExecutor(settings.current().jobs) as pool:
        chains = pool.map(lambda name: _chain(name, notebooks, progress, quick=quick), names)
    return [step for chain in chains for step in chain]


def _chain(domain: str, notebooks: Sequence[str], progress: Progress, *, quick: bool) -> list[Step]:
    steps: list[Step] = []
    for notebook in notebooks:
        if any(step.outcome == "failed" for step in steps):
            steps.append(Step(domain, notebook, "not started", None, None))
            continue
        try:
            steps.append(_step(domain, notebook, progress, quick=quick))
        except SmartCityError as error:
            steps.append(Step(domain, notebook, "failed", None, str(error)))
    return steps


def _step(domain: str, notebook: str, progress: Progress, *, quick: bool) -> Step:
    path = parameters.find(notebook)
    given: dict[str, object] = {"domain": domain}
    wanted = {runner.fingerprint(path, parameters.check(path, given))}
    if quick and notebook == "02_train":
        given["thorough"] = False
        wanted.add(runner.fingerprint(path, parameters.check(path, given)))
    for run in runs.listed(notebook, domain):
        if run.status == "succeeded" and run.fingerprint in wanted and _stands(run):
            progress(domain, notebook, 1, 1)
            return Step(domain, notebook, "up to date", run, None)
    made = runner.run(notebook, given, progress=lambda d, n: progress(domain, notebook, d, n))
    return Step(domain, notebook, "made", made, None)


def _stands(run: Run) -> bool:
    """Tell whether what a run published is still there."""
    return run.notebook != "02_train" or run.model_version in registry.versions(run.domain)
