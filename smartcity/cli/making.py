"""Commands that make models and reports: run, build."""

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from smartcity.cli import common
from smartcity.cli.common import AsJson, Parameters, app, chosen, err, out, show_rows
from smartcity.errors import SmartCityError


@app.command("run")
def run_notebook(
    notebook: Annotated[str, typer.Argument(help="As in 01_explore, 05_report, 06_monitor")],
    domain: Annotated[str, typer.Option(help="air_quality, traffic or energy")],
    parameter: Parameters = None,
    as_json: AsJson = False,
) -> None:
    """Run one notebook for one domain and keep its record under reports/runs/."""
    from smartcity import reporting

    run = reporting.run(notebook, {"domain": domain, **common.pairs(parameter)})
    if as_json:
        sys.stdout.write(run.model_dump_json(indent=2) + "\n")
    else:
        out.print(f"{run.notebook} for {run.domain} succeeded in {run.seconds} s: {run.folder}")
        if run.refused:
            _say_refused(run.domain, str(run.model_version), run.refused)


def _say_refused(domain: str, version: str, reasons: Sequence[str]) -> None:
    said = f"{domain} {version} is published, not served: {' '.join(reasons)}"
    err.print(said, highlight=False, markup=False)


@app.command()
def build(
    domain: Annotated[str | None, typer.Option(help="One domain; all when left out")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="One quick model each instead of the search")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Explore, train, evaluate and report, for each domain; skips what is up to date."""
    from smartcity import reporting

    names = [each.name for each in chosen(domain)]
    with common.progress() as bars:
        tasks = {name: bars.add_task(name, total=None) for name in names}

        def report(name: str, notebook: str, done: int, cells: int) -> None:
            about = f"{name:12} {notebook}"
            bars.update(tasks[name], description=about, completed=done, total=cells)

        steps = reporting.build(names, quick=quick, progress=report)
    rows = [
        {
            "domain": step.domain,
            "notebook": step.notebook,
            "outcome": step.outcome,
            "seconds": step.run.seconds if step.run and step.outcome == "made" else None,
            "model_version": step.run.model_version if step.run else None,
            "folder": str(step.run.folder) if step.run else None,
            "error": step.error,
        }
        for step in steps
    ]
    header = ["domain", "notebook", "outcome", "seconds", "model_version"]
    show_rows("Build", header, rows, as_json)
    for step in steps:
        if step.run and step.run.refused and step.outcome == "made":
            _say_refused(step.domain, str(step.run.model_version), step.run.refused)
    failed = [step for step in steps if step.outcome == "failed"]
    if failed:
        raise SmartCityError(" ".join(str(step.error) for step in failed))
    if not as_json and all(step.outcome == "up to date" for step in steps):
        out.print("Nothing has changed; everything is up to date.")
