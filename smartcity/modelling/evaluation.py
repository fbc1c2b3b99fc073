"""How good an answer is: metrics, splits in time, naive guesses, and ranges of the figures."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn import metrics
from sklearn.impute import SimpleImputer
from sklearn.linear_model import Ridge
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline

from smartcity.domains import Domain
from smartcity.modelling.dataset import NOW, Problem, Rows, Values
from smartcity.registry import Card

TEST_SHARE = 0.2
LEVEL = 0.9
#: Where the rolling origins stand, as shares of the rows; each is scored on the next 12 %.
ORIGINS = (0.2, 0.32, 0.44, 0.56, 0.68)
STRETCH = 0.12
#: Days left out between training and scoring, so that neighbours in time give nothing away.
GAP_DAYS = 1
SPLITS = {
    "random": f"{TEST_SHARE:.0%} of the rows at random (seed 42), classes in proportion",
    "rolling": f"{len(ORIGINS)} origins within the first {1 - TEST_SHARE:.0%} of the rows, each "
    f"fitted on all before it but one day and scored on the {STRETCH:.0%} after it; the mean. "
    f"Models are chosen by this",
    "time_ordered": f"the last {TEST_SHARE:.0%} of the rows in time; fitted on the rows before. "
    f"Never looked at when choosing",
}
AVERAGING = "macro"
#: The one baseline that learns from more than the target's own past.
RIDGE = "ridge"
#: ASHRAE Guideline 14 (2014), hourly data: what a calibrated energy model must reach.
ASHRAE = {"cv_rmse": 0.30, "nmbe": 0.10}

Scores = dict[str, dict[str, float]]


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
    return {
        "accuracy": float(metrics.accuracy_score(observed, predicted)),
        "precision": float(precision),
        "recall": float(recall),
        "f1": float(f1),
    }


def headline(task: str) -> str:
    """Name the metric models are compared by."""
    return "rmse" if task == "regression" else "accuracy"


def error(task: str, observed: Values, predicted: Values) -> float:
    """Give what a model is chosen by, the lower the better: RMSE, or the share of wrong classes."""
    if task == "regression":
        return float(np.sqrt(np.mean((observed - predicted) ** 2)))
    return float(np.mean(observed != predicted))


def guidelines(observed: Values, predicted: Values) -> dict[str, float]:
    """Give CV(RMSE) and NMBE, ASHRAE Guideline 14 (2014), section 5.2.11, with one parameter."""
    residual, scale = observed - predicted, (len(observed) - 1) * observed.mean()
    spread = np.sqrt(np.sum(residual**2) / (len(observed) - 1)) / observed.mean()
    return {"cv_rmse": float(spread), "nmbe": float(residual.sum() / scale)}


def splits(problem: Problem) -> dict[str, tuple[Rows, Rows]]:
    """Divide a question's rows, in time order, into training and test rows.

    Returns:
        ``random``, ``time_ordered`` and ``origin 0``, ``origin 1``, … -> (training, test). An
        origin's test rows are all rows after it: the first ``STRETCH`` of them score it, the rest
        tell how errors grow as a model ages.
    """
    y, rows = problem.y, np.arange(len(problem.y))
    classes = y if problem.dataset.domain.task == "classification" else None
    at_random = train_test_split(rows, test_size=TEST_SHARE, random_state=42, stratify=classes)
    cut = round(len(y) * (1 - TEST_SHARE))
    found = {"random": (at_random[0], at_random[1]), "time_ordered": (rows[:cut], rows[cut:])}
    for number, share in enumerate(ORIGINS):
        start = round(len(y) * share)
        before = problem.when < problem.when[start] - np.timedelta64(GAP_DAYS, "D")
        found[f"origin {number}"] = (rows[before], rows[start:])
    return found


def stretch(problem: Problem, number: int) -> slice:
    """Give the part of an origin's test rows it is scored on."""
    start = round(len(problem.y) * ORIGINS[number])
    cut = round(len(problem.y) * (1 - TEST_SHARE))
    return slice(0, min(round(len(problem.y) * STRETCH), cut - start))


def baselines(problem: Problem, train: Rows, test: Rows) -> dict[str, Values]:
    """Answer without a model of ours, learning from the training rows only.

    Returns:
        Guess -> answers of shape (test rows,): always the same, as the last reading, as this time
        yesterday and last week, as this hour of the week, and a plain linear model.
    """
    task, y = problem.dataset.domain.task, problem.y
    is_class = task == "classification"
    known = pd.Series(y[train])
    middle = float(known.mode().iloc[0]) if is_class else float(known.mean())
    hours = pd.DatetimeIndex(problem.when)
    hour = np.asarray(hours.day_of_week * 24 + hours.hour)
    grouped = known.groupby(hour[train])
    usual = grouped.agg(lambda s: s.mode().iloc[0]) if is_class else grouped.mean()
    found = {"majority class" if is_class else "mean": np.full(len(test), middle)}
    for name, guess in problem.naive.items():
        found[name] = np.where(np.isnan(guess[test]), middle, guess[test])
    found["hour of the week"] = pd.Series(hour[test]).map(usual).fillna(middle).to_numpy(float)
    if not is_class:
        plain = make_pipeline(SimpleImputer(keep_empty_features=True), Ridge())
        X = _plain(problem)
        low, high = y[train].min(), y[train].max()
        found[RIDGE] = np.clip(plain.fit(X[train], y[train]).predict(X[test]), low, high)
    return found


