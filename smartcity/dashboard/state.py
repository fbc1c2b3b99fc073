"""What the page knows, without a widget: inputs in, answer out."""

from typing import Any

import traitlets

from smartcity.errors import InputError
from smartcity.predict import Prediction, Predictor


class Question(traitlets.HasTraits):
    """One domain's inputs and the answer they lead to; change ``inputs``, read ``answer``.

    Attributes:
        inputs: Input name -> number, None where a sensor gave nothing.
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
        self.inputs = self.usual()

    def usual(self) -> dict[str, float | None]:
        """Give the middle of what the model has seen, input by input; sums are left out."""
        specs = {spec.name: spec for spec in self.predictor.domain.inputs}
        return {i.name: i.typical for i in self.predictor.card.inputs if not specs[i.name].sum_of}

    def change(self, name: str, value: float | None) -> None:
        """Set one input."""
        self.inputs = {**self.inputs, name: value}

    @traitlets.observe("inputs")
    def _ask(self, _: object) -> None:
        try:
            self.answer, self.problems = self.predictor.predict(self.inputs, reasons=True), []
        except InputError as error:
            self.answer = None
            self.problems = [f"{fault['field']}: {fault['problem']}" for fault in error.details]
