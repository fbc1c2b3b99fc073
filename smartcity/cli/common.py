"""What all commands share: the app they join, how results are printed."""

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from smartcity import domains
from smartcity.errors import UsageError

if TYPE_CHECKING:
    from rich.progress import Progress

out = Console(soft_wrap=True)
err = Console(stderr=True, soft_wrap=True)

app = typer.Typer(
    help="Notebook-first city analytics: air quality, traffic, energy.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

DomainName = Annotated[str, typer.Argument(metavar="DOMAIN", help="air_quality, traffic or energy")]
MaybeDomain = Annotated[
    str | None, typer.Argument(metavar="[DOMAIN]", help="One domain; all when left out")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON")]
Parameters = Annotated[
    list[str] | None,
    typer.Option("-p", "--parameter", metavar="NAME VALUE", help="May be given several times"),
]
Site = Annotated[str, typer.Option(help="Which site of the domain")]


def show(result: Any, as_json: bool, make: Callable[[], Any]) -> None:
    """Print a result: as JSON, or as the sentence or table made of it."""
    if as_json:
        sys.stdout.write(json.dumps(result, indent=2, ensure_ascii=False, default=str) + "\n")
    else:
        out.print(make(), highlight=False, markup=False)


def show_rows(
    title: str, header: Sequence[str], rows: Sequence[Mapping[str, Any]], as_json: bool
) -> None:
    """Print rows: as JSON, or some of their columns as a table; None is an empty cell."""
    cells = [["" if row[name] is None else row[name] for name in header] for row in rows]
    show(rows, as_json, lambda: table(title, header, cells))


def table(title: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """Lay out rows under a header."""
    made = Table(title=title, title_justify="left", highlight=False)
    for name in header:
        made.add_column(name, overflow="fold")
    for row in rows:
        made.add_row(*map(str, row))
    return made


def pairs(parameters: Sequence[str] | None) -> dict[str, str]:
    """Take parameters apart into names and values.

    Raises:
        UsageError: One of them is missing, or the domain is among them.
    """
    given = {}
    for text in parameters or ():
        name, _, given[name] = text.partition("=")
        if not name or not given[name]:
            raise UsageError(f"Parameter {name!r} has no value: write -p {name or 'NAME'} VALUE")
    if "domain" in given:
        raise UsageError("The domain is given by --domain, not by -p domain.")
    return given


def progress(*, quiet: bool = False) -> "Progress":
    """Give what shows on a terminal how far things are."""
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    return Progress(*columns, console=err, transient=True, disable=quiet)


def model(name: str) -> str:
    """Give the model of that name: a domain, or a domain and a site, as in traffic@north."""
    domain, site = domains.apart(name)
    return domains.at(domains.load(domain).name, site)


def chosen(name: str | None) -> list[domains.Domain]:
    """Give the domain of that name, or all."""
    return [domains.load(name)] if name else list(domains.load_all().values())
