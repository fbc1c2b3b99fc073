"""Who makes what was due: each time a report is due is one row, made by whoever claims it."""

import os
import socket
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

from sqlalchemy import ColumnElement, Connection, and_, false, func, or_, select, tuple_, update

from smartcity.errors import SmartCityError
from smartcity.store.database import fetch, insert, transaction
from smartcity.store.tables import due_runs, schedules

#: How long a claim is good for after it was made or renewed, where its owner cannot be looked at.
LEASE = timedelta(seconds=60)
#: Names the advisory lock that lets one process at a time decide who makes what.
_DECIDING = 0x5C18
_ROW = due_runs.c

State = Literal["waiting", "running", "succeeded", "failed", "missed", "skipped"]


class ClaimLostError(SmartCityError):
    """What was being made is somebody else's by now; nothing of it may be published."""


@dataclass(frozen=True)
class Due:
    """A time at which a report is due, for one site of a domain.

    Attributes:
        report: Entry of the schedule; the notebook, where it is made without one.
        as_of: The time, UTC.
        parameters: Digest of notebook, domain and values.
        notebook: What makes it.
        domain: For which question.
        given: Values the notebook is given, the domain apart; ``site`` unless it is the main one.
        state: ``missed`` was never begun; ``skipped`` gave way to the one before.
        attempts: Tries begun so far.
        next_at: When it may be begun; None where it will not be.
        run_id: Record of its last try.
        reason: Why it is not made; empty if it is.
        died: Whether the process that was at it the last time ended without a word.
    """

    report: str
    as_of: datetime
    parameters: str
    notebook: str
    domain: str
    given: dict[str, Any]
    state: State = "waiting"
    attempts: int = 0
    next_at: datetime | None = None
    run_id: str | None = None
    reason: str | None = None
    died: bool = False


class Only(NamedTuple):
    """The rows somebody waits for: a report's, from one moment to another."""

    report: str
    first: datetime
    last: datetime


_STORED = [field.name for field in fields(Due) if field.name != "died"]


def note(
    report: str,
    now: datetime,
    plan: Callable[[datetime, bool, set[str]], Sequence[Due]],
    stale: timedelta,
) -> None:
    """Note, once, the times a report became due since the last call; give up what is too old.

    A report that was never seen is due from now on.

    Args:
        report: Its name.
        now: The time.
        plan: Called with the moment up to which times are noted, whether the report is paused and
            the ``parameters`` that a run is under way for; gives the new rows.
        stale: How long after it was due something is still begun.

    Raises:
        DatabaseError: The database is out of reach.
    """
    with _alone() as connection:
        known = _schedule(connection, report, now)
        busy = (_ROW.state == "running") | ((_ROW.state == "waiting") & (_ROW.attempts > 0))
        found = select(_ROW.parameters).where(_ROW.report == report, busy)
        rows = plan(known["since"], known["paused"], set(connection.scalars(found)))
        _add(connection, rows, now)
        newer = (schedules.c.report == report) & (schedules.c.since < now)
        connection.execute(update(schedules).where(newer).values(since=now))
        old = or_(
            (_ROW.state == "waiting") & (_ROW.next_at < now - stale),
            (_ROW.state == "running") & (_ROW.lease_until < now - stale),
        )
        hours = stale / timedelta(hours=1)
        reason = f"It could not be made within {hours:g} hours (max_stale_hours)."
        change = update(due_runs).where(_ROW.report == report, old)
        connection.execute(change.values(_ended("missed", now, reason=reason)))


def add(rows: Sequence[Due], now: datetime, reopened: Sequence[State] = ()) -> None:
    """Let rows be made from now on; those that are there already stay as they are.

    Args:
        rows: What is to be made.
        now: The time.
        reopened: States in which one that is there is made again, its tries counted on.

    Raises:
        DatabaseError: The database is out of reach.
    """
    with _alone() as connection:
        _add(connection, [replace(row, next_at=now) for row in rows], now, reopened)


def _add(
    connection: Connection, rows: Sequence[Due], now: datetime, reopened: Sequence[State] = ()
) -> None:
    if not rows:
        return
    query = insert(connection, due_runs)
    again = {"state": "waiting", "next_at": now, "reason": None, "updated_at": now}
    key = ["report", "as_of", "parameters"]
    done = or_(false(), *(_ROW.state == state for state in reopened))
    query = query.on_conflict_do_update(index_elements=key, set_=again, where=done)
    values = [{name: getattr(row, name) for name in _STORED} | {"updated_at": now} for row in rows]
    connection.execute(query, values)


