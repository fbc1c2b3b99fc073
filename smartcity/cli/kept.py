"""Commands about what was made: run it again, tell about it, tidy it up."""

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from smartcity.cli.common import AsJson, out, show, show_rows, table
from smartcity.cli.report import report_app
from smartcity.errors import SmartCityError


@report_app.command("reproduce")
def report_reproduce(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Its id; smartcity report list")],
    most: Annotated[int, typer.Option("--show", help="Differences to list", min=1)] = 20,
    as_json: AsJson = False,
) -> None:
    """Run a kept run again and compare every figure; exit code 1 if any differs."""
    from smartcity.reporting import reproduce

    done = reproduce.reproduce(run)
    named = {"differences": done.differences, "notes": done.notes}
    rows = {kind: [each._asdict() for each in found] for kind, found in named.items()}
    result: dict[str, Any] = {"run": run, "compared": done.compared, **rows}

    def told() -> Any:
        both = (("differs", done.differences), ("other now", done.notes))
        cells = [[kind, *map(str, each)] for kind, found in both for each in found[:most]]
        title = f"{run}: {len(done.differences)} differences, {done.compared} values compared"
        return table(title, ["", "where", "kept", "again"], cells)

    show(result, as_json, told)
    if done.differences:
        raise SmartCityError(
            f"{run} does not come out the same: {len(done.differences)} differences. "
            "The readings or the code are not what they were; the run's manifest names both."
        )
    if not as_json:
        out.print(f"{run} comes out the same.", highlight=False)


@report_app.command("tidy")
def report_tidy(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove runs older or more than their report keeps; the last good one always stays."""
    from smartcity.reporting import tidy

    going = tidy.due(datetime.now(UTC))
    if not dry_run:
        tidy.remove(going)
    rows = [
        {"run": g.run.id, "notebook": g.run.notebook, "domain": g.run.domain, "why": g.why}
        for g in going
    ]
    header = ["run", "notebook", "domain", "why"]
    show_rows("Would go" if dry_run else "Removed", header, rows, as_json)


@report_app.command("deliver")
def report_deliver(
    really: Annotated[
        bool | None, typer.Option("--send/--dry-run", help="Whatever SMARTCITY_DELIVER says")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Send the messages that wait; exit code 1 if one cannot be delivered at all."""
    from smartcity.reporting import deliver
    from smartcity.store import database

    database.upgrade()
    rows = [asdict(each) for each in deliver.send(lambda: datetime.now(UTC), really=really)]
    header = ["run_id", "channel", "target", "state", "reason"]
    show_rows("Messages", header, rows, as_json)
    if failed := [row for row in rows if row["state"] == "failed"]:
        raise SmartCityError(f"{len(failed)} messages not delivered. {failed[-1]['reason']}")


@report_app.command("deliveries")
def report_deliveries(
    limit: Annotated[int, typer.Option(help="At most so many", min=1)] = 50, as_json: AsJson = False
) -> None:
    """List who was told what, who was not, and why, the newest first."""
    from smartcity.reporting import deliver
    from smartcity.store import database

    database.upgrade()
    rows = deliver.deliveries(limit)
    header = ["updated_at", "report", "kind", "channel", "target", "state", "attempts", "reason"]
    show_rows("Messages", header, rows, as_json)
