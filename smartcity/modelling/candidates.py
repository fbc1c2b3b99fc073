"""The estimators worth trying, by name, each with what it looks at; all of them export."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
    VotingClassifier,
    VotingRegressor,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import PowerTransformer, StandardScaler
from sklearn.svm import SVR

from smartcity.domains import Domain
from smartcity.features import Matrix, View, traced
from smartcity.modelling.dataset import NOW, Dataset, Problem

SEED = 42
#: The specification's forest: always tried, always shown.
SPECIFIED = "specified forest"
#: A plain linear model, as a reference: what beats it only by being complicated is not worth it.
LINEAR = "linear"

Make = Callable[[int], Any]
Front = Callable[[Any], Pipeline]


@dataclass(frozen=True)
class Candidate:
    """A kind of model with a view; a stack is the mean of its members.

    Attributes:
        name: What it is called everywhere: ``<estimator>, <view>``.
        method: The estimator in words.
        members: Names of the candidates a stack averages; none for a single estimator.
        looks: What of the readings it looks at, in a word.
        needs_only_inputs: Whether the specified inputs are all it takes.
    """

    method: str
    looks: str
    view: View
    members: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What it is called everywhere."""
        return self.method if self.method == SPECIFIED else f"{self.method}, {self.looks}"

    @property
    def needs_only_inputs(self) -> bool:
        """Whether a request with the specified inputs is all it takes."""
        return not self.view.clock and not self.view.history


def views(dataset: Dataset) -> dict[str, View]:
    """Give what can be looked at, from the specified inputs to weeks of readings.

    An input missing in more than half of the rows is left out everywhere but in ``specified``: it
    says more about which months are trained on than about the air.
    """
    domain = dataset.domain
    known = dict(zip(domain.names, np.isnan(dataset.inputs).mean(axis=0) < 0.5, strict=True))
    given = tuple(name for name in domain.names if known[name])
    measured = tuple(i.name for i in domain.inputs if known[i.name] and not i.from_time)
    sums = {i.name for i in domain.inputs if i.sum_of}
    follow = tuple(name for name in traced(domain) if known.get(name, True))
    return {
        "specified": View(inputs=domain.names),
        "inputs": View(inputs=given),
        "calendar": View(inputs=given, clock=True),
        "recent": View(
            inputs=measured, follow=follow, clock=True, elapsed=True, last=3, means=(240, 1440)
        ),
        "week": View(
            follow=follow,
            clock=True,
            elapsed=True,
            last=3,
            means=(240, 1440),
            usual=tuple(name for name in follow if name not in measured or name in sums),
            days=(1, 2, 3, 4, 5, 6, 7),
        ),
    }


_REGRESSION = {
    "inputs": (LINEAR, "ridge", "SVR", "extra trees", "gradient boosting"),
    "calendar": ("gradient boosting",),
    "recent": (LINEAR, "ridge", "SVR", "gradient boosting"),
    "week": ("ridge", "extra trees", "gradient boosting"),
}
_CLASSIFICATION = {
    "inputs": ("extra trees", "gradient boosting"),
    "calendar": ("gradient boosting",),
    "recent": ("gradient boosting",),
    "week": ("logistic", "extra trees", "gradient boosting"),
}
_STACKS = (
    ("ridge", "SVR"),
    ("SVR", "gradient boosting"),
    ("ridge", "SVR", "gradient boosting"),
    ("extra trees", "gradient boosting"),
    ("ridge", "gradient boosting"),
    ("logistic", "extra trees"),
)


def candidates(problem: Problem) -> list[Candidate]:
    """List what to try for a question, the specified forest first where it applies."""
    domain, known = problem.dataset.domain, views(problem.dataset)
    tried = _REGRESSION if domain.task == "regression" else _CLASSIFICATION
    found = [Candidate(SPECIFIED, "", known["specified"])] if problem.name == NOW else []
    for looks in ("inputs", "calendar", "recent") if problem.name == NOW else ("week",):
        single = [Candidate(method, looks, known[looks]) for method in tried[looks]]
        methods = [c.method for c in single]
        found += single
        for stack in _STACKS:
            if set(stack) <= set(methods):
                members = tuple(f"{method}, {looks}" for method in stack)
                found.append(Candidate(" + ".join(stack), looks, known[looks], members))
    return found


