"""What the city asks, as data: one TOML file per question, and the guideline tables."""

import re
import tomllib
from datetime import date
from difflib import get_close_matches
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from smartcity import settings
from smartcity.errors import UsageError, unknown

Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")]
#: The site every question has, and what stands for all of them at once.
MAIN, ALL = "main", "all"
#: It becomes a folder and part of a model's name, of which the database keeps 50 letters.
_SITE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_LONGEST = 50
TimePart = Literal["day", "month", "hour", "minute"]


class _Record(BaseModel):
    """A part of a domain file: nothing unknown, nothing changed after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Simulated(_Record):
    """How the demo city makes a column: ``base + swing * activity + noise * normal``."""

    base: float
    swing: float
    noise: float
    decimals: int = 1


class Input(_Record):
    """One input of the model, in the order the model takes them."""

    name: Name
    label: str
    unit: str
    low: float = Field(description="Lowest value that is physically possible")
    high: float = Field(description="Highest value that is physically possible")
    step: float = Field(default=1.0, description="Step of a slider")
    whole: bool = Field(default=False, description="Only whole numbers make sense")
    column: str | None = Field(default=None, description="Name in the published file")
    optional: bool = Field(default=False, description="The model can answer without it")
    from_time: TimePart | None = Field(default=None, description="Part of the reading's time")
    sum_of: tuple[Name, ...] = Field(default=(), description="Inputs this one is the sum of")
    car_units: float | None = Field(default=None, description="Passenger cars one of it stands for")
    simulated: Simulated | None = None


class Level(_Record):
    """One class of a classification, in order: its number is its place."""

    published: str = Field(description="The word in the published file")
    label: str
    meaning: str
    advice: str


class Advice(_Record):
    """What to do about a quantity, by where it stands beside its usual days."""

    low: str
    usual: str
    high: str


class Target(_Record):
    """What the model answers."""

    name: Name
    column: str
    label: str
    unit: str = ""
    low: float = 0.0
    high: float = 0.0
    levels: tuple[Level, ...] = ()
    advice: Advice | None = Field(default=None, description="Of a quantity; levels have their own")
    pollutant: str | None = Field(default=None, description="Key into the guideline tables")
    adds_up: bool = Field(
        default=False, description="A reading holds all since the one before, as a meter's does"
    )
    simulated: Simulated
    thresholds: tuple[float, ...] = Field(
        default=(), description="Simulated values at which the next class begins"
    )

    def problem(self, observed: float) -> str | None:
        """Say what is wrong with an observation of it, or None if nothing is."""
        high = self.high or len(self.levels) - 1
        if self.low <= observed <= high and (not self.levels or observed % 1 == 0):
            return None
        kind = "a whole number from" if self.levels else "from"
        return f"must be {kind} {self.low:g} to {high:g} {self.unit}".rstrip()


class Format(_Record):
    """How the publisher writes the file, and what counts as a fault in it."""

    delimiter: str = ","
    decimal: str = "."
    newline: Literal["\n", "\r\n"] = "\n"
    sentinel: float | None = None
    header: tuple[str, ...]
    time_columns: tuple[str, str]
    time_format: str
    first_day: date | None = Field(
        default=None, description="Set when dates are a bare day of the month, in order"
    )
    step_minutes: int
    gap_minutes: int
    flat_line_rows: int
    spike_share: float = Field(
        default=0.75, description="Share of the usual span a lone value must jump to be a spike"
    )


class PublishedFile(_Record):
    """A file as its publisher offers it."""

    name: str
    site: str = "main"
    sha256: str
    archive: str = Field(description="Where its zip archive can be downloaded")
    archive_sha256: str | None = None


class Forest(_Record):
    """The specification's random forest, exactly."""

    n_estimators: int
    max_depth: int
    min_samples_split: int
    random_state: int
    n_jobs: int


class Option(_Record):
    """A number that changes what an answer means, not the answer; may be left out."""

    name: Name
    label: str
    unit: str
    low: float
    high: float


