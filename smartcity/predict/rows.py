"""One row of inputs, checked: what is allowed, what is wrong, in words."""

import calendar
import itertools
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
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
    WithJsonSchema,
    create_model,
    model_validator,
)
from pydantic_core import PydanticCustomError

from smartcity.domains import Domain, Input

#: Most recent readings a request may bring: more than a week of the densest.
MOST = 1000
#: Most faults told of a row.
MOST_FAULTS = 50
#: First and last year of a reading: forecasts look ahead, and clocks end with the year 9999.
_FIRST, _LAST = 1900, 2199
#: A time on the station's clock.
_TIME = r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6})?)?"
#: Pydantic's names for what can be wrong with a number.
_OF_NUMBERS = {
    "float_type",
    "finite_number",
    "greater_than_equal",
    "less_than_equal",
    "multiple_of",
}


def _problem(spec: Input, sentinel: float | None, value: object) -> str | None:
    """Say what is wrong with a value, or None if it is not the value's fault."""
    if value is None:
        return "null, and the model cannot do without this input"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "must be a number"
    if abs(value) > sys.float_info.max or math.isnan(value):
        return "must be a finite number"
    if value == sentinel:
        remedy = "send null" if spec.optional else "the model cannot do without this input"
        return f"{value:g} stands for a missing reading: {remedy}"
    if not spec.low <= value <= spec.high:
        return f"must lie in {spec.low:g} to {spec.high:g} {spec.unit}".rstrip()
    return "must be a whole number" if spec.whole and value % 1 else None


def _clock(value: Any) -> datetime:
    """Read a time as the station's clock shows it."""
    if isinstance(value, str) and re.fullmatch(_TIME, value):
        with suppress(ValueError):  # the 31st of February
            value = datetime.fromisoformat(value)
    if isinstance(value, datetime) and value.tzinfo is None:
        if not _FIRST <= value.year <= _LAST:
            raise PydanticCustomError("timestamp", f"timestamp must lie in {_FIRST} to {_LAST}")
        return value
    try:
        has_zone = datetime.fromisoformat(str(value)).tzinfo is not None
    except ValueError:
        has_zone = False
    told = "is the station's own clock: leave the zone out"
    if not has_zone:
        told = "must be a time as in 2022-02-01T08:20"
    raise PydanticCustomError("timestamp", f"timestamp {told}")


#: Without a zone, so not the ``date-time`` of JSON Schema.
_LOCAL = {"type": "string", "pattern": f"^{_TIME}$", "examples": ["2022-02-01T08:20"]}
_Clock = Annotated[datetime, BeforeValidator(_clock), WithJsonSchema(_LOCAL)]


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


def _agree(domain: Domain) -> Callable[[Any], Any] | None:
    """Build the check that sums add up and days exist; None where there is neither."""
    times = {spec.from_time: spec.name for spec in domain.inputs if spec.from_time}
    sums = [spec for spec in domain.inputs if spec.sum_of]
    has_days = {"day", "month"} <= times.keys()

    def agree(row: Any) -> Any:
        for spec in sums:
            given = getattr(row, spec.name)
            if given is not None:
                total = sum([getattr(row, part) for part in spec.sum_of])
                if given != total:
                    raise PydanticCustomError(
                        "sum",
                        f"{spec.name} is {given:g}, but {' + '.join(spec.sum_of)} is {total:g}: "
                        f"leave {spec.name} out, it is computed",
                    )
        if has_days:
            day, month = getattr(row, times["day"]), getattr(row, times["month"])
            if day > calendar.monthrange(2024, int(month))[1]:
                raise PydanticCustomError("day", f"month {month:g} has no day {day:g}")
        return row

    return agree if sums or has_days else None


def _whole(value: float) -> float:
    """Check that a count is one; the validator's own check lets a billionth of it pass."""
    if value % 1:
        raise PydanticCustomError("multiple_of", "must be a whole number")
    return value


def _number(spec: Input, *, may_lack: bool) -> Any:
    """Give the type of an input; the validator's own checks, as they take no Python to run."""
    whole = 1.0 if spec.whole else None
    limits = Field(strict=True, ge=spec.low, le=spec.high, multiple_of=whole, allow_inf_nan=False)
    number: Any = Annotated[float, limits]
    if spec.whole:
        number = Annotated[number, AfterValidator(_whole)]
    return number | None if may_lack else number


def measured(domain: Domain) -> tuple[Input, ...]:
    """Give what a station measures: the inputs that are no sum and no part of time; the target."""
    target = domain.target
    answer = Input(
        name=target.name,
        label=target.label,
        unit=target.unit,
        low=target.low,
        high=target.high or len(target.levels) - 1,
        whole=bool(target.levels),
        column=target.column,
    )
    read = [spec for spec in domain.inputs if not (spec.from_time or spec.sum_of)]
    return tuple(spec.model_copy(update={"optional": True}) for spec in (*read, answer))


