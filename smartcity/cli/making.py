"""Commands that make models and reports: run, build."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from smartcity import domains
from smartcity.cli import common
from smartcity.cli.common import AsJson, Parameters, app, chosen, err, out, show_rows
from smartcity.domains import ALL, MAIN
from smartcity.errors import SmartCityError

if TYPE_CHECKING:
    from smartcity.runs import Run


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
        out.print(f"{run.notebook} for {run.name} succeeded in {run.seconds} s: {run.folder}")
        if run.refused:
            _say_refused(run)


def _say_refused(run: "Run") -> None:
    reasons = " ".join(run.refused)
    said = f"{run.name} {run.model_version} is published, not served: {reasons}"
    err.print(said, highlight=False, markup=False)


@app.command()
def build(
    domain: Annotated[str | None, typer.Option(help="One domain; all when left out")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="One quick model each instead of the search")
    ] = False,
    site: Annotated[
        str, typer.Option(help="One site; all: the model of all sites, and nothing else")
    ] = MAIN,
    all_sites: Annotated[
        bool, typer.Option("--sites", help="The model of all sites, then every site")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Explore, train, evaluate and report, for each domain; skips what is up to date."""
    from smartcity import data, reporting

    asked = chosen(domain)
    names = [each.name for each in asked]
    sites = {each.name: [site] for each in asked}
    if all_sites:
        sites = {each.name: data.present(each) for each in asked}
        sites = {name: [ALL, *there] if len(there) > 1 else there for name, there in sites.items()}
    with common.progress() as bars:
        tasks = {name: bars.add_task(name, total=None) for name in names}
        every = bars.add_task("sites", visible=all_sites)

        def report(name: str, notebook: str, done: int, cells: int) -> None:
            about = f"{name:12} {notebook}"
            bars.update(tasks[name], description=about, completed=done, total=cells)

        steps = reporting.build(
            names,
            sites=sites,
            quick=quick,
            progress=report,
            finished=lambda done, chains: bars.update(every, completed=done, total=chains),
        )
    rows = [
        {
            "domain": domains.at(step.domain, step.site),
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
            _say_refused(step.run)
    failed = [step for step in steps if step.outcome == "failed"]
    if failed:
        raise SmartCityError(" ".join(str(step.error) for step in failed))
    if not as_json and all(step.outcome == "up to date" for step in steps):
        out.print("Nothing has changed; everything is up to date.")
