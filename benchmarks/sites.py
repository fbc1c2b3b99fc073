"""Train and report for many sites: what each costs, and whether it matters what does the work.

Sites are simulated. A model of all sites is trained, then each site's own, then each gets its
report, as ``smartcity build --sites --quick`` and a nightly fan-out do it, some at once:

* cost: seconds a site of each domain, by the clock and by the processors, the first and the last;
* memory: of this process, which plans, waits and keeps the outcomes, at the start and at the end;
* plan: the same for a thousand sites of three domains, from what the sample cost.

``--identical`` compares, on little data, sha256 sums of what threads, processes and Dask clusters
make, with 1, 2 and 4 workers: all answers and exports of a thorough search, and the models, figures
and facts of a build and a fan-out.

    python benchmarks/sites.py --sites 50
    python benchmarks/sites.py --identical
"""

import argparse
import hashlib
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from smartcity import data, domains, modelling, registry, reporting, runs, settings
from smartcity.domains import ALL, MAIN

PLANNED = 1000
FOLDERS = ("datasets", "demo", "models", "reports", "state", "logs")
#: Of a model's files and card, what must not differ; the rest tells when and by whom it was made.
CARD = ("metrics", "parts", "coverage", "gate", "novelty", "answers", "inputs", "champion")
#: Of a report's facts, what names a run or a moment.
TIMES = ("run", "previous")
console = Console(width=130)


def at(folder: Path, **more: object) -> None:
    """Let the settings point into a folder; readings are those of its parent."""
    for name in FOLDERS:
        home = folder.parent / "datasets" if name in {"datasets", "demo"} else folder / name
        os.environ[f"SMARTCITY_{name.upper()}"] = str(home)
    os.environ |= {f"SMARTCITY_{name.upper()}": str(value) for name, value in more.items()}
    settings.current.cache_clear()


def simulate(names: list[str], sites: int, rows: int) -> None:
    """Write the readings of all domains and sites."""
    for name in names:
        data.simulate(domains.load(name), rows=rows)
        for _ in data.simulate_sites(domains.load(name), sites, rows=rows):
            pass


class Watch:
    """Notes time and memory whenever a site is done."""

    def __init__(self) -> None:
        """Begin."""
        self.process, self.began = psutil.Process(), time.perf_counter()
        self.notes = [self._note()]

    def __call__(self, *_: int) -> None:
        """Note that one more is done."""
        self.notes.append(self._note())

    def _note(self) -> tuple[float, float, float]:
        """Give seconds so far, processor seconds of all that worked, and megabytes of our own."""
        return (
            time.perf_counter() - self.began,
            self._worked(),
            self.process.memory_info().rss / 2**20,
        )

    def _worked(self) -> float:
        """Add up processor seconds: our own, and those of kernels that have ended."""
        server = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
        known = [self.process, *([psutil.Process(server)] if server else [])]
        return sum(sum(each.cpu_times()[:4]) for each in known)


