"""A notebook's parameters, read from its ``parameters`` cell and checked before anything starts."""

import ast
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import papermill

from smartcity.errors import UsageError, unknown

_TYPES: dict[str, type] = {"str": str, "int": int, "float": float, "bool": bool, "list[str]": list}


def read(notebook: Path) -> dict[str, dict[str, Any]]:
    """Read what a notebook takes.

    Returns:
        Name -> ``type`` (as annotated), ``default`` and ``help``.

    Raises:
        UsageError: It is not a readable notebook.
    """
    try:
        found: Mapping[str, Any] = papermill.inspect_notebook(str(notebook))
    except Exception as error:  # noqa: BLE001  # papermill lets its readers' errors through as they are
        raise UsageError(f"{notebook} is not a readable notebook: {error}") from None
    return {
        name: {
            "type": about["inferred_type_name"],
            "default": ast.literal_eval(about["default"]),
            "help": about["help"],
        }
        for name, about in found.items()
    }


def check(notebook: Path, given: Mapping[str, object]) -> dict[str, Any]:
    """Check given parameters against what a notebook takes.

    Args:
        notebook: Its path.
        given: Name -> value; text, as from a command line, is read as the annotated type.

    Returns:
        Every parameter of the notebook, the given ones filled in.

    Raises:
        UsageError: A name is unknown (papermill only warns) or a value has the wrong type.
    """
    known = read(notebook)
    values = {name: about["default"] for name, about in known.items()}
    for name, value in given.items():
        if name not in known:
            raise unknown(f"parameter of {notebook.stem}", name, known)
        values[name] = _convert(name, value, known[name]["type"])
    return values


def _convert(name: str, value: object, annotation: str) -> Any:
    kind = _TYPES[annotation]
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
        example = {"int": "7", "float": "0.5", "bool": "true", "list[str]": '["a", "b"]'}
        hint = f", as in {example[annotation]}" if annotation in example else ""
        raise UsageError(f"Parameter {name!r} is {value!r}; it must be of type {annotation}{hint}.")
    return value
