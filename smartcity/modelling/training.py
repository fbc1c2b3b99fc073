"""The specified forests, fitted, exported, described on a card and handed to the registry."""

import platform
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.impute import SimpleImputer
from sklearn.pipeline import Pipeline

from smartcity import data, features, registry
from smartcity.domains import Domain
from smartcity.errors import DataError
from smartcity.features import Matrix
from smartcity.modelling import evaluation
from smartcity.modelling.card import as_markdown
from smartcity.modelling.evaluation import Evaluation, Values

#: Fewer rows than this cannot be split twice and still say anything.
FEWEST_ROWS = 100
FEWEST_OF_A_CLASS = 5
_PACKAGES = ("scikit-learn", "numpy", "pandas", "skl2onnx", "onnx", "onnxruntime", "joblib")


@dataclass(frozen=True)
class Dataset:
    """What a model learns from: clean, complete, in time order.

    Attributes:
        rows: ``recorded_at``, the measured inputs and the target.
        X: Inputs, shape (rows, inputs).
        y: Target, shape (rows,).
        left_out: Why readings were not used: reason -> number of rows.
    """

    domain: Domain
    readings: data.Readings
    findings: pd.DataFrame
    rows: pd.DataFrame
    X: Matrix
    y: Values
    left_out: dict[str, int]


@dataclass(frozen=True)
class Trained:
    """A fitted model and all that publishing it takes."""

    dataset: Dataset
    estimator: Pipeline
    onnx: bytes
    evaluation: Evaluation


def prepare(name: str, site: str = "main") -> Dataset:
    """Read, check and clean the readings of a domain, and build its matrix.

    Raises:
        UsageError: No such domain or site.
        DataError: The files are missing, damaged, or leave too little to learn from.
    """
    readings = data.read(name, site)
    domain = readings.domain
    findings = data.check(readings)
    rows, left_out = data.usable(domain, data.clean(readings, findings))
    left_out["a fault in the row"] = int(
        findings.loc[findings["action"] == "row left out", "row"].nunique()
    )
    if len(rows) < FEWEST_ROWS:
        raise DataError(
            f"Only {len(rows)} of {len(readings.frame)} readings of {name!r} can be used "
            f"({left_out}); at least {FEWEST_ROWS} are needed."
        )
    absent = [
        level.published
        for number, level in enumerate(domain.target.levels)
        if (rows[domain.target.name] == number).sum() < FEWEST_OF_A_CLASS
    ]
    if absent:
        raise DataError(
            f"The readings of {name!r} hold fewer than {FEWEST_OF_A_CLASS} rows of {absent}: a "
            f"model trained on them could not tell these classes. Use readings that hold each."
        )
    times = rows["recorded_at"].to_numpy().astype("datetime64[s]")
    X = features.matrix(domain, {n: rows[n] for n in rows.columns}, recorded_at=times)
    y = rows[domain.target.name].to_numpy(dtype=np.float64)
    return Dataset(domain, readings, findings, rows, X, y, left_out)


def estimator(domain: Domain) -> Pipeline:
    """Build the specification's forest, unfitted, behind a median for missing inputs.

    The median is explicit because the ONNX export of a forest that splits on missing values
    forgets which way they go (skl2onnx issue 1253).
    """
    kind = RandomForestRegressor if domain.task == "regression" else RandomForestClassifier
    forest = kind(**domain.forest.model_dump())
    fill = SimpleImputer(strategy="median", keep_empty_features=True)
    return Pipeline([("fill", fill), ("forest", forest)])


def fit(domain: Domain, X: Matrix, y: Values) -> Pipeline:
    """Fit the specified forest; it answers on one thread, as starting threads costs more."""
    fitted = estimator(domain).fit(X, y)
    return fitted.set_params(forest__n_jobs=1)


def train(dataset: Dataset) -> Trained:
    """Evaluate the specified forest on both splits, then fit it on all rows and export it."""
    domain, times = dataset.domain, dataset.rows["recorded_at"]
    scored = evaluation.evaluate(domain, partial(fit, domain), dataset.X, dataset.y, times)
    fitted = fit(domain, dataset.X, dataset.y)
    return Trained(dataset, fitted, export(fitted), scored)


def later(dataset: Dataset, card: registry.Card) -> pd.DataFrame:
    """Answer the last rows in time as the model would have, fitted on the rows before them.

    Args:
        dataset: The readings.
        card: The model's card, for the width of its interval.

    Returns:
        ``recorded_at``, ``observed``, ``predicted`` and, for a quantity, ``low`` and ``high``.
    """
    domain, times = dataset.domain, dataset.rows["recorded_at"]
    answers = evaluation.later(domain, partial(fit, domain), dataset.X, dataset.y, times)
    if card.interval is None:
        return answers
    return evaluation.with_interval(domain, answers, card.interval["half_width"])


def export(fitted: Pipeline) -> bytes:
    """Write a fitted pipeline as ONNX: input ``inputs``, float32, shape (rows, inputs)."""
    # Imported here: of four notebooks only one exports, and this costs half a second.
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import FloatTensorType

    width = fitted.n_features_in_
    options = {"zipmap": False} if hasattr(fitted, "classes_") else None
    graph = to_onnx(
        fitted,
        initial_types=[("inputs", FloatTensorType([None, width]))],
        options=options,
        target_opset={"": 18, "ai.onnx.ml": 3},
    )
    content: bytes = graph.SerializeToString()
    return content


