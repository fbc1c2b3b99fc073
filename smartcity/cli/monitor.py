"""Commands about how models do: what was observed, whether they are still right, metrics."""

import csv
import sys
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from smartcity import domains, registry
from smartcity.cli.common import (
    AsJson,
    DomainName,
    MaybeDomain,
    Site,
    app,
    chosen,
    out,
    show,
    table,
)
from smartcity.domains import Domain
from smartcity.errors import SmartCityError, UsageError

if TYPE_CHECKING:
    from smartcity.monitoring.accuracy import Accuracy, Group, Measured

monitor_app = typer.Typer(help="Whether models are still right.", no_args_is_help=True)
app.add_typer(monitor_app, name="monitor")

#: Windows listed of each model; --json has them all.
_SHOWN = 8


@monitor_app.command("observe")
def monitor_observe(
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="CSV with the columns id,observed")
    ] = None,
    from_readings: Annotated[
        str | None,
        typer.Option(metavar="DOMAIN", help="Take the truth from this domain's readings instead"),
    ] = None,
    site: Site = "main",
    as_json: AsJson = False,
) -> None:
    """Note what was observed after answers were given: all of it, or nothing."""
    from smartcity.monitoring import observed

    if (file is None) == (from_readings is None):
        raise UsageError("Give either a FILE of id,observed or --from-readings DOMAIN.")
    if file is not None:
        done = observed.from_file(file)
    else:
        domain = domains.load(str(from_readings))
        done = observed.from_readings(domain, _readings(domain, site))
    told = f"{done.noted} answers have their truth now; of {done.known} it was known."
    if from_readings:
        told = (
            f"{done.noted} answers have their truth now. Of {done.elsewhere} the time is not among "
            f"the readings, or twice; {done.supposed} were to other inputs than were read then."
        )
    show(asdict(done), as_json, lambda: told)


def _readings(domain: Domain, site: str) -> list[dict[str, Any]]:
    """Give the clean readings with a target, one for each time; of two nobody knows which."""
    from smartcity import data

    readings = data.read(domain.name, site)
    if readings.simulated != registry.card(domain.name).data["simulated"]:
        kinds = ("simulated", "real") if readings.simulated else ("real", "simulated")
        raise UsageError(
            f"The readings of {domain.name} are {kinds[0]}, the model served was trained on "
            f"{kinds[1]} ones: they say nothing of its answers. Name others by SMARTCITY_DATASETS."
        )
    twice = readings.frame.loc[readings.frame["recorded_at"].duplicated(), "recorded_at"]
    frame = data.clean(readings, data.check(readings))
    frame = frame[frame[domain.target.name].notna() & ~frame["recorded_at"].isin(twice)]
    names = [*map(str, frame)]
    return [dict(zip(names, row, strict=True)) for row in frame.itertuples(index=False)]


@monitor_app.command("accuracy")
def monitor_accuracy(
    domain: MaybeDomain = None,
    window: Annotated[
        Literal["day", "week", "month"], typer.Option(help="How to cut time; weeks begin on Monday")
    ] = "week",
    as_json: AsJson = False,
) -> None:
    """Compare answers with what was observed; exit code 1 if a served model is not right."""
    from smartcity.monitoring import accuracy

    found = [accuracy.look(each, window) for each in chosen(domain)]
    groups = [(each, group) for each in found for group in each.groups]
    show([asdict(each) for each in found], as_json, lambda: _laid_out(groups))
    if not as_json and not any(group.overall.observed for _, group in groups):
        out.print("Nothing observed yet. Note what was: smartcity monitor observe --help")
    if wrong := [said for each in found for said in each.wrong]:
        raise SmartCityError("\n".join(wrong))


def _laid_out(groups: "list[tuple[Accuracy, Group]]") -> Any:
    from rich.console import Group as Together

    return Together(*(_table(*each) for each in groups))


def _table(found: "Accuracy", group: "Group") -> Any:
    judged = group.verdict
    title = f"{found.domain} {group.version}, {group.part}" + ", served" * group.served
    title += f": intervals {judged.intervals}; error {judged.error}"
    header = ["since", "observed", "error", "bias", "held", "promised", "estimate", "ratio"]
    shown = (group.overall, *group.windows[-_SHOWN:])
    made = table(title, header, [_row(measured, found.unit) for measured in shown])
    made.caption = "in 95 % ranges; estimate: of the error where the truth is not known yet; "
    made.caption += "ratio: what turned out over what that estimate says where it is known"
    return made


def _row(found: "Measured", unit: str) -> list[str]:
    from smartcity.monitoring.accuracy import shown

    form = ".3g" if unit else ".1%"
    figures = ((found.error, form), (found.bias, "+.2g"), (found.coverage, ".1%"))
    return [
        str(found.since or "all"),
        f"{found.observed} of {found.answers}",
        *("–" if figure is None else shown(figure, how) for figure, how in figures),
        "–" if found.promised is None else f"{found.promised:.1%}",
        "–" if found.estimate is None else f"~{found.estimate:{form}}",
        "–" if found.ratio is None else f"{found.ratio:.2f}",
    ]


@monitor_app.command("drift")
def monitor_drift(
    domain: MaybeDomain = None,
    since: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m-%d"], help="Show what began since then too, and is over"),
    ] = None,
    site: Site = "main",
    as_json: AsJson = False,
) -> None:
    """Look for sensors that stick, fall silent, jump or drift; exit code 1 if one does now."""
    from smartcity import data
    from smartcity.monitoring import drift

    found = [
        (each, event)
        for each in chosen(domain)
        for event in drift.watch(each, data.read(each.name, site).frame)
        if event.until is None or (since is not None and event.since >= since)
    ]
    told = [{"domain": each.name, **asdict(event), "until": event.until} for each, event in found]
    rows = [
        [each.name, f"{alarm.since:%Y-%m-%d %H:%M}", f"{alarm.until or 'goes on'!s:.16}", said]
        for each, event in found
        for alarm, said in zip(event.alarms, drift.sentences(each, event), strict=True)
    ]
    show(told, as_json, lambda: table("Sensors", ["domain", "since", "until", "what"], rows))
    going_on = [pair for pair in found if pair[1].until is None]
    if going_on:
        told_to = [f"{each.name}: {drift.advice(each, event)}" for each, event in going_on]
        raise SmartCityError("\n".join(told_to))


@monitor_app.command("export")
def monitor_export(domain: DomainName) -> None:
    """Print a domain's answers beside what was observed, as CSV: the rows `accuracy` adds up."""
    from smartcity.store import answers

    rows = csv.writer(sys.stdout, lineterminator="\n")
    rows.writerow(answers.TOLD)
    for row in answers.told(domains.load(domain).name):
        rows.writerow(row)


@monitor_app.command("metrics")
def monitor_metrics(as_json: AsJson = False) -> None:
    """Ask the API how it does; exit code 1 if it does not say."""
    from smartcity.dashboard import health

    now = health.ask(patience=10)
    rows = [asdict(figure) for figure in now.figures]
    header = ["name", "domain", "value", "unit", "note"]

    def cells(row: dict[str, Any]) -> list[str]:
        value = "not yet" if row["value"] is None else f"{row['value']:,.2f}"
        return [row["name"], row["domain"] or "", value, row["unit"], row["note"]]

    show(rows, as_json, lambda: table(f"Metrics of {now.url}", header, map(cells, rows)))
    if not rows:
        raise SmartCityError(now.problem or "The API gives no metrics.")
