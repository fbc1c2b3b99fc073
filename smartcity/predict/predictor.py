"""The served model, asked: scores turned into answers a person can judge."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from smartcity import domains, features, registry
from smartcity.domains import ALL, MAIN, Domain, Forecast
from smartcity.errors import InputError, ModelError, unknown
from smartcity.features import CLOCK, History, Matrix, Times
from smartcity.predict.limits import Limits, Standing
from smartcity.predict.meaning import guidance
from smartcity.predict.reasons import Reason, Reasons, contributions
from smartcity.predict.rows import faults, history_model, plain, row_model
from smartcity.registry import NOW, Part

#: Share of the time a model looks back that recent readings must reach back.
REACH = 0.75
#: Recent readings older than this say nothing about now.
STALE = timedelta(days=1)


class Interval(BaseModel):
    """A range meant to hold the truth in a share ``level`` of all cases."""

    low: float
    high: float
    level: float


class Said(BaseModel):
    """What every answer has, about now or about later."""

    model_config = ConfigDict(frozen=True, protected_namespaces=())

    domain: str
    prediction: float = Field(description="The quantity in `unit`, or the number of the class")
    unit: str
    label: str | None = Field(None, description="The class in words")
    probabilities: dict[str, float] | None = Field(None, description="Calibrated, by class")
    prediction_set: list[str] | None = Field(
        None, description="Classes it may be: the truth is among them in 90 % of cases"
    )
    interval: Interval | None = Field(None, description="Where a quantity likely lies")
    confidence: float = Field(
        description="The class's calibrated probability, or the interval's nominal level"
    )
    model_version: str
    simulated: bool = Field(description="The model was trained on the simulated demo city")
    site: str | None = Field(None, description="Where a site was asked about: which")
    model: Literal["site", "pooled"] | None = Field(
        None, description="What answered there: the site's own model, or that of all sites"
    )


class Prediction(Said):
    """One answer about now, with what a person needs to judge it."""

    text: str = Field(description="The answer as one sentence")
    guidance: list[str] = Field(description="Where it stands against guidelines, or what to do")
    inputs_outside_training: list[str] = Field(description="Inputs beyond what the model has seen")
    inputs_at_edge: list[str] = Field(description="Inputs in the outermost hundredth of it")
    unusual_combination: bool = Field(description="The inputs do not go together as in training")
    warnings: list[str] = Field(description="One sentence per reason for care")
    reasons: Reasons | None = Field(None, description="What moved the answer, where asked for")
    based_on: str = Field(description="What was looked at: `inputs`, or also `recent readings`")


class Ahead(Said):
    """One answer about later: the same target, so many minutes after the last reading."""

    question: str
    at: datetime = Field(description="The time it is about, on the station's clock")
    minutes: int


@dataclass(frozen=True)
class Scored:
    """What one of a version's models says of rows, as columns of shape (rows,).

    Attributes:
        values: The quantity, or the number of the most probable class.
        low: Lower end of the interval; None for classes.
        high: Its upper end.
        shares: Calibrated probabilities, shape (rows, classes); None for quantities.
    """

    values: NDArray[np.float64]
    low: NDArray[np.float64] | None = None
    high: NDArray[np.float64] | None = None
    shares: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class Group:
    """Rows that one of a version's models answers, and what it says of them.

    Attributes:
        part: Which.
        note: Why not the champion, where that was hoped for.
        places: Where the rows stand among all that were asked.
        inputs: The domain's inputs, shape (rows, inputs).
        X: What the model looks at, shape (rows, columns of its view).
    """

    part: str
    note: str
    places: list[int]
    inputs: Matrix
    X: Matrix
    scored: Scored


def _taker(names: Sequence[str]) -> Callable[[Mapping[str, Any]], Sequence[Any]]:
    """Give what takes values by name out of a row; ``itemgetter`` gives one value bare."""
    if len(names) > 1:
        return itemgetter(*names)
    return lambda row: [row[name] for name in names]


class Predictor:
    """One domain's served model, ready to answer rows."""

    def __init__(self, domain: Domain, model: registry.Model, site: str = MAIN) -> None:
        """Pair a domain with its opened model.

        Args:
            domain: The question.
            model: The model, of the site or of all sites.
            site: Whose readings it is asked about.

        Raises:
            ModelError: The model was made for other inputs than the domain now has.
        """
        names = tuple(i.name for i in model.card.inputs)
        if names != domain.names:
            raise ModelError(
                f"Model {model.card.name} {model.card.version} takes {names}, "
                f"the domain now asks for {domain.names}: train it again."
            )
        now = model.card.parts[NOW]
        probe = np.array([now.typical], dtype=np.float32)
        if domain.target.levels and model.scores(probe).shape[1] != len(domain.target.levels):
            raise ModelError(
                f"Model {model.card.name} {model.card.version} does not know all the classes "
                f"of {domain.name!r}: train it again on readings that hold each of them."
            )
        self.domain = domain
        self.card = model.card
        self.site = site
        #: The version as answers and records name it.
        self.version = registry.told(model.card.name, model.card.version)
        #: Whether the model was trained on the simulated demo city.
        self.simulated = bool(model.card.data["simulated"])
        self.opened = model
        self._names = {name: part.view.names for name, part in self.card.parts.items()}
        self._specs = {spec.name: spec for spec in domain.inputs}
        self._places = [names.index(name) for name in now.view.inputs]
        self._measured = [spec.name for spec in domain.inputs if not spec.sum_of]
        self._take = _taker(self._measured)
        self._options = _taker([option.name for option in domain.options])
        self._row_model = row_model(domain)
        #: Equal tags, equal answers.
        self.tag = f"{site} {self.version}" if site != MAIN else self.version
        self._tag = self.tag.encode()
        asked = {"site": site, "model": "pooled" if model.card.site == ALL else "site"}
        self._phrase()
        #: What all answers of a part have in common.
        self._same = {
            name: {
                "domain": domain.name,
                "prediction": 0.0,
                "unit": domain.target.unit,
                "label": None,
                "probabilities": None,
                "prediction_set": None,
                "interval": None,
                "confidence": part.coverage["level"],
                "model_version": self.version,
                "simulated": self.simulated,
                "based_on": self._looked_at(part),
                **(asked if site != MAIN else {}),
            }
            for name, part in self.card.parts.items()
        }
        self._limits = {
            name: Limits(model.card, part.view.inputs) for name, part in self.card.parts.items()
        }

    @classmethod
    def load(
        cls, name: str, version: str | None = None, folder: Path | None = None, *, site: str = MAIN
    ) -> "Predictor":
        """Open the served version of a domain, or the one named.

        Args:
            name: The domain.
            version: Which version, ``all@VERSION`` for one of all sites; the served one if left
                out: the site's own, else that of all sites.
            folder: Where models live; the setting by default.
            site: Whose readings it will be asked about.

        Raises:
            UsageError: There is no such domain or site.
            ModelError: The model is missing or damaged.
        """
        domain = domains.load(name)
        domains.require_site(domain, site)
        named = registry.answering(domain.name, site, version or "", folder)
        return cls(domain, registry.load(*named, folder), site)

    @property
    def forecasts(self) -> list[Forecast]:
        """The questions about later this version answers."""
        return [f for f in self.domain.forecasts if f.name in self.card.parts]

    @property
    def reach(self) -> timedelta:
        """How far back recent readings must reach for every one of ``forecasts``."""
        back = (self.card.parts[f.name].view.history for f in self.forecasts)
        return timedelta(minutes=max(back, default=0)) * REACH

    def check(self, row: Mapping[str, object]) -> dict[str, Any]:
        """Check one row of inputs.

        Args:
            row: Input name, or published column name, -> number; None where a sensor failed.
                Beside them ``timestamp``, ``recent`` readings, and the domain's options.

        Returns:
            Input name -> number, None where optional and missing, in the model's order; then what
            was given beside them.

        Raises:
            InputError: With every fault of the row.
        """
        try:
            return plain(self._row_model.model_validate(row))
        except ValidationError as error:
            raise InputError(faults(self.domain, error.errors())) from None

    def predict(self, row: Mapping[str, object], *, reasons: bool = False) -> Prediction:
        """Answer one row.

        Args:
            row: As ``check`` takes it.
            reasons: Say also what moved the answer.

        Raises:
            InputError: The row cannot be answered.
        """
        return self.answer([self.check(row)], reasons=reasons)[0]

    def answer(
        self, rows: Sequence[Mapping[str, Any]], *, reasons: bool = False
    ) -> list[Prediction]:
        """Answer checked rows, one call of each model needed, in their order.

        A row with its time and recent readings is answered by the champion, where that looks at
        them; every other by the model that needs the inputs alone.
        """
        return [Prediction.model_validate(said) for said in self.tell(rows, reasons=reasons)]

    def tell(
        self,
        rows: Sequence[Mapping[str, Any]],
        asked: Sequence[Group] | None = None,
        *,
        reasons: bool = False,
    ) -> list[dict[str, Any]]:
        """Do the same, each answer as the plain values of a ``Prediction``.

        Args:
            rows: Checked rows.
            asked: What ``ask`` gave for them, where that was done before.
            reasons: Say also what moved the answers.
        """
        given: list[dict[str, Any]] = [{} for _ in rows]
        for group in self.ask(rows) if asked is None else asked:
            standings = self._limits[group.part].of(group.inputs)
            meant = guidance(self.domain, group.scored.values, [rows[n] for n in group.places])
            told = zip(
                group.places, self._said(group.part, group.scored), standings, meant, strict=True
            )
            for n, (place, said, standing, means) in enumerate(told):
                said["reasons"] = self._reasons(group, n).model_dump() if reasons else None
                said["guidance"] = means
                self._judge(said, standing, group.note)
                given[place] = said
        return given

    def ask(self, rows: Sequence[Mapping[str, Any]]) -> list[Group]:
        """Do what of it is the models' work; other threads go on meanwhile."""
        if not rows:
            return []
        chosen = [self._choose(row) for row in rows]
        inputs = self.inputs(rows)
        groups = []
        for choice in dict.fromkeys(chosen):
            places = [n for n, each in enumerate(chosen) if each == choice]
            taken = inputs[places]
            X = self._matrix(choice[0], [rows[n] for n in places], taken)
            groups.append(Group(*choice, places, taken, X, self._scored(choice[0], X)))
        return groups

    def part_of(self, said: Mapping[str, Any]) -> str:
        """Name the part that gave an answer about now."""
        return NOW if said["based_on"] == self._same[NOW]["based_on"] else self.card.champion

    def keys(self, rows: Sequence[Mapping[str, Any]]) -> list[bytes | None]:
        """Give what each row's answer hangs on: equal keys, equal answers.

        That is what the model reads, the inputs in single precision, the options, and the version.
        None where recent readings are looked at: there are too many to come twice.
        """
        return [
            b"%s %b %a" % (self._tag, x.tobytes(), self._options(row))
            if self._choose(row) == (NOW, "")
            else None
            for x, row in zip(self.inputs(rows), rows, strict=True)
        ]

    def score(self, inputs: Matrix, at: Times | None = None) -> Scored:
        """Answer rows by the thousand, in numbers alone.

        Args:
            inputs: The domain's inputs, shape (rows, inputs).
            at: The time of each row, shape (rows,), where the rows bring it.
        """
        name = self._for_rows(at)
        view = self.card.parts[name].view
        if name == NOW or at is None:
            return self._scored(name, np.ascontiguousarray(inputs[:, self._places]))
        columns = dict(zip(self.domain.names, inputs.T, strict=True))
        return self._scored(name, features.seen(self.domain, view, columns, at=at))

    def _for_rows(self, at: Times | None) -> str:
        """Choose the part for rows without recent readings."""
        view = self.card.parts[self.card.champion].view
        return NOW if at is None or view.history else self.card.champion

    def _choose(self, row: Mapping[str, Any]) -> tuple[str, str]:
        """Choose which part answers a row, and say why not the champion where it was hoped for."""
        name, recent, now = self.card.champion, row.get("recent"), row.get("timestamp")
        if name == NOW or now is recent is None:
            return NOW, ""
        view = self.card.parts[name].view
        if not (recent if view.history else now):
            return NOW, ""
        wanted = timedelta(minutes=view.history)
        if now is None:
            aside = "there is no timestamp to say what they precede"
        elif recent and not recent[-1]["timestamp"] < now <= recent[-1]["timestamp"] + STALE:
            aside = "they must end in the day before"
        elif recent and now - recent[0]["timestamp"] < wanted * REACH:
            aside = f"they must reach back {wanted / timedelta(hours=1):g} hours"
        else:
            return name, ""
        return NOW, f"Recent readings were left aside: {aside}."

    def inputs(self, rows: Iterable[Mapping[str, Any]]) -> Matrix:
        """Lay the inputs of checked rows out, shape (rows, inputs), NaN where one is missing."""
        values = np.array([self._take(row) for row in rows], dtype=np.float64)
        return features.matrix(self.domain, dict(zip(self._measured, values.T, strict=True)))

    def _matrix(self, name: str, rows: Sequence[Mapping[str, Any]], inputs: Matrix) -> Matrix:
        view = self.card.parts[name].view
        if name == NOW:
            return np.ascontiguousarray(inputs[:, self._places])
        seen = [
            features.seen(
                self.domain,
                view,
                dict(zip(self.domain.names, x[:, None], strict=True)),
                at=np.array([row["timestamp"]], dtype="datetime64[s]"),
                history=self._history(row["recent"]) if row.get("recent") else None,
                known=np.array([len(row["recent"] or ())]),
            )
            for row, x in zip(rows, inputs, strict=True)
        ]
        return np.concatenate(seen)

    def _history(self, recent: Sequence[Mapping[str, Any]]) -> History:
        names = [name for name in recent[0] if name != "timestamp"]
        columns = {n: [math.nan if (v := r[n]) is None else v for r in recent] for n in names}
        times = np.array([r["timestamp"] for r in recent], dtype="datetime64[s]")
        return History.of(self.domain, columns, times)

    def _scored(self, name: str, X: Matrix, ahead: Sequence[int] | None = None) -> Scored:
        """Run a part, and say how sure it is of each row."""
        target, part = self.domain.target, self.card.parts[name]
        scores = self.opened.scores(X, name)
        if target.levels:
            shares = features.tempered(scores, part.temperature or 1.0)
            return Scored(shares.argmax(axis=1).astype(np.float64), shares=shares)
        values = np.clip(scores, target.low, target.high)
        minutes = np.array(ahead) if ahead else np.zeros(len(values), dtype=np.int64)
        low, high = features.bounds(part.intervals or (), values, minutes, low=target.low)
        return Scored(values, low, high)

    def _said(self, name: str, scored: Scored) -> Iterator[dict[str, Any]]:
        """Say what each row came to: the class and its probability, or the quantity."""
        part, same = self.card.parts[name], self._same[name]
        level = same["confidence"]
        if scored.low is not None and scored.high is not None:
            columns = (scored.values.tolist(), scored.low.tolist(), scored.high.tolist())
            for value, low, high in zip(*columns, strict=True):
                interval = {"low": low, "high": high, "level": level}
                yield {**same, "prediction": value, "interval": interval}
        elif scored.shares is not None:
            for value, shares in zip(scored.values.tolist(), scored.shares.tolist(), strict=True):
                yield {**same, "prediction": value, **self._class(part, int(value), shares)}

    def _class(self, part: Part, number: int, shares: list[float]) -> dict[str, Any]:
        least = min(part.threshold or 0.0, shares[number])
        return {
            "label": self._labels[number],
            "probabilities": dict(zip(self._labels, (round(p, 4) for p in shares), strict=True)),
            "prediction_set": [
                label for label, p in zip(self._labels, shares, strict=True) if p >= least
            ],
            "confidence": round(shares[number], 4),
        }

    def _judge(self, said: dict[str, Any], standing: Standing, note: str) -> None:
        """Say an answer in words, and what speaks against trusting it."""
        warnings = [*standing.warnings]
        if note:
            warnings.append(note)
        if self.simulated:
            warnings.append("The model was trained on simulated readings, not on a real city.")
        said["text"] = self._text(said["prediction"])
        said["inputs_outside_training"] = standing.outside
        said["inputs_at_edge"] = standing.edge
        said["unusual_combination"] = standing.unusual
        said["warnings"] = warnings

    def _looked_at(self, part: Part) -> str:
        if part.view.history:
            return "inputs, time and recent readings"
        return "inputs and time" if part.view.clock else "inputs"

    def _text(self, value: float) -> str:
        if self._labels:
            return self._sentences[int(value)]
        low, high = self._usual
        standing = self._sentences[2 if value > high else 0 if value < low else 1]
        before, after = self._around
        return f"{before}{value:.2f}{after}. {standing}"

    def _phrase(self) -> None:
        """Prepare the sentences answers are made of."""
        target, answer = self.domain.target, self.domain.answer
        self._labels = [level.label for level in target.levels]
        if self._labels:
            self._sentences = [
                f"{answer.format(label=level.label)}. {level.meaning}" for level in target.levels
            ]
            return
        self._around = answer.format(value="{}", unit=target.unit).split("{}")
        self._usual = low, high = self.card.answers["p10"], self.card.answers["p90"]
        self._sentences = [
            f"That is low: 9 of 10 readings were above {low:.2g}.",
            f"That is within the usual {low:.2g} to {high:.2g}.",
            f"That is high: 9 of 10 readings were below {high:.2g}.",
        ]

    def _reasons(self, group: Group, n: int) -> Reasons:
        """Share what makes this answer differ from the usual one among what was looked at."""
        name, x = group.part, group.X[n]
        part, names = self.card.parts[name], self._names[name]
        sums = {s.name: s.sum_of for s in self.domain.inputs if s.sum_of and s.name in names}
        groups: dict[str, list[int]] = {}
        for place, column in enumerate(names):
            if column not in sums:
                groups.setdefault(self._group(column), []).append(place)
        number = int(group.scored.values[n]) if self.domain.target.levels else 0

        def ask(rows: Matrix) -> NDArray[np.float64]:
            for total, parts in sums.items():
                rows[:, names.index(total)] = sum(rows[:, names.index(p)] for p in parts)
            scores = self.opened.scores(rows, name)
            if not self.domain.target.levels:
                return scores
            return features.tempered(scores, part.temperature or 1.0)[:, number]

        usual = np.array(part.typical, dtype=np.float32)
        base, moved = contributions(ask, x, usual, list(groups.values()))
        told = [
            Reason(
                name=group, contribution=float(by), text=self._in_words(group, x, by, part, number)
            )
            for group, by in zip(groups, moved, strict=True)
        ]
        told.sort(key=lambda reason: -abs(reason.contribution))
        return Reasons(usual=base, contributions=told)

    def _group(self, column: str) -> str:
        """Name what a column of the view stands for, to a reader."""
        if column in self._specs:
            return column
        return "time" if column in {*CLOCK, "elapsed"} else "recent readings"

    def _in_words(
        self, group: str, x: NDArray[np.float32], by: float, part: Part, number: int
    ) -> str:
        about = {"time": "The time of day and week", "recent readings": "The recent readings"}
        if group in self._specs:
            spec, place = self._specs[group], part.view.inputs.index(group)
            unit = "" if spec.unit == "as published" else f" {spec.unit}"
            value = "missing" if math.isnan(x[place]) else f"at {x[place]:.4g}{unit}"
            about[group] = f"{spec.label} {value} (usually {part.typical[place]:.4g})"
        if self.domain.target.levels:
            label = self.domain.target.levels[number].label
            side = "more" if by > 0 else "less"
            return f"{about[group]}: makes {label} {side} likely by {abs(by) * 100:.0f} points."
        side = "raises" if by > 0 else "lowers"
        unit = self.domain.target.unit
        return f"{about[group]}: {side} the answer by {abs(by):.2f} {unit}."

    def outlook(self, recent: Sequence[Mapping[str, object]]) -> dict[str, list[Ahead]]:
        """Answer every question about later this version answers; see ``forecast``."""
        return {known.name: self.forecast(known.name, recent) for known in self.forecasts}

    def forecast(self, question: str, recent: Sequence[Mapping[str, object]]) -> list[Ahead]:
        """Answer a question about later from recent readings.

        Args:
            question: Name of one of ``forecasts``.
            recent: Readings, oldest first: ``timestamp``, the measured inputs and the target, each
                but the time may be missing. They must reach back as far as the model looks.

        Returns:
            One answer per time asked about, the nearest first.

        Raises:
            UsageError: There is no such question.
            ModelError: This version does without it.
            InputError: The readings cannot be used, or do not reach back far enough.
        """
        try:
            checked = history_model(self.domain).model_validate({"recent": recent})
        except ValidationError as error:
            raise InputError(faults(self.domain, error.errors())) from None
        return self.ahead(question, plain(checked)["recent"])

    def ahead(self, question: str, recent: Sequence[Mapping[str, Any]]) -> list[Ahead]:
        """Do the same with checked readings."""
        asked = {forecast.name: forecast for forecast in self.domain.forecasts}
        if question not in asked:
            raise unknown(f"forecast of {self.domain.name!r}", question, asked)
        if question not in self.card.parts:
            why = self.card.left_out.get(question, "it was made in a hurry; run smartcity build")
            raise ModelError(
                f"{self.domain.name} {self.card.version} does not forecast {question!r}: {why}."
            )
        return self._ahead(asked[question], recent)

    def _ahead(self, forecast: Forecast, recent: Sequence[Mapping[str, Any]]) -> list[Ahead]:
        part = self.card.parts[forecast.name]
        first, last = recent[0]["timestamp"], recent[-1]["timestamp"]
        wanted = timedelta(minutes=part.view.history)
        if last - first < wanted * REACH:
            problem = (
                f"reach back {(last - first) / timedelta(hours=1):.1f} hours; the model looks back "
                f"{wanted / timedelta(hours=1):g}: send the readings of at least "
                f"{wanted * REACH / timedelta(hours=1):g} hours"
            )
            raise InputError([{"field": "recent", "problem": problem, "value": str(first)}])
        times = [last + timedelta(minutes=m) for m in forecast.minutes]
        X = features.seen(
            self.domain,
            part.view,
            {},
            at=np.array(times, dtype="datetime64[s]"),
            history=self._history(recent),
            known=np.full(len(times), len(recent)),
        )
        scored = self._scored(forecast.name, X, forecast.minutes)
        answers = zip(times, forecast.minutes, self._said(forecast.name, scored), strict=True)
        return [
            Ahead(**said, question=forecast.name, at=at, minutes=minutes)
            for at, minutes, said in answers
        ]
