"""Thin commands: each calls one function and prints one result."""

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table

from smartcity import __version__, domains, logs, registry, settings
from smartcity.errors import DataError, ModelError, SmartCityError, UsageError
from smartcity.registry import Card

log = logs.get(__name__)
out = Console(soft_wrap=True)
err = Console(stderr=True, soft_wrap=True)

app = typer.Typer(
    help="Notebook-first city analytics: air quality, traffic, energy.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="Fetch, check and simulate readings.", no_args_is_help=True)
models_app = typer.Typer(help="List, show, promote and roll back models.", no_args_is_help=True)
app.add_typer(data_app, name="data")
app.add_typer(models_app, name="models")

DomainName = Annotated[str, typer.Argument(metavar="DOMAIN", help="air_quality, traffic or energy")]
MaybeDomain = Annotated[
    str | None, typer.Argument(metavar="[DOMAIN]", help="One domain; all when left out")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON")]
Site = Annotated[str, typer.Option(help="Which site of the domain")]


def main() -> NoReturn:
    """Run the command line: 0 done, 1 our error, 2 wrong usage; never a traceback."""
    # jsonschema, which Jupyter brings along, compiles a grammar for IRIs when it is imported: two
    # and a half seconds for a check nobody here asks for (jsonschema issue 1428). A blocked import
    # looks to it like a grammar that is not installed.
    sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]
    try:
        known = settings.current()
        known.export()
        logs.configure()
        app(_join_pairs(sys.argv[1:]))
    except UsageError as error:
        _stop(str(error), 2)
    except SmartCityError as error:
        _stop(str(error), 1)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        log.exception("command failed", arguments=sys.argv[1:])
        _stop(f"Unexpected {type(error).__name__}: {error}. The log file tells more.", 1)
    sys.exit(0)


def _stop(message: str, code: int) -> NoReturn:
    err.print("Error:", style="bold red", end=" ")
    err.print(message, highlight=False, markup=False)
    sys.exit(code)


def _show(result: Any, as_json: bool, table: Callable[[], Table]) -> None:
    if as_json:
        sys.stdout.write(json.dumps(result, indent=2, ensure_ascii=False, default=str) + "\n")
    else:
        out.print(table())


def _table(title: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    table = Table(title=title, title_justify="left", highlight=False)
    for name in header:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*map(str, row))
    return table


def _chosen(name: str | None) -> list[domains.Domain]:
    return [domains.load(name)] if name else list(domains.load_all().values())


@app.callback(invoke_without_command=True)
def _top(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop")] = False,
) -> None:
    if version:
        out.print(__version__)
        raise typer.Exit


@data_app.command("list")
def data_list(domain: MaybeDomain = None, as_json: AsJson = False) -> None:
    """List each domain's published files, where they are, and whether they are as published."""
    from smartcity import data

    rows = []
    for each in _chosen(domain):
        for site in each.sites:
            try:
                found = {s.path.name: s for s in data.locate(each, site)}
            except SmartCityError:
                found = {}
            for file in (f for f in each.files if f.site == site):
                source = found.get(file.name)
                state = "missing"
                if source:
                    state = "as published" if source.published else "not the published file"
                    state = "simulated" if source.simulated else state
                row = {"domain": each.name, "site": site, "file": file.name, "state": state}
                rows.append(row | {"path": str(source.path) if source else ""})
    header = ["domain", "site", "file", "state"]
    _show(rows, as_json, lambda: _table("Readings", header, [[r[h] for h in header] for r in rows]))


@data_app.command("fetch")
def data_fetch(
    domain: MaybeDomain = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--from", help="Take the files from this folder instead", exists=True, file_okay=False
        ),
    ] = None,
    or_simulate: Annotated[
        bool, typer.Option("--or-simulate", help="Simulate what cannot be had")
    ] = False,
) -> None:
    """Bring the published files into the datasets folder, checksums compared."""
    from smartcity import data

    for each in _chosen(domain):
        try:
            for source in data.fetch(each, folder, progress=err.is_terminal):
                note = "" if source.published else "  (not the published file; used all the same)"
                note = "  (simulated)" if source.simulated else note
                out.print(f"{source.path}{note}")
        except DataError as error:
            if not or_simulate:
                raise
            err.print(f"{error}\nSimulating {each.name} instead.", highlight=False, markup=False)
            data_simulate(each.name)


