"""Remove runs nobody needs any more, as each report's ``keep`` says; the last good one stays."""

import shutil
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import groupby
from typing import NamedTuple

from smartcity import atomic, logs, registry
from smartcity.reporting import index, schedule
from smartcity.reporting.schedule import Keep
from smartcity.runs import Run

log = logs.get(__name__)


class Goes(NamedTuple):
    """A run that is to go, and why."""

    run: Run
    why: str


#: What is kept of runs nobody put on the schedule.
BY_HAND = Keep(count=100)


def due(now: datetime) -> list[Goes]:
    """Say which of the runs there are go by what the schedule keeps.

    Raises:
        UsageError: The schedule does not fit.
    """
    keeps = {name: entry.keep for name, entry in schedule.read().items()}
    return plan(index.everything(), keeps, BY_HAND, now)


def plan(
    kept: Iterable[Run], keeps: Mapping[str, Keep], otherwise: Keep, now: datetime
) -> list[Goes]:
    """Say which runs are to go.

    Args:
        kept: The runs there are.
        keeps: What each entry of the schedule keeps.
        otherwise: What is kept of runs that belong to no entry.
        now: The time, with a zone.

    Returns:
        The runs to remove, the oldest last. Of each report, notebook and site the newest good run
        stays whatever its age; so does every run that made a model still there.
    """

    def whose(run: Run) -> tuple[str, str, str]:
        return run.notebook, run.name, run.report if run.report in keeps else ""

    going = []
    for (_, _, report), group in groupby(sorted(kept, key=lambda r: (*whose(r), r.id)), whose):
        newest = list(group)[::-1]
        keep = keeps.get(report, otherwise)
        good = next((run for run in newest if run.status == "succeeded"), None)
        for place, run in enumerate(newest):
            why = _why(run, place, keep, now)
            if why and run is not good and not registry.of_run(run.name, run.id):
                going.append(Goes(run, why))
    return going


def _why(run: Run, place: int, keep: Keep, now: datetime) -> str | None:
    """Say why a run is to go, or None; the newest of its kind has place 0."""
    if keep.count is not None and place >= keep.count:
        return f"{keep.count} newer ones are kept"
    made = datetime.fromisoformat(run.started_at)
    if keep.days is not None and made < now - timedelta(days=keep.days):
        return f"older than {keep.days} days"
    return None


def remove(going: Sequence[Goes]) -> None:
    """Remove runs, each as a whole: it is there until none of it is shown any more."""
    for run, why in going:
        hidden = run.folder.with_name(f".tmp-{run.id}-removed")
        with atomic.storage(run.folder):
            run.folder.rename(hidden)
        shutil.rmtree(hidden, ignore_errors=True)  # what is left, the next sweep takes
        log.info("run removed", run=run.id, notebook=run.notebook, domain=run.domain, why=why)
    if going:
        index.write()
