"""What models learn from: clean readings, and the questions asked of them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from smartcity import data, domains, features, logs
from smartcity.domains import ALL, MAIN, Domain
from smartcity.errors import DataError
from smartcity.features import History, Matrix, Times, View

log = logs.get(__name__)

#: Fewer rows than this cannot be split twice and still say anything.
FEWEST_ROWS = 100
FEWEST_OF_A_CLASS = 5
#: Rows kept of a forecast with many horizons, evenly over origins: more take minutes.
MOST_ROWS, FEW_HORIZONS = 6_000, 3
#: Rows a model of all sites learns from, evenly over the sites; of more, sites are drawn.
MOST_POOLED, FEWEST_OF_A_SITE = 12_000, 100
NOW = "now"

Values = NDArray[np.float64]
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Dataset:
    """What a model learns from: clean, complete, in time order.

    Attributes:
        readings: As published, faults included.
        findings: What is wrong with them.
        clean: Every row with a time, gaps as NaN: what recent readings are taken from.
        rows: The rows to learn from: ``recorded_at``, the measured inputs and the target.
        left_out: Why readings were not used: reason -> number of rows.
        members: Where it is of all sites: theirs, of which it has a sample of the rows.
    """

    domain: Domain
    readings: data.Readings
    findings: pd.DataFrame
    clean: pd.DataFrame
    rows: pd.DataFrame
    left_out: dict[str, int]
    members: tuple["Dataset", ...] = ()

    @cached_property
    def times(self) -> Times:
        """When each row was read."""
        return self.rows["recorded_at"].to_numpy().astype("datetime64[s]")

    @cached_property
    def inputs(self) -> Matrix:
        """The specified inputs, shape (rows, inputs)."""
        return features.matrix(self.domain, columns(self.rows), recorded_at=self.times)

    @cached_property
    def y(self) -> Values:
        """The target, shape (rows,)."""
        return self.rows[self.domain.target.name].to_numpy(dtype=np.float64)

    @cached_property
    def history(self) -> History:
        """All clean readings, to look back at."""
        times = self.clean["recorded_at"].to_numpy().astype("datetime64[s]")
        return History.of(self.domain, columns(self.clean), times)


@dataclass(frozen=True)
class Problem:
    """One question, asked of every row of the past: what was known, and what then came.

    Attributes:
        name: ``now`` or the name of a forecast.
        y: What came, shape (rows,).
        when: The time asked about, ascending, shape (rows,).
        known: How many rows of ``dataset.history`` were known then, shape (rows,).
        ahead: Minutes ahead of the last reading; 0 for ``now``; shape (rows,).
        naive: What a guess without a model would have said: name -> shape (rows,).
    """

    name: str
    dataset: Dataset
    y: Values
    when: Times
    known: Rows
    ahead: NDArray[np.int64]
    naive: dict[str, Values]
    place: Rows

    def matrix(self, view: View) -> Matrix:
        """Build the matrix of a view for all rows."""
        rows = columns(self.dataset.rows.iloc[self.place]) if view.inputs else {}
        history = self.dataset.history if view.history else None
        return features.seen(
            self.dataset.domain, view, rows, at=self.when, history=history, known=self.known
        )

    @property
    def days(self) -> NDArray[np.int64]:
        """The day each row is about, counted from 1970."""
        return self.when.astype("datetime64[D]").astype(np.int64)

    def only(self, rows: Rows) -> "Problem":
        """Ask the same of some rows, in their order."""
        return replace(
            self,
            y=self.y[rows],
            when=self.when[rows],
            known=self.known[rows],
            ahead=self.ahead[rows],
            place=self.place[rows],
            naive={name: guess[rows] for name, guess in self.naive.items()},
        )


@dataclass(frozen=True)
class Pool(Problem):
    """The same question of several sites, in time order over all of them.

    Attributes:
        members: The question of each site.
        order: Where each row stands when they are laid one after the other, shape (rows,).
    """

    members: tuple[Problem, ...] = ()
    order: Rows = field(default_factory=lambda: np.array([], dtype=np.int64))

    def matrix(self, view: View) -> Matrix:
        """Build the matrix of a view for all rows; each looks back at its own site only."""
        return np.concatenate([member.matrix(view) for member in self.members])[self.order]


def columns(rows: pd.DataFrame) -> dict[str, Any]:
    """Give the columns of a table by name."""
    return {str(name): rows[name].to_numpy() for name in rows.columns if name != "recorded_at"}


def prepare(name: str, site: str = MAIN) -> Dataset:
    """Read, check and clean the readings of a domain.

    Args:
        name: The domain.
        site: One of its sites; or ``all``, for a sample of the rows of each.

    Raises:
        UsageError: No such domain or site.
        DataError: The files are missing, damaged, or leave too little to learn from.
    """
    if site == ALL:
        return _pooled(domains.load(name))
    readings = data.read(name, site)
    domain = readings.domain
    findings = data.check(readings)
    clean = data.clean(readings, findings)
    rows, left_out = data.usable(domain, clean)
    left_out["a fault in the row"] = int(
        findings.loc[findings["action"] == "row left out", "row"].nunique()
    )
    if len(rows) < FEWEST_ROWS:
        raise DataError(
            f"Only {len(rows)} of {len(readings.frame)} readings of {name!r} can be used "
            f"({left_out}); at least {FEWEST_ROWS} are needed."
        )
    absent = [
        level.published
        for number, level in enumerate(domain.target.levels)
        if (rows[domain.target.name] == number).sum() < FEWEST_OF_A_CLASS
    ]
    if absent:
        raise DataError(
            f"The readings of {name!r} hold fewer than {FEWEST_OF_A_CLASS} rows of {absent}: a "
            f"model trained on them could not tell these classes. Use readings that hold each."
        )
    return Dataset(domain, readings, findings, clean, rows, left_out)


def _pooled(domain: Domain) -> Dataset:
    """Put a sample of the rows of each site together, in time order."""
    sites = data.present(domain)
    most = MOST_POOLED // FEWEST_OF_A_SITE
    if len(sites) > most:  # what is drawn does not hang on the order, nor on the time of day
        sites = sorted(np.random.default_rng(42).choice(sites, most, replace=False))
    members: list[Dataset] = []
    left_out: dict[str, int] = {}
    for site in sites:
        try:
            members.append(prepare(domain.name, str(site)))
        except DataError as error:  # one site is no reason to fail all
            log.warning("site left out", domain=domain.name, site=site, reason=str(error))
    if not members:
        raise DataError(
            f"No site of {domain.name!r} has readings to learn from; see: smartcity data list"
        )
    rows = pd.concat([member.rows.iloc[_sample(member, len(members))] for member in members])
    for member in members:
        for reason, count in member.left_out.items():
            left_out[reason] = left_out.get(reason, 0) + count
    left_out["not drawn"] = sum(len(member.rows) for member in members) - len(rows)
    sources = [source for member in members for source in member.readings.sources]
    first = members[0]
    return Dataset(
        domain,
        replace(first.readings, site=ALL, sources=sources),
        first.findings,
        first.clean,
        rows.sort_values("recorded_at", kind="stable", ignore_index=True),
        left_out,
        tuple(members),
    )


def _sample(asked: Dataset | Problem, sites: int) -> Rows:
    """Draw which rows of a site, in their order, are among those of all sites."""
    size = len(asked.y)
    share = min(size, MOST_POOLED // sites)
    return np.sort(np.random.default_rng(42).choice(size, share, replace=False))


def _pool(dataset: Dataset, posed: Sequence[Problem]) -> Problem:
    """Ask a question of all sites at once."""
    posed = [each.only(_sample(each, len(posed))) for each in posed]
    order = np.argsort(np.concatenate([each.when for each in posed]), kind="stable")

    def joined(values: Iterable[NDArray[Any]]) -> NDArray[Any]:
        return np.concatenate([*values])[order]

    return Pool(
        posed[0].name,
        dataset,
        y=joined(each.y for each in posed),
        when=joined(each.when for each in posed),
        known=joined(each.known for each in posed),
        ahead=joined(each.ahead for each in posed),
        naive={n: joined(each.naive[n] for each in posed) for n in posed[0].naive},
        place=np.arange(len(order)),
        members=tuple(posed),
        order=order,
    )


def problems(dataset: Dataset) -> dict[str, Problem]:
    """Pose the questions: what is it now, and each forecast the domain names."""
    if dataset.members:
        each = [problems(member) for member in dataset.members]
        return {name: _pool(dataset, [posed[name] for posed in each]) for name in each[0]}
    place = np.arange(len(dataset.y))
    known = np.searchsorted(dataset.history.times, features.minutes(dataset.times), "left")
    ahead = np.zeros(len(place), dtype=np.int64)
    posed = {NOW: _problem(NOW, dataset, place, dataset.times, known, ahead)}
    for forecast in dataset.domain.forecasts:
        found = [_ahead(dataset, m, len(forecast.minutes)) for m in forecast.minutes]
        joined = [np.concatenate(parts) for parts in zip(*found, strict=True)]
        order = np.argsort(joined[1], kind="stable")
        posed[forecast.name] = _problem(forecast.name, dataset, *(p[order] for p in joined))
    return posed


def _ahead(
    dataset: Dataset, ahead: int, horizons: int
) -> tuple[Rows, Times, Rows, NDArray[np.int64]]:
    """Pair each reading with the one that came nearest to so many minutes later."""
    step = dataset.domain.format.step_minutes
    rows, origins = features.minutes(dataset.times), dataset.history.times
    stride = 1 if horizons <= FEW_HORIZONS else -(-len(origins) * horizons // MOST_ROWS)
    # Horizons take turns over the origins, so that no hour of the day is left out.
    chosen = np.arange((ahead // step) % stride, len(origins), stride)
    wanted = origins[chosen] + ahead
    place = _nearest(rows, wanted)
    is_there = np.abs(rows[place] - wanted) <= step / 2
    at = (wanted * 60).astype(np.int64).astype("datetime64[s]")
    kept = (place[is_there], at[is_there], chosen[is_there] + 1)
    return (*kept, np.full(int(is_there.sum()), ahead))


def _nearest(times: Values, wanted: Values) -> Rows:
    """Find the row read nearest to each time."""
    after = np.clip(np.searchsorted(times, wanted), 1, len(times) - 1)
    is_before = wanted - times[after - 1] <= times[after] - wanted
    return np.asarray(after - is_before, dtype=np.int64)


def _problem(
    name: str, dataset: Dataset, place: Rows, at: Times, known: Rows, ahead: NDArray[np.int64]
) -> Problem:
    rows, y = features.minutes(dataset.times), dataset.y
    newest = dataset.history.times[np.maximum(known - 1, 0)]
    previous = np.searchsorted(rows, newest, "right") - 1
    naive = {"previous reading": np.where(previous >= 0, y[np.maximum(previous, 0)], np.nan)}
    for guess, days in (("same time yesterday", 1), ("same time last week", 7)):
        wanted = features.minutes(at) - days * features.DAY
        back = _nearest(rows, wanted)
        is_there = np.abs(rows[back] - wanted) <= dataset.domain.format.step_minutes
        # Nothing read then: as the last reading, which is always there.
        naive[guess] = np.where(
            is_there & (rows[back] <= newest), y[back], naive["previous reading"]
        )
    return Problem(name, dataset, y[place], at, known, ahead, naive, place)
