"""Commands about what is kept: the database, people and their keys."""

import signal
import sys
import threading
from dataclasses import asdict
from typing import Annotated

import typer

from smartcity import logs, settings
from smartcity.cli.common import AsJson, app, show, show_rows
from smartcity.errors import SmartCityError, UsageError

db_app = typer.Typer(help="Upgrade, check and fill the database.", no_args_is_help=True)
users_app = typer.Typer(help="People, their API keys and their data.", no_args_is_help=True)
app.add_typer(db_app, name="db")
app.add_typer(users_app, name="users")

Email = Annotated[str, typer.Argument(metavar="EMAIL", help="Address of the person")]


@db_app.command("upgrade")
def db_upgrade(as_json: AsJson = False) -> None:
    """Make or bring up to date the tables; nothing happens if they are."""
    from smartcity.store import database

    applied = database.upgrade()
    done = f"upgraded to {applied[-1]}" if applied else "is up to date"
    where = database.where(database.address())
    show({"database": where, "applied": applied}, as_json, lambda: f"Database {where} {done}")


@db_app.command("check")
def db_check(as_json: AsJson = False) -> None:
    """Look for missing migrations, drift and damage; exit code 1 if there is any."""
    from smartcity.store import database, spool

    problems = database.check()
    where = database.where(database.address())
    known = {"database": where, "problems": problems, "waiting_bytes": spool.waiting()}
    show(known, as_json, lambda: "\n".join(problems) or f"Database {where}: nothing is wrong")
    if problems:
        raise SmartCityError(f"{len(problems)} problem(s) with the database {where}.")


@db_app.command("import")
def db_import(
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on until stopped, or until the parent is gone")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Bring the answers that wait in the spool into the database."""
    from smartcity.store import importer

    if follow:
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        logs.configure(settings.current().log_level, console=sys.stdout)
        importer.follow(stop)
        return
    done = importer.import_waiting()
    sentence = f"{done.rows} imported, {done.quarantined} quarantined, {done.files} files finished"
    show(asdict(done), as_json, lambda: sentence)


@users_app.command("add")
def users_add(email: Email, as_json: AsJson = False) -> None:
    """Add a person."""
    from smartcity.store import database, users

    database.upgrade()  # the first person may come before the first answer
    key = users.add_user(email)
    show({"id": key}, as_json, lambda: f"Added. Give them a key: smartcity users key {email}")


@users_app.command("list")
def users_list(as_json: AsJson = False) -> None:
    """List everyone, with the number of their good keys."""
    from smartcity.store import users

    rows = users.list_users()
    header = ["email", "id", "created_at", "keys"]
    show_rows("Users", header, rows, as_json)


@users_app.command("key")
def users_key(
    email: Email,
    scope: Annotated[
        list[str] | None,
        typer.Option(
            "--scope", help="predict, feedback or admin (all); the first two when left out"
        ),
    ] = None,
    expires_days: Annotated[
        float | None, typer.Option(min=0, max=36500, help="Days it is good for; for ever")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make an API key and print it; it cannot be shown again."""
    from smartcity.store import users

    token = users.new_key(email, scope or users.USUAL, expires_days)
    show({"key": token}, as_json, lambda: token)


@users_app.command("revoke")
def users_revoke(
    key_id: Annotated[str, typer.Argument(metavar="KEY_ID", help="The 8 characters after sc_")],
    as_json: AsJson = False,
) -> None:
    """Let a key be good no longer."""
    from smartcity.store import users

    users.revoke(key_id)
    show({"revoked": key_id}, as_json, lambda: f"Key {key_id} is good no longer")


@users_app.command("export")
def users_export(email: Email, as_json: AsJson = False) -> None:
    """Print everything held on a person; always JSON."""
    del as_json
    from smartcity.store import users

    show(users.export_user(email), True, lambda: "")


@users_app.command("erase")
def users_erase(
    email: Email,
    yes: Annotated[bool, typer.Option("--yes", help="Needed: it cannot be undone")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove a person and everything held on them; only daily sums stay."""
    from smartcity.store import users

    if not yes:
        raise UsageError("Erasing cannot be undone. Do it with --yes; see first: users export")
    done = users.erase_user(email)
    sentence = f"Erased, with {done['predictions']} answers and {done['keys']} keys."
    if done["spool_files"]:
        sentence += (
            f" {done['spool_files']} spool files still hold lines; they go when the database "
            "import runs and the workers rotate them."
        )
    show(done, as_json, lambda: sentence)
