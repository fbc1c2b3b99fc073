"""Whether models are still right: their answers beside what was observed afterwards.

Figures stand for the answers that are kept; of older ones ``store`` keeps daily sums. Days are
UTC, and those on which the answers were given. Sums are exact (``math.fsum``), so that whoever
adds up the same rows in any order comes to the same last digit.
"""

import csv
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from itertools import islice
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from smartcity import registry
from smartcity.domains import Domain
from smartcity.errors import ModelError
from smartcity.registry import Card
from smartcity.store import answers

Window = Literal["day", "week", "month"]
Held = Literal["hold", "do not hold", "too few to tell"]
Risen = Literal["as measured", "up", "too few to tell", "nothing to compare with"]
#: Truths, and days they are from, without which nothing is said of a window.
ENOUGH, DAYS = 20, 5
#: Part of answers from before it was noted.
UNKNOWN = "not noted"
#: How sure the ranges are, the draws of the bootstrap, its seed.
_SURE, _DRAWS, _SEED = 0.95, 1000, 42
#: Rows turned into numbers at once.
_BLOCK = 10_000
#: A mean of equal levels may be a rounding error above them.
_ROUNDING = 1e-9
_NUMBERS = ("prediction", "low", "high", "confidence", "observed")
_ROW = np.dtype([("group", "i4"), ("day", "M8[D]"), *((name, "f8") for name in _NUMBERS)])

Rows = NDArray[np.void]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Ranged:
    """A figure, and where it would likely be if we had seen other cases like these.

    Attributes:
        value: The figure.
        low: Lower end of its 95 % range; None where there are too few days to tell.
        high: Upper end.
        count: Cases it was counted on.
    """

    value: float
    low: float | None
    high: float | None
    count: int


@dataclass(frozen=True)
class Measured:
    """How the answers of a time turned out.

    Attributes:
        since: First day of the window; None for all.
        answers: Answers given.
        observed: Those whose truth is known.
        error: Mean absolute error in the target's unit; of classes, the share that was wrong.
        rmse: Root of the mean squared error; None for classes.
        bias: Mean of answer less truth: above 0, answers are too high. Of classes, in levels.
        coverage: Share of truths within the interval; of classes, the share that was right.
        promised: What was said of that share: the intervals' level, the mean probability.
        estimate: An estimate, of the error of the answers whose truth is not known yet.
        foretold: What the same estimate says of those whose truth is known.
        ratio: ``error`` over ``foretold``: how far off the estimate was.
    """

    since: date | None
    answers: int
    observed: int
    error: Ranged | None
    rmse: float | None
    bias: Ranged | None
    coverage: Ranged | None
    promised: float | None
    estimate: float | None
    foretold: float | None
    ratio: float | None


@dataclass(frozen=True)
class Verdict:
    """Whether one of a version's models is still as good as its card says.

    Attributes:
        since: First day of the window judged, the newest with enough truths; None if none has.
        intervals: Whether they hold what they promise; of classes, the probabilities.
        error: How it is beside what the card measured on later time; judged by the newest window
            with truths of enough days, too.
        before: That error.
        increase: By what share the error is above it.
        wrong: What is not right, and what to do; empty if nothing is.
    """

    since: date | None = None
    intervals: Held = "too few to tell"
    error: Risen = "too few to tell"
    before: Ranged | None = None
    increase: float | None = None
    wrong: str = ""


@dataclass(frozen=True)
class Group:
    """The answers of one part of one version.

    Attributes:
        version: The version.
        part: Which of its models: ``now``, or the champion's name.
        served: Whether the version is being served; only then its verdict is an alarm.
        overall: All answers kept.
        windows: The same by day, week or month, oldest first.
        verdict: Whether it is still right.
    """

    version: str
    part: str
    served: bool
    overall: Measured
    windows: tuple[Measured, ...]
    verdict: Verdict


@dataclass(frozen=True)
class Accuracy:
    """How a question's answers turned out.

    Attributes:
        domain: The question.
        unit: Of errors; empty for classes.
        window: How time was cut.
        groups: One for each part of each version that answered.
        wrong: What is not right with what is being served.
    """

    domain: str
    unit: str
    window: Window
    groups: tuple[Group, ...] = ()
    wrong: tuple[str, ...] = ()


def look(
    domain: Domain,
    window: Window = "week",
    since: datetime | None = None,
    *,
    observed: bool = False,
) -> Accuracy:
    """Compare a question's answers with what was observed.

    Args:
        domain: The question.
        window: How to cut time; weeks begin on Monday.
        since: Leave out answers made before.
        observed: Leave out those whose truth is not known yet; then nothing is estimated.

    Raises:
        DatabaseError: The database is out of reach.
    """
    names, rows = _read(answers.told(domain.name, since, observed=observed))
    try:
        served = registry.current(domain.name)
    except ModelError:
        served = ""
    groups = []
    for number, (version, part) in enumerate(names):
        yardstick = Yardstick.of(domain, version, part)
        mine = rows[rows["group"] == number]
        cut = [measure(each, yardstick, first) for first, each in _cut(mine, window)]
        verdict = _judge(domain, f"{domain.name} {version}, {part}", yardstick, cut)
        overall = measure(mine, yardstick)
        groups.append(Group(version, part, version == served, overall, tuple(cut), verdict))
    wrong = tuple(g.verdict.wrong for g in groups if g.served and g.verdict.wrong)
    return Accuracy(domain.name, domain.target.unit, window, tuple(groups), wrong)


