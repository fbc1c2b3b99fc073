"""Commands about reports: what is due when, what was made, and making it."""

import heapq
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

import typer

from smartcity import parameters, runs, settings
from smartcity.cli import common
from smartcity.cli.common import AsJson, Parameters, app, err, out, show, show_rows, table
from smartcity.errors import SmartCityError, UsageError

if TYPE_CHECKING:
    from smartcity.reporting.due import Maker
    from smartcity.reporting.schedule import Entry
    from smartcity.store.claims import Due

report_app = typer.Typer(
    help="Reports that are made by a schedule, or now, or for the past.", no_args_is_help=True
)
app.add_typer(report_app, name="report")

EntryName = Annotated[str, typer.Argument(metavar="NAME", help="Name in reports/schedule.toml")]
_DAY: dict[str, Any] = {"formats": ["%Y-%m-%d"], "metavar": "DATE"}


@report_app.command("schedule")
def report_schedule(
    check: Annotated[
        bool, typer.Option("--check", help="Only say whether the file is in order")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show when each report is due next, and what became of the last time."""
    from smartcity.reporting import schedule
    from smartcity.store import claims, database

    entries = schedule.read()
    if not entries:
        raise UsageError(f"No report is on the schedule: describe one in {schedule.path()}")
    if check:
        result = {"file": str(schedule.path()), "reports": sorted(entries)}
        said = f"{schedule.path()} is in order: {', '.join(entries)}"
        show(result, as_json, lambda: said)
        return
    database.upgrade()
    looked, now = claims.looked(), datetime.now(UTC)
    rows: list[dict[str, Any]] = []
    for entry in entries.values():
        last = claims.last(entry.name)
        paused = entry.paused or looked.get(entry.name, (now, False))[1]
        due = None if paused else schedule.next_slot(entry, now)
        rows.append(
            {
                "report": entry.name,
                "notebook": entry.notebook,
                "domains": list(entry.domains),
                "cron": entry.cron,
                "timezone": entry.timezone,
                "paused": paused,
                "next": due.isoformat() if due else None,
                "next_local": schedule.wall(entry, due) if due else None,
                "last": last[0].as_of.isoformat() if last else None,
                "last_local": schedule.wall(entry, last[0].as_of) if last else None,
                "runs": [_told(row) for row in last],
            }
        )
    header = ["report", "notebook", "next", "clock of", "last", "what became of it"]
    cells = [
        [
            r["report"],
            r["notebook"],
            "paused" if r["paused"] else r["next_local"] or "on an alarm",
            r["timezone"],
            r["last_local"] or "never",
            "\n".join(f"{o['domain']}: {o['state']} {o['reason']}".rstrip() for o in r["runs"]),
        ]
        for r in rows
    ]
    show(rows, as_json, lambda: table("Schedule", header, cells))


@report_app.command("due")
def report_due(as_json: AsJson = False) -> None:
    """Make what is due now, try again what failed, and end; any number may run at once.

    What is to be told about runs is told, and runs nobody keeps are removed.
    """
    from smartcity.reporting import deliver, tidy
    from smartcity.store import database

    database.upgrade()
    with _maker() as maker:
        outcomes = maker.due()
    deliver.send(maker.now)
    if outcomes:
        tidy.remove(tidy.due(maker.now()))
    rows = [
        _told(o.due) | {"state": o.state, "run": o.run_id, "reason": o.reason or ""}
        for o in outcomes
    ]
    if rows or as_json:
        _show_runs(rows, as_json)
    elif out.is_terminal:  # not in a log, twice a minute
        out.print("Nothing is due.")
    failed = [o for o in outcomes if o.state == "failed"]
    if failed:
        told = " ".join(f"{o.due.report} for {o.due.domain!r}: {o.reason}" for o in failed)
        raise SmartCityError(told)


@report_app.command("run")
def report_run(  # noqa: PLR0913, PLR0917  # one per option
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name on the schedule, or notebook")],
    domain: Annotated[
        str | None, typer.Option(help="air_quality, traffic or energy; all when left out")
    ] = None,
    first: Annotated[
        datetime | None, typer.Option("--from", help="First day to make it for; now", **_DAY)
    ] = None,
    last: Annotated[
        datetime | None, typer.Option("--to", help="Last day to make it for", **_DAY)
    ] = None,
    parameter: Parameters = None,
    every_site: Annotated[
        bool, typer.Option("--sites", help="For every site, now; on a Dask cluster if one is set")
    ] = False,
    again: Annotated[bool, typer.Option("--again", help="Also what is made already")] = False,
    tell: Annotated[
        bool, typer.Option("--tell", help="Tell those the schedule names, as on schedule")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make a report now, or for each time it was due between two days."""
    from smartcity.reporting import deliver, due, schedule
    from smartcity.store import database

    given = common.pairs(parameter)
    if (first is None) != (last is None):
        raise UsageError("Give both days: --from 2026-01-01 --to 2026-01-31; or none, for now.")
    entry, scheduled = schedule.named(name, given, domain)
    if every_site:
        if first or again or tell:
            raise UsageError("--sites makes reports for now: leave out --from, --again and --tell.")
        _fan_out(entry, as_json)
        return
    now = datetime.now(UTC).replace(microsecond=0)
    times = [(now, schedule.wall(entry, now) if scheduled else "")]
    if first and last:
        times = due.between(entry, first.date(), last.date(), now)
    database.upgrade()
    with _maker(tell=tell) as maker:
        made = maker.make(entry, times, again=again)
    if tell:
        deliver.send(maker.now)
    _show_runs([_told(row) for row in made], as_json)
    failed = [row for row in made if row.state != "succeeded"]
    if failed:
        raise SmartCityError(f"{len(failed)} of {len(made)} not made. {failed[-1].reason or ''}")


def _fan_out(entry: "Entry", as_json: bool) -> None:
    """Make a report for every site there are readings of."""
    from smartcity import data, domains, reporting

    sites = {name: data.present(domains.load(name)) for name in entry.domains}
    with common.progress(quiet=not err.is_terminal) as bars:
        task = bars.add_task(entry.name, total=None)
        steps = reporting.fan_out(
            entry.notebook,
            entry.domains,
            sites=sites,
            given=entry.parameters,
            finished=lambda done, runs: bars.update(task, completed=done, total=runs),
        )
    rows = [
        {
            "domain": step.domain,
            "site": step.site,
            "outcome": step.outcome,
            "run": step.run.id if step.run else None,
            "error": step.error,
        }
        for step in steps
    ]
    show_rows("Reports", ["domain", "site", "outcome", "run", "error"], rows, as_json)
    if failed := [step.error for step in steps if step.error]:
        raise SmartCityError(f"{len(failed)} of {len(steps)} not made. {failed[-1]}")


@report_app.command("pause")
def report_pause(name: EntryName) -> None:
    """Let a report rest until resumed; what falls due meanwhile is not made later."""
    _rest(name, paused=True)
    out.print(f"{name} rests. To go on: smartcity report resume {name}", highlight=False)


@report_app.command("resume")
def report_resume(name: EntryName) -> None:
    """Let a paused report go on with the next time it is due."""
    _rest(name, paused=False)
    out.print(f"{name} goes on.", highlight=False)


def _rest(name: str, *, paused: bool) -> None:
    from smartcity.errors import unknown
    from smartcity.reporting import schedule
    from smartcity.store import database

    entries = schedule.read()
    if name not in entries:
        raise unknown("report", name, entries)
    if entries[name].paused and not paused:
        raise UsageError(f"{name} rests by the file: take out 'paused' in {schedule.path()}")
    database.upgrade()
    with _maker() as maker:
        maker.rest(entries[name], paused=paused)


@report_app.command("list")
def report_list(
    limit: Annotated[int, typer.Option(help="At most so many", min=1)] = 20, as_json: AsJson = False
) -> None:
    """List the runs that are kept, the newest first."""
    homes = (settings.current().reports / "runs").glob("[0-9]*/*")
    each = (runs.listed(home.parent.name, home.name) for home in homes)
    found = islice(heapq.merge(*each, key=lambda run: run.id, reverse=True), limit)
    told = {"report", "notebook", "domain", "status", "started_at", "seconds", "attempt"}
    rows = [
        {
            "run": run.id,
            **run.model_dump(include=told),
            "failed_in": f"cell {run.error['cell']}: {run.error['message']}" if run.error else "",
            "folder": str(run.folder),
        }
        for run in found
    ]
    header = ["run", "report", "notebook", "domain", "status", "started_at", "seconds", "failed_in"]
    show_rows("Runs", header, rows, as_json)


@report_app.command("parameters")
def report_parameters(
    notebook: Annotated[
        str | None, typer.Argument(metavar="[NOTEBOOK]", help="One of them; all when left out")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what a notebook takes: types, units, what is allowed, defaults."""
    found = sorted(settings.current().notebooks.glob("[0-9][0-9]_*.ipynb"))
    rows = []
    for path in [parameters.find(notebook)] if notebook else found:
        for known in parameters.read(path).values():
            allowed = ", ".join(known.choices)
            if known.low is not None and known.high is not None:
                allowed = f"{known.low:g} to {known.high:g} {known.unit}".rstrip()
            special = {"date": "a day or a moment", "run": "filled in by the runner"}
            rows.append(
                {
                    "notebook": path.stem,
                    **vars(known),
                    "allowed": allowed or special.get(known.kind, ""),
                }
            )
    header = ["notebook", "name", "type", "allowed", "default", "help"]
    cells = [[*(r[h] for h in header[:4]), repr(r["default"]), r["help"]] for r in rows]
    show(rows, as_json, lambda: table("Parameters", header, cells))


@contextmanager
def _maker(*, tell: bool = True) -> Iterator["Maker"]:
    """Give what makes reports, by this machine's clock; on a terminal it shows how far it is."""
    from smartcity.reporting.due import Maker

    quiet = not err.is_terminal  # else it leaves an empty line in a log, twice a minute
    with common.progress(quiet=quiet) as bars:
        tasks: dict[tuple[Any, ...], Any] = {}

        def told(due: "Due", done: int, cells: int) -> None:
            key = (due.report, due.parameters, due.as_of)
            if key not in tasks:
                about = f"{due.report} {due.domain} {due.as_of:%Y-%m-%d %H:%M}"
                tasks[key] = bars.add_task(about)
            bars.update(tasks[key], completed=done, total=cells, visible=done < cells)

        queue = _queue if tell else lambda *_: None
        yield Maker(now=lambda: datetime.now(UTC), settled=queue, progress=told)


def _queue(run: runs.Run, entry: "Entry", again: datetime | None) -> None:
    """Note who is to be told about a run."""
    from smartcity.reporting import deliver, schedule
    from smartcity.reporting.message import Retry

    retry, alarm = Retry(entry.attempts, again), entry.cron == schedule.ON_ALARM
    news = deliver.news(run)
    deliver.queue(run, entry.name, entry.deliver, news, datetime.now(UTC), retry, alarm=alarm)


def _told(row: "Due") -> dict[str, Any]:
    return {
        "report": row.report,
        "as_of": row.as_of.isoformat(),
        "notebook": row.notebook,
        "domain": row.domain,
        "site": row.given.get("site", "main"),
        "state": row.state,
        "attempt": row.attempts,
        "run": row.run_id,
        "reason": row.reason or "",
    }


def _show_runs(rows: Sequence[dict[str, Any]], as_json: bool) -> None:
    header = ["report", "as_of", "domain", "state", "attempt", "run", "reason"]
    cells = [[r["as_of"][:16] if h == "as_of" else r[h] or "" for h in header] for r in rows]
    show(rows, as_json, lambda: table("Reports, as of (UTC)", header, cells))
