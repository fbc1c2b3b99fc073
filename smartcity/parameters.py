"""What a notebook takes: read from its ``parameters`` cell, checked before anything starts.

A parameter is one annotated line; its comment is its help, and may end in what is allowed::

    days: int = 7  # Length of the period [1 to 366 days]
    level: str = "quick"  # How thorough [quick, whole]
    as_of: str = ""  # Readings up to the end of this day; all when empty [date]
    run_id: str = ""  # Whose figures these are [by the runner]

A ``site`` is one of its domain's; where ``[site or all]`` is allowed, also ``all`` of them at once.
"""

import ast
import io
import json
import math
import re
import tokenize
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any, Literal

from smartcity import domains, settings
from smartcity.errors import UsageError, unknown

_TYPES: dict[str, type] = {"str": str, "int": int, "float": float, "bool": bool, "list[str]": list}
_EXAMPLES = {"int": "7", "float": "0.5", "bool": "true", "list[str]": '["a", "b"]'}
_ALLOWED = re.compile(r"(?P<help>.*?)\s*\[(?P<allowed>[^\[\]]+)\]")
Kind = Literal["plain", "date", "run", "sites"]
_KINDS: dict[str, Kind] = {"date": "date", "by the runner": "run", "site or all": "sites"}
_RANGE = re.compile(r"(?P<low>-?[\d.]+) to (?P<high>-?[\d.]+)(?: (?P<unit>.+))?")


@dataclass(frozen=True)
class Parameter:
    """One parameter of a notebook.

    Attributes:
        name: As in the notebook.
        type: As annotated: str, int, float, bool or list[str].
        default: What it is when not given.
        help: What it stands for.
        unit: Unit of a number; empty if it has none.
        low: Least it may be; None for no limit, or where it is no number.
        high: Most it may be.
        choices: What it may be, if that is a list.
        kind: ``date`` for an ISO day or moment without a zone, ``run`` for what is filled in when
            a run starts and not asked of people, ``sites`` for a site or all, else ``plain``.
    """

    name: str
    type: str
    default: Any
    help: str
    unit: str = ""
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    kind: Kind = "plain"


def find(name: str) -> Path:
    """Find a notebook by its name, with or without number and ending.

    Raises:
        UsageError: There is none; the message lists those there are.
    """
    notebooks = sorted(settings.current().notebooks.glob("[0-9][0-9]_*.ipynb"))
    wanted = Path(name).name.removesuffix(".ipynb")
    for path in notebooks:
        if wanted in {path.stem, path.stem[3:]}:
            return path
    if not notebooks:
        raise UsageError(f"There are no notebooks in {settings.current().notebooks}.")
    raise unknown("notebook", name, [path.stem for path in notebooks])