def take(
    now: datetime, jobs: int, *, resting: Collection[str] = (), only: Only | None = None
) -> Due | None:
    """Claim the oldest that may be begun; it is ours until finished, or until we are gone.

    Not begun are: what rests, unless it is asked for by ``only``; and what has a run of the same
    report and parameters under way.

    Args:
        now: The time.
        jobs: How many may be under way at once, of all processes together.
        resting: Reports that rest, beside the paused ones.
        only: What to look among; everything when None.

    Returns:
        It, with this try counted; None if there is nothing to begin, or no place.

    Raises:
        DatabaseError: The database is out of reach.
    """
    with _alone() as connection:
        running = connection.execute(select(due_runs).where(_ROW.state == "running")).all()
        others = [row for row in running if row.owner != _me()]  # a leap of the clock is no death
        dead = [row for row in others if row.lease_until < now or _is_gone(row.owner)]
        live = [row for row in running if row not in dead]
        if len(live) >= jobs:
            return None
        free = (_ROW.state == "waiting") & (_ROW.next_at <= now)
        for row in dead:
            free |= _this(row)
        taken = [(row.report, row.parameters) for row in live]
        query = select(due_runs).where(free, _within(only) if only else _awake(resting))
        query = query.where(tuple_(_ROW.report, _ROW.parameters).not_in(taken)) if taken else query
        found = connection.execute(query.order_by(_ROW.as_of, _ROW.domain).limit(1)).one_or_none()
        if found is None:
            return None
        attempts = found.attempts + 1
        mine = {"state": "running", "owner": _me(), "lease_until": now + LEASE, "next_at": None}
        mine |= {"attempts": attempts, "updated_at": now}
        connection.execute(update(due_runs).where(_this(found)).values(mine))
        stored = {name: getattr(found, name) for name in _STORED}
        stored |= {"state": "running", "attempts": attempts, "died": found.state == "running"}
        return Due(**stored)


def renew(claims: Collection[Due], now: datetime) -> None:
    """Say that we are still at it.

    Raises:
        DatabaseError: The database is out of reach.
    """
    _change(claims, {"lease_until": now + LEASE})


def confirm(claim: Due, now: datetime) -> None:
    """Make sure that a claim is still ours, and will be for a moment.

    Raises:
        ClaimLostError: Somebody else has taken it.
        DatabaseError: The database is out of reach.
    """
    if not _change([claim], {"lease_until": now + LEASE}):
        raise ClaimLostError(
            f"{claim.report} for {claim.domain!r} of {claim.as_of:%Y-%m-%d %H:%M} UTC was taken "
            "over while it was being made, as if this process had ended. It is left to the other."
        )


def finish(
    claim: Due,
    state: State,
    now: datetime,
    *,
    run_id: str | None = None,
    reason: str | None = None,
    next_at: datetime | None = None,
) -> bool:
    """Note what became of a claim and let go of it.

    Args:
        claim: It.
        state: ``waiting`` for another try.
        now: The time.
        run_id: The record that was kept.
        reason: Why it was not made.
        next_at: When the other try may begin.

    Returns:
        False if it was not ours any more; then nothing was noted.

    Raises:
        DatabaseError: The database is out of reach.
    """
    values = _ended(state, now, reason=reason) | {"run_id": run_id, "next_at": next_at}
    return _change([claim], values)


def retry_at(
    now: datetime, *, resting: Collection[str] = (), only: Only | None = None
) -> datetime | None:
    """Give the moment something that is worth waiting for may be begun; None if nothing is.

    Worth waiting for is a further try; with ``only``, everything it names that is not settled.

    Raises:
        DatabaseError: The database is out of reach.
    """
    tried = (_ROW.state == "waiting") & (_ROW.attempts > 0) & _awake(resting)
    open_ = _ROW.state.in_(["waiting", "running"])
    query = select(func.count(), func.min(_ROW.next_at))
    with transaction() as connection:
        found = query.where(open_ & _within(only) if only else tried)
        count, at = connection.execute(found).one()
    return (at or now) if count else None


