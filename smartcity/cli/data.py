"""Commands about readings: list, fetch, simulate, check."""

import itertools
import json
import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from smartcity import domains
from smartcity.cli.common import (
    AsJson,
    DomainName,
    MaybeDomain,
    Site,
    app,
    chosen,
    err,
    out,
    show,
    show_rows,
    table,
)
from smartcity.errors import DataError, SmartCityError

data_app = typer.Typer(help="Fetch, check and simulate readings.", no_args_is_help=True)
app.add_typer(data_app, name="data")


@data_app.command("list")
def data_list(domain: MaybeDomain = None, as_json: AsJson = False) -> None:
    """List each domain's published files, where they are, and whether they are as published."""
    from smartcity import data

    rows = []
    for each in chosen(domain):
        for site in domains.sites(each):
            try:
                found = {s.path.name: s for s in data.locate(each, site)}
            except SmartCityError:
                found = {}
            names = [file.name for file in each.files if file.site == site] or [*found]
            for name in names:
                source = found.get(name)
                state = "missing"
                if source:
                    state = "as published" if source.published else "not the published file"
                    state = "simulated" if source.simulated else state
                row = {"domain": each.name, "site": site, "file": name, "state": state}
                rows.append(row | {"path": str(source.path) if source else ""})
    show_rows("Readings", ["domain", "site", "file", "state"], rows, as_json)


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

    for each in chosen(domain):
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
    sites: Annotated[
        int, typer.Option(help="More sites, beside the main one, each unlike the others", min=0)
    ] = 0,
) -> None:
    """Make the simulated demo city, faults included; used where nothing was fetched."""
    from smartcity import data

    for each in chosen(domain):
        for source in itertools.chain(
            data.simulate(each, seed), data.simulate_sites(each, sites, seed)
        ):
            out.print(f"{source.path}  (simulated)")


@data_app.command("add")
def data_add(
    domain: DomainName,
    file: Annotated[Path, typer.Argument(help="A file in the publisher's format")],
    site: Annotated[str, typer.Option(help="The site; a new one begins with its first file")],
    first_day: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m-%d"], help="Of a file that has only days of the month"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Add readings of one more site; what is there already is not added again."""
    from smartcity import data

    known = domains.load(domain)
    added = data.add(known, file, site, first_day=first_day.date() if first_day else None)
    counts = data.check(added.readings)["reason"].value_counts().to_dict()
    told = {"domain": known.name, "site": site, "rows": len(added.readings.frame)}
    told |= {"added": added.rows, "path": str(added.path) if added.path else None}
    faults = ", ".join(f"{reason}: {count}" for reason, count in counts.items()) or "none"
    said = f"{known.name}, site {site}: {added.rows} of {told['rows']} rows are new. "
    show(told | {"counts": counts}, as_json, lambda: f"{said}Findings: {faults}")


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
    for each in chosen(domain):
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
            out.print(table(title, header, counts.reset_index().to_numpy().tolist()))
            if rows and len(found):
                listed = found.head(rows).to_numpy().tolist()
                out.print(table(f"The first {len(listed)}", found.columns.tolist(), listed))
    if as_json:
        sys.stdout.write(json.dumps(results, indent=2, allow_nan=False) + "\n")
