"""How good a model is, said twice: on a random split and on later time, beside naive baselines."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn import metrics
from sklearn.model_selection import train_test_split

from smartcity.domains import Domain
from smartcity.features import Matrix
from smartcity.registry import Card

TEST_SHARE = 0.2
LEVEL = 0.9
SPLITS = {
    "random": f"{TEST_SHARE:.0%} of the rows at random (seed 42), classes in proportion",
    "time_ordered": f"the last {TEST_SHARE:.0%} of the rows in time; fitted on the rows before",
}
AVERAGING = "macro"

Values = NDArray[np.float64]
Rows = NDArray[np.int64]
Fit = Callable[[Matrix, Values], Any]
Scores = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Evaluation:
    """What one estimator and the baselines scored on both splits.

    Attributes:
        metrics: Split -> metric -> value of the estimator.
        baselines: Baseline -> split -> metric -> value.
        half_width: Half the width of the interval, in the target's unit; None for a class.
        coverage: Share of later answers inside the interval; None for a class.
    """

    metrics: Scores
    baselines: dict[str, Scores]
    half_width: float | None
    coverage: dict[str, Any] | None


def measure(task: str, answers: pd.DataFrame) -> dict[str, float]:
    """Score answers with the metrics of the task.

    Args:
        task: ``regression`` or ``classification``.
        answers: ``observed`` and ``predicted``, one row per answer.

    Returns:
        ``rmse``, ``mae`` (in the target's unit) and ``r2``; or ``accuracy`` and the unweighted
        means over classes of ``precision``, ``recall`` and ``f1``.
    """
    observed, predicted = answers["observed"], answers["predicted"]
    if task == "regression":
        return {
            "rmse": float(metrics.root_mean_squared_error(observed, predicted)),
            "mae": float(metrics.mean_absolute_error(observed, predicted)),
            "r2": float(metrics.r2_score(observed, predicted)),
        }
    precision, recall, f1, _ = metrics.precision_recall_fscore_support(
        observed, predicted, average=AVERAGING, zero_division=0
    )
    accuracy = metrics.accuracy_score(observed, predicted)
    return {
        "accuracy": float(accuracy),
        "precision": float(precision),
        "recall": float(recall),
        "f1": float(f1),
    }


def splits(domain: Domain, y: Values) -> dict[str, tuple[Rows, Rows]]:
    """Divide rows, given in time order, into training and test rows, both ways.

    Returns:
        Split -> (training rows, test rows).
    """
    rows = np.arange(len(y))
    classes = y if domain.task == "classification" else None
    at_random = train_test_split(rows, test_size=TEST_SHARE, random_state=42, stratify=classes)
    cut = round(len(y) * (1 - TEST_SHARE))
    return {"random": (at_random[0], at_random[1]), "time_ordered": (rows[:cut], rows[cut:])}


def _baselines(
    domain: Domain, y: Values, times: pd.Series, train: Rows, test: Rows
) -> dict[str, Values]:
    """Answer without a model: always the same, as the last reading, as this hour of the week."""
    known = pd.Series(y[train])
    is_class = domain.task == "classification"
    middle: Callable[[pd.Series], float] = (
        (lambda s: float(s.mode().iloc[0])) if is_class else (lambda s: float(s.mean()))
    )
    hour = (times.dt.day_of_week * 24 + times.dt.hour).to_numpy()
    by_hour = known.groupby(hour[train]).agg(middle)
    previous = np.concatenate([[middle(known)], y[:-1]])
    usual = pd.Series(hour[test]).map(by_hour).fillna(middle(known))
    return {
        "majority class" if is_class else "mean": np.full(len(test), middle(known)),
        "previous reading": previous[test],
        "hour of the week": usual.to_numpy(dtype=float),
    }


def evaluate(domain: Domain, fit: Fit, X: Matrix, y: Values, times: pd.Series) -> Evaluation:
    """Score an estimator and the naive baselines on both splits.

    The interval is split-conformal (Papadopoulos et al. 2002): its half-width is the 90 % quantile
    of the absolute errors on the stretch of time before the test rows, made by an estimator fitted
    on what lies before that stretch; its coverage is then counted on the test rows, which neither
    saw.

    Args:
        domain: The question.
        fit: Fits a fresh estimator on rows and their target.
        X: Inputs in time order, shape (rows, inputs).
        y: Target, shape (rows,).
        times: When each row was read.

    Returns:
        The scores, the interval's half-width and its coverage.
    """
    scores: Scores = {}
    baselines: dict[str, Scores] = {}
    for split, (train, test) in splits(domain, y).items():
        answers = _answers(fit, X, y, times, (train, test))
        scores[split] = measure(domain.task, answers)
        for name, naive in _baselines(domain, y, times, train, test).items():
            naively = answers.assign(predicted=naive)
            baselines.setdefault(name, {})[split] = measure(domain.task, naively)
    if domain.task == "classification":
        return Evaluation(scores, baselines, None, None)
    half_width = _half_width(fit, X[train], y[train])
    return Evaluation(
        scores, baselines, half_width, _coverage(with_interval(domain, answers, half_width))
    )


def later(domain: Domain, fit: Fit, X: Matrix, y: Values, times: pd.Series) -> pd.DataFrame:
    """Answer the time-ordered test rows with an estimator fitted on the rows before them.

    Returns:
        ``recorded_at``, ``observed``, ``predicted``.
    """
    return _answers(fit, X, y, times, splits(domain, y)["time_ordered"])


def _answers(
    fit: Fit, X: Matrix, y: Values, times: pd.Series, split: tuple[Rows, Rows]
) -> pd.DataFrame:
    train, test = split
    predicted = np.asarray(fit(X[train], y[train]).predict(X[test]), dtype=np.float64)
    recorded_at = times.iloc[test].to_numpy()
    return pd.DataFrame({"recorded_at": recorded_at, "observed": y[test], "predicted": predicted})


def with_interval(domain: Domain, answers: pd.DataFrame, half_width: float) -> pd.DataFrame:
    """Add the interval around each answer, as ``low`` and ``high``."""
    low = np.maximum(answers["predicted"] - half_width, domain.target.low)
    return answers.assign(low=low, high=answers["predicted"] + half_width)


def _half_width(fit: Fit, X: Matrix, y: Values) -> float:
    """Take the finite-sample 90 % quantile of the errors on the last quarter of the rows."""
    cut = round(len(y) * 0.75)
    errors = np.abs(y[cut:] - fit(X[:cut], y[:cut]).predict(X[cut:]))
    rank = min(1.0, np.ceil((len(errors) + 1) * LEVEL) / len(errors))
    return float(np.quantile(errors, rank, method="higher"))


def _coverage(later: pd.DataFrame) -> dict[str, Any]:
    """Count how often the interval held the truth, overall and month by month."""
    inside = later["observed"].between(later["low"], later["high"])
    by_month = inside.groupby(later["recorded_at"].dt.strftime("%Y-%m")).mean()
    return {
        "level": LEVEL,
        "overall": float(inside.mean()),
        "by_month": {str(month): float(share) for month, share in by_month.items()},
    }


def table(card: Card) -> pd.DataFrame:
    """Lay a card's scores out for reading: one row per model or baseline and split."""
    rows = [
        {"model": name, "split": split.replace("_", "-"), **values}
        for name, scores in {"specified forest": card.specified, **card.baselines}.items()
        for split, values in scores.items()
    ]
    frame = pd.DataFrame(rows).set_index("model").round(3)
    return frame.sort_values("split", ascending=False, kind="stable")
