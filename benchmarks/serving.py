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


def median_ms(answer: Callable[[], object]) -> float:
    """Time one call several times; give the median in milliseconds."""
    answer()
    times = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        answer()
        times.append((time.perf_counter() - started) * 1000)
    return statistics.median(times)


def main() -> None:
    """Print one line per domain: both medians and their ratio."""
    print(f"{'domain':12} {'literal ms':>10} {'served ms':>10} {'ratio':>7}")  # noqa: T201
    for name, domain in domains.load_all().items():
        predictor, fitted = Predictor.load(name), registry.load_estimator(name)
        row = {i.name: i.typical for i in predictor.card.inputs}
        asked = {
            k: v for k, v in row.items() if k not in {i.name for i in domain.inputs if i.sum_of}
        }
        literal = fitted["forest"].set_params(n_jobs=-1)
        slow = median_ms(lambda r=row, f=literal: f.predict(pd.DataFrame([r]).to_numpy()))
        quick = median_ms(lambda a=asked, p=predictor: p.predict(a))
        print(f"{name:12} {slow:10.2f} {quick:10.3f} {slow / quick:7.0f}")  # noqa: T201


if __name__ == "__main__":
    main()
