"""What is made when: ``reports/schedule.toml``, checked as a whole, and the times it means."""

import tomllib
from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime
from difflib import get_close_matches
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim, CronSimError
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from smartcity import domains, parameters, settings
from smartcity.domains import ALL, MAIN
from smartcity.errors import UsageError, unknown
from smartcity.reporting.deliver import Deliver

#: Report name of what people ask for on the page; no entry can be called so.
ON_REQUEST = "on request"
#: Stands in place of cron's fields for what is made whenever a domain has a new alarm.
ON_ALARM = "@alarm"
#: Parameters that the schedule gives itself, so an entry may not.
_OURS = ("domain", "as_of")


class Keep(BaseModel):
    """How long runs are kept; what neither says is kept for ever.

    Attributes:
        count: Newest runs of each domain that stay.
        days: Days a run stays.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    count: int | None = Field(default=None, ge=1)
    days: int | None = Field(default=None, ge=1)


class Entry(BaseModel):
    """One report of the schedule; times are in ``timezone``, its own comes to UTC in ``slots``.

    Attributes:
        name: The table's name in the file.
        notebook: Which notebook makes it.
        domains: What it is made for; each domain is a run of its own. All when left out.
        sites: Which sites of them, each again a run of its own; ``["all"]`` for all there are.
        parameters: Of the notebook, the same for every run.
        cron: When, in cron's five fields, or ``@alarm``; empty for what is made once.
        timezone: Zone of the IANA data base the fields are read in.
        missed: Which of several times that went by unmade are made: the last, all, or none.
        max_stale_hours: Hours after which what was due is not made any more.
        overlap: What becomes of a time when the run before is not done: it is left out or waits.
        attempts: How often a run is tried in all.
        backoff_minutes: Minutes before the second try; doubled before each further one.
        timeout_minutes: Longest a try may take.
        paused: Whether it rests.
        keep: How long its runs stay.
        deliver: Who is told.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[a-z][a-z0-9_-]*$", max_length=60)
    notebook: str
    domains: tuple[str, ...] = ()
    sites: tuple[str, ...] = (MAIN,)
    parameters: dict[str, Any] = {}
    cron: str
    timezone: str = "UTC"
    missed: Literal["latest", "all", "skip"] = "latest"
    max_stale_hours: float = Field(default=72, gt=0)
    overlap: Literal["skip", "wait"] = "wait"
    attempts: int = Field(default=3, ge=1, le=20)
    backoff_minutes: float = Field(default=2, ge=0)
    timeout_minutes: float = Field(default=60, gt=0)
    paused: bool = False
    keep: Keep = Keep()
    deliver: Deliver = Deliver()

    @field_validator("timezone")
    @classmethod
    def _is_zone(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (KeyError, OSError, ValueError):
            near = get_close_matches(name, available_timezones(), n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(
                f"no such zone of the IANA data base, as in Europe/Rome.{hint}"
            ) from None
        return name

    @field_validator("cron")
    @classmethod
    def _fires(cls, cron: str) -> str:
        if cron == ON_ALARM:
            return cron
        if len(cron.split()) != 5:
            raise ValueError(
                "write five fields, minute hour day month weekday, as in '0 5 * * *' for each "
                f"day at 5 o'clock; or {ON_ALARM}"
            )
        try:
            next(CronSim(cron, datetime(2024, 1, 1, tzinfo=UTC)))
        except (CronSimError, StopIteration) as error:
            raise ValueError(f"{str(error) or 'this never comes'}; as in '0 5 * * *'") from None
        return cron


def path() -> Path:
    """Say where the schedule is written."""
    return settings.current().reports / "schedule.toml"


def read() -> dict[str, Entry]:
    """Read the schedule, by name; empty where there is no file.

    Raises:
        UsageError: It cannot be read, or something in it does not fit; the message holds all
            faults, each with entry, key, value and remedy.
    """
    if not path().exists():
        return {}
    try:
        tables = tomllib.loads(path().read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path()} cannot be read: {error}") from None
    entries: dict[str, Entry] = {}
    faults: list[str] = []
    for name, table in tables.items():
        if not isinstance(table, dict):
            faults.append(f"{name} stands outside of an entry: write [name-of-the-report] above it")
            continue
        entry, found = _entry(name, table)
        faults += [f"[{name}] {fault}" for fault in found]
        if entry and not found:
            entries[name] = entry
    if faults:
        raise UsageError(f"{path()} does not fit:\n" + "\n".join(f"  {f}" for f in faults))
    return entries


def named(name: str, given: Mapping[str, object], only: str | None = None) -> tuple[Entry, bool]:
    """Give an entry of the schedule, or a notebook as if it were one.

    Args:
        name: Of the entry, or of a notebook.
        given: Parameters that stand in for the entry's.
        only: The domain, if not all of them are wanted.

    Returns:
        The entry, and whether it is one of the schedule.

    Raises:
        UsageError: There is neither, or a parameter does not fit.
    """
    entries = read()
    entry = entries.get(name)
    if entry is None:
        try:
            notebook = parameters.find(name).stem
        except UsageError:
            known = [
                *entries,
                *(p.stem for p in settings.current().notebooks.glob("[0-9][0-9]_*.ipynb")),
            ]
            raise unknown("report or notebook", name, known) from None
        entry = once(notebook, notebook, tuple(domains.load_all()), {})
    wanted = (domains.load(only).name,) if only else entry.domains
    entry = entry.model_copy(update={"domains": wanted, "parameters": entry.parameters | {**given}})
    ours = _OURS if name in entries else _OURS[:1]
    values, faults = _values(entry.notebook, wanted, entry.parameters, ours)
    if faults:
        raise UsageError(" ".join(faults))
    return entry.model_copy(update={"parameters": values}), name in entries


def once(name: str, notebook: str, wanted: tuple[str, ...], values: dict[str, Any]) -> Entry:
    """Give the entry of what is made without one in the schedule, tried once."""
    return Entry.model_construct(
        name=name, notebook=notebook, domains=wanted, parameters=values, cron="", attempts=1
    )


def _entry(name: str, table: dict[str, Any]) -> tuple[Entry | None, list[str]]:
    """Check one entry; give it with all faults found."""
    if "name" in table:
        return None, ["name is what stands in the brackets: leave it out"]
    try:
        entry = Entry.model_validate({"name": name} | table)
    except ValidationError as error:
        return None, [_fault(dict(fault)) for fault in error.errors(include_url=False)]
    try:
        notebook = parameters.find(entry.notebook)
    except UsageError as error:
        return None, [f"notebook: {error}"]
    if faults := list(_wrong_places(entry, parameters.read(notebook))):
        return None, faults
    wanted = entry.domains or tuple(domains.load_all())
    values, faults = _values(notebook.stem, wanted, entry.parameters, _OURS)
    found = {"notebook": notebook.stem, "domains": wanted, "parameters": values}
    return entry.model_copy(update=found), [f"parameters: {fault}" for fault in faults]


def _wrong_places(entry: Entry, takes: Collection[str]) -> Iterator[str]:
    """Say what is wrong with an entry's domains and sites."""
    known = {name.replace("-", "_") for name in entry.domains} or {*domains.load_all()}
    for name in sorted(known):
        try:
            for site in {*entry.sites} - {ALL}:
                domains.require_site(domains.load(name), site)
        except UsageError as error:
            yield f"domains: {error}"
    if "domain" not in takes:
        yield f"notebook: {entry.notebook} takes no domain, so no report is made of it"
    if entry.sites == (MAIN,):
        return
    if "site" not in takes:
        yield f"sites: {entry.notebook} takes no site, so none can be chosen"
    if "site" in entry.parameters:
        yield "sites: parameters name a site too; leave one of them out"


def _fault(fault: dict[str, Any]) -> str:
    """Say what pydantic found: the key, the value, and what would be right."""
    *within, key = fault["loc"]
    where = ".".join(map(str, fault["loc"]))
    if fault["type"] == "extra_forbidden":
        models: dict[Any, type[BaseModel]] = {"keep": Keep, "deliver": Deliver}
        fields = models[within[0]].model_fields if within else Entry.model_fields
        return str(unknown("key", str(key), [field for field in fields if field != "name"]))
    if fault["type"] == "missing":
        example = {"notebook": '"05_report"', "cron": '"0 5 * * *"'}.get(str(key), "…")
        return f"{where} is missing: write {key} = {example}"
    # A webhook's address may be a secret.
    shown = "" if fault["loc"][0] == "deliver" else f" = {fault['input']!r}"
    return f"{where}{shown}: {fault['msg'].removeprefix('Value error, ')}"


def _values(
    notebook: str, wanted: tuple[str, ...], given: Mapping[str, object], ours: tuple[str, ...]
) -> tuple[dict[str, Any], list[str]]:
    """Check parameters for every domain, one by one; give them as they are passed on."""
    source = parameters.find(notebook)
    known, values = parameters.read(source), {}
    faults: dict[str, None] = {}  # each once, in order
    for name, value in given.items():
        if name in ours or (name in known and known[name].kind == "run"):
            who = "the schedule" if name in _OURS else "the runner"
            faults[f"Parameter {name!r} is filled in by {who}: leave it out."] = None
            continue
        for domain in wanted:
            try:
                values[name] = parameters.check(source, {"domain": domain, name: value})[name]
            except UsageError as error:
                faults[str(error)] = None
    return values, list(faults)


def slots(entry: Entry, after: datetime, until: datetime) -> list[datetime]:
    """List the moments an entry is due, in UTC, the oldest first.

    As in Debian's cron, what is due in an hour that a clock change leaves out is due once right
    after it, and in an hour that comes twice the first time only; where the hour is ``*`` every
    real hour counts.

    Args:
        entry: The entry.
        after: Not this moment itself.
        until: This moment too.
    """
    return list(takewhile(lambda at: at <= until, _times(entry, after)))


def next_slot(entry: Entry, after: datetime) -> datetime | None:
    """Give the first moment after another at which an entry is due, in UTC; None for never."""
    return next(_times(entry, after), None)


def wall(entry: Entry, at: datetime) -> str:
    """Write a moment as the clock in the entry's zone shows it, to the minute, without a zone."""
    local = at.astimezone(ZoneInfo(entry.timezone)).replace(tzinfo=None)
    return local.isoformat(timespec="minutes")


def _times(entry: Entry, after: datetime) -> Iterator[datetime]:
    if entry.cron in {"", ON_ALARM}:
        return
    last = after
    for local in CronSim(entry.cron, after.astimezone(ZoneInfo(entry.timezone))):
        at = local.astimezone(UTC)
        if at > last:  # not again, where a clock change lets two of them fall together
            last = at
            yield at
