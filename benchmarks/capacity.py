"""What many sites cost: measured on few, checked on more, then worked out on paper.

The model is linear: a job takes what one piece takes, times the pieces, over the workers, and each
kind of job has a start that does not grow. Start and piece come from two sizes that are run here,
and are checked on a third, larger one, which had no part in them. What lies beyond that is paper.

    python benchmarks/capacity.py
    python benchmarks/capacity.py --sites 10000 --price 0.05
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import scoring
import sites as of_sites
from rich.console import Console
from rich.table import Table

from smartcity import data, domains, reporting
from smartcity.domains import ALL, MAIN
from smartcity.predict import Predictor
from smartcity.predict.files_folder import answer_folder

#: Workers here, and the hours a night has.
WORKERS, NIGHT = 2, 8.0
#: The two sizes a line is drawn through, and the one it is checked on.
SITES, ROWS = (4, 12, 24), (1_000_000, 4_000_000, 10_000_000)
DOMAIN = "energy"
console = Console(width=130)


@dataclass(frozen=True)
class Cost:
    """Seconds of a job here: what it takes to start, and for each piece."""

    start: float
    piece: float

    @classmethod
    def through(cls, sizes: tuple[int, ...], seconds: list[float]) -> "Cost":
        """Draw a line through the first two."""
        piece = (seconds[1] - seconds[0]) / (sizes[1] - sizes[0])
        return cls(seconds[0] - piece * sizes[0], piece)

    def seconds(self, pieces: float, workers: int = WORKERS) -> float:
        """Say how long so many pieces take so many workers."""
        return self.start + self.piece * pieces * WORKERS / workers


def took(job: Callable[[], object]) -> float:
    """Give the seconds a job takes."""
    began = time.perf_counter()
    job()
    return time.perf_counter() - began


def of_many(home: Path) -> tuple[list[float], list[float], float]:
    """Train and report for numbers of sites; give the seconds of each, and megabytes of a site."""
    trained, reported = [], []
    for count in SITES:
        folder = home / str(count) / "run"
        folder.mkdir(parents=True)
        of_sites.at(folder, jobs=WORKERS)
        of_sites.simulate([DOMAIN], count, 1200)
        there = data.present(domains.load(DOMAIN))[1:]
        train = partial(reporting.build, [DOMAIN], quick=True, notebooks=("02_train",))
        train(sites={DOMAIN: [MAIN, ALL]})
        job = {DOMAIN: there}
        trained.append(took(partial(train, sites=job)))
        reported.append(took(partial(reporting.fan_out, "05_report", [DOMAIN], sites=job)))
    kept = sum(path.stat().st_size for path in folder.parent.rglob("*") if path.is_file())
    return trained, reported, kept / SITES[-1] / 1e6


def of_rows(home: Path) -> list[float]:
    """Answer numbers of rows with the served air-quality model; give the seconds of each."""
    dataset, seconds = scoring.base(), []
    predictor = Predictor.load(scoring.DOMAIN)
    for rows in ROWS:
        source = home / f"rows-{rows}"
        scoring.write_rows(source, dataset, rows)
        target = home / f"answers-{rows}"
        seconds.append(took(partial(answer_folder, predictor, source, target)))
    return seconds


def main() -> None:
    """Measure, check and extrapolate."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sites", type=int, default=10_000, help="the most to work out")
    parser.add_argument("--price", type=float, default=0.05, help="of a processor's hour")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="smartcity-capacity-") as name:
        scored = of_rows(Path(name))  # by the model there is; what follows makes its own
        trained, reported, megabytes = of_many(Path(name))
    jobs = {"train, sites": (SITES, trained), "report, sites": (SITES, reported)}
    jobs["score, rows"] = (ROWS, scored)
    checked = Table("job", "sizes", "seconds", "model says", "measured", "off by")
    costs = {}
    for what, (sizes, seconds) in jobs.items():
        cost = costs[what] = Cost.through(sizes, seconds)
        said, real = cost.seconds(sizes[2]), seconds[2]
        shown = ", ".join(f"{size:,}" for size in sizes)
        times = ", ".join(f"{each:.1f}" for each in seconds)
        checked.add_row(
            what, shown, times, f"{said:.1f} s", f"{real:.1f} s", f"{said / real - 1:+.0%}"
        )
    console.print(checked)
    paper = Table(
        "sites x 3 domains", "train once", "a night's reports", "workers for the night", "GB"
    )
    for count in [each for each in (1, 100, 1000) if each < given.sites] + [given.sites]:
        pieces = 3 * count
        train, report = costs["train, sites"], costs["report, sites"]
        hours = report.piece * WORKERS * pieces / 3600
        paper.add_row(
            f"{count:,}",
            f"{train.piece * WORKERS * pieces / 3600:,.1f} worker hours",
            f"{hours:,.1f} worker hours, {hours * given.price:,.2f}",
            f"{max(1, -(-hours // NIGHT)):,.0f}",
            f"{megabytes * pieces / 1000:,.1f}",
        )
    console.print(paper)
    million = costs["score, rows"].piece * 1e6 * WORKERS
    console.print(
        f"A million predictions: {million:.1f} worker seconds, {million / 3600 * given.price:.5f} "
        f"at {given.price} for a processor's hour."
    )


if __name__ == "__main__":
    main()
