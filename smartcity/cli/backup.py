"""Commands about backups: make, list, check, restore, try out."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from smartcity.cli.common import AsJson, app, show, show_rows, table
from smartcity.errors import SmartCityError

backup_app = typer.Typer(
    help="Save everything, and prove it can be restored.", no_args_is_help=True
)
app.add_typer(backup_app, name="backup")

Snapshot = Annotated[str, typer.Option(help="Which backup; smartcity backup list names them")]


@backup_app.command("create")
def backup_create(
    init: Annotated[
        bool, typer.Option("--init", help="Begin a new repository if there is none")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Save database, models, reports and configuration; forget old backups."""
    from smartcity import backup

    made = backup.create(init=init)
    show(made, as_json, lambda: table("Backup made", list(made), [list(made.values())]))


@backup_app.command("list")
def backup_list(as_json: AsJson = False) -> None:
    """List the backups there are, the oldest first."""
    from smartcity import backup

    show_rows("Backups", ["snapshot", "time"], backup.listed(), as_json)


@backup_app.command("verify")
def backup_verify(snapshot: Snapshot = "latest", as_json: AsJson = False) -> None:
    """Read the whole repository, and a backup file by file; exit code 1 if anything is damaged."""
    from smartcity import backup

    found = backup.verify(snapshot)
    told = {"made_at": found.made_at, "files": len(found.files), "rows": sum(found.rows.values())}
    show(told, as_json, lambda: table("Nothing is damaged", list(told), [list(told.values())]))


@backup_app.command("restore")
def backup_restore(
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="An empty or new folder")],
    snapshot: Snapshot = "latest",
    database: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="Empty PostgreSQL database for the dump; password as PGPASSWORD"
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Bring a backup to an empty folder, and print the commands that put it in place."""
    from smartcity import backup

    steps = backup.restore(target, snapshot, database)
    said = f"Restored to {target}. To put it in place, stop SmartCity and run:"
    lines = [said, *(f"  {line}" for line in steps)]
    show({"target": str(target), "steps": steps}, as_json, lambda: "\n".join(lines))


@backup_app.command("drill")
def backup_drill(
    snapshot: Snapshot = "latest",
    most: Annotated[int, typer.Option(min=1, help="Recorded predictions made again")] = 10_000,
    as_json: AsJson = False,
) -> None:
    """Restore into a scratch place and repeat recorded predictions; exit code 1 if any differs."""
    from smartcity import backup

    done, place = backup.drill(snapshot, most)
    sys.stdout.write(done.model_dump_json(indent=2) + "\n" if as_json else backup.summary(done))
    if done.differences:
        raise SmartCityError(
            f"The backup is not good: {len(done.differences)} differences. See {place}"
        )
