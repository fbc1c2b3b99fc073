"""Measure one prediction: served, by scikit-learn itself, and as the specification says literally.

Literal is a pandas frame into the specified forest with ``n_jobs=-1``; scikit-learn is the served
model's own estimator on a numpy row, one thread. Served is once the checked row to its point,
interval and limits, and once everything: check, interval, limits, reasons, words. All answer the
same row, in turns, in one run.
"""

import statistics
import time
from collections.abc import Callable

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from smartcity import modelling, registry
from smartcity.modelling import candidates
from smartcity.predict import Predictor

ROUNDS = 60
HEADER = (
    "domain",
    "literal ms",
    "served after it",
    "scikit-learn ms",
    "point, interval",
    "served ms",
    "with reasons",
    "literal/served",
    "scikit-learn/served",
)


def in_turns(calls: list[Callable[[], object]]) -> list[float]:
    """Time calls, one after the other, many times; give the medians in milliseconds."""
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(ROUNDS + 1):
        for call, spent in zip(calls, times, strict=True):
            started = time.perf_counter()
            call()
            spent.append((time.perf_counter() - started) * 1000)
    return [statistics.median(spent[1:]) for spent in times]  # without a warm-up


def measure(name: str) -> list[str]:
    """Time one domain; give a line of the table."""
    dataset = modelling.prepare(name)
    problem = modelling.problems(dataset)[registry.NOW]
    [specified] = [c for c in candidates.candidates(problem) if c.name == candidates.SPECIFIED]
    forest = candidates.make(dataset.domain, specified).fit(dataset.inputs, dataset.y)
    predictor, fitted = Predictor.load(name), registry.load_estimator(name)
    sums = {i.name for i in dataset.domain.inputs if i.sum_of}
    typical = {i.name: i.typical for i in predictor.card.inputs}
    row = {key: value for key, value in typical.items() if key not in sums}
    checked = predictor.check(row)
    looked_at = predictor.card.parts[registry.NOW].view.names
    inputs = np.array([[typical[key] for key in looked_at]], dtype=np.float32)
    # The literal forest's threads cool the caches for whoever comes next: it has turns of its own.
    literal, after_it = in_turns(
        [
            lambda: forest.predict(pd.DataFrame([typical]).to_numpy()),
            lambda: predictor.answer([checked]),
        ]
    )
    own, point, served, whole = in_turns(
        [
            lambda: fitted.predict(inputs),
            lambda: predictor.score(predictor.inputs([checked])),
            lambda: predictor.answer([checked]),
            lambda: predictor.predict(row, reasons=True),
        ]
    )
    times = (literal, after_it, own, point, served, whole)
    ratios = (f"{literal / after_it:.0f}", f"{own / served:.0f}")
    return [name, *(f"{ms:.3f}" for ms in times), *ratios]


def main() -> None:
    """Print one line per domain."""
    table = Table(*HEADER, title="One prediction, medians of one run")
    for name in ("air_quality", "traffic", "energy"):
        table.add_row(*measure(name))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
