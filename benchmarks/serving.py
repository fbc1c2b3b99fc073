"""Measure one prediction: the served path beside the specification taken literally.

The specification's literal path is a pandas frame into a scikit-learn forest with ``n_jobs=-1``.
Both answer the same rows with the same published model, in turns, in one run.
"""

import statistics
import time
from collections.abc import Callable

import pandas as pd

from smartcity import domains, registry
from smartcity.predict import Predictor

ROUNDS = 40


def in_turns(first: Callable[[], object], second: Callable[[], object]) -> tuple[float, float]:
    """Time two calls, one after the other, many times; give both medians in milliseconds."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS + 1):
        for call, spent in zip((first, second), times, strict=True):
            started = time.perf_counter()
            call()
            spent.append((time.perf_counter() - started) * 1000)
    return statistics.median(times[0][1:]), statistics.median(times[1][1:])  # without a warm-up


def main() -> None:
    """Print one line per domain: both medians and their ratio."""
    print(f"{'domain':12} {'literal ms':>10} {'served ms':>10} {'ratio':>7}")  # noqa: T201
    for name, domain in domains.load_all().items():
        predictor, fitted = Predictor.load(name), registry.load_estimator(name)
        row = {i.name: i.typical for i in predictor.card.inputs}
        asked = {i.name: row[i.name] for i in domain.inputs if not i.sum_of}
        forest = fitted["forest"].set_params(n_jobs=-1)
        slow, quick = in_turns(
            lambda r=row, f=forest: f.predict(pd.DataFrame([r]).to_numpy()),
            lambda a=asked, p=predictor: p.predict(a),
        )
        print(f"{name:12} {slow:10.2f} {quick:10.3f} {slow / quick:7.0f}")  # noqa: T201


if __name__ == "__main__":
    main()