class Forecast(_Record):
    """A question about later: the same target, so many minutes after the last reading."""

    name: Name
    title: str
    minutes: tuple[int, ...]


class Domain(_Record):
    """A question the city asks: inputs, target, files, and the specified model."""

    name: Name
    order: int = Field(default=99, description="Place on the page and in lists")
    title: str
    question: str
    answer: str = Field(description="Sentence around an answer, with {label} or {value} {unit}")
    task: Literal["regression", "classification"]
    licence: str
    source: str
    inputs: tuple[Input, ...]
    target: Target
    format: Format
    files: tuple[PublishedFile, ...]
    forest: Forest
    options: tuple[Option, ...] = ()
    forecasts: tuple[Forecast, ...] = ()

    @property
    def slug(self) -> str:
        """The name as it stands in a URL."""
        return self.name.replace("_", "-")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the inputs, in the model's order."""
        return tuple(i.name for i in self.inputs)

    @property
    def columns(self) -> dict[str, str]:
        """Published column -> our name, for the inputs measured and the target."""
        measured = {i.column: i.name for i in self.inputs if i.column}
        return measured | {self.target.column: self.target.name}

    @cached_property
    def car_units(self) -> tuple[tuple[str, float], ...]:
        """Passenger cars an hour that one counted in a reading stands for, by input."""
        hourly = 60 / self.format.step_minutes
        return tuple((i.name, i.car_units * hourly) for i in self.inputs if i.car_units is not None)

    @property
    def sites(self) -> tuple[str, ...]:
        """Sites the published files belong to, the default first."""
        return tuple(dict.fromkeys(f.site for f in self.files))

    @property
    def shown(self) -> "Input | Target":
        """What charts show over time: the quantity, or what the classes are made of."""
        sums = [i for i in self.inputs if i.sum_of]
        return [*sums, *self.inputs][0] if self.target.levels else self.target

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        missing = {*self.columns, *self.format.time_columns} - set(self.format.header)
        if missing:
            raise ValueError(f"columns {sorted(missing)} are not in format.header")
        strangers = {part for i in self.inputs for part in i.sum_of} - set(self.names)
        if strangers:
            raise ValueError(f"sum_of names {sorted(strangers)}, which are not inputs")
        if (self.task == "classification") != bool(self.target.levels):
            raise ValueError("target.levels belong to a classification, and only there")
        if (self.task == "regression") != bool(self.target.advice):
            raise ValueError(
                "target.advice = { low, usual, high } belongs to a regression, and only there"
            )
        return self


class Table(_Record):
    """One guideline table: a standard in one edition, for one averaging time."""

    standard: str
    edition: str
    pollutant: str
    averaging: str
    hours: int = Field(default=0, description="The same as a number; 0 where time plays no part")
    unit: str
    scale: float = Field(default=1.0, description="Our unit per unit of the table")
    decimals: int | None = Field(default=None, description="Digits kept; the rest is cut off")
    source: str
    bands: tuple[tuple[float, str], ...] = Field(description="(highest value, label) in order")
    above: str = Field(description="Label above the last band")

    def places(self, values: NDArray[np.float64]) -> NDArray[np.int64]:
        """Find the bands that values, in our unit, fall into; ``labels`` names them."""
        theirs = values / self.scale
        if self.decimals is not None:
            digits = 10**self.decimals
            theirs = np.floor(theirs * digits + 1e-6) / digits
        tops = [high * (1 + 1e-12) for high, _ in self.bands]  # a rounding error wider
        return np.searchsorted(tops, theirs)

    @cached_property
    def labels(self) -> list[str]:
        """Name every band, the one above the last too."""
        return [*(label for _, label in self.bands), self.above]

    def band(self, value: float) -> str:
        """Give the label of the band a value, in our unit, falls into."""
        return self.labels[int(self.places(np.array([value]))[0])]


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"Cannot read {path}: {error}") from None