def make(domain: Domain, candidate: Candidate) -> Any:
    """Build a candidate, unfitted.

    Quantities are learned on a log scale, log(1 + y), where sensors' errors are proportional; only
    the specified forest and the plain linear model are not.
    """
    width = len(candidate.view.names)
    if candidate.method == SPECIFIED:
        return _specified(domain)
    methods = [name.partition(",")[0] for name in candidate.members] or [candidate.method]
    known = _REGRESSORS if domain.task == "regression" else _CLASSIFIERS
    fronts = {known[method][0] for method in methods}
    # Members that start alike share their start: half the work for each answer.
    shared = fronts.pop() if len(fronts) == 1 else None
    parts = [
        (method, last(width) if shared else front(last(width)))
        for method, (front, last) in ((m, known[m]) for m in methods)
    ]
    inner = parts[0][1] if len(parts) == 1 else _stack(domain, parts)
    whole = shared(inner) if shared else inner
    if domain.task == "classification" or methods == [LINEAR]:
        return whole
    return TransformedTargetRegressor(
        whole, func=np.log1p, inverse_func=np.expm1, check_inverse=False
    )


def fit(domain: Domain, candidate: Candidate, X: Matrix, y: NDArray[np.float64]) -> Any:
    """Build a candidate and fit it.

    The specified forest is fitted on all cores, as specified; it answers on one. More would add its
    trees up in whatever order they come, and for few rows starting threads costs more.
    """
    fitted = make(domain, candidate).fit(X, y)
    if candidate.method == SPECIFIED:
        fitted.set_params(forest__n_jobs=1)
    return fitted


def _stack(domain: Domain, parts: list[tuple[str, Any]]) -> Any:
    if domain.task == "regression":
        return VotingRegressor(parts)
    return VotingClassifier(parts, voting="soft", flatten_transform=False)


def _fill() -> SimpleImputer:
    """Put the median where an input is missing; explicit, as exports forget how trees do it.

    See skl2onnx issue 1253.
    """
    return SimpleImputer(strategy="median", keep_empty_features=True)


def _specified(domain: Domain) -> Pipeline:
    kind = RandomForestRegressor if domain.task == "regression" else RandomForestClassifier
    return Pipeline([("fill", _fill()), ("forest", kind(**domain.forest.model_dump()))])


def _as_bells(last: Any) -> Pipeline:
    """Bring the inputs to bell shapes of one width (Yeo and Johnson 2000) before the estimator."""
    return Pipeline([("fill", _fill()), ("shape", PowerTransformer()), ("fit", last)])


def _scaled(last: Any) -> Pipeline:
    return Pipeline([("fill", _fill()), ("scale", StandardScaler()), ("fit", last)])


def _as_they_are(last: Any) -> Pipeline:
    return Pipeline([("fill", _fill()), ("fit", last)])


_REGRESSORS: dict[str, tuple[Front, Make]] = {
    LINEAR: (_scaled, lambda _: Ridge()),
    "ridge": (_as_bells, lambda _: Ridge(alpha=3.0)),
    # A wide kernel: drifting sensors leave what a narrow one has learned.
    "SVR": (_as_bells, lambda width: SVR(C=3.0, epsilon=0.05, gamma=0.1 / width)),
    "extra trees": (
        _as_they_are,
        lambda _: ExtraTreesRegressor(
            100, min_samples_leaf=4, max_features=0.33, random_state=SEED
        ),
    ),
    "gradient boosting": (
        _as_they_are,
        lambda _: HistGradientBoostingRegressor(
            learning_rate=0.06, max_iter=150, max_leaf_nodes=12, random_state=SEED
        ),
    ),
}
_CLASSIFIERS: dict[str, tuple[Front, Make]] = {
    "logistic": (_scaled, lambda _: LogisticRegression(C=0.05, max_iter=1000)),
    "extra trees": (
        _as_they_are,
        lambda _: ExtraTreesClassifier(200, min_samples_leaf=3, random_state=SEED),
    ),
    "gradient boosting": (
        _as_they_are,
        lambda _: HistGradientBoostingClassifier(
            learning_rate=0.08, max_iter=100, max_leaf_nodes=7, random_state=SEED
        ),
    ),
}
