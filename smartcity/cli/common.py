"""What all commands share: the app they join, how results are printed."""

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from smartcity import domains

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
Site = Annotated[str, typer.Option(help="Which site of the domain")]


def show(result: Any, as_json: bool, make: Callable[[], Table]) -> None:
    """Print a result: as JSON, or as the table made of it."""
    if as_json:
        sys.stdout.write(json.dumps(result, indent=2, ensure_ascii=False, default=str) + "\n")
    else:
        out.print(make())


def table(title: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """Lay out rows under a header."""
    made = Table(title=title, title_justify="left", highlight=False)
    for name in header:
        made.add_column(name, overflow="fold")
    for row in rows:
        made.add_row(*map(str, row))
    return made


def chosen(name: str | None) -> list[domains.Domain]:
    """Give the domain of that name, or all."""
    return [domains.load(name)] if name else list(domains.load_all().values())
