"""Replay the real air readings with seeded faults and without: what is found, when, wrongly.

The watch learns from the first six months; what it says after them is judged. *Without faults*,
every event is an alarm nobody put there, though the readings have faults of their own. *With
faults*, one sensor that reads, and is not under an alarm, gets one of five at a random time:

* *stuck*: its last value for ever; *bursts*: missing for 2 to 8 hours, again and again;
* *step*: 15 % more; *slow*: 2 % more each week; *swapped*: it and another change places.

Found is what names the sensor (of two swapped, one) within four weeks, twelve for *slow*, and is
not said without the fault.

The readings are replayed a second time with their days in reverse order: the same sensors in
another course of the seasons, on which less was tuned. Stretches where a sensor reads nothing, or
the same, are plain in the file and so are counted apart.

Evidently's default (each column by the test it chooses, the whole by half of the columns) is asked
about each week beside the first six months, in an environment made for it. What it says of a week
that has ended counts as said then, if it does not say so without the fault.

    python benchmarks/drift.py --trials 100 --seed 1000 --evidently
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from smartcity import data, domains
from smartcity.monitoring import drift

AIR = domains.load("air_quality")
MISSING, NAMES = AIR.format.sentinel, [spec.name for spec in drift.sensors(AIR)]
VENV = Path(__file__).parent / ".venv-drift"
#: It needs what pandas 3 no longer has.
EVIDENTLY = ("evidently==0.7.23", "pandas==2.3.3")
KINDS = ("stuck", "step", "slow", "bursts", "swapped")
WEEKS = {"slow": 12}
Outcome = tuple[float | None, bool, bool]
Seen = set[tuple[str, str, pd.Timestamp]]


def fault(
    frame: pd.DataFrame, kind: str, names: list[str], onset: pd.Timestamp, dice: np.random.Generator
) -> tuple[pd.DataFrame, set[str]]:
    """Put a fault into a copy of readings; the first of the names gets it, or the first two."""
    faulty, name = frame.copy(), names[0]
    late = (faulty["recorded_at"] >= onset).to_numpy()
    read = late & (faulty[name] != MISSING).to_numpy()
    weeks = (faulty["recorded_at"] - onset) / pd.Timedelta(weeks=1)
    if kind == "stuck":
        before = faulty.loc[~late & (faulty[name] != MISSING), name]
        faulty.loc[read, name] = before.iloc[-1]
    elif kind == "step":
        faulty.loc[read, name] *= 1.15
    elif kind == "slow":
        faulty.loc[read, name] *= 1 + 0.02 * weeks[read]
    elif kind == "bursts":
        row = int(np.argmax(late))
        while row < len(faulty):
            length = int(dice.integers(2, 9))
            faulty.loc[faulty.index[row : row + length], name] = MISSING
            row += length + int(dice.integers(3, 13))
    else:
        faulty.loc[late, names[:2]] = faulty.loc[late, names[1::-1]].to_numpy()
    return faulty, set(names[: 2 if kind == "swapped" else 1])


def seen(events: list[drift.Event]) -> Seen:
    """Give who was named, for what, and when."""
    return {(a.sensor, a.kind, a.since) for event in events for a in event.alarms}


@dataclass(frozen=True)
class Trial:
    """A fault in the readings, which end when it had to be found."""

    kind: str
    whose: set[str]
    onset: pd.Timestamp
    readings: pd.DataFrame


def made(seed: int, frame: pd.DataFrame, clean: list[drift.Event], split: pd.Timestamp) -> Trial:
    """Make one fault, in a sensor that reads and is not under an alarm."""
    dice = np.random.default_rng(seed)
    kind = KINDS[seed % len(KINDS)]
    weeks = pd.Timedelta(weeks=WEEKS.get(kind, 4))
    last = frame["recorded_at"].max() - weeks
    onset = split + (last - split) * dice.random()
    open_now = {a.sensor for e in clean for a in e.alarms if a.since <= onset <= (a.until or onset)}
    around = frame[abs(frame["recorded_at"] - onset) < pd.Timedelta(days=2)]
    names = [
        name for name in NAMES if name not in open_now and (around[name] != MISSING).mean() > 0.5
    ]
    faulty, whose = fault(frame, kind, [str(n) for n in dice.permutation(names)], onset, dice)
    return Trial(kind, whose, onset, faulty[faulty["recorded_at"] <= onset + weeks])


def found(trial: Trial, clean: list[drift.Event]) -> Outcome:
    """Look for a fault: hours until its sensor was named, whether first, whether the pair was."""
    known = seen(clean)
    for event in drift.watch(AIR, trial.readings):
        new = [a for a in event.alarms if (a.sensor, a.kind, a.since) not in known]
        mine = [a for a in new if a.sensor in trial.whose and a.since >= trial.onset]
        if mine:
            hours = (min(a.since for a in mine) - trial.onset) / pd.Timedelta(hours=1)
            pair = event.swapped is not None and set(event.swapped) == trial.whose
            return hours, event.alarms[0].sensor in trial.whose, pair
    return None, False, False


def backwards(frame: pd.DataFrame) -> pd.DataFrame:
    """Put the days in reverse order, each as it was, weekends on weekends."""
    days = frame["recorded_at"].dt.normalize()
    turned = days.min() + (days.max() - days)
    sunday = turned[days.dt.day_of_week == 6].iloc[0].day_of_week
    turned += pd.Timedelta(days=(5 - sunday) % 7)
    at = turned + (frame["recorded_at"] - days)
    return frame.assign(recorded_at=at).sort_values("recorded_at", ignore_index=True)


def replay(out: Console, name: str, frame: pd.DataFrame) -> tuple[list[drift.Event], float]:
    """Watch readings without faults put in, and say what was told after their first six months."""
    split, last = six_months(frame), frame["recorded_at"].max()
    began = time.perf_counter()
    clean = drift.watch(AIR, frame)
    took = time.perf_counter() - began
    years = len(NAMES) * (last - split) / pd.Timedelta(days=365)
    later = [event for event in clean if event.since >= split]
    for event in later:
        what = ", ".join(f"{a.sensor} {a.kind}" for a in event.alarms[:3])
        plain = " - plain in the file" if is_plain(event) else ""
        out.print(f"{name}: {event.since:%Y-%m-%d %H:%M} {what} ({len(event.alarms)}){plain}")
    false = sum(not is_plain(event) for event in later)
    year = took * pd.Timedelta(days=365) / (last - frame["recorded_at"].min())
    out.print(
        f"{name}: {len(later)} events in {years:.2f} sensor-years, {len(later) / years:.2f} each; "
        f"without what is plain in the file {false}, {false / years:.2f} each. "
        f"{len(frame)} readings watched in {took:.1f} s, a year's would take {year:.1f} s"
    )
    return clean, years


def is_plain(event: drift.Event) -> bool:
    """Tell whether an event says no more than anybody sees in the file: nothing, or the same."""
    return all(alarm.size is None for alarm in event.alarms)


def six_months(frame: pd.DataFrame) -> pd.Timestamp:
    """Give the end of the first six months."""
    return frame["recorded_at"].min() + pd.DateOffset(months=6)


def summary(title: str, trials: list[Trial], outcomes: list[Outcome]) -> Table:
    """Lay out what was found of each kind of fault."""
    table = Table("fault", "found", "median hours", "named first", "pair", "missed", title=title)
    rows = [(trial, *outcome) for trial, outcome in zip(trials, outcomes, strict=True)]
    for kind in (*KINDS, "all"):
        mine = [row for row in rows if kind in {row[0].kind, "all"}]
        hours = [row[1] for row in mine if row[1] is not None]
        missed = Counter("/".join(sorted(row[0].whose)) for row in mine if row[1] is None)
        table.add_row(
            kind,
            f"{len(hours)} of {len(mine)}",
            f"{statistics.median(hours):.0f}" if hours and kind != "all" else "",
            str(sum(row[2] for row in mine)),
            str(sum(row[3] for row in mine)) if kind == "swapped" else "",
            ", ".join(f"{name} {n}" for name, n in missed.items()) if kind != "all" else "",
        )
    return table


def prepare() -> None:
    """Make Evidently's environment, unless it is there and as it should be."""
    mark, uv = VENV / ".ready", str(Path(sys.executable).with_name("uv"))
    wanted = "\n".join(EVIDENTLY)
    if not mark.is_file() or mark.read_text(encoding="utf-8") != wanted:
        subprocess.run([uv, "venv", "--quiet", "--clear", VENV], check=True)
        install = [uv, "pip", "install", "--quiet", f"--python={VENV}/bin/python"]
        subprocess.run([*install, *EVIDENTLY], check=True)
        mark.write_text(wanted, encoding="utf-8")