def read(notebook: Path) -> dict[str, Parameter]:
    """Read what a notebook takes, by name.

    Raises:
        UsageError: It is not a readable notebook, or a line of its parameters is not as above.
    """
    # As plain JSON: nbformat takes a second to import, and every visitor's kernel comes here.
    try:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        tagged = [cell for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
        source = "".join(tagged[0]["source"]) if tagged else ""
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{notebook} is not a readable notebook: {error!r}") from None
    try:
        tokens = tokenize.generate_tokens(io.StringIO(source).readline)
        comments = {t.start[0]: t.string for t in tokens if t.type == tokenize.COMMENT}
        lines = [node for node in ast.parse(source).body if not isinstance(node, ast.Expr)]
        read = [_parameter(node, comments.get(node.end_lineno or 0, "")) for node in lines]
    except (SyntaxError, ValueError, tokenize.TokenError) as error:
        raise UsageError(f"The parameters of {notebook.name} cannot be read: {error}") from None
    return {parameter.name: parameter for parameter in read}


def _parameter(node: ast.stmt, comment: str) -> Parameter:
    if not isinstance(node, ast.AnnAssign) or node.value is None:
        raise ValueError(f"line {node.lineno} is not `name: type = value  # help`")
    name, annotation = ast.unparse(node.target), ast.unparse(node.annotation)
    if annotation not in _TYPES:
        raise ValueError(f"{name} is of type {annotation}; known: {', '.join(_TYPES)}")
    text, allowed = comment.lstrip("# "), ""
    if split := _ALLOWED.fullmatch(text):
        text, allowed = split["help"], split["allowed"]
    default = ast.literal_eval(node.value)
    if name == "domain":
        allowed = ", ".join(domains.load_all())
    return Parameter(name, annotation, default, text, **_limits(allowed))


def _limits(allowed: str) -> dict[str, Any]:
    if found := _RANGE.fullmatch(allowed):
        return {"low": float(found["low"]), "high": float(found["high"]), "unit": found[3] or ""}
    if allowed in _KINDS:
        return {"kind": _KINDS[allowed]}
    return {"choices": tuple(allowed.split(", "))} if allowed else {}


def check(notebook: Path, given: Mapping[str, object]) -> dict[str, Any]:
    """Check given parameters against what a notebook takes.

    Args:
        notebook: Its path.
        given: Name -> value; text, as from a command line, is read as the annotated type.

    Returns:
        Every parameter of the notebook, the given ones filled in.

    Raises:
        UsageError: A name is unknown, or a value has the wrong type or is not allowed; the message
            names the nearest right one.
    """
    known = read(notebook)
    values = {name: parameter.default for name, parameter in known.items()}
    for name, value in given.items():
        if name not in known:
            raise unknown(f"parameter of {notebook.stem}", name, known)
        values[name] = _checked(known[name], value)
    if "domain" in values:
        site = values.get("site", domains.MAIN)
        if site != domains.ALL or known["site"].kind != "sites":
            domains.require_site(domains.load(values["domain"]), site)
    return values


def _checked(known: Parameter, value: object) -> Any:
    if known.kind == "date":
        return _moment(known.name, value)
    value = _converted(known, value)
    if known.name == "domain":
        return domains.load(str(value)).name  # also as it is written in addresses
    if known.choices and value not in known.choices:
        raise unknown(known.name, str(value), known.choices)
    if isinstance(value, int | float):
        _require_between(known, value)
    return value


def _require_between(known: Parameter, value: float) -> None:
    low = -math.inf if known.low is None else known.low
    high = math.inf if known.high is None else known.high
    if not low <= value <= high:
        raise UsageError(
            f"Parameter {known.name!r} is {value}; it must lie in {low:g} to {high:g} {known.unit}"
            f"{'.' if known.unit else ''} The nearest is {low if value < low else high:g}."
        )


def _converted(known: Parameter, value: object) -> Any:
    kind = _TYPES[known.type]
    if isinstance(value, str) and kind is not str:
        try:
            value = json.loads(value.lower() if kind is bool else value)
        except ValueError:
            value = str(value)  # refused below, as what it is
    if kind is float and type(value) is int:
        value = float(value)
    is_right = type(value) is kind and (
        not isinstance(value, list) or all(isinstance(item, str) for item in value)
    )
    if not is_right:
        hint = f", as in {_EXAMPLES[known.type]}" if known.type in _EXAMPLES else ""
        raise UsageError(
            f"Parameter {known.name!r} is {value!r}; it must be of type {known.type}{hint}."
        )
    return value


def _moment(name: str, value: object) -> str:
    """Write a day or a moment the one way: ISO 8601, to the second, by the station's clock."""
    if value == "":
        return ""
    text = value.isoformat() if isinstance(value, date) else str(value)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo:
        raise UsageError(
            f"Parameter {name!r} is {text!r}; it must be a day or a moment by the station's clock, "
            "without a zone, as in 2004-12-31 or 2004-12-31T05:00."
        )
    is_day = len(text) == len("2004-12-31") and ":" not in text
    return moment.date().isoformat() if is_day else moment.isoformat(timespec="minutes")