def hard_rows(trained: Trained, *, most: int = 2000) -> Matrix:
    """Collect the rows on which an export goes wrong first.

    Returns:
        Real rows, the same with an optional input missing, and the same moved exactly onto split
        thresholds of the forest; shape (rows, inputs).
    """
    rng = np.random.default_rng(42)
    X = trained.dataset.X
    real = X[rng.choice(len(X), min(most, len(X)), replace=False)]
    optional = [n for n, i in enumerate(trained.dataset.domain.inputs) if i.optional]
    missing = [_with(real, np.full(len(real), n), np.nan) for n in optional]
    trees = [tree.tree_ for tree in trained.estimator["forest"].estimators_]
    feature = np.concatenate([t.feature for t in trees])
    threshold = np.concatenate([t.threshold for t in trees])
    inner = rng.choice(np.flatnonzero(feature >= 0), len(real))
    edges = _with(real, feature[inner], threshold[inner])
    return np.concatenate([real, *missing, edges])


def _with(rows: Matrix, place: NDArray[np.int64], value: Any) -> Matrix:
    changed = rows.copy()
    changed[np.arange(len(rows)), place] = value
    return changed


def publish(trained: Trained, card: registry.Card) -> registry.Card:
    """Publish a trained model with its card.

    Raises:
        ModelError: The export differs from the fitted model; nothing was published.
        StorageError: The models folder cannot be written; nothing was published.
    """
    return registry.publish(
        card,
        trained.estimator,
        onnx=trained.onnx,
        rows=hard_rows(trained),
        text=as_markdown(trained.dataset.domain, card),
    )


def draft(trained: Trained, *, run: str) -> registry.Card:
    """Write the card of a trained model, but for what publishing adds."""
    dataset, scored = trained.dataset, trained.evaluation
    domain = dataset.domain
    return registry.Card(
        domain=domain.name,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        task=domain.task,
        target=domain.target.name,
        unit=domain.target.unit,
        inputs=_inputs(dataset),
        estimator=_described(domain),
        metrics=scored.metrics,
        specified=scored.metrics,
        baselines=scored.baselines,
        splits=evaluation.SPLITS,
        averaging=evaluation.AVERAGING if domain.task == "classification" else None,
        coverage=scored.coverage,
        interval=scored.half_width and {"half_width": scored.half_width, "level": evaluation.LEVEL},
        answers=_answers(dataset),
        data=_lineage(dataset),
        environment={
            "python": platform.python_version(),
            "packages": {name: version(name) for name in _PACKAGES},
        },
        git=_git(),
        run=run,
    )


def _described(domain: Domain) -> str:
    settings = ", ".join(f"{name}={value}" for name, value in domain.forest.model_dump().items())
    return f"random forest {domain.task} ({settings}); the median stands in for a missing input"


def _inputs(dataset: Dataset) -> list[registry.CardInput]:
    described = []
    for spec, values in zip(dataset.domain.inputs, dataset.X.T, strict=True):
        seen = values[~np.isnan(values)]
        low, typical, high = (
            np.percentile(seen, [0, 50, 100]) if len(seen) else (spec.low, spec.low, spec.high)
        )
        described.append(
            registry.CardInput(
                name=spec.name,
                label=spec.label,
                unit=spec.unit,
                low=round(float(low), 6),
                high=round(float(high), 6),
                typical=round(float(typical), 0 if spec.whole else 6),
                optional=spec.optional,
            )
        )
    return described


def _answers(dataset: Dataset) -> dict[str, float]:
    """Describe the observed answers: shares of the classes, or marks of the quantity."""
    if dataset.domain.target.levels:
        levels = enumerate(dataset.domain.target.levels)
        return {level.label: float(np.mean(dataset.y == number)) for number, level in levels}
    marks = np.percentile(dataset.y, [10, 50, 90])
    return dict(zip(("p10", "p50", "p90"), map(float, marks), strict=True))


def _lineage(dataset: Dataset) -> dict[str, Any]:
    times, simulated = dataset.rows["recorded_at"], dataset.readings.simulated
    return {
        "files": [source.record() for source in dataset.readings.sources],
        "site": dataset.readings.site,
        "from": times.iloc[0].isoformat(),
        "to": times.iloc[-1].isoformat(),
        "rows": len(dataset.rows),
        "rows_left_out": dataset.left_out,
        "simulated": simulated,
        "licence": "free, as made up" if simulated else dataset.domain.licence,
        "source": "the simulated demo city" if simulated else dataset.domain.source,
    }


def _git() -> dict[str, Any]:
    """Name the commit the model was made from, as far as there is one."""

    def ask(*words: str) -> str | None:
        try:
            answer = subprocess.run(
                ["git", *words],
                cwd=Path(__file__).parent,
                capture_output=True,
                text=True,
                check=True,
                timeout=10,
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return answer.stdout.strip()

    changes = ask("status", "--porcelain")
    return {"commit": ask("rev-parse", "HEAD"), "dirty": None if changes is None else bool(changes)}
