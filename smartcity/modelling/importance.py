"""What a model leans on: how much worse it gets on later time when an input is shuffled."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from smartcity.features import CLOCK, Matrix
from smartcity.modelling import evaluation
from smartcity.modelling.candidates import fit
from smartcity.modelling.search import ONE_THREAD, Tried

#: Inputs whose ranks agree this far are shuffled together: shuffled alone, each would look useless.
ALIKE = 0.8
REPEATS = 5


@ONE_THREAD
def importance(tried: Tried) -> pd.DataFrame:
    """Shuffle what a model looks at, on later time, one group after the other.

    Permutation importance (Breiman 2001; Fisher et al. 2019), collinear inputs as one group.

    Args:
        tried: A candidate on a question; it is fitted anew on the rows before the test.

    Returns:
        One row per group, the largest first: ``group`` and ``worse``, the mean rise of the error
        (RMSE in the target's unit, or the share of wrong classes).
    """
    problem, domain = tried.problem, tried.problem.dataset.domain
    X, cut = problem.matrix(tried.candidate.view), tried.cut
    fitted = fit(domain, tried.candidate, X[:cut], problem.y[:cut])
    rng = np.random.default_rng(42)
    test, came = X[cut:], problem.y[cut:]
    base = evaluation.error(domain.task, came, fitted.predict(test))
    found = []
    for group, columns in _groups(tried, X[:cut]).items():
        rises = []
        for _ in range(REPEATS):
            shuffled = test.copy()
            shuffled[:, columns] = test[rng.permutation(len(test))][:, columns]
            rises.append(evaluation.error(domain.task, came, fitted.predict(shuffled)) - base)
        found.append({"group": group, "worse": float(np.mean(rises))})
    return pd.DataFrame(found).sort_values("worse", ascending=False, ignore_index=True)


def _groups(tried: Tried, X: Matrix) -> dict[str, list[int]]:
    """Group the columns: inputs that say the same, the time, and all recent readings."""
    domain, names = tried.problem.dataset.domain, tried.candidate.view.names
    labels = {spec.name: spec.label for spec in domain.inputs}
    inputs = [n for n, name in enumerate(names) if name in labels]
    groups: dict[str, list[int]] = {}
    for cluster in _alike(X[:, inputs]) if inputs else []:
        members = [inputs[n] for n in cluster]
        groups[" + ".join(labels[names[n]] for n in members)] = members
    for n, name in enumerate(names):
        if name not in labels:
            kind = "time" if name in {*CLOCK, "elapsed"} else "recent readings"
            groups.setdefault(kind, []).append(n)
    return groups


def _alike(X: Matrix) -> list[NDArray[np.int64]]:
    """Cluster columns by the agreement of their ranks (Spearman), all pairs in a cluster alike."""
    if X.shape[1] == 1:
        return [np.array([0])]
    agreement = pd.DataFrame(X).dropna().corr("spearman").abs().fillna(0)
    far = np.clip(1 - agreement.to_numpy(), 0, 1)
    np.fill_diagonal(far, 0)
    tree = linkage(squareform((far + far.T) / 2, checks=False), "complete")
    number = fcluster(tree, 1 - ALIKE, "distance")
    return [np.flatnonzero(number == n) for n in np.unique(number)]
