"""What the page knows, without a widget: inputs in, answer out; and a view as a link."""

import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import traitlets

from smartcity.errors import InputError
from smartcity.predict import Prediction, Predictor


class Question(traitlets.HasTraits):
    """One domain's inputs and the answer they lead to; change ``inputs``, read ``answer``.

    Attributes:
        inputs: Input or option -> number, None where a sensor gave nothing.
        answer: The prediction, or None while the inputs cannot be answered.
        problems: Why they cannot, one sentence each.
    """

    inputs = traitlets.Dict()
    answer = traitlets.Instance(Prediction, allow_none=True)
    problems = traitlets.List(traitlets.Unicode())

    def __init__(self, predictor: Predictor, **traits: Any) -> None:
        """Start from the usual value of every input."""
        super().__init__(**traits)
        self.predictor = predictor
        domain = predictor.domain
        self._labels = {spec.name: spec.label for spec in domain.inputs}
        self._labels |= {option.name: option.label for option in domain.options}
        self.inputs = self.usual()

    def usual(self) -> dict[str, float | None]:
        """Give the middle of what the model has seen, input by input; sums are left out."""
        specs = {spec.name: spec for spec in self.predictor.domain.inputs}
        return {i.name: i.typical for i in self.predictor.card.inputs if not specs[i.name].sum_of}

    def restore(self, query: Mapping[str, str]) -> None:
        """Take the inputs a link names; what it gets wrong keeps its usual value.

        Args:
            query: Names and values as they stand in the link; nothing for a missing reading.
        """
        known = self.usual() | dict.fromkeys(o.name for o in self.predictor.domain.options)
        taken: dict[str, float | None] = {}
        for name in known.keys() & query.keys():
            with suppress(ValueError):
                value = float(query[name]) if query[name] else None
                if value is None or math.isfinite(value):
                    taken[name] = value
        self.inputs = self.usual() | taken

    @traitlets.observe("inputs")
    def _ask(self, _: object) -> None:
        try:
            self.answer, self.problems = self.predictor.predict(self.inputs, reasons=True), []
        except InputError as error:
            self.answer = None
            self.problems = [
                f"{self._labels.get(str(fault['field']), fault['field'])}: {fault['problem']}"
                for fault in error.details
            ]