@data_app.command("simulate")
def data_simulate(
    domain: MaybeDomain = None,
    seed: Annotated[int, typer.Option(help="Seed of the random numbers", min=0)] = 42,
) -> None:
    """Make the simulated demo city, faults included; used where nothing was fetched."""
    from smartcity import data

    for each in _chosen(domain):
        for source in data.simulate(each, seed):
            out.print(f"{source.path}  (simulated)")


@data_app.command("check")
def data_check(
    domain: MaybeDomain = None,
    site: Site = "main",
    as_json: AsJson = False,
    rows: Annotated[int, typer.Option(help="Findings to list one by one", min=0)] = 10,
) -> None:
    """Check every reading and say what is wrong, row by row, reason by reason."""
    from smartcity import data

    results = []
    for each in _chosen(domain):
        readings = data.read(each.name, site)
        found = data.check(readings).drop(columns="row")
        results.append(
            {
                "domain": each.name,
                "site": site,
                "files": [source.record() for source in readings.sources],
                "simulated": readings.simulated,
                "rows": len(readings.frame),
                "blank_lines": readings.blank,
                "counts": found["reason"].value_counts().to_dict(),
                "findings": data.records(found),
            }
        )
        if not as_json:
            counts = found.groupby(["reason", "column", "action"]).size()
            kind = "simulated rows" if readings.simulated else "rows"
            title = f"{each.title}: {len(found)} findings in {len(readings.frame)} {kind}"
            header = ["reason", "column", "what is done", "findings"]
            out.print(_table(title, header, counts.reset_index().to_numpy().tolist()))
            if rows and len(found):
                listed = found.head(rows).to_numpy().tolist()
                out.print(_table(f"The first {len(listed)}", found.columns.tolist(), listed))
    if as_json:
        sys.stdout.write(json.dumps(results, indent=2, allow_nan=False) + "\n")


