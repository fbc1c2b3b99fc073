"""Measure the nightly set: explore, evaluate, report for three domains, beside one script.

In turns, each in a process of its own on the same processors:

* *script*: the code of the nine notebooks, one after the other in one interpreter; nothing kept;
* *papermill*: the nine notebooks by papermill alone, one after the other; executed copies kept;
* *ours*: ``smartcity report due``'s own path, ``SMARTCITY_JOBS`` at once, with claims, records,
  pages, PDFs, tables, crates and the index.

What papermill adds to a notebook is the difference of the first two, by the notebook.

    python benchmarks/nightly.py --rounds 3
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from smartcity import domains, settings

NAMES = ("01_explore", "03_evaluate", "05_report")
SCRIPT = """
import contextlib, io, re, sys
import nbformat
from IPython.core.interactiveshell import InteractiveShell

shell = InteractiveShell.instance()
for path, domain in zip(sys.argv[1::2], sys.argv[2::2]):
    shell.reset()
    for cell in nbformat.read(path, 4).cells:
        if cell.cell_type == "code":
            source = cell.source
            if "parameters" in cell.metadata.get("tags", []):
                source = re.sub(r'(domain: str =) "\\w+"', rf'\\1 "{domain}"', source, count=1)
            with contextlib.redirect_stdout(io.StringIO()):
                shell.run_cell(source).raise_error()
"""
PAPERMILL = """
import sys
import papermill

for path, domain in zip(sys.argv[1::2], sys.argv[2::2]):
    papermill.execute_notebook(
        path, f"{path}.{domain}.out", {"domain": domain}, kernel_name="python3", progress_bar=False
    )
"""
OURS = """
from datetime import UTC, datetime, timedelta
from smartcity.reporting.due import Maker
from smartcity.store import database

database.upgrade()
Maker(now=lambda: datetime.now(UTC)).due()
made = Maker(now=lambda: datetime.now(UTC) + timedelta(days=1)).due()
assert [one.state for one in made] == ["succeeded"] * 9, made
"""
SCHEDULE = """
[nightly-{name}]
notebook = "{name}"
cron = "0 2 * * *"
"""


def timed(code: str, words: list[str], environment: dict[str, str]) -> float:
    """Run some code in a process of its own; give its seconds."""
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", code, *words],
        check=True,
        capture_output=True,
        env=os.environ | environment,
    )
    return time.perf_counter() - started


def one_round(folder: Path) -> dict[str, float]:
    """Run all three once."""
    notebooks = shutil.copytree(settings.current().notebooks, folder / "notebooks")
    reports = folder / "reports"
    reports.mkdir()
    (reports / "schedule.toml").write_text("".join(SCHEDULE.format(name=name) for name in NAMES))
    own = {"SMARTCITY_REPORTS": str(reports), "SMARTCITY_STATE": str(folder / "state")}
    words = [
        word
        for name in NAMES
        for domain in domains.load_all()
        for word in (str(notebooks / f"{name}.ipynb"), domain)
    ]
    return {
        "script": timed(SCRIPT, words, own),
        "papermill": timed(PAPERMILL, words, own),
        "ours": timed(OURS, [], own),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="how often each runs")
    rounds = parser.parse_args().rounds
    settings.current().export()
    seconds: dict[str, list[float]] = {}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory(prefix="smartcity-nightly-") as folder:
            for name, took in one_round(Path(folder)).items():
                seconds.setdefault(name, []).append(took)
    middle = {name: statistics.median(took) for name, took in seconds.items()}
    console = Console()
    told = Table("nine notebooks", "s, median", "s, least to most", "times the script")
    for name, took in seconds.items():
        span = f"{min(took):.1f} to {max(took):.1f}"
        told.add_row(name, f"{middle[name]:.1f}", span, f"{middle[name] / middle['script']:.2f}")
    console.print(told)
    added = (middle["papermill"] - middle["script"]) / (len(NAMES) * len(domains.load_all()))
    console.print(f"papermill by itself adds {added:.1f} s to a notebook.")


if __name__ == "__main__":
    main()
