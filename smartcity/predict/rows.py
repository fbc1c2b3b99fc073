"""One row of inputs, checked: what is allowed, what is wrong, in words."""

import calendar
import itertools
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
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

#: Most recent readings a request may bring: more than a week of the densest.
MOST = 1000


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


def _clock(value: Any) -> datetime:
    """Read a time as the station's clock shows it."""
    try:
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise PydanticCustomError(
            "timestamp", "timestamp must be a time as in 2022-02-01T08:20"
        ) from None
    if moment.tzinfo is not None:
        raise PydanticCustomError(
            "timestamp", "timestamp is the station's own clock: leave the zone out"
        )
    return moment


_Clock = Annotated[datetime, BeforeValidator(_clock)]


def _take_time(domain: Domain) -> Callable[[Any], Any]:
    """Build the step that turns a ``timestamp`` into the parts of time a domain asks for."""
    parts = [spec for spec in domain.inputs if spec.from_time]

    def take(data: Any) -> Any:
        if not isinstance(data, Mapping) or data.get("timestamp") is None:
            return data
        moment = _clock(data["timestamp"])
        doubled = [spec.name for spec in parts if spec.name in data]
        if doubled:
            raise PydanticCustomError(
                "timestamp", f"give either timestamp or {', '.join(doubled)}, not both"
            )
        return {**data, **{spec.name: getattr(moment, str(spec.from_time)) for spec in parts}}

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


def _number(low: float, high: float, check: Callable[[Any], Any], *, may_lack: bool) -> Any:
    # Limits come before the check, or the schema silently loses them.
    number: Any = Annotated[float, Field(ge=low, le=high)]
    return Annotated[number | None if may_lack else number, BeforeValidator(check)]


@lru_cache
def reading_model(domain: Domain) -> type[BaseModel]:
    """Derive the Pydantic model of one recent reading: its time, and what was measured then.

    Anything but the time may be missing. The published column names are accepted as aliases.
    """
    target = domain.target
    top = target.high or len(target.levels) - 1
    measured = Input(
        name=target.name,
        label=target.label,
        unit=target.unit,
        low=target.low,
        high=top,
        whole=bool(target.levels),
        column=target.column,
    )
    fields: dict[str, Any] = {"timestamp": (_Clock, Field(description="The station's clock"))}
    for spec in (*domain.inputs, measured):
        if spec.from_time or spec.sum_of:
            continue
        lacking = spec.model_copy(update={"optional": True})
        check = _check(lacking, domain.format.sentinel)
        kind = _number(spec.low, spec.high, check, may_lack=True)
        alias = AliasChoices(spec.name, spec.column or spec.name)
        about = f"{spec.label}, {spec.unit}"
        fields[spec.name] = (kind, Field(None, validation_alias=alias, description=about))
    config = ConfigDict(extra="ignore", frozen=True)
    return create_model(f"{_title(domain)}Reading", __config__=config, **fields)


def _title(domain: Domain) -> str:
    return domain.title.title().replace(" ", "")


def _in_order(readings: Any) -> Any:
    """Check that recent readings are in time order, each time once."""
    for earlier, later in itertools.pairwise(readings or ()):
        if earlier.timestamp >= later.timestamp:
            raise PydanticCustomError("recent", "recent readings must be in time order")
    return readings


@lru_cache
def history_model(domain: Domain) -> type[BaseModel]:
    """Derive the Pydantic model of recent readings by themselves, as a forecast takes them."""
    readings: Any = list[reading_model(domain)]  # type: ignore[misc]  # made just here
    kind: Any = Annotated[readings, Field(min_length=1, max_length=MOST), AfterValidator(_in_order)]
    about = Field(description="Recent readings, oldest first")
    return create_model(f"{_title(domain)}History", recent=(kind, about))


@lru_cache
def row_model(domain: Domain) -> type[BaseModel]:
    """Derive the Pydantic model of one row of inputs from a domain.

    The published column names are accepted as aliases; sums may be left out; where a domain asks
    for parts of time, a ``timestamp`` may be given instead. ``timestamp`` with ``recent`` readings
    lets the champion answer, where it is better than what the inputs alone allow.
    """
    fields: dict[str, Any] = {}
    for spec in domain.inputs:
        check = _check(spec, domain.format.sentinel)
        may_lack = spec.optional or bool(spec.sum_of)
        about = Field(
            default=None if spec.sum_of else ...,
            validation_alias=AliasChoices(spec.name, spec.column or spec.name),
            description=f"{spec.label}, {spec.unit}",
        )
        fields[spec.name] = (_number(spec.low, spec.high, check, may_lack=may_lack), about)
    for option in domain.options:
        limits = Field(None, ge=option.low, le=option.high, description=option.unit)
        fields[option.name] = (float | None, limits)
    fields["timestamp"] = (_Clock | None, Field(None, description="The station's clock"))
    readings: Any = list[reading_model(domain)]  # type: ignore[misc]
    recent: Any = Annotated[readings, Field(max_length=MOST), AfterValidator(_in_order)]
    about = Field(None, description="Readings before timestamp, oldest first")
    fields["recent"] = (recent | None, about)
    validators: dict[str, Any] = {"agree": model_validator(mode="after")(_agree(domain))}
    if any(spec.from_time for spec in domain.inputs):
        validators["take_time"] = model_validator(mode="before")(_take_time(domain))
    return create_model(
        f"{_title(domain)}Inputs",
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
        if fault["loc"][:1] == ("recent",) and len(fault["loc"]) > 2:
            place, part = fault["loc"][1:3]
            problem = f"reading {place}, {part}: {problem}"
        shown = repr(value)[:80] if is_plain and fault["type"] != "missing" else None
        field_name = str(fault["loc"][0]) if fault["loc"] else "row"
        said.append({"field": field_name, "problem": problem, "value": shown})
    return said
