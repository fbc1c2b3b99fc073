"""How sure: intervals and prediction sets whose coverage is counted on time not seen."""

import warnings
from typing import Any

import numpy as np
from crepes import ConformalPredictiveSystem
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from smartcity.features import bounds, tempered
from smartcity.modelling.dataset import Rows, Values

#: Fewest errors per level of the answer; below, levels share one width.
PER_LEVEL, MOST_LEVELS = 150, 6
#: Rows a stretch of time must have to say anything about its share.
FEWEST_ROWS = 30


def intervals(
    predicted: Values, observed: Values, ahead: Rows, stretch: Rows, *, level: float
) -> list[dict[str, Any]]:
    """Make a table of intervals that widen with the answer, and hold as a model ages.

    A conformal predictive system per level of the answer (Mondrian; Vovk et al. 2020, as in
    crepes) turns the errors of models on time they had not seen into the offsets that hold a share
    ``level`` of them. Sensors drift, so stretches of time differ: the offsets are then widened
    until every stretch so far holds that share by itself, as in two-layer conformal prediction
    (Dunn et al. 2022): of k stretches alike, the next holds it with probability k / (k + 1).

    Args:
        predicted: Answers on time not seen, shape (rows,).
        observed: What then came.
        ahead: Minutes ahead; each gets a table of its own.
        stretch: Which stretch of which model's later time each row lies in.
        level: Share to hold.

    Returns:
        One table per ``ahead``: at which answers (``at``), how far ``below`` and ``above``; between
        them serving interpolates.
    """
    tables: list[dict[str, Any]] = [
        {"ahead": int(m), **_table(predicted[ahead == m], observed[ahead == m], level)}
        for m in np.unique(ahead)
    ]
    low, high = bounds(tables, predicted, ahead, low=-np.inf)
    error = observed - predicted
    size = np.where(error < 0, predicted - low, high - predicted)
    share = np.abs(error) / np.maximum(size, 1e-9)
    stretches, rows = np.unique(stretch, return_counts=True)
    long = stretches[rows >= FEWEST_ROWS]
    widen = float(max([1.0, *(np.quantile(share[stretch == s], level) for s in long)]))
    for t in tables:
        t |= {side: [widen * v for v in t[side]] for side in ("below", "above")}
    return tables


def _table(predicted: Values, observed: Values, level: float) -> dict[str, list[float]]:
    count = int(np.clip(len(predicted) // PER_LEVEL, 1, MOST_LEVELS))
    edges = np.unique(np.quantile(predicted, np.linspace(0, 1, count + 1)))
    bins = np.clip(np.searchsorted(edges, predicted, "right") - 1, 0, max(len(edges) - 2, 0))
    groups = np.unique(bins)
    centres = np.array([np.median(predicted[bins == g]) for g in groups])
    system = ConformalPredictiveSystem().fit(observed - predicted, bins=bins)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the no. of calibration examples", UserWarning)
        held = system.predict_int(centres, bins=groups, confidence=level)
    low, high = held[:, 0], held[:, 1]
    spread = float(np.abs(observed - predicted).max())
    # Too few errors for the level leave the side open: then the largest seen stands in.
    below = np.where(np.isfinite(low), centres - low, spread)
    above = np.where(np.isfinite(high), high - centres, spread)
    return {"at": centres.tolist(), "below": below.tolist(), "above": above.tolist()}


def temperature(probabilities: NDArray[np.float64], observed: Values) -> float:
    """Find the temperature that makes probabilities mean what they say (Guo et al. 2017).

    Args:
        probabilities: On time not seen, shape (rows, classes).
        observed: The class that came.

    Returns:
        The power's divisor: above 1 the model was too sure, below 1 not sure enough.
    """
    rows, truth = np.arange(len(observed)), observed.astype(int)

    def loss(log_t: float) -> float:
        return float(-np.mean(np.log(tempered(probabilities, np.exp(log_t))[rows, truth])))

    return float(np.exp(minimize_scalar(loss, bounds=(-2.5, 2.5), method="bounded").x))


def threshold(probabilities: NDArray[np.float64], observed: Values, *, level: float) -> float:
    """Find the probability from which a class belongs to the prediction set.

    The least ambiguous set (Sadinle et al. 2019): every class at least as probable as the true
    class was in a share ``level`` of the rows.
    """
    missed = np.sort(1 - probabilities[np.arange(len(observed)), observed.astype(int)])
    rank = min(len(missed), int(np.ceil((len(missed) + 1) * level)))
    return float(1 - missed[rank - 1])


def coverage(held: NDArray[np.bool_], months: NDArray[np.str_], *, level: float) -> dict[str, Any]:
    """Count how often the truth was held, overall and month by month."""
    return {
        "level": level,
        "overall": float(held.mean()),
        "by_month": {str(m): float(held[months == m].mean()) for m in np.unique(months)},
    }
