"""Measure folders: ``smartcity predict`` on simulated air readings beside bare ONNX, in one run.

Bare is the served model alone: rows lie in memory, as single precision and in the model's order;
as many threads as there are workers run its session, each with one thread of its own, on the
blocks that turn out quickest. It says a number per row; ours reads Parquet, checks every row, says
also the interval, the warnings and the version, and writes Parquet. Bare is measured before and
after each of ours, so that both have seen the same machine. On a machine that has other work the
processor time tells more than the clock: both are given.

    python benchmarks/scoring.py --rows 500000,1000000,2000000,5000000
    python benchmarks/scoring.py --rows 1000000 --backend threading,loky,dask
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import psutil
import pyarrow as pa  # type: ignore[import-untyped]
from distributed import LocalCluster
from pyarrow import parquet
from rich.console import Console
from rich.table import Table

from smartcity import data, domains, features, modelling, registry, settings

DOMAIN = "air_quality"
#: Rows of a file and of its row groups; both are made block by block.
FILE, GROUP = 1 << 20, 1 << 18
#: Rows that bare is measured on.
BARE = 1 << 20
BLOCKS = (64, 128, 192)


def base() -> modelling.Dataset:
    """Simulate a city, and read it as published files are read."""
    with tempfile.TemporaryDirectory() as name, readings_from(name):
        data.simulate(domains.load(DOMAIN), rows=9000)
        return modelling.prepare(DOMAIN)


@contextmanager
def readings_from(folder: str) -> Iterator[None]:
    """Let readings come from a folder of our own for a while."""
    before = dict(os.environ)
    os.environ |= {"SMARTCITY_DEMO": folder, "SMARTCITY_DATASETS": folder}
    settings.current.cache_clear()
    yield
    os.environ.clear()
    os.environ |= before
    settings.current.cache_clear()


def blocks(dataset: modelling.Dataset, rows: int) -> Iterator[Any]:
    """Draw readings again with a little noise, the same for the same number of rows."""
    rng, specs = np.random.default_rng(0), dataset.domain.inputs
    for start in range(0, rows, GROUP):
        places = rng.integers(len(dataset.inputs), size=min(GROUP, rows - start))
        drawn = dataset.inputs[places].astype(np.float64)
        drawn *= 1 + rng.normal(0, 0.01, drawn.shape)
        drawn = np.clip(drawn, [s.low for s in specs], [s.high for s in specs]).round(2)
        columns = dict(zip(dataset.domain.names, drawn.T, strict=True))
        yield pa.table({name: pa.array(v, from_pandas=True) for name, v in columns.items()})


def write_rows(folder: Path, dataset: modelling.Dataset, rows: int) -> None:
    """Write readings as files in the folders of two sites."""
    writer: Any = None
    held = FILE
    for number, table in enumerate(blocks(dataset, rows)):
        if held >= FILE:
            if writer:
                writer.close()
            path = folder / f"site={'north' if number % 2 else 'south'}" / f"{number:05}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            writer, held = parquet.ParquetWriter(path, table.schema), 0
        writer.write_table(table, row_group_size=GROUP)
        held += len(table)
    if writer:
        writer.close()
    for path in folder.rglob("*.parquet"):
        os.utime(path, (0, 0))  # a part's checksum hangs on it


@dataclass
class Seen:
    """What a run took: seconds, seconds of processors, and each process's peak in MB."""

    seconds: float = 0.0
    busy: float = 0.0
    peaks: dict[int, float] = field(default_factory=dict)


def watched(words: list[str], others: list[int]) -> Seen:
    """Run a command, and watch it, its children, and other processes from outside."""
    seen, started, busy = Seen(), time.perf_counter(), dict[int, float]()
    before = {pid: sum(psutil.Process(pid).cpu_times()[:2]) for pid in others}
    with subprocess.Popen([sys.executable, *words], stdout=subprocess.DEVNULL) as child:
        while child.poll() is None:
            with suppress(psutil.NoSuchProcess):
                own = psutil.Process(child.pid)
                for process in [own, *own.children(recursive=True), *map(psutil.Process, others)]:
                    with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                        size = process.memory_full_info().pss / 1e6
                        seen.peaks[process.pid] = max(seen.peaks.get(process.pid, 0), size)
                        busy[process.pid] = sum(process.cpu_times()[:2])
            time.sleep(0.1)
    if child.returncode:
        raise subprocess.CalledProcessError(child.returncode, words)
    seen.seconds = time.perf_counter() - started
    seen.busy = sum(busy.values()) - sum(before.values())
    return seen