def _read(told: Iterable[tuple[Any, ...]]) -> tuple[list[tuple[str, str]], Rows]:
    """Turn answers into numbers, 52 bytes each: a million of them take that many megabytes."""
    names: dict[tuple[str, str], int] = {}

    def numbers() -> Iterator[tuple[Any, ...]]:
        for _, version, part, at, *values in told:
            name = (version or "", part or UNKNOWN)
            yield (names.setdefault(name, len(names)), at.date(), *values)

    coming, blocks = numbers(), [np.empty(0, _ROW)]
    while block := list(islice(coming, _BLOCK)):
        blocks.append(np.array(block, _ROW))
    return list(names), np.concatenate(blocks)


def _cut(rows: Rows, window: Window) -> Iterator[tuple[date, Rows]]:
    """Cut rows in the order of time into windows, each with its first day."""
    days = rows["day"]
    if window == "week":  # numpy's weeks begin on Thursday, as 1970 did
        firsts = (days + 3).astype("M8[W]").astype("M8[D]") - 3
    else:
        firsts = days.astype("M8[M]" if window == "month" else "M8[D]").astype("M8[D]")
    starts, places = np.unique(firsts, return_index=True)
    parts = np.split(rows, places[1:]) if len(rows) else []
    yield from zip((start.item() for start in starts), parts, strict=True)


@dataclass(frozen=True)
class Yardstick:
    """What answers are measured by: the kind of question, and what the card measured.

    Attributes:
        is_class: Whether answers are classes.
        later: How the part did on later time when it was made; None where that is not known.
        scale: Its mean absolute error over the mean half of its intervals there.
    """

    is_class: bool
    later: Measured | None = None
    scale: float | None = None

    @classmethod
    def of(cls, domain: Domain, version: str, part: str) -> "Yardstick":
        """Take it from a version's card and its answers on later time."""
        bare = cls(bool(domain.target.levels))
        try:
            card = registry.card(domain.name, version)
            rows = _later(card, part)
        except (ModelError, ValueError, KeyError):
            return bare  # an old version may be gone
        if not len(rows):
            return bare
        later = measure(rows, bare)
        half = _mean_half(rows)
        scale = later.error.value / half if later.error and half else None
        return cls(bare.is_class, later, scale)

    def expected(self, rows: Rows) -> float | None:
        """Estimate the error of answers from what they say of themselves, without any truth."""
        if self.is_class:
            sure = rows["confidence"][np.isfinite(rows["confidence"])]
            return 1 - math.fsum(sure) / len(sure) if len(sure) else None
        half = _mean_half(rows)
        return self.scale * half if self.scale is not None and half is not None else None


def _later(card: Card, part: str) -> Rows:
    """Read what a part answered about now on later time, from beside its card."""
    rows = []
    for row in csv.DictReader(registry.page(card, "later.csv").splitlines()):
        if row["part"] == part and float(row["ahead"]) == 0:
            day = date.fromisoformat(row["recorded_at"][:10])
            sure = row.get("probability") or card.parts[part].coverage["level"]
            values = (row["predicted"], row.get("low"), row.get("high"), sure, row["observed"])
            rows.append((0, day, *(float(value or math.nan) for value in values)))
    return np.array(rows, _ROW)


def _mean_half(rows: Rows) -> float | None:
    width = rows["high"] - rows["low"]
    width = width[np.isfinite(width)]
    return math.fsum(width) / len(width) / 2 if len(width) else None


def measure(rows: Rows, yardstick: Yardstick, since: date | None = None) -> Measured:
    """Measure how answers turned out.

    Args:
        rows: The answers, shape (rows,).
        yardstick: What they are measured by.
        since: First day of their window.
    """
    known = np.isfinite(rows["observed"]) & np.isfinite(rows["prediction"])
    seen = rows[known]
    error, days = seen["prediction"] - seen["observed"], seen["day"]
    wrong = error != 0
    if yardstick.is_class:
        ranged, held = np.isfinite(seen["confidence"]), ~wrong
    else:
        ranged = np.isfinite(seen["low"]) & np.isfinite(seen["high"])
        held = (seen["low"] <= seen["observed"]) & (seen["observed"] <= seen["high"])
    count = int(ranged.sum())
    promised = seen["confidence"][ranged]
    found = share(int(wrong.sum()), len(seen)) if yardstick.is_class else mean(abs(error), days)
    foretold = yardstick.expected(seen)
    has_rmse = len(seen) and not yardstick.is_class
    return Measured(
        since=since,
        answers=len(rows),
        observed=len(seen),
        error=found,
        rmse=math.sqrt(math.fsum(error * error) / len(seen)) if has_rmse else None,
        bias=mean(error, days),
        coverage=share(int((held & ranged).sum()), count),
        promised=math.fsum(promised) / count if count else None,
        estimate=yardstick.expected(rows[~known]),
        foretold=foretold,
        ratio=found.value / foretold if found and foretold else None,
    )


