"""Measure whole files: ``smartcity predict`` beside pandas and scikit-learn, in one run.

The others read the whole file, predict, and write it, each in a process of its own: the forest of
the specification, ``n_jobs=-1``, and the served model's own estimator. They say a number per row;
ours says also the interval, the warnings and the version, and checks every row. Rows are real
readings drawn again with a little noise, gaps included.

    python benchmarks/files.py --rows 2000000
"""

import argparse
import pickle
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
from rich.console import Console
from rich.table import Table

from smartcity import modelling, registry
from smartcity.modelling import candidates

DOMAIN = "air_quality"
#: What the others run: read, predict, write. The estimator waits in a file.
OTHER = """
import pickle, sys
import pandas as pd
source, target, fitted = sys.argv[1:]
with open(fitted, "rb") as file:
    estimator, names = pickle.load(file)
table = pd.read_csv(source) if source.endswith("csv") else pd.read_parquet(source)
table["prediction"] = estimator.predict(table[names].to_numpy("float32"))
table.to_csv(target, index=False) if target.endswith("csv") else table.to_parquet(target)
"""


def write_rows(folder: Path, dataset: modelling.Dataset, rows: int) -> None:
    """Write the same rows as CSV and as Parquet."""
    rng = np.random.default_rng(0)
    specs = dataset.domain.inputs
    drawn = dataset.inputs[rng.integers(len(dataset.inputs), size=rows)]
    drawn = drawn * (1 + rng.normal(0, 0.01, drawn.shape).astype(np.float32))
    table = pd.DataFrame(
        np.clip(drawn, [s.low for s in specs], [s.high for s in specs]).astype(np.float64).round(2),
        columns=list(dataset.domain.names),
    )
    table.to_csv(folder / "in.csv", index=False)
    table.to_parquet(folder / "in.parquet", index=False)


def timed(words: list[str]) -> tuple[float, float]:
    """Run a command; give its seconds and its peak of memory in MB."""
    started, peak = time.perf_counter(), 0
    with subprocess.Popen([sys.executable, *words], stdout=subprocess.DEVNULL) as child:
        # Sampled: what the system itself reports of a child begins with our own size.
        seen = psutil.Process(child.pid)
        while child.poll() is None:
            with suppress(psutil.NoSuchProcess):
                peak = max(peak, seen.memory_info().rss)
            time.sleep(0.02)
    if child.returncode:
        raise subprocess.CalledProcessError(child.returncode, words)
    return time.perf_counter() - started, peak / 1e6


def main() -> None:
    """Print one line per way and format."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2_000_000)
    rows = parser.parse_args().rows
    dataset = modelling.prepare(DOMAIN)
    problem = modelling.problems(dataset)[registry.NOW]
    [specified] = [c for c in candidates.candidates(problem) if c.name == candidates.SPECIFIED]
    forest = candidates.make(dataset.domain, specified).fit(dataset.inputs, dataset.y)
    looked_at = registry.card(DOMAIN).parts[registry.NOW].view.names
    fitted = {
        "specified forest": (forest, list(dataset.domain.names)),
        "served model in scikit-learn": (registry.load_estimator(DOMAIN), list(looked_at)),
    }
    table = Table("way", "format", "rows/s", "peak MB", "ours", title=f"{rows:,} rows, one run")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_rows(folder, dataset, rows)
        for kind in ("csv", "parquet"):
            source, target = folder / f"in.{kind}", folder / f"out.{kind}"
            asked = ["--input", str(source), "--output", str(target)]
            ours, peak = timed(["-m", "smartcity", "predict", DOMAIN, *asked])
            table.add_row("smartcity predict", kind, f"{rows / ours:,.0f}", f"{peak:.0f}", "")
            for way, estimator in fitted.items():
                (folder / "fitted").write_bytes(pickle.dumps(estimator))
                words = ["-c", OTHER, str(source), str(target), str(folder / "fitted")]
                seconds, peak = timed(words)
                figures = (f"{rows / seconds:,.0f}", f"{peak:.0f}", f"{seconds / ours:.1f} x")
                table.add_row(way, kind, *figures)
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