def pause(report: str, now: datetime, *, paused: bool) -> None:
    """Let a report rest, or go on.

    Raises:
        DatabaseError: The database is out of reach.
    """
    with _alone() as connection:
        _schedule(connection, report, now)
        change = update(schedules).where(schedules.c.report == report).values(paused=paused)
        connection.execute(change)


def looked() -> dict[str, tuple[datetime, bool]]:
    """Tell of each report when ``report due`` last looked for it, and whether it was paused.

    Raises:
        DatabaseError: The database is out of reach.
    """
    return {row["report"]: (row["since"], row["paused"]) for row in fetch(select(schedules))}


def last(report: str) -> list[Due]:
    """Give what became of the last time a report was due, a row for each domain.

    Raises:
        DatabaseError: The database is out of reach.
    """
    newest = select(func.max(_ROW.as_of)).where(_ROW.report == report).scalar_subquery()
    query = select(due_runs).where(_ROW.report == report, _ROW.as_of == newest)
    return _rows(query.order_by(_ROW.domain))


def of(only: Only) -> list[Due]:
    """Give a report's rows from one moment to another, the oldest first.

    Raises:
        DatabaseError: The database is out of reach.
    """
    return _rows(select(due_runs).where(_within(only)).order_by(_ROW.as_of, _ROW.domain))


def _rows(query: Any) -> list[Due]:
    return [Due(**{name: row[name] for name in _STORED}) for row in fetch(query)]


@contextmanager
def _alone() -> Iterator[Connection]:
    """Decide something while nobody else does."""
    with transaction(write=True) as connection:
        if connection.dialect.name == "postgresql":  # SQLite has one writer anyway
            connection.execute(select(func.pg_advisory_xact_lock(_DECIDING)))
        yield connection


def _schedule(connection: Connection, report: str, now: datetime) -> Any:
    """Give a report's row, made if it is new."""
    fresh = {"report": report, "since": now, "paused": False}
    connection.execute(insert(connection, schedules).values(fresh).on_conflict_do_nothing())
    found = select(schedules).where(schedules.c.report == report)
    return connection.execute(found).mappings().one()


def _this(row: Any) -> ColumnElement[bool]:
    return and_(*(_ROW[name] == getattr(row, name) for name in ("report", "as_of", "parameters")))


def _ours(claim: Due) -> ColumnElement[bool]:
    # The number of the try too: this very process may have taken over from itself.
    mine = (_ROW.owner == _me()) & (_ROW.attempts == claim.attempts)
    return _this(claim) & (_ROW.state == "running") & mine


def _change(claims: Collection[Due], values: dict[str, Any]) -> bool:
    """Note something of those that are still ours; tell whether any is."""
    with transaction(write=True) as connection:
        changes = [update(due_runs).where(_ours(claim)).values(values) for claim in claims]
        return sum(connection.execute(change).rowcount for change in changes) > 0


def _awake(resting: Collection[str]) -> ColumnElement[bool]:
    paused = select(schedules.c.report).where(schedules.c.paused)
    return _ROW.report.not_in(paused) & _ROW.report.not_in(resting)


def _within(only: Only) -> ColumnElement[bool]:
    return (_ROW.report == only.report) & _ROW.as_of.between(only.first, only.last)


def _ended(state: State, now: datetime, *, reason: str | None) -> dict[str, Any]:
    free: dict[str, Any] = {"owner": None, "lease_until": None, "next_at": None}
    return free | {"state": state, "reason": reason, "updated_at": now}


@cache
def _host() -> str:
    """Name what numbers its processes by itself: a machine, or a container."""
    try:
        numbered = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        numbered = ""
    return f"{socket.gethostname()} {numbered}"


def _me() -> str:
    return f"{_host()}:{os.getpid()}:{_started(os.getpid())}"


def _is_gone(owner: str) -> bool:
    """Tell whether a claim's owner has ended, as far as can be seen from here."""
    host, pid, started = owner.rsplit(":", 2)
    if host != _host():
        return False  # its lease tells
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return _started(int(pid)) != started  # the number went to another


def _started(pid: int) -> str:
    """Give the tick at which a process began; empty if it has ended, or where none can be had."""
    try:
        told = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if told[0] in "ZX" else told[19]
