"""The served model, asked: scores turned into answers a person can judge."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from smartcity import domains, logs, registry
from smartcity.domains import Domain
from smartcity.errors import InputError, ModelError
from smartcity.features import matrix
from smartcity.predict.rows import faults, row_model

log = logs.get(__name__)


class Interval(BaseModel):
    """A range meant to hold the truth in a share ``level`` of all cases."""

    low: float
    high: float
    level: float


class Prediction(BaseModel):
    """One answer, with what a person needs to judge it."""

    model_config = ConfigDict(frozen=True, protected_namespaces=())

    domain: str
    prediction: float = Field(description="The quantity in `unit`, or the number of the class")
    unit: str
    label: str | None = Field(None, description="The class in words")
    probabilities: dict[str, float] | None = Field(None, description="Share of votes by class")
    interval: Interval | None = Field(None, description="Where a quantity likely lies")
    confidence: float | None = Field(None, description="Level of the interval, if there is one")
    text: str = Field(description="The answer as one sentence")
    guidance: list[str] = Field(description="Where it stands against guidelines, or what to do")
    inputs_outside_training: list[str] = Field(description="Inputs beyond what the model has seen")
    warnings: list[str] = Field(description="One sentence per reason for care")
    model_version: str
    simulated: bool = Field(description="The model was trained on the simulated demo city")


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
        probe = np.array([[i.typical for i in model.card.inputs]], dtype=np.float32)
        if domain.target.levels and model.scores(probe).shape[1] != len(domain.target.levels):
            raise ModelError(
                f"Model {model.card.domain} {model.card.version} does not know all the classes "
                f"of {domain.name!r}: train it again on readings that hold each of them."
            )
        self.domain = domain
        self.card = model.card
        self._model = model

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

    def check(self, row: Mapping[str, object]) -> dict[str, float | None]:
        """Check one row of inputs.

        Args:
            row: Input name, or published column name, -> number; None where a sensor failed.

        Returns:
            Input name -> number, None where optional and missing, in the model's order.

        Raises:
            InputError: With every fault of the row.
        """
        try:
            return row_model(self.domain).model_validate(row).model_dump()
        except ValidationError as error:
            raise InputError(faults(error.errors())) from None

    def predict(self, row: Mapping[str, object]) -> Prediction:
        """Answer one row.

        Raises:
            InputError: The row cannot be answered.
        """
        return self.answer([self.check(row)])[0]

    def answer(self, rows: Sequence[Mapping[str, float | None]]) -> list[Prediction]:
        """Answer checked rows in one call of the model, in their order."""
        if not rows:
            return []
        names = [spec.name for spec in self.domain.inputs if not spec.sum_of]
        columns = {
            name: [math.nan if (v := row[name]) is None else v for row in rows] for name in names
        }
        inputs = matrix(self.domain, columns)
        scores = self._model.scores(inputs)
        return [self._explain(x, score) for x, score in zip(inputs, scores, strict=True)]

    def _explain(self, inputs: Any, score: Any) -> Prediction:
        """Say what a score means: the class and its votes, or the quantity and its interval."""
        target = self.domain.target
        outside, warnings = self._limits(inputs)
        said = self._class(score) if target.levels else self._quantity(float(score))
        return Prediction(
            domain=self.domain.name,
            unit=target.unit,
            inputs_outside_training=outside,
            warnings=warnings,
            model_version=self.card.version,
            simulated=self.simulated,
            **said,
        )

    def _class(self, shares: Any) -> dict[str, Any]:
        levels, number = self.domain.target.levels, int(np.argmax(shares))
        votes = {lv.label: round(float(p), 4) for lv, p in zip(levels, shares, strict=True)}
        level = levels[number]
        text = f"{self.domain.answer.format(label=level.label)}. {level.meaning}"
        said = {"prediction": number, "label": level.label, "probabilities": votes, "text": text}
        return {**said, "guidance": [level.advice]}

    def _quantity(self, value: float) -> dict[str, Any]:
        target, spread = self.domain.target, self.card.interval
        answer = self.domain.answer.format(value=f"{value:.2f}", unit=target.unit)
        text = f"{answer}. {self._standing(value)}"
        said = {"prediction": value, "text": text, "guidance": self._guidance(value)}
        if spread is None:
            return said
        low = max(target.low, value - spread["half_width"])
        interval = Interval(low=low, high=value + spread["half_width"], level=spread["level"])
        return {**said, "interval": interval, "confidence": interval.level}

    def _limits(self, inputs: Any) -> tuple[list[str], list[str]]:
        """Name the inputs beyond the training range, and the ones the model fills in itself."""
        outside: list[str] = []
        warnings: list[str] = []
        for spec, value in zip(self.card.inputs, map(float, inputs), strict=True):
            if math.isnan(value):
                warnings.append(
                    f"{spec.label} is missing; the model takes its usual value instead."
                )
            # The card's range is rounded to what float32 can tell apart.
            elif not np.float32(spec.low) <= value <= np.float32(spec.high):
                outside.append(spec.name)
                side = "above" if value > spec.high else "below"
                seen = (
                    f"{spec.low:g}" if spec.low == spec.high else f"{spec.low:g} to {spec.high:g}"
                )
                warnings.append(
                    f"{spec.label} {value:g} is {side} anything the model has seen ({seen})."
                )
        if self.simulated:
            warnings.append("The model was trained on simulated readings, not on a real city.")
        return outside, warnings

    def _standing(self, value: float) -> str:
        """Say how a quantity compares with the readings the model learned from."""
        low, high = self.card.answers["p10"], self.card.answers["p90"]
        if value > high:
            return f"That is high: 9 of 10 readings were below {high:.2g}."
        if value < low:
            return f"That is low: 9 of 10 readings were above {low:.2g}."
        return f"That is within the usual {low:.2g} to {high:.2g}."

    def _guidance(self, value: float) -> list[str]:
        tables = domains.tables(self.domain.target.pollutant)
        said = [f"{t.standard} ({t.edition}, {t.averaging} mean): {t.band(value)}." for t in tables]
        caution = "Indicative only: this is one hour, the tables are for longer means."
        return [*said, caution] if said else []


@dataclass
class Predictors:
    """Every domain's predictor; follows ``CURRENT`` while running and keeps the last good model.

    Attributes:
        folder: Where models live; the setting by default.
        errors: Domain -> why its current version is not the one being served.
    """

    folder: Path | None = None
    errors: dict[str, str] = field(default_factory=dict)
    _open: dict[str, Predictor] = field(default_factory=dict)
    _refused: dict[str, tuple[str, int]] = field(default_factory=dict)

    def get(self, name: str) -> Predictor:
        """Give the predictor of a domain, the newly published one if there is one.

        A version that does not open is reported in ``errors``; the one served before it stays, and
        at a cold start the newest older version that opens is served.

        Raises:
            UsageError: There is no such domain.
            ModelError: No version of it can be served.
        """
        domain = domains.load(name).name
        try:
            wanted = registry.current(domain, self.folder)
            self._follow(domain, wanted)
        except ModelError as error:
            self.errors[domain] = str(error)
        if domain not in self._open:
            raise ModelError(self.errors[domain])
        return self._open[domain]

    def _follow(self, domain: str, wanted: str) -> None:
        """Open the wanted version unless it is open, or was refused and has not changed since."""
        serving = self._open.get(domain)
        if serving and serving.card.version == wanted:
            self.errors.pop(domain, None)
            return
        stamp = registry.stamp(domain, wanted, self.folder)
        if self._refused.get(domain) == (wanted, stamp):
            return
        self._refused[domain] = (wanted, stamp)
        self.errors.pop(domain, None)
        older = [] if serving else registry.before(domain, wanted, self.folder)
        for version in [wanted, *reversed(older)]:
            try:
                self._open[domain] = Predictor.load(domain, version, self.folder)
            except ModelError as error:
                self.errors.setdefault(domain, str(error))
                log.warning("model refused", domain=domain, version=version, error=str(error))
            else:
                return