@app.command("run")
def run_notebook(
    notebook: Annotated[str, typer.Argument(help="01_explore, 02_train, 03_evaluate, 05_report")],
    domain: Annotated[str, typer.Option(help="air_quality, traffic or energy")],
    parameter: Annotated[
        list[str] | None,
        typer.Option("-p", "--parameter", metavar="NAME VALUE", help="May be given several times"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run one notebook for one domain and keep its record under reports/runs/."""
    from smartcity import reporting

    given = dict(map(_pair, parameter or []))
    if "domain" in given:
        raise UsageError("The domain is given by --domain, not by -p domain.")
    run = reporting.run(notebook, {"domain": domain, **given})
    if as_json:
        sys.stdout.write(run.model_dump_json(indent=2) + "\n")
    else:
        out.print(f"{run.notebook} for {run.domain} succeeded in {run.seconds} s: {run.folder}")
        if run.refused:
            _say_refused(run.domain, str(run.model_version), run.refused)


def _say_refused(domain: str, version: str, reasons: Sequence[str]) -> None:
    said = f"{domain} {version} is published, not served: {' '.join(reasons)}"
    err.print(said, highlight=False, markup=False)


def _join_pairs(words: Sequence[str]) -> list[str]:
    """Turn papermill's ``-p NAME VALUE`` into one word, since an option here takes one."""
    joined: list[str] = []
    rest = iter(words)
    for word in rest:
        joined.append(word)
        if word in {"-p", "--parameter"}:
            name = next(rest, "")
            joined.append(name if "=" in name else f"{name}={next(rest, '')}")
    return joined


def _pair(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    if not name or not value:
        raise UsageError(f"Parameter {name!r} has no value: write -p {name or 'NAME'} VALUE")
    return name, value


@app.command()
def build(
    domain: Annotated[str | None, typer.Option(help="One domain; all when left out")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="One quick model each instead of the search")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Explore, train, evaluate and report, for each domain; skips what is up to date."""
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from smartcity import reporting

    names = [each.name for each in _chosen(domain)]
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True) as progress:
        tasks = {name: progress.add_task(name, total=None) for name in names}

        def report(name: str, notebook: str, done: int, cells: int) -> None:
            about = f"{name:12} {notebook}"
            progress.update(tasks[name], description=about, completed=done, total=cells)

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
    cells = [["" if r[h] is None else r[h] for h in header] for r in rows]
    _show(rows, as_json, lambda: _table("Build", header, cells))
    for step in steps:
        if step.run and step.run.refused and step.outcome == "made":
            _say_refused(step.domain, str(step.run.model_version), step.run.refused)
    failed = [step for step in steps if step.outcome == "failed"]
    if failed:
        raise SmartCityError(" ".join(str(step.error) for step in failed))
    if not as_json and all(step.outcome == "up to date" for step in steps):
        out.print("Nothing has changed; everything is up to date.")


@app.command()
def predict(
    domain: DomainName,
    source: Annotated[Path, typer.Option("--input", help="CSV with one row of inputs per line")],
    target: Annotated[Path, typer.Option("--output", help="CSV to write: rows and answers")],
) -> None:
    """Answer every row of a CSV file; a row that cannot be answered says why."""
    from smartcity.predict import Predictor, answer_file

    answered, failed = answer_file(Predictor.load(domain), source, target)
    out.print(f"{answered} rows answered, {failed} refused: {target}")
    if failed and not answered:
        raise SmartCityError(f"No row of {source} could be answered; {target} says why.")


@app.command()
def forecast(
    domain: DomainName,
    source: Annotated[Path, typer.Option("--input", help="CSV with a recent reading per line")],
    question: Annotated[str, typer.Option(help="next_hour or next_day")] = "next_day",
    as_json: AsJson = False,
) -> None:
    """Say what comes next, from a CSV file of recent readings, oldest first."""
    from smartcity.predict import Predictor, read_recent

    predictor = Predictor.load(domain)
    answers = predictor.forecast(question, read_recent(predictor.domain, source))
    rows = [answer.model_dump(mode="json") for answer in answers]
    cells = [
        [
            f"{a.at:%Y-%m-%d %H:%M}",
            a.label or f"{a.prediction:.2f} {a.unit}",
            f"{a.interval.low:.2f} to {a.interval.high:.2f}"
            if a.interval
            else ", ".join(a.prediction_set or []),
        ]
        for a in answers
    ]
    level = f"likely ({predictor.card.parts[question].coverage['level']:.0%})"
    _show(rows, as_json, lambda: _table(question, ["at", "forecast", level], cells))
    if predictor.simulated:
        err.print("The model was trained on simulated readings, not on a real city.")


@models_app.command("list")
def models_list(domain: MaybeDomain = None, as_json: AsJson = False) -> None:
    """List the published versions; a star marks the one being served."""
    rows = []
    for each in _chosen(domain):
        try:
            serving = registry.current(each.name)
        except ModelError as error:
            serving = ""
            if registry.versions(each.name):
                err.print(str(error), highlight=False, markup=False)
        for version in registry.versions(each.name):
            row = {"domain": each.name, "version": version, "serving": version == serving}
            try:
                card = registry.card(each.name, version)
            except ModelError:
                rows.append({**row, "created_at": "", "simulated": None, "verdict": "damaged"})
                continue
            known = {"created_at": card.created_at, "simulated": card.data["simulated"]}
            rows.append({**row, **known, "verdict": card.verdict})
    cells = [
        [
            r["domain"],
            f"{r['version']}{' *' if r['serving'] else ''}",
            r["created_at"],
            r["verdict"],
        ]
        for r in rows
    ]
    _show(rows, as_json, lambda: _table("Models", ["domain", "version", "made", "verdict"], cells))


@models_app.command("show")
def models_show(
    domain: DomainName,
    version: Annotated[str | None, typer.Option(help="Which version; the served one")] = None,
    as_json: AsJson = False,
) -> None:
    """Show a model's card."""
    card = registry.card(domains.load(domain).name, version)
    if as_json:
        sys.stdout.write(json.dumps(card.model_dump(), indent=2, ensure_ascii=False) + "\n")
    else:
        from rich.markdown import Markdown

        out.print(Markdown(registry.page(card)))


@models_app.command("promote")
def models_promote(
    domain: DomainName,
    version: Annotated[str, typer.Argument(help="Version to serve")],
    force: Annotated[bool, typer.Option("--force", help="Although its gate refused it")] = False,
    why: Annotated[str, typer.Option(help="Reason, recorded with who and when")] = "",
) -> None:
    """Serve a version from now on, if it passed its gate; running servers notice."""
    if force != bool(why.strip()):
        raise UsageError("--force and --why REASON go together: the reason is recorded.")
    name = domains.load(domain).name
    _say_serving(registry.promote(name, version, force=why.strip() or None))


@models_app.command("history")
def models_history(domain: DomainName, as_json: AsJson = False) -> None:
    """List what was served when, who changed it, and why."""
    rows = registry.history(domains.load(domain).name)
    header = ["at", "version", "action", "by", "why"]
    cells = [[row[name] for name in header] for row in rows]
    _show(rows, as_json, lambda: _table(f"Served: {domain}", header, cells))


@models_app.command("rollback")
def models_rollback(domain: DomainName) -> None:
    """Serve the version before the current one."""
    _say_serving(registry.rollback(domains.load(domain).name))


@models_app.command("verify")
def models_verify(
    domain: MaybeDomain = None,
    version: Annotated[str | None, typer.Option(help="Which version; the served one")] = None,
) -> None:
    """Check a version's files against its card, and that it opens."""
    for each in _chosen(domain):
        card = registry.verify(each.name, version)
        out.print(f"{card.domain} {card.version}: all {len(card.files)} files are as published")


def _say_serving(card: Card) -> None:
    out.print(f"{card.domain} {card.version} is being served")


@app.command()
def serve(
    workers: Annotated[int, typer.Option(help="Processes answering", min=1)] = 1,
    reload: Annotated[bool, typer.Option(help="Start anew when the code changes")] = False,
) -> None:
    """Serve the HTTP API on SMARTCITY_API_PORT."""
    from smartcity import stack
    from smartcity.api import server

    stack.require_free(settings.current().api_port, "SMARTCITY_API_PORT")
    server.serve(workers=workers, reload=reload)


@app.command()
def dashboard() -> None:
    """Serve the dashboard on SMARTCITY_DASHBOARD_PORT."""
    from smartcity import stack
    from smartcity.dashboard import server

    stack.require_free(settings.current().dashboard_port, "SMARTCITY_DASHBOARD_PORT")
    server.serve()


@app.command()
def up(
    first_build: Annotated[
        bool,
        typer.Option("--build", help="Make a first model of each, then search for better ones"),
    ] = False,
) -> None:
    """Serve API and dashboard together until stopped."""
    from smartcity import stack

    def say(text: str) -> None:
        out.print(text, highlight=False)

    def train() -> None:
        from smartcity import reporting

        steps = reporting.build(list(domains.load_all()), quick=True, notebooks=["02_train"])
        for step in steps:
            refused = step.run.refused if step.run else []
            kept = f"what was served stays: {' '.join(refused)}" if refused else "a model is served"
            say(f"{step.domain}: {step.error or kept}")

    if first_build:
        say("Training a first, quick model of each question")
        # What makes the page whole comes next; then the search for better models, for minutes.
        stack.up(say, meanwhile=train, afterwards=[["build", "--quick"], ["build"]])
    else:
        stack.up(say)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Print the settings and where each came from."""
    known = settings.current()
    rows = [
        {
            "setting": f"SMARTCITY_{name.upper()}",
            "value": "" if getattr(known, name) is None else str(getattr(known, name)),
            "from": "environment" if known.origin(name) != "default" else "default",
            "about": field.description,
        }
        for name, field in type(known).model_fields.items()
    ]
    header = ["setting", "value", "from", "about"]
    title = f"SmartCity {__version__}, Python {sys.version.split()[0]}"
    _show(rows, as_json, lambda: _table(title, header, [[r[h] for h in header] for r in rows]))