def flat(found: Measured) -> dict[str, float]:
    """Give what is known of it as plain numbers by name, as metrics have them."""
    told: dict[str, float] = {"observed": found.observed}
    for name in ("error", "bias", "coverage"):
        if (figure := getattr(found, name)) is not None:
            ends = {"": figure.value, "_low": figure.low, "_high": figure.high}
            told |= {f"{name}{end}": value for end, value in ends.items() if value is not None}
    return told | ({} if found.promised is None else {"promised": found.promised})


def share(hits: int, count: int) -> Ranged | None:
    """Give a share with its range, by the score interval of Wilson (1927); None of nothing."""
    if not count:
        return None
    z, p = NormalDist().inv_cdf((1 + _SURE) / 2), hits / count
    middle, within = p + z * z / (2 * count), 1 + z * z / count
    reach = z * math.sqrt(p * (1 - p) / count + z * z / (4 * count * count))
    low = 0.0 if not hits else (middle - reach) / within
    high = 1.0 if hits == count else (middle + reach) / within
    return Ranged(p, low, high, count)


def mean(values: Floats, days: NDArray[np.datetime64]) -> Ranged | None:
    """Give a mean with its range; None of nothing.

    Errors of one day are alike, so whole days are drawn, not single answers: the cluster bootstrap,
    percentiles of a ratio of sums (Davison & Hinkley 1997, sections 2.4 and 3.8). With fewer than
    ``DAYS`` days there is no range.

    Args:
        values: Shape (answers,).
        days: When each was given, shape (answers,).
    """
    if not len(values):
        return None
    value = math.fsum(values) / len(values)
    known, which = np.unique(days, return_inverse=True)
    if len(known) < DAYS:
        return Ranged(value, None, None, len(values))
    sums = np.stack([np.bincount(which, values), np.bincount(which)])
    even = np.full(len(known), 1 / len(known))
    drawn = np.random.default_rng(_SEED).multinomial(len(known), even, _DRAWS) @ sums.T
    low, high = np.quantile(drawn[:, 0] / drawn[:, 1], [(1 - _SURE) / 2, (1 + _SURE) / 2])
    return Ranged(value, float(low), float(high), len(values))


def _judge(domain: Domain, name: str, yardstick: Yardstick, windows: Sequence[Measured]) -> Verdict:
    """Judge the newest windows with enough truths: one that has just begun tells nothing yet."""
    enough = [each for each in windows if each.observed >= ENOUGH]
    if not enough:
        return Verdict()
    last = enough[-1]
    ranged = [each for each in enough if each.error and each.error.low is not None]
    intervals, broken = _held(last, yardstick)
    before = yardstick.later.error if yardstick.later else None
    error, increase, worse = _risen(ranged[-1] if ranged else last, before, domain)
    said = " ".join(filter(None, (broken, worse)))
    if said:
        said = f"{name}: {said} See what has moved, then: smartcity run 02_train --domain "
        said += domain.name
    return Verdict(last.since, intervals, error, before, increase, said)


def _held(last: Measured, yardstick: Yardstick) -> tuple[Held, str]:
    """Say whether what was promised lies within or below the range of what was kept."""
    held, promised = last.coverage, last.promised
    if held is None or promised is None or held.count < ENOUGH:
        return "too few to tell", ""
    if held.high is None or held.high >= promised - _ROUNDING:
        return "hold", ""
    kind = "answers were right" if yardstick.is_class else "truths lay within their intervals"
    told = f"In the window of {last.since} {shown(held, '.1%')} of {held.count} {kind}, "
    return "do not hold", f"{told}where {promised:.1%} was promised."


def _risen(
    last: Measured, before: Ranged | None, domain: Domain
) -> tuple[Risen, float | None, str]:
    """Say whether the error is above the card's beyond chance: the ranges do not even touch."""
    error = last.error
    if before is None or error is None:
        return "nothing to compare with", None, ""
    increase = error.value / before.value - 1 if before.value else None
    if error.low is None:
        return "too few to tell", increase, ""
    if error.low <= (before.value if before.high is None else before.high):
        return "as measured", increase, ""
    form, unit = (".1%", "") if domain.target.levels else (".3g", f" {domain.target.unit}")
    more = "" if increase is None else f"{increase:.0%} "
    told = f"In the window of {last.since} the error was {shown(error, form)}{unit}, {more}above "
    return "up", increase, f"{told}the {shown(before, form)}{unit} of later time on its card."


def shown(figure: Ranged, form: str) -> str:
    """Write a figure with its range."""
    bare = f"{figure.value:{form}}"
    return bare if figure.low is None else f"{bare} ({figure.low:{form}} to {figure.high:{form}})"