def tell(what: str, watch: Watch, names: list[str], table: Table) -> float:
    """Add a row for each domain; give the mean seconds of a site, all its domains."""
    sites = (len(watch.notes) - 1) // len(names)
    tenth = min(10, sites // 2)
    for place, name in enumerate(names):
        notes = watch.notes[place * sites : (place + 1) * sites + 1]
        cells, each = [], list(zip(*notes, strict=True))
        for values in each[:2]:  # by the clock, and by the processors: others may be at work too
            first = (values[tenth] - values[0]) / tenth
            last = (values[-1] - values[-1 - tenth]) / tenth
            mean = (values[-1] - values[0]) / sites
            cells += [f"{mean:.1f}", f"{first:.1f}", f"{last:.1f}", f"{last / first - 1:+.0%}"]
        table.add_row(f"{what}, {name}", *cells, f"{each[2][0]:.0f}", f"{each[2][-1]:.0f}")
    return watch.notes[-1][0] / sites


def sample(home: Path, sites: int, rows: int, jobs: int) -> None:
    """Train and report for a sample of sites; say what a thousand would take."""
    names = [*domains.load_all()]
    at(home / "sample", jobs=jobs)
    began = time.perf_counter()
    simulate(names, sites, rows)
    said = f"{sites} sites x {len(names)} domains of {rows} readings simulated in"
    console.print(f"{said} {time.perf_counter() - began:.0f} s")
    began = time.perf_counter()
    steps = reporting.build(
        names, sites={name: [MAIN, ALL] for name in names}, quick=True, notebooks=("02_train",)
    )
    said = f"main sites and models of all sites: {[step.outcome for step in steps]} in"
    console.print(f"{said} {time.perf_counter() - began:.0f} s")
    there = {name: data.present(domains.load(name))[1:] for name in names}
    table = Table("s a site", "mean", "first 10", "last 10", "change")
    for head in ("CPU: mean", "first 10", "last 10", "change", "MB: start", "end"):
        table.add_column(head)
    watch = Watch()
    trained = reporting.build(
        names, sites=there, quick=True, notebooks=("02_train",), finished=watch
    )
    train = tell("train", watch, names, table)
    watch = Watch()
    told = reporting.fan_out("05_report", names, sites=there, finished=watch)
    report = tell("report", watch, names, table)
    console.print(table)
    pairs = [(name, site) for name in names for site in there[name]]
    own = sum(registry.answering(*pair)[0] == domains.at(*pair) for pair in pairs)
    failed = [step for step in [*trained, *told] if step.outcome != "made"]
    said = f"{own} of {len(pairs)} answered by their own model, the others by that of all sites; "
    console.print(f"{said}{len(failed)} of {2 * len(pairs)} runs not made {failed[:1]}")
    plan(names, train, report, jobs)


def plan(names: list[str], train: float, report: float, jobs: int) -> None:
    """Say what a thousand sites would take, and how large the plan itself is."""
    process = psutil.Process()
    before, began = process.memory_info().rss, time.perf_counter()
    tasks = [(name, f"s{n:04d}") for n in range(PLANNED) for name in names]
    grown = (process.memory_info().rss - before) / 2**20
    console.print(
        f"{PLANNED} sites x {len(names)} domains: {len(tasks)} chains and {len(tasks)} reports, "
        f"planned in {time.perf_counter() - began:.3f} s and {grown:.1f} MB; with {jobs} at once "
        f"{train * PLANNED / 3600:.1f} h to train and {report * PLANNED / 3600:.1f} h for a "
        f"night's reports; {math.ceil(report * PLANNED * jobs / 8 / 3600)} at once take 8 h"
    )


@contextmanager
def engine(kind: str, workers: int, home: Path) -> Iterator[None]:
    """Let the settings name an engine with so many workers."""
    at(home, backend="threading" if kind == "threads" else "loky", jobs=workers, scheduler="")
    if kind != "dask":
        yield
        return
    from distributed import LocalCluster

    threads = 2 if workers == 1 else 1  # joblib sends nothing away where one thread waits
    with LocalCluster(  # type: ignore[no-untyped-call]
        n_workers=workers, threads_per_worker=threads, dashboard_address="127.0.0.1:0"
    ) as cluster:
        at(home, scheduler=cluster.scheduler_address, jobs=max(2, workers))
        yield


def searched(name: str) -> str:
    """Search thoroughly, and digest every answer and export."""
    digest = hashlib.sha256()
    trained = modelling.train(modelling.prepare(name, "s0001"))
    for search in trained.searches.values():
        for tried in search.tried.values():
            for split, answers in sorted(tried.answers.items()):
                digest.update(split.encode() + answers.tobytes())
    for part, fitted in sorted(trained.fitted.items()):
        digest.update(part.encode() + fitted.onnx)
    return digest.hexdigest()


def made(names: list[str]) -> tuple[str, str]:
    """Build and report for all sites; digest what was published, and what was stated and drawn."""
    sites = {name: [ALL, *data.present(domains.load(name))] for name in names}
    steps = reporting.build(names, sites=sites, quick=True, notebooks=("02_train",))
    models, reports = hashlib.sha256(), hashlib.sha256()
    for step in steps:
        home = settings.current().models / domains.at(step.domain, step.site) / "1.0.0"
        registry.promote(home.parent.name, "1.0.0", force="with so little data no gate is passed")
        for path in sorted([*home.glob("*.onnx"), home / "later.csv"]):
            models.update(path.name.encode() + path.read_bytes())
        card = json.loads((home / "card.json").read_bytes())
        models.update(json.dumps({name: card[name] for name in CARD}, sort_keys=True).encode())
    there = {name: data.present(domains.load(name)) for name in names}
    for step in reporting.fan_out("05_report", names, sites=there):
        if step.run is None:
            raise SystemExit(f"{step.domain} {step.site}: {step.error}")
        for told in (runs.facts(step.run), runs.figures(step.run)):
            kept = {n: v for n, v in (told or {}).items() if n not in TIMES}
            reports.update(json.dumps(kept, sort_keys=True).encode())
    return models.hexdigest(), reports.hexdigest()


def identical(home: Path, rows: int) -> bool:
    """Compare what each engine makes."""
    names, table = ["energy"], Table("", "workers", "search", "models", "reports", "s")
    at(home / "first")
    simulate(names, 1, rows)
    found: set[Any] = set()
    for kind in ("threads", "processes", "dask"):
        for workers in (1, 2, 4):
            began = time.perf_counter()
            with engine(kind, workers, home / f"{kind}-{workers}"):
                sums = (searched("energy"), *made(names))
            found.add(sums)
            told = [each[:12] for each in sums]
            table.add_row(kind, str(workers), *told, f"{time.perf_counter() - began:.0f}")
    console.print(table, f"{'identical' if len(found) == 1 else 'DIFFERENT'} on all engines")
    return len(found) == 1


def main() -> None:
    """Read the options and measure."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--sites", type=int, default=50)
    options.add_argument("--rows", type=int, default=1200, help="readings of a site")
    options.add_argument("--jobs", type=int, default=2, help="chains at the same time")
    options.add_argument("--identical", action="store_true")
    given = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="smartcity-sites-") as home:
        if given.identical:
            sys.exit(0 if identical(Path(home), 600) else 1)
        sample(Path(home), given.sites, given.rows, given.jobs)


if __name__ == "__main__":
    main()
