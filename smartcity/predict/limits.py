"""Where a row lies beside what the model has seen: inside, at the edge, outside, odd."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smartcity.features import on_log_scale
from smartcity.registry import Card


@dataclass(frozen=True)
class Standing:
    """What the limits say of one row.

    Attributes:
        outside: Inputs beyond all the model has seen.
        edge: Inputs in the outermost hundredth of it, either side.
        unusual: Whether the inputs do not go together as they did in training.
        warnings: One sentence per reason for care.
    """

    outside: list[str]
    edge: list[str]
    unusual: bool
    warnings: list[str]


class Limits:
    """The limits of a model, ready to be asked in microseconds."""

    def __init__(self, card: Card, looked_at: tuple[str, ...]) -> None:
        """Lay the card's ranges out.

        Args:
            card: The model's card.
            looked_at: Inputs the answering model looks at; others may be missing unnoticed.
        """
        self._inputs = card.inputs
        self._looked_at = set(looked_at)
        ranges = [(i.low, *i.edges, i.high) for i in card.inputs]
        # The card's range is rounded to what float32 can tell apart.
        self._low, self._first, self._last, self._high = np.array(ranges, dtype=np.float32).T
        self._novelty = card.novelty
        if card.novelty:
            names = [i.name for i in card.inputs]
            self._places = [names.index(name) for name in card.novelty.inputs]
            self._mean = np.array(card.novelty.mean)
            self._precision = np.array(card.novelty.precision)

    def of(self, row: NDArray[np.float32]) -> Standing:
        """Judge a row of inputs, in the card's order."""
        below, above = row < self._low, row > self._high
        is_edge = ((row < self._first) | (row > self._last)) & ~below & ~above
        outside, warnings = [], []
        for n in np.flatnonzero(below | above):
            spec, value = self._inputs[n], float(row[n])
            outside.append(spec.name)
            side = "above" if above[n] else "below"
            seen = f"{spec.low:g}" if spec.low == spec.high else f"{spec.low:g} to {spec.high:g}"
            warnings.append(
                f"{spec.label} {value:g} is {side} anything the model has seen ({seen})."
            )
        for n in np.flatnonzero(np.isnan(row)):
            spec = self._inputs[n]
            if spec.name in self._looked_at:
                warnings.append(
                    f"{spec.label} is missing; the model takes its usual value "
                    f"({spec.typical:g}) instead."
                )
        odd = "" if outside else self._odd_one(row)
        if odd:
            warnings.append(
                f"These inputs do not go together as in training; {odd} stands out most. The "
                f"interval may be too narrow."
            )
        edge = [self._inputs[n].name for n in np.flatnonzero(is_edge)]
        return Standing(outside, edge, bool(odd), warnings)

    def _odd_one(self, row: NDArray[np.float32]) -> str:
        """Name the input that stands out most if the row is too far from all seen, else nothing."""
        if not self._novelty:
            return ""
        off = on_log_scale(row[self._places]) - self._mean
        off[np.isnan(off)] = 0.0
        pulled = self._precision @ off
        distance = float(off @ pulled)
        if math.isnan(distance) or distance <= self._novelty.limit:
            return ""
        return self._inputs[self._places[int(np.argmax(off * pulled))]].label
