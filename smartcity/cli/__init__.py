"""Thin commands: each calls one function and prints one result."""

import os
import sys
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

from smartcity import __version__, logs, settings
from smartcity.cli import (  # noqa: F401  # they join
    alarms,
    backup,
    data,
    kept,
    making,
    models,
    monitor,
    proxy,
    report,
    serving,
    store,
)
from smartcity.cli.common import app, err, out
from smartcity.errors import SmartCityError, UsageError

__all__ = ["app", "main"]

log = logs.get(__name__)


def main() -> NoReturn:
    """Run the command line: 0 done, 1 our error, 2 wrong usage; never a traceback."""
    # jsonschema, which Jupyter brings along, compiles a grammar for IRIs when it is imported: two
    # and a half seconds for a check nobody here asks for (jsonschema issue 1428). A blocked import
    # looks to it like a grammar that is not installed.
    sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]
    try:
        known = settings.current()
        known.export()
        logs.configure()
        if "SMARTCITY_STACK" in os.environ:
            from smartcity import stack

            stack.stay_with_parent()
        app(_join_pairs(sys.argv[1:]))
    except UsageError as error:
        _stop(str(error), 2)
    except SmartCityError as error:
        _stop(str(error), 1)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:  # the door: nothing leaves it as a traceback
        words = sys.argv[1:3] if sys.argv[1:2] == ["users"] else sys.argv[1:]  # no addresses
        log.exception("command failed", arguments=words)
        _stop(f"Unexpected {type(error).__name__}: {error}. The log file tells more.", 1)
    sys.exit(0)


def _stop(message: str, code: int) -> NoReturn:
    err.print("Error:", style="bold red", end=" ")
    err.print(message, highlight=False, markup=False)
    sys.exit(code)


def _join_pairs(words: Sequence[str]) -> list[str]:
    """Turn papermill's ``-p NAME VALUE`` into one word, since an option here takes one."""
    joined: list[str] = []
    rest = iter(words)
    for word in rest:
        joined.append(word)
        if word in {"-p", "--parameter"}:
            name = next(rest, "")
            joined.append(name if "=" in name else f"{name}={next(rest, '')}")
    return joined


@app.callback(invoke_without_command=True)
def _top(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop")] = False,
) -> None:
    if version:
        out.print(__version__)
        raise typer.Exit