@lru_cache
def load_all() -> dict[str, Domain]:
    """Load every domain: the three shipped, then those in ``SMARTCITY_DOMAINS``.

    Raises:
        UsageError: A file does not describe a domain; the message says where and why.
    """
    more = settings.current().domains
    if more and not more.is_dir():
        raise UsageError(f"SMARTCITY_DOMAINS names {more}, which is no folder.")
    folders = [Path(__file__).parent, more]
    paths = [p for folder in folders if folder for p in sorted(folder.glob("*.toml"))]
    domains: dict[str, Domain] = {}
    for path in paths:
        if path.stem == "standards":
            continue
        try:
            domain = Domain.model_validate(_read(path))
        except ValidationError as error:
            raise UsageError(f"{path} does not describe a domain: {error}") from None
        domains[domain.name] = domain
    return dict(sorted(domains.items(), key=lambda item: (item[1].order, item[0])))


def load(name: str) -> Domain:
    """Give the domain of that name; hyphens and underscores are the same.

    Raises:
        UsageError: There is no such domain; the message lists those there are.
    """
    domains = load_all()
    found = domains.get(name.replace("-", "_"))
    if found is None:
        raise unknown("domain", name, domains)
    return found


def at(name: str, site: str) -> str:
    """Name what belongs to a site of a domain, its model and its runs: the main one's as ever.

    >>> at("traffic", "main"), at("traffic", "north")
    ('traffic', 'traffic@north')
    """
    return name if site == MAIN else f"{name}@{site}"


def apart(name: str) -> tuple[str, str]:
    """Take such a name apart: domain and site."""
    domain, _, site = name.partition("@")
    return domain, site or MAIN


def require_name(domain: Domain, site: str) -> None:
    """Refuse a name no site can have.

    Raises:
        UsageError: It is taken, too long, or holds what no folder should.
    """
    taken = {*domain.sites, ALL}
    if not _SITE.fullmatch(site) or site in taken or len(at(domain.name, site)) > _LONGEST:
        raise UsageError(
            f"site: {site[:80]!r} cannot name a site of {domain.name!r}. Take up to "
            f"{_LONGEST - len(domain.name) - 1} letters, digits, - and _, beginning with a letter "
            f"or digit, and not {', '.join(map(repr, sorted(taken)))}."
        )


def folders(domain: Domain) -> list[Path]:
    """List the folders its readings may lie in: where the settings say, then the demo city."""
    known = settings.current()
    homes = [known.datasets, *([known.demo] if known.origin("datasets") == "default" else ())]
    return [home / domain.name for home in homes]


def partition(folder: Path, site: str) -> Path:
    """Give where a domain's folder keeps the Parquet files of a site that is not published."""
    return folder / "sites" / f"site={site}"


def sites(domain: Domain) -> tuple[str, ...]:
    """List a domain's sites: those published, the main one first, then those found."""
    homes = [partition(folder, "").parent for folder in folders(domain)]
    names = {p.name for home in homes if home.is_dir() for p in home.iterdir()}
    found = {n.removeprefix("site=") for n in names if n.startswith("site=")}
    named = filter(_SITE.fullmatch, found - {*domain.sites, ALL})
    return (*domain.sites, *sorted(named))


def require_site(domain: Domain, site: str) -> None:
    """Refuse a site the domain has not; of a thousand names only the nearest are told.

    Raises:
        UsageError: There is none of that name.
    """
    is_one = site in domain.sites or (
        _SITE.fullmatch(site) is not None
        and site != ALL
        and any(partition(folder, site).is_dir() for folder in folders(domain))
    )
    if not is_one:
        known = sites(domain)
        near = known if len(known) <= 10 else get_close_matches(site[:80], known, 5, 0)
        raise unknown(f"site of {domain.name}", site[:80], near)


@lru_cache
def tables(pollutant: str | None) -> tuple[Table, ...]:
    """Give the guideline tables for a pollutant, none if there are none."""
    records = _read(Path(__file__).parent / "standards.toml")["tables"]
    return tuple(t for t in map(Table.model_validate, records) if t.pollutant == pollutant)
