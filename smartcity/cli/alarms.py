"""Commands about alarms: look for them, list them, say what is made of them."""

from datetime import UTC, datetime, timedelta
from getpass import getuser
from typing import TYPE_CHECKING, Annotated, Any

import typer

from smartcity.cli.common import AsJson, MaybeDomain, chosen, out, show, table
from smartcity.cli.monitor import monitor_app
from smartcity.errors import SmartCityError, UsageError

if TYPE_CHECKING:
    from smartcity.store.alarms import Alarm

AlarmId = Annotated[str, typer.Argument(metavar="ID", help="As smartcity monitor alarms lists it")]


@monitor_app.command("watch")
def monitor_watch(domain: MaybeDomain = None, as_json: AsJson = False) -> None:
    """Look for alarms now and note them; exit code 1 if one waits for somebody."""
    from smartcity.reporting import watch
    from smartcity.store import alarms, database

    database.upgrade()
    now = datetime.now(UTC)
    watch.look(now, [each.name for each in chosen(domain)])
    going_on = alarms.listed()
    _show(going_on, now, as_json)
    if new := [f"{alarm.id}: {alarm.advice}" for alarm in going_on if alarm.state(now) == "new"]:
        raise SmartCityError(
            "\n".join([*new, "Say that you have seen one: smartcity monitor acknowledge ID"])
        )


@monitor_app.command("alarms")
def monitor_alarms(
    everything: Annotated[bool, typer.Option("--all", help="Those that are over too")] = False,
    as_json: AsJson = False,
) -> None:
    """List the alarms that go on, and what people made of them."""
    from smartcity.store import alarms, database

    database.upgrade()
    _show(alarms.listed(everything=everything), datetime.now(UTC), as_json)


@monitor_app.command("acknowledge")
def monitor_acknowledge(
    alarm: AlarmId,
    by: Annotated[str | None, typer.Option(help="Who has seen it; you, when left out")] = None,
    note: Annotated[str, typer.Option(help="What you make of it")] = "",
) -> None:
    """Say that somebody has seen an alarm: nobody else is told of it."""
    from smartcity.reporting import watch
    from smartcity.store import alarms, database

    who = (by or getuser()).strip()
    for name, value, most in (("--by", who, 100), ("--note", note, 500)):
        if len(value) > most:
            raise UsageError(f"{name} has {len(value)} characters; it may have {most}.")
    database.upgrade()
    done = alarms.acknowledge(alarm, datetime.now(UTC), who, note)
    watch.show()
    out.print(f"{done.id} ({done.domain}, {done.subject}) was seen by {who}.", highlight=False)


@monitor_app.command("silence")
def monitor_silence(
    alarm: AlarmId,
    days: Annotated[
        float, typer.Option(min=0, max=366, help="For how long; 0 ends the silence")
    ] = 7,
) -> None:
    """Let nobody be told of an alarm, or of another of its kind there, for a while."""
    from smartcity.reporting import watch
    from smartcity.store import alarms, database

    database.upgrade()
    until = datetime.now(UTC) + timedelta(days=days) if days else None
    done = alarms.silence(alarm, until)
    watch.show()
    said = f"is quiet until {until:%Y-%m-%d %H:%M} UTC" if until else "is heard again"
    out.print(f"{done.id} ({done.domain}, {done.subject}) {said}.", highlight=False)


@monitor_app.command("retrain")
def monitor_retrain(
    alarm: AlarmId,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Although the sensor has sent no readings")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Train anew because of an alarm; only what passes its gate is served."""
    from smartcity import reporting
    from smartcity.monitoring.alarms import NO_READINGS
    from smartcity.reporting import watch
    from smartcity.store import alarms, database

    database.upgrade()
    found, now = alarms.get(alarm), datetime.now(UTC)
    if found.kind in NO_READINGS and not anyway:
        raise UsageError(
            f"{found.said} A model trained on that would learn the fault. {found.advice} Then "
            f"retrain; or now: smartcity monitor retrain {alarm} --anyway"
        )
    run = reporting.run("02_train", {"domain": found.domain, "site": found.site})
    said = f"Retrained: {run.model_version} is {'not ' * bool(run.refused)}served."
    alarms.acknowledge(alarm, now, found.acknowledged_by or getuser(), said)
    watch.show()
    result = {"alarm": alarm, "run": run.id, "model_version": run.model_version}
    told = " ".join([said, *run.refused])
    show(result | {"refused": run.refused}, as_json, lambda: told)


def _show(found: "list[Alarm]", now: datetime, as_json: bool) -> None:
    rows: list[dict[str, Any]] = []
    for alarm in found:
        plain = {n: v.isoformat() if isinstance(v, datetime) else v for n, v in vars(alarm).items()}
        seen = ": ".join(filter(None, (alarm.acknowledged_by, alarm.note)))
        rows.append(plain | {"state": alarm.state(now), "seen": seen})
    header = ["id", "where", "since", "state", "what", "seen by"]
    cells = [
        [r["id"], _where(r), r["since"].replace("T", " "), r["state"], r["said"], r["seen"]]
        for r in rows
    ]
    show(rows, as_json, lambda: table("Alarms", header, cells) if rows else "No alarm goes on.")


def _where(row: dict[str, Any]) -> str:
    return str(row["domain"]) if row["site"] == "main" else f"{row['domain']}, {row['site']}"
