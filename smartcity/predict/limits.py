"""Where a row lies beside what the model has seen: inside, at the edge, outside, odd."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smartcity.features import Matrix, on_log_scale
from smartcity.registry import Card

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Standing:
    """What the limits say of one row.

    Attributes:
        outside: Inputs beyond all the model has seen.
        edge: Inputs in the outermost hundredth of it, either side.
        unusual: Whether the inputs do not go together as they did in training.
        warnings: One sentence per reason for care.
    """

    outside: tuple[str, ...] = ()
    edge: tuple[str, ...] = ()
    unusual: bool = False
    warnings: tuple[str, ...] = ()


_USUAL = Standing()


class Limits:
    """The limits of a model, ready to be asked in microseconds."""

    def __init__(self, card: Card, looked_at: tuple[str, ...]) -> None:
        """Lay the card's ranges out.

        Args:
            card: The model's card.
            looked_at: Inputs the answering model looks at; others may be missing unnoticed.
        """
        self._inputs = card.inputs
        self._looked_at = np.array([i.name in looked_at for i in card.inputs])
        ranges = [(i.low, *i.edges, i.high) for i in card.inputs]
        # The card's range is rounded to what float32 can tell apart.
        self._low, self._first, self._last, self._high = np.array(ranges, dtype=np.float32).T
        self._novelty = card.novelty
        if card.novelty:
            names = [i.name for i in card.inputs]
            self._places = [names.index(name) for name in card.novelty.inputs]
            self._mean = np.array(card.novelty.mean)
            self._precision = np.array(card.novelty.precision)

    def of(self, rows: Matrix) -> list[Standing]:
        """Judge rows of inputs, shape (rows, inputs) in the card's order."""
        off = (rows < self._first) | (rows > self._last)  # nothing beyond an edge is inside
        lacking = np.isnan(rows) & self._looked_at
        outside = (rows < self._low) | (rows > self._high) if off.any() else off
        odd = self._odd(rows)
        standings = [_USUAL] * len(rows)
        noted = off.any(axis=1) | (odd >= 0)
        for n in noted.nonzero()[0].tolist():
            place = -1 if outside[n].any() else int(odd[n])
            standings[n] = self._standing(rows[n], outside[n], off[n], lacking[n], place)
        # Of most only what is missing can be said: the same wherever the same is missing.
        known: dict[bytes, Standing] = {}
        for n in (lacking.any(axis=1) & ~noted).nonzero()[0].tolist():
            key = lacking[n].tobytes()
            if key not in known:
                known[key] = self._standing(rows[n], outside[n], off[n], lacking[n], -1)
            standings[n] = known[key]
        return standings

    def _standing(
        self, row: NDArray[np.float32], outside: Mask, off: Mask, lacking: Mask, odd: int
    ) -> Standing:
        """Put what was found about one row into words."""
        warnings = []
        for n in outside.nonzero()[0].tolist():
            spec, value = self._inputs[n], float(row[n])
            side = "above" if row[n] > self._high[n] else "below"
            seen = f"{spec.low:g}" if spec.low == spec.high else f"{spec.low:g} to {spec.high:g}"
            warnings.append(
                f"{spec.label} {value:g} is {side} anything the model has seen ({seen})."
            )
        for n in lacking.nonzero()[0].tolist():
            spec = self._inputs[n]
            warnings.append(
                f"{spec.label} is missing; the model takes its usual value "
                f"({spec.typical:g}) instead."
            )
        if odd >= 0:
            warnings.append(
                f"These inputs do not go together as in training; {self._inputs[odd].label} "
                f"stands out most. The interval may be too narrow."
            )
        beyond = tuple(self._inputs[n].name for n in outside.nonzero()[0].tolist())
        edge = tuple(self._inputs[n].name for n in (off & ~outside).nonzero()[0].tolist())
        return Standing(beyond, edge, odd >= 0, tuple(warnings))

    def _odd(self, rows: Matrix) -> NDArray[np.int64]:
        """Find the input that stands out most in rows too far from all seen; -1 in the others."""
        if not self._novelty:
            return np.full(len(rows), -1)
        off = on_log_scale(rows[:, self._places]) - self._mean
        off[np.isnan(off)] = 0.0
        shares = off * (off @ self._precision)
        is_odd = shares.sum(axis=1) > self._novelty.limit
        if not is_odd.any():
            return np.full(len(rows), -1)
        return np.where(is_odd, np.take(self._places, shares.argmax(axis=1)), -1)