def _plain(problem: Problem) -> NDArray[np.float64]:
    """Give a linear model something to start from: the inputs, or the naive guesses."""
    if problem.name == NOW:
        return problem.dataset.inputs.astype(np.float64)[problem.place]
    return np.column_stack(list(problem.naive.values()))


def skill(task: str, own: dict[str, float], naive: Scores) -> tuple[str, float]:
    """Compare with the best baseline: its name, and 1 - error / its error (Murphy 1988)."""
    metric = headline(task)
    sign = 1 if task == "regression" else -1
    best = min(naive, key=lambda name: sign * naive[name][metric])
    errors = own[metric], naive[best][metric]
    if task == "classification":
        errors = 1 - errors[0], 1 - errors[1]
    return best, 1 - errors[0] / max(errors[1], 1e-9)


def spread(task: str, problem: Problem, rows: Rows, predicted: Values) -> list[float]:
    """Say how far the headline metric may be off, by resampling whole days.

    Days are drawn with replacement 500 times (block bootstrap, Künsch 1989), as errors of
    neighbouring readings resemble each other.

    Returns:
        The 5th and 95th percentile.
    """
    wrong = problem.y[rows] - predicted
    wrong = wrong**2 if task == "regression" else (wrong != 0).astype(float)
    _, day = np.unique(problem.days[rows], return_inverse=True)
    sums, counts = np.bincount(day, wrong), np.bincount(day)
    drawn = np.random.default_rng(42).integers(len(sums), size=(500, len(sums)))
    shares = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    values = np.sqrt(shares) if task == "regression" else 1 - shares
    return [float(v) for v in np.percentile(values, [5, 95])]


def reliability(probabilities: NDArray[np.float64], observed: Values) -> dict[str, Any]:
    """Compare stated probabilities with what came.

    Returns:
        ``brier`` (Brier 1950, summed over classes), ``error`` (expected calibration error) and
        ``bins``: of the answers stated with about this probability, how many were right.
    """
    truth = np.eye(probabilities.shape[1])[observed.astype(int)]
    stated, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == observed
    place = np.clip((stated * 10).astype(int), 0, 9)
    bins = [
        {
            "stated": float(stated[place == n].mean()),
            "right": float(right[place == n].mean()),
            "answers": int((place == n).sum()),
        }
        for n in range(10)
        if (place == n).any()
    ]
    off = sum(b["answers"] * abs(b["stated"] - b["right"]) for b in bins) / len(stated)
    brier = float(np.mean(np.sum((probabilities - truth) ** 2, axis=1)))
    return {"brier": brier, "error": float(off), "bins": bins}


def by(later: pd.DataFrame, domain: Domain, keys: pd.Series) -> pd.DataFrame:
    """Score answers group by group: by month, hour or level.

    Args:
        later: ``observed`` and ``predicted``.
        domain: The question.
        keys: The group of each row.

    Returns:
        One row per group: ``answers`` and the headline metric.
    """
    metric = headline(domain.task)
    rows = {}
    for name, part in later.groupby(keys):
        value = error(domain.task, part["observed"].to_numpy(), part["predicted"].to_numpy())
        value = value if metric == "rmse" else 1 - value
        rows[name] = {"answers": len(part), metric: round(value, 3)}
    return pd.DataFrame.from_dict(rows, orient="index")


def levels(domain: Domain, later: pd.DataFrame) -> pd.Series:
    """Give the level of each row: its class, or the quarter of the quantity it falls into."""
    if domain.target.levels:
        labels = dict(enumerate(level.label for level in domain.target.levels))
        return later["observed"].map(labels).rename("level")
    quarters = pd.qcut(later["predicted"], 4, precision=2, duplicates="drop")
    unit = domain.target.unit
    named = {q: f"{max(q.left, 0):.2g} to {q.right:.2g} {unit}" for q in quarters.cat.categories}
    return quarters.map(named).astype(object).fillna("all alike").rename("level")


def table(card: Card, part: str | None = None) -> pd.DataFrame:
    """Lay a card's scores out for reading: one row per model or baseline and split."""
    shown = card.parts[part or card.champion]
    others = {name: scores for name, scores in shown.candidates.items() if name != shown.recipe}
    models = {f"{shown.recipe} (chosen)": shown.metrics, **others, **shown.baselines}
    rows = [
        {"model": name, "split": split.replace("_", "-"), **values}
        for name, scores in models.items()
        for split, values in scores.items()
    ]
    frame = pd.DataFrame(rows).set_index("model").round(3)
    return frame.sort_values("split", ascending=False, kind="stable")
