"""Replay the real air readings with seeded faults and without: what is found, when, wrongly.

The watch learns from the first six months; what it says after them is judged. *Without faults*,
every event is an alarm nobody put there, though the readings have faults of their own. *With
faults*, one sensor that reads, and is not under an alarm, gets one of five at a random time:

* *stuck*: its last value for ever; *bursts*: missing for 2 to 8 hours, again and again;
* *step*: 15 % more; *slow*: 2 % more each week; *swapped*: it and another change places.

Found is what names the sensor (of two swapped, one) within four weeks, twelve for *slow*, and is
not said without the fault.

    python benchmarks/drift.py --trials 100
"""

import argparse
import statistics
import time
from collections import defaultdict

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from smartcity import data, domains
from smartcity.monitoring import drift

KINDS = ("stuck", "step", "slow", "bursts", "swapped")
WEEKS = {"slow": 12}
Outcome = tuple[str, list[str], float | None, bool, bool]
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


def trial(seed: int, frame: pd.DataFrame, clean: list[drift.Event], split: pd.Timestamp) -> Outcome:
    """Make one fault and look for it: kind, sensor, hours until it was found, named first."""
    dice, domain = np.random.default_rng(seed), domains.load("air_quality")
    kind = KINDS[seed % len(KINDS)]
    weeks = pd.Timedelta(weeks=WEEKS.get(kind, 4))
    last = frame["recorded_at"].max() - weeks
    onset = split + (last - split) * dice.random()
    open_now = {a.sensor for e in clean for a in e.alarms if a.since <= onset <= (a.until or onset)}
    around = frame[abs(frame["recorded_at"] - onset) < pd.Timedelta(days=2)]
    names = [
        spec.name
        for spec in drift.sensors(domain)
        if spec.name not in open_now and (around[spec.name] != MISSING).mean() > 0.5
    ]
    faulty, whose = fault(frame, kind, [str(n) for n in dice.permutation(names)], onset, dice)
    faulty = faulty[faulty["recorded_at"] <= onset + weeks]
    known = seen(clean)
    for event in drift.watch(domain, faulty):
        new = [a for a in event.alarms if (a.sensor, a.kind, a.since) not in known]
        mine = [a for a in new if a.sensor in whose and a.since >= onset]
        if mine:
            first = min(a.since for a in mine)
            named = event.alarms[0].sensor in whose
            pair = event.swapped is not None and set(event.swapped) == whose
            return kind, sorted(whose), (first - onset) / pd.Timedelta(hours=1), named, pair
    return kind, sorted(whose), None, False, False


def main() -> None:
    """Run the replays and print what came of them."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--trials", type=int, default=100, help="Faults to put in (100)")
    options.add_argument("--seed", type=int, default=0, help="Of the first (0)")
    given = options.parse_args()
    domain, out = domains.load("air_quality"), Console()
    frame = data.read("air_quality").frame
    split = frame["recorded_at"].min() + pd.DateOffset(months=6)
    began = time.perf_counter()
    clean = drift.watch(domain, frame)
    took = time.perf_counter() - began
    later = [event for event in clean if event.since >= split]
    span = frame["recorded_at"].max() - split
    years = len(drift.sensors(domain)) * span / pd.Timedelta(days=365)
    for event in later:
        what = ", ".join(f"{a.sensor} {a.kind}" for a in event.alarms[:3])
        out.print(f"without faults: {event.since:%Y-%m-%d %H:%M} {what} ({len(event.alarms)})")
    out.print(
        f"{len(later)} events in {years:.2f} sensor-years: {len(later) / years:.2f} a sensor-year; "
        f"{len(frame)} readings watched in {took:.1f} s"
    )
    results = defaultdict(list)
    for seed in range(given.seed, given.seed + given.trials):
        kind, *rest = trial(seed, frame, clean, split)
        results[kind].append(rest)
    table = Table("fault", "found", "median hours", "named first", "pair named", "not found")
    for kind in KINDS:
        rows = results[kind]
        hours = [hours for _, hours, _, _ in rows if hours is not None]
        table.add_row(
            kind,
            f"{len(hours)} of {len(rows)}",
            f"{statistics.median(hours):.0f}" if hours else "-",
            str(sum(named for *_, named, _ in rows)),
            str(sum(pair for *_, pair in rows)) if kind == "swapped" else "",
            ", ".join("/".join(whose) for whose, h, _, _ in rows if h is None),
        )
    out.print(table)
    found = sum(h is not None for rows in results.values() for _, h, _, _ in rows)
    out.print(f"{found} of {given.trials} found")


MISSING = domains.load("air_quality").format.sentinel
if __name__ == "__main__":
    main()