def bare(X: features.Matrix, jobs: int) -> tuple[float, float]:
    """Run the model alone; give rows a second, and seconds of processors for a million rows."""
    card = registry.card(DOMAIN)
    content = (settings.current().models / card.name / card.version / "model.onnx").read_bytes()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    names = [session.get_outputs()[-1].name]

    def run(part: features.Matrix, size: int) -> None:
        for start in range(0, len(part), size):
            session.run(names, {"inputs": part[start : start + size]})

    told = []
    with ThreadPoolExecutor(jobs) as pool:
        for size in BLOCKS:
            started, busy = time.perf_counter(), time.process_time()
            list(pool.map(lambda part, size=size: run(part, size), np.array_split(X, jobs * 8)))
            seconds, busy = time.perf_counter() - started, time.process_time() - busy
            told.append((len(X) / seconds, busy / len(X) * 1e6))
    return max(rate for rate, _ in told), min(busy for _, busy in told)


@contextmanager
def backend(name: str, jobs: int) -> Iterator[list[int]]:
    """Let commands use a backend; give the processes of the workers that are there already."""
    made: Any = nullcontext()
    if name == "dask":
        made = LocalCluster(  # type: ignore[no-untyped-call]
            n_workers=jobs, threads_per_worker=1, dashboard_address="127.0.0.1:0"
        )
    with made as cluster:
        os.environ["SMARTCITY_JOBS"] = str(jobs)
        os.environ["SMARTCITY_BACKEND"] = "loky" if name == "dask" else name
        os.environ["SMARTCITY_SCHEDULER"] = cluster.scheduler_address if cluster else ""
        yield [worker.pid for worker in cluster.workers.values()] if cluster else []


def measure(
    folder: Path, X: features.Matrix, rows: int, name: str, jobs: int
) -> tuple[list[str], Seen]:
    """Answer a folder on one backend, bare before and after it; give a line, and what it took."""
    target = Path(tempfile.mkdtemp(dir=folder.parent))
    words = ["-m", "smartcity", "predict", DOMAIN, "--input", str(folder), "--output", str(target)]
    before = bare(X, jobs)
    with backend(name, jobs) as others:
        seen = watched(words, others)
    after = bare(X, jobs)
    manifest = json.loads((target / "_manifest.json").read_text())
    subprocess.run(["rm", "-r", str(target)], check=True)
    rate, busy = np.mean([before, after], axis=0).tolist()
    own = seen.busy / rows * 1e6
    line = [
        f"{rows:,}",
        f"{name} x {jobs}",
        f"{seen.seconds:.1f}",
        f"{rows / seen.seconds:,.0f}",
        f"{rate:,.0f}",
        f"{rows / seen.seconds / rate:.0%}",
        f"{own:.2f} / {busy:.2f}",
        f"{busy / own:.0%}",
        f"{max(seen.peaks.values()):.0f}",
        manifest["sha256"][:12],
    ]
    return line, seen


def main() -> None:
    """Print one line per number of rows and backend, and how the cost grows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", default="500000,1000000,2000000,5000000")
    parser.add_argument("--backend", default="loky", help="threading, loky, dask, several by comma")
    parser.add_argument("--jobs", default="2", help="workers, several by comma")
    given = parser.parse_args()
    dataset, console = base(), Console(width=160)
    looked_at = registry.card(DOMAIN).parts[registry.NOW].view.names
    places = [dataset.domain.names.index(name) for name in looked_at]
    drawn = [table.to_pandas().to_numpy(np.float32) for table in blocks(dataset, BARE)]
    X = np.ascontiguousarray(np.concatenate(drawn)[:, places])
    columns: tuple[str, ...] = ("rows", "backend", "s", "rows/s", "bare rows/s", "of bare")
    columns += ("cpu us/row, bare", "of bare, by cpu", "peak MB", "sha256")
    lines = Table(*columns)
    sizes: list[int] = []
    took: list[Seen] = []
    for rows in map(int, given.rows.split(",")):
        with tempfile.TemporaryDirectory() as name:
            write_rows(Path(name) / "in", dataset, rows)
            for way in given.backend.split(","):
                for jobs in map(int, given.jobs.split(",")):
                    line, seen = measure(Path(name) / "in", X, rows, way, jobs)
                    lines.add_row(*line)
                    console.print(*line)
                    sizes.append(rows)
                    took.append(seen)
    console.print(lines)
    if len(set(sizes)) > 2:
        for what, values in (
            ("seconds", [seen.seconds for seen in took]),
            ("processor seconds", [seen.busy for seen in took]),
        ):
            slope, start = np.polyfit(sizes, values, 1)
            fit = np.corrcoef(sizes, values)[0, 1] ** 2
            console.print(f"{what} = {start:.1f} + {slope * 1e6:.2f} a million, R2 {fit:.4f}")


if __name__ == "__main__":
    main()
