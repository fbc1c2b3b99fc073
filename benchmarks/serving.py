"""Load three services in turns, in one run: ours with everything on, literal, and bare.

Ours is ``smartcity serve`` with one worker: validation, interval, limits, guidance, recording into
the database beside it, metrics, rate limit and access log. Literal is the specification as written
(services/faithful.py); bare is an ASGI route around the same model (services/bare.py). Rows are
real readings, each moved a little, so that none comes twice within the time the cache remembers.
Needs wrk (Debian: ``apt-get install wrk``).
"""

import argparse
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

from smartcity import modelling

HERE = Path(__file__).parent
SINGLE, BATCH = "/api/v1/predict/air-quality", "/api/v1/predict/batch/air-quality"
UVICORN = [sys.executable, "-m", "uvicorn", "--no-access-log", "--log-level", "warning", "--port"]
SERVICES = {
    "ours": [sys.executable, "-m", "smartcity", "serve"],
    "literal": [*UVICORN, "{port}", "services.faithful:app"],
    "bare": [*UVICORN, "{port}", "services.bare:app"],
}


def write_bodies(folder: Path, count: int) -> tuple[Path, Path]:
    """Write single rows and batches of 1,000, one JSON body a line."""
    dataset, rng = modelling.prepare("air_quality"), np.random.default_rng(42)
    drawn = dataset.inputs[rng.integers(0, len(dataset.inputs), count)].astype(float)
    drawn *= 1 + rng.normal(scale=0.002, size=drawn.shape)
    low = [spec.low for spec in dataset.domain.inputs]
    high = [spec.high for spec in dataset.domain.inputs]
    drawn = np.clip(drawn, low, high).round(3)
    rows = [
        json.dumps(
            {n: None if np.isnan(v) else v for n, v in zip(dataset.domain.names, row, strict=True)}
        )
        for row in drawn.tolist()
    ]
    single, batch = folder / "single.txt", folder / "batch.txt"
    single.write_text("\n".join(rows) + "\n")
    batches = (",".join(rows[n : n + 1000]) for n in range(0, min(count, 40_000), 1000))
    batch.write_text("".join(f"[{rows}]\n" for rows in batches))
    return single, batch


def free_port() -> int:
    """Find a port nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@contextmanager
def running(name: str, state: Path) -> Iterator[tuple[str, float, float]]:
    """Run a service; give its address, the seconds to its first answer, and its idle memory."""
    port = free_port()
    command = [word.format(port=port) for word in SERVICES[name]]
    more = {
        "SMARTCITY_API_PORT": str(port),
        "SMARTCITY_STATE": str(state),
        "SMARTCITY_RATE_LIMIT": "1000000000/minute",
        "PYTHONPATH": str(HERE),
    }
    started = time.perf_counter()
    with (state.parent / f"{name}.log").open("ab") as output:
        service = subprocess.Popen(command, env=os.environ | more, stdout=output, stderr=output)
    try:
        address = f"http://127.0.0.1:{port}"
        while not answers(f"{address}{'/health/ready' if name == 'ours' else '/'}"):
            if service.poll() is not None:
                raise SystemExit(f"{name} did not start; see {state.parent / name}.log")
            time.sleep(0.02)
        ready = time.perf_counter() - started
        time.sleep(2)
        yield address, ready, memory(service.pid)
    finally:
        service.terminate()
        service.wait(timeout=60)


def answers(address: str) -> bool:
    """Tell whether something answers there, be it an error of the route."""
    try:
        urllib.request.urlopen(address, timeout=5).close()  # noqa: S310  # our own http address
    except urllib.error.HTTPError as error:
        return error.code not in {502, 503}
    except OSError:
        return False
    return True


def memory(pid: int) -> float:
    """Add up a service's memory in MB: what is shared counts once."""
    process = psutil.Process(pid)
    used = 0
    for each in [process, *process.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            used += each.memory_full_info().pss
    return used / 2**20


def load(address: str, bodies: Path, connections: int, seconds: int) -> dict[str, float]:
    """Load a route with wrk; give answers a second and the 99th percentile in milliseconds."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "60s", "--latency"]
    command += ["-s", str(HERE / "rows.lua"), address]
    environment = os.environ | {"ROWS": str(bodies)}
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    if "Non-2xx" in said.stdout or "Socket errors" in said.stdout:
        raise SystemExit(f"{address} did not answer all:\n{said.stdout}")
    [rate] = re.findall(r"Requests/sec:\s+([\d.]+)", said.stdout)
    [late, unit] = re.findall(r"99%\s+([\d.]+)(us|ms|s)", said.stdout)[0]
    return {"rate": float(rate), "p99": float(late) * {"us": 1e-3, "ms": 1, "s": 1e3}[unit]}


def measure(folder: Path, rounds: int, seconds: int) -> dict[str, dict[str, list[float]]]:
    """Load each service, one after the other, several times."""
    single, batch = write_bodies(folder, 400_000)
    found: dict[str, dict[str, list[float]]] = {}
    for turn in range(rounds):
        for name in SERVICES:
            state = folder / f"{name}-{turn}"
            with running(name, state) as (address, ready, idle):
                one = load(address + SINGLE, single, 64, seconds)
                figures = {"ready s": ready, "idle MB": idle, "rows/s": one["rate"]}
                figures["p99 ms"] = one["p99"]
                if name != "bare":
                    figures["batches/s"] = load(address + BATCH, batch, 4, seconds)["rate"]
            for figure, value in figures.items():
                found.setdefault(name, {}).setdefault(figure, []).append(value)
            shutil.rmtree(state, ignore_errors=True)
    return found


def main() -> None:
    """Print the figures and their ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=8, help="of load per service and route")
    chosen = parser.parse_args()
    if not shutil.which("wrk"):
        raise SystemExit("wrk is not here. Install it, as in: apt-get install wrk")
    with tempfile.TemporaryDirectory(prefix="smartcity-bench-") as folder:
        found = measure(Path(folder), chosen.rounds, chosen.seconds)
    medians = {
        name: {figure: statistics.median(values) for figure, values in figures.items()}
        for name, figures in found.items()
    }
    table = Table(
        "service", *medians["ours"], title=f"Medians of {chosen.rounds} turns, one worker"
    )
    for name, figures in medians.items():
        table.add_row(name, *(f"{figures[f]:.1f}" if f in figures else "" for f in medians["ours"]))
    console = Console(width=100)
    console.print(table)
    ours, literal, bare = medians["ours"], medians["literal"], medians["bare"]
    console.print(f"single rows: ours / literal {ours['rows/s'] / literal['rows/s']:.0f}")
    console.print(f"single rows: ours / bare {ours['rows/s'] / bare['rows/s']:.2f}")
    console.print(
        f"batches of 1,000: ours / literal {ours['batches/s'] / literal['batches/s']:.1f}"
    )


if __name__ == "__main__":
    main()
