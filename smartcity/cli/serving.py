"""Commands that answer: a file, an API, a page; and what the installation looks like."""

import dataclasses
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, TaskProgressColumn, TextColumn
from rich.progress import Progress as Bar

from smartcity import __version__, domains, settings
from smartcity.cli.common import AsJson, DomainName, app, err, out, show, show_rows, table
from smartcity.errors import SmartCityError

if TYPE_CHECKING:
    from smartcity.predict.files import Progress


@app.command()
def predict(
    domain: DomainName,
    source: Annotated[
        Path,
        typer.Option("--input", help="CSV (also .csv.gz), Parquet, or a folder of Parquet files"),
    ],
    target: Annotated[Path, typer.Option("--output", help="CSV, Parquet or folder to write")],
    as_json: AsJson = False,
) -> None:
    """Answer every row of a file, or of a folder; what cannot be is set aside with the reason.

    A run that was stopped goes on where it was when it is started again.
    """
    from smartcity.predict import Predictor
    from smartcity.predict.files import answer_file
    from smartcity.predict.files_folder import answer_folder

    predictor, started = Predictor.load(domain), time.perf_counter()
    with _bar() as told:
        answer = answer_folder if source.is_dir() else answer_file
        done = answer(predictor, source, target, told)
    seconds = time.perf_counter() - started
    known = dataclasses.asdict(done) | {"output": target, "seconds": round(seconds, 3)}
    known |= {"domain": predictor.domain.name, "model_version": predictor.card.version}
    aside = f": {done.rejected}" if done.rejected else ""
    said = f"{done.answered} rows answered: {target}; {done.refused} refused{aside}"
    show(known, as_json, lambda: said)
    if done.refused and not done.answered:
        raise SmartCityError(f"No row of {source} could be answered; {done.rejected} says why.")


@contextmanager
def _bar() -> Iterator[Callable[["Progress"], None]]:
    """Show on a terminal how far a file is, and how fast."""
    columns = [BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[said]}")]
    with Bar(*columns, console=err, disable=not err.is_terminal, transient=True) as bar:
        task, started = bar.add_task("", total=1.0, said=""), time.perf_counter()

        def told(now: "Progress") -> None:
            seen = now.answered + now.refused
            if not now.share and now.resumed:
                err.print(f"Going on after {now.resumed} rows.", highlight=False)
            rate = (seen - now.resumed) / max(time.perf_counter() - started, 1e-3)
            bar.update(task, completed=now.share, said=f"{seen:,} rows, {rate:,.0f} a second")

        yield told


@app.command()
def forecast(
    domain: DomainName,
    source: Annotated[Path, typer.Option("--input", help="CSV with a recent reading per line")],
    question: Annotated[str, typer.Option(help="next_hour or next_day")] = "next_day",
    as_json: AsJson = False,
) -> None:
    """Say what comes next, from a CSV file of recent readings, oldest first."""
    from smartcity.predict import Predictor
    from smartcity.predict.files import read_recent

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
    show(rows, as_json, lambda: table(question, ["at", "forecast", level], cells))
    if predictor.simulated:
        err.print("The model was trained on simulated readings, not on a real city.")


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
def doctor(
    only_settings: Annotated[
        bool, typer.Option("--settings", help="Print the settings instead, and where each is from")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check this installation, and say of each fault what to do; exit code 1 if there is any."""
    title = f"SmartCity {__version__}, Python {sys.version.split()[0]}"
    if only_settings:
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
    else:
        from smartcity.doctor import examine

        rows = [dataclasses.asdict(check) for check in examine()]
    show_rows(title, list(rows[0]), rows, as_json)
    problems = [str(row["check"]) for row in rows if row.get("state") == "problem"]
    if problems:
        raise SmartCityError(f"{len(problems)} problem(s): {', '.join(problems)}")