def weeks_of(readings: pd.DataFrame, split: pd.Timestamp) -> dict[int, pd.DataFrame]:
    """Cut readings after the first six months into whole weeks."""
    week = (readings["recorded_at"] - split) // pd.Timedelta(weeks=1)
    whole = (readings["recorded_at"].max() - split) // pd.Timedelta(weeks=1)
    values = readings[NAMES].replace(MISSING, np.nan)
    return {int(n): values[week == n] for n in range(whole)}


def evidently(out: Console, frame: pd.DataFrame, trials: list[Trial], years: float) -> None:
    """Ask Evidently's default about the same weeks, and print it by the same rules."""
    prepare()
    split = six_months(frame)
    asked = {f"clean {n}": rows for n, rows in weeks_of(frame, split).items()}
    for number, trial in enumerate(trials):
        first = (trial.onset - split) // pd.Timedelta(weeks=1)
        late = {n: rows for n, rows in weeks_of(trial.readings, split).items() if n >= first}
        # Of each column alone: those without the fault are as they were.
        asked |= {f"{number} {n}": rows[sorted(trial.whose)] for n, rows in late.items()}
    with tempfile.TemporaryDirectory(prefix="smartcity-bench-") as folder:
        early = frame[frame["recorded_at"] < split]
        early[NAMES].replace(MISSING, np.nan).to_csv(f"{folder}/reference.csv", index=False)
        windows = pd.concat([rows.assign(window=key) for key, rows in asked.items()])
        windows.to_csv(f"{folder}/windows.csv", index=False)
        command = [f"{VENV}/bin/python", Path(__file__).with_name("evidently_default.py"), folder]
        told = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    ends = {key: split + pd.Timedelta(weeks=int(key.split()[1]) + 1) for key in asked}
    columns = {key: set(names) for key, names in told.items()}
    for key in asked:
        kind, n = key.split()
        if kind != "clean":
            columns[key] |= columns[f"clean {n}"] - trials[int(kind)].whose
    for what, least in (("a column has", 1), ("half of the columns have", len(NAMES) / 2)):
        says = {key: names if len(names) >= least else set() for key, names in columns.items()}
        outcomes = list[Outcome]()
        for number, trial in enumerate(trials):
            hits = [
                (ends[key] - trial.onset) / pd.Timedelta(hours=1)
                for key in asked
                if key.split()[0] == str(number)
                and trial.whose & (says[key] - says[f"clean {key.split()[1]}"])
            ]
            outcomes.append((min(hits, default=None), False, False))
        out.print(summary(f"Evidently's default, weekly: {what} drifted", trials, outcomes))
        weeks = [says[f"clean {n}"] for n in range(len(weeks_of(frame, split)))]
        begun = [now - before for before, now in pairwise([set[str](), *weeks])]
        events, alarms = sum(map(bool, begun)), sum(map(len, begun))
        out.print(
            f"without faults: {events} events in {years:.2f} sensor-years, {events / years:.2f} "
            f"each, of {alarms} alarms; {sum(map(bool, weeks))} of {len(weeks)} weeks say something"
        )


def main() -> None:
    """Run the replays and print what came of them."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--trials", type=int, default=100, help="Faults to put in (100)")
    options.add_argument("--seed", type=int, default=0, help="Of the first (0)")
    options.add_argument("--evidently", action="store_true", help="Ask Evidently beside it")
    given, out = options.parse_args(), Console(width=110)
    frame = data.read("air_quality").frame
    clean, years = replay(out, "without faults", frame)
    replay(out, "the days in reverse order", backwards(frame))
    seeds = range(given.seed, given.seed + given.trials)
    trials = [made(seed, frame, clean, six_months(frame)) for seed in seeds]
    out.print(summary(f"Seeds from {given.seed}", trials, [found(t, clean) for t in trials]))
    if given.evidently:
        evidently(out, frame, trials, years)


if __name__ == "__main__":
    main()
