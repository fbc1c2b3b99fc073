"""One row of inputs, checked: what is allowed, what is wrong, in words."""

import calendar
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Annotated, Any

from pydantic import (
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    create_model,
    model_validator,
)
from pydantic_core import PydanticCustomError

from smartcity.domains import Domain, Input


def _check(spec: Input, sentinel: float | None) -> Callable[[Any], float | None]:
    """Build the check of one input; its messages say what is allowed and what to do."""

    def check(value: Any) -> float | None:
        if value is None and (spec.optional or spec.sum_of):
            return None
        number = math.nan
        if isinstance(value, int | float) and not isinstance(value, bool):
            number = math.inf if abs(value) > sys.float_info.max else float(value)
        problem = _problem(spec, sentinel, value, number)
        if problem:
            raise PydanticCustomError("input", problem)
        return number

    return check


def _problem(spec: Input, sentinel: float | None, value: object, number: float) -> str | None:
    """Say what is wrong with a value, or None."""
    if value is None:
        return "null, and the model cannot do without this input"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "must be a number"
    if not math.isfinite(number):
        return "must be a finite number"
    if number == sentinel:
        remedy = "send null" if spec.optional else "the model cannot do without this input"
        return f"{number:g} stands for a missing reading: {remedy}"
    if not spec.low <= number <= spec.high:
        return f"must lie in {spec.low:g} to {spec.high:g} {spec.unit}".rstrip()
    return "must be a whole number" if spec.whole and not number.is_integer() else None


def _take_time(domain: Domain) -> Callable[[Any], Any]:
    """Build the step that turns a ``timestamp`` into the parts of time a domain asks for."""
    parts = [spec for spec in domain.inputs if spec.from_time]

    def take(data: Any) -> Any:
        if not isinstance(data, Mapping) or "timestamp" not in data:
            return data
        row = dict(data)
        given = row.pop("timestamp")
        try:
            moment = datetime.fromisoformat(given)
        except (TypeError, ValueError):
            raise PydanticCustomError(
                "timestamp", "timestamp must be a time as in 2022-02-01T08:20"
            ) from None
        doubled = [spec.name for spec in parts if spec.name in row]
        if doubled:
            raise PydanticCustomError(
                "timestamp", f"give either timestamp or {', '.join(doubled)}, not both"
            )
        return row | {spec.name: getattr(moment, str(spec.from_time)) for spec in parts}

    return take


def _agree(domain: Domain) -> Callable[[Any], Any]:
    """Build the check that sums add up and days exist."""
    times = {spec.from_time: spec.name for spec in domain.inputs if spec.from_time}

    def agree(row: Any) -> Any:
        for spec in domain.inputs:
            given = getattr(row, spec.name)
            if spec.sum_of and given is not None:
                total = sum(getattr(row, part) for part in spec.sum_of)
                if given != total:
                    raise PydanticCustomError(
                        "sum",
                        f"{spec.name} is {given:g}, but {' + '.join(spec.sum_of)} is {total:g}: "
                        f"leave {spec.name} out, it is computed",
                    )
        if {"day", "month"} <= times.keys():
            day, month = getattr(row, times["day"]), getattr(row, times["month"])
            if day > calendar.monthrange(2024, int(month))[1]:
                raise PydanticCustomError("day", f"month {month:g} has no day {day:g}")
        return row

    return agree


@lru_cache
def row_model(domain: Domain) -> type[BaseModel]:
    """Derive the Pydantic model of one row of inputs from a domain.

    The published column names are accepted as aliases; sums may be left out; where a domain asks
    for parts of time, a ``timestamp`` may be given instead.
    """
    fields: dict[str, Any] = {}
    for spec in domain.inputs:
        # Limits come before the check, or the schema silently loses them.
        number: Any = Annotated[float, Field(ge=spec.low, le=spec.high)]
        nullable: Any = number | None if spec.optional or spec.sum_of else number
        kind = Annotated[nullable, BeforeValidator(_check(spec, domain.format.sentinel))]
        about = Field(
            default=None if spec.sum_of else ...,
            validation_alias=AliasChoices(spec.name, spec.column or spec.name),
            description=f"{spec.label}, {spec.unit}",
        )
        fields[spec.name] = (kind, about)
    validators: dict[str, Any] = {"agree": model_validator(mode="after")(_agree(domain))}
    if any(spec.from_time for spec in domain.inputs):
        validators["take_time"] = model_validator(mode="before")(_take_time(domain))
    return create_model(
        f"{domain.title.title().replace(' ', '')}Inputs",
        __config__=ConfigDict(extra="forbid", frozen=True),
        __validators__=validators,
        **fields,
    )


def faults(found: Sequence[Mapping[str, Any]]) -> list[dict[str, object]]:
    """Put Pydantic's faults into our words, values made safe to send back.

    Args:
        found: Pydantic's own list of faults, each place relative to the row.

    Returns:
        One ``{"field", "problem", "value"}`` per fault.
    """
    said: list[dict[str, object]] = []
    for fault in found:
        problem = {
            "missing": "is missing; every input must be there, if only as null",
            "extra_forbidden": "is not an input of this model",
            "model_attributes_type": "a row must be an object of input names and numbers",
            "model_type": "a row must be an object of input names and numbers",
        }.get(fault["type"], fault["msg"])
        value = fault["input"]
        is_plain = value is None or isinstance(value, bool | int | float | str)
        shown = repr(value)[:80] if is_plain and fault["type"] != "missing" else None
        field_name = str(fault["loc"][0]) if fault["loc"] else "row"
        said.append({"field": field_name, "problem": problem, "value": shown})
    return said
