"""The served model, asked: scores turned into answers a person can judge."""

import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from smartcity import domains, features, registry
from smartcity.domains import Domain, Forecast
from smartcity.errors import InputError, ModelError, unknown
from smartcity.features import CLOCK, History, Matrix
from smartcity.predict.limits import Limits
from smartcity.predict.meaning import guidance
from smartcity.predict.reasons import Reason, Reasons, contributions
from smartcity.predict.rows import faults, history_model, row_model
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


class Predictor:
    """One domain's served model, ready to answer rows."""

    def __init__(self, domain: Domain, model: registry.Model) -> None:
        """Pair a domain with its opened model.

        Raises:
            ModelError: The model was made for other inputs than the domain now has.
        """
        names = tuple(i.name for i in model.card.inputs)
        if names != domain.names:
            raise ModelError(
                f"Model {model.card.domain} {model.card.version} takes {names}, "
                f"the domain now asks for {domain.names}: train it again."
            )
        now = model.card.parts[NOW]
        probe = np.array([now.typical], dtype=np.float32)
        if domain.target.levels and model.scores(probe).shape[1] != len(domain.target.levels):
            raise ModelError(
                f"Model {model.card.domain} {model.card.version} does not know all the classes "
                f"of {domain.name!r}: train it again on readings that hold each of them."
            )
        self.domain = domain
        self.card = model.card
        self._model = model
        self._names = {name: part.view.names for name, part in self.card.parts.items()}
        self._specs = {spec.name: spec for spec in domain.inputs}
        self._places = [names.index(name) for name in now.view.inputs]
        self._limits = {
            name: Limits(model.card, part.view.inputs) for name, part in self.card.parts.items()
        }

    @classmethod
    def load(cls, name: str, version: str | None = None, folder: Path | None = None) -> "Predictor":
        """Open the served version of a domain, or the one named.

        Raises:
            UsageError: There is no such domain.
            ModelError: The model is missing or damaged.
        """
        domain = domains.load(name)
        return cls(domain, registry.load(domain.name, version, folder))

    @property
    def simulated(self) -> bool:
        """Whether the model was trained on the simulated demo city."""
        return bool(self.card.data["simulated"])

    @property
    def forecasts(self) -> list[Forecast]:
        """The questions about later this version answers."""
        return [f for f in self.domain.forecasts if f.name in self.card.parts]

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
            return row_model(self.domain).model_validate(row).model_dump()
        except ValidationError as error:
            raise InputError(faults(error.errors())) from None

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
        chosen = [self._choose(row) for row in rows]
        inputs = self._inputs(rows)
        given: list[Prediction | None] = [None] * len(rows)
        for name in dict.fromkeys(part for part, _ in chosen):
            places = [n for n, (part, _) in enumerate(chosen) if part == name]
            asked = [rows[n] for n in places]
            X = self._matrix(name, asked, inputs[places])
            for n, x, score in zip(places, X, self._model.scores(X, name), strict=True):
                why = self._reasons(name, x, score) if reasons else None
                given[n] = self._explain(name, rows[n], inputs[n], score, (chosen[n][1], why))
        return [prediction for prediction in given if prediction]

    def _choose(self, row: Mapping[str, Any]) -> tuple[str, str]:
        """Choose which part answers a row, and say why not the champion where it was hoped for."""
        name = self.card.champion
        view, recent, now = self.card.parts[name].view, row.get("recent"), row.get("timestamp")
        if name == NOW or not (recent if view.history else now):
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

    def _inputs(self, rows: Sequence[Mapping[str, Any]]) -> Matrix:
        names = [spec.name for spec in self.domain.inputs if not spec.sum_of]
        columns = {
            name: [math.nan if (v := row[name]) is None else v for row in rows] for name in names
        }
        return features.matrix(self.domain, columns)

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

    def _explain(
        self,
        name: str,
        row: Mapping[str, Any],
        inputs: NDArray[np.float32],
        score: Any,
        told: tuple[str, Reasons | None],
    ) -> Prediction:
        """Say what a score means: the class and its probability, or the quantity and interval."""
        target, part = self.domain.target, self.card.parts[name]
        standing = self._limits[name].of(inputs)
        said = self._class(part, score) if target.levels else self._quantity(part, float(score))
        value = said["prediction"]
        note, reasons = told
        warnings = [*standing.warnings, *([note] if note else [])]
        if self.simulated:
            warnings.append("The model was trained on simulated readings, not on a real city.")
        return Prediction(
            domain=self.domain.name,
            unit=target.unit,
            text=self._text(said),
            guidance=guidance(self.domain, value, row),
            inputs_outside_training=standing.outside,
            inputs_at_edge=standing.edge,
            unusual_combination=standing.unusual,
            warnings=warnings,
            reasons=reasons,
            based_on=self._looked_at(part),
            model_version=self.card.version,
            simulated=self.simulated,
            **said,
        )

    def _looked_at(self, part: Part) -> str:
        if part.view.history:
            return "inputs, time and recent readings"
        return "inputs and time" if part.view.clock else "inputs"

    def _shares(self, part: Part, scores: Any) -> NDArray[np.float64]:
        """Turn a model's scores into calibrated probabilities, shape (rows, classes)."""
        logits = np.log(np.clip(scores, 1e-6, 1)) / (part.temperature or 1.0)
        powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=-1, keepdims=True))

    def _class(self, part: Part, score: Any) -> dict[str, Any]:
        shares = self._shares(part, score)
        levels, number = self.domain.target.levels, int(np.argmax(shares))
        least = min(part.threshold or 0.0, float(shares[number]))
        return {
            "prediction": number,
            "label": levels[number].label,
            "probabilities": {
                level.label: round(float(p), 4) for level, p in zip(levels, shares, strict=True)
            },
            "prediction_set": [
                level.label for level, p in zip(levels, shares, strict=True) if p >= least
            ],
            "confidence": round(float(shares[number]), 4),
        }

    def _quantity(self, part: Part, score: float, ahead: int = 0) -> dict[str, Any]:
        least, level = self.domain.target.low, part.coverage["level"]
        value = min(max(score, least), self.domain.target.high)
        table = next(t for t in part.intervals or () if t["ahead"] == ahead)
        below = float(np.interp(value, table["at"], table["below"]))
        above = float(np.interp(value, table["at"], table["above"]))
        interval = Interval(
            low=max(least, value - below), high=max(least, value + above), level=level
        )
        return {"prediction": value, "interval": interval, "confidence": level}

    def _text(self, said: Mapping[str, Any]) -> str:
        target = self.domain.target
        if target.levels:
            level = target.levels[said["prediction"]]
            return f"{self.domain.answer.format(label=level.label)}. {level.meaning}"
        value = f"{said['prediction']:.2f}"
        answer = self.domain.answer.format(value=value, unit=target.unit)
        return f"{answer}. {self._standing(said['prediction'])}"

    def _standing(self, value: float) -> str:
        """Say how a quantity compares with the readings the model learned from."""
        low, high = self.card.answers["p10"], self.card.answers["p90"]
        if value > high:
            return f"That is high: 9 of 10 readings were below {high:.2g}."
        if value < low:
            return f"That is low: 9 of 10 readings were above {low:.2g}."
        return f"That is within the usual {low:.2g} to {high:.2g}."

    def _reasons(self, name: str, x: NDArray[np.float32], score: Any) -> Reasons:
        """Share what makes this answer differ from the usual one among what was looked at."""
        part, names = self.card.parts[name], self._names[name]
        sums = {s.name: s.sum_of for s in self.domain.inputs if s.sum_of and s.name in names}
        groups: dict[str, list[int]] = {}
        for place, column in enumerate(names):
            if column not in sums:
                groups.setdefault(self._group(column), []).append(place)
        number = int(np.argmax(score)) if self.domain.target.levels else 0

        def ask(rows: Matrix) -> NDArray[np.float64]:
            for total, parts in sums.items():
                rows[:, names.index(total)] = sum(rows[:, names.index(p)] for p in parts)
            scores = self._model.scores(rows, name)
            return self._shares(part, scores)[:, number] if self.domain.target.levels else scores

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
            raise InputError(faults(error.errors())) from None
        return self.ahead(question, checked.model_dump()["recent"])

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
        answers = []
        for at, minutes, score in zip(
            times, forecast.minutes, self._model.scores(X, forecast.name), strict=True
        ):
            if self.domain.target.levels:
                said = self._class(part, score)
            else:
                said = self._quantity(part, float(score), minutes)
            answers.append(
                Ahead(
                    domain=self.domain.name,
                    question=forecast.name,
                    at=at,
                    minutes=minutes,
                    unit=self.domain.target.unit,
                    model_version=self.card.version,
                    simulated=self.simulated,
                    **said,
                )
            )
        return answers