def _about(spec: Input, default: Any) -> Any:
    return Field(
        default,
        validation_alias=AliasChoices(spec.name, spec.column or spec.name),
        description=f"{spec.label}, {spec.unit}",
    )


@lru_cache
def reading_model(domain: Domain) -> type[BaseModel]:
    """Derive the Pydantic model of one recent reading: its time, and what was measured then.

    Anything but the time may be missing. The published column names are accepted as aliases.
    """
    fields: dict[str, Any] = {"timestamp": (_Clock, Field(description="The station's clock"))}
    for spec in measured(domain):
        fields[spec.name] = (_number(spec, may_lack=True), _about(spec, None))
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
        may_lack = spec.optional or bool(spec.sum_of)
        default = None if spec.sum_of else ...
        fields[spec.name] = (_number(spec, may_lack=may_lack), _about(spec, default))
    for option in domain.options:
        limits = Field(strict=True, ge=option.low, le=option.high, allow_inf_nan=False)
        about = Field(None, description=f"{option.label}, {option.unit}")
        fields[option.name] = (Annotated[float, limits] | None, about)
    fields["timestamp"] = (_Clock | None, Field(None, description="The station's clock"))
    readings: Any = list[reading_model(domain)]  # type: ignore[misc]
    recent: Any = Annotated[readings, Field(max_length=MOST), AfterValidator(_in_order)]
    about = Field(None, description="Readings before timestamp, oldest first")
    fields["recent"] = (recent | None, about)
    validators: dict[str, Any] = {}
    if agree := _agree(domain):
        validators["agree"] = model_validator(mode="after")(agree)
    if any(spec.from_time for spec in domain.inputs):
        validators["take_time"] = model_validator(mode="before")(_take_time(domain))
    config = ConfigDict(extra="forbid", frozen=True)
    parts = [spec.name for spec in domain.inputs if spec.from_time]
    if parts:  # they, or the time they are taken from

        def either(schema: dict[str, Any]) -> None:
            rest = [name for name in schema["required"] if name not in parts]
            schema["required"] = rest
            schema["anyOf"] = [{"required": parts}, {"required": ["timestamp"]}]

        config["json_schema_extra"] = either
    return create_model(
        f"{_title(domain)}Inputs", __config__=config, __validators__=validators, **fields
    )


def plain(row: BaseModel) -> dict[str, Any]:
    """Give a validated row as plain values; the model's own way takes twice the time."""
    values = vars(row)
    recent = values.get("recent")
    return values | {"recent": list(map(vars, recent))} if recent else values


def faults(domain: Domain, found: Sequence[Mapping[str, Any]]) -> list[dict[str, object]]:
    """Put Pydantic's faults into our words, values made safe to send back.

    Args:
        domain: The question.
        found: Pydantic's own list of faults, each place relative to the row.

    Returns:
        One ``{"field", "problem", "value"}`` per fault, up to ``MOST_FAULTS``.
    """
    told = [_fault(domain, fault) for fault in found[:MOST_FAULTS]]
    if more := len(found) - len(told):
        told.append({"field": "row", "problem": f"has {more} more faults", "value": None})
    return told


def _fault(domain: Domain, fault: Mapping[str, Any]) -> dict[str, object]:
    problem = {
        "missing": "is missing; every input must be there, if only as null",
        "extra_forbidden": "is not an input of this model",
        "model_attributes_type": "a row must be an object of input names and numbers",
        "model_type": "a row must be an object of input names and numbers",
        "list_type": "must be a list of readings",
    }.get(fault["type"], fault["msg"])
    place, value = fault["loc"], fault["input"]
    if fault["type"] == "timestamp" and not place:  # found before the fields were looked at
        place, value = ("timestamp",), value["timestamp"]
    options = [Input(**option.model_dump(), optional=True) for option in domain.options]
    specs = {spec.name: spec for spec in (*domain.inputs, *options)}
    if is_reading := place[:1] == ("recent",) and len(place) > 2:
        specs = {spec.name: spec for spec in measured(domain)}
    columns = {spec.column: name for name, spec in specs.items()}
    named = place[2 if is_reading else 0] if place else ""
    spec = specs.get(columns.get(named, named))
    if spec and fault["type"] in _OF_NUMBERS:
        problem = _problem(spec, domain.format.sentinel, value) or problem
    if is_reading:
        problem = f"reading {place[1]}, {str(named)[:80]}: {problem}"
    is_plain = value is None or isinstance(value, bool | int | float | str)
    shown = _shown(value) if is_plain and fault["type"] != "missing" else None
    return {"field": str(place[0])[:80] if place else "row", "problem": problem, "value": shown}


def _shown(value: object) -> str:
    """Show a value as sent, cut short; an integer of thousands of digits cannot even be written."""
    if isinstance(value, int) and abs(value) > 1e300:
        return "a number of more than 300 digits"
    return repr(value)[:80]
