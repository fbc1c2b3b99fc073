"""Alarms and what people made of them: one row for each episode, from notice to end."""

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Any, Literal

from sqlalchemy import Connection, func, select, update

from smartcity.errors import unknown
from smartcity.store.database import insert, transaction
from smartcity.store.tables import alarms, schedules

State = Literal["new", "acknowledged", "silenced", "over"]
#: What alarms that go on may be, and what they may be about: as ``drift.Kind``, or a model.
STATES: tuple[State, ...] = ("new", "acknowledged", "silenced")
KINDS = ("stuck", "bursts", "silent", "outage", "step", "drift", "model")
#: What comes back within this time was never over: nobody is told of it twice.
AGAIN = timedelta(hours=24)
#: Name under which the last look for alarms is kept beside those for reports.
_LOOK = "@alarms"
#: Names the advisory lock that lets one process at a time note alarms.
_NOTING = 0x5C19
_ROW = alarms.c


@dataclass(frozen=True)
class Noticed:
    """Something that is wrong now.

    Attributes:
        subject: What it is about: an input, or a version and its part.
        kind: One of ``KINDS``.
        since: When it began, by the station's clock.
        said: What it is, in a sentence.
        advice: What to do.
    """

    subject: str
    kind: str
    since: str
    said: str
    advice: str


@dataclass(frozen=True)
class Alarm(Noticed):
    """The same as it is kept.

    Attributes:
        id: By which people name it.
        noticed_at: When it was first noticed, UTC.
        over_at: When it was noticed to be over.
        acknowledged_at: When somebody said to have seen it; ``acknowledged_by`` says who, ``note``
            what they made of it.
        silenced_until: Until when nobody is to be told of it.
    """

    id: str
    domain: str
    site: str
    noticed_at: datetime
    over_at: datetime | None = None
    acknowledged_at: datetime | None = None
    acknowledged_by: str | None = None
    note: str | None = None
    silenced_until: datetime | None = None

    def state(self, now: datetime) -> State:
        """Say what became of it by now; only ``new`` ones wait for somebody."""
        if self.over_at:
            return "over"
        if self.silenced_until and self.silenced_until > now:
            return "silenced"
        return "acknowledged" if self.acknowledged_at else "new"


_STORED = [field.name for field in fields(Alarm)]


def note(
    domain: str, site: str, found: Sequence[Noticed], now: datetime, unsure: Collection[str] = ()
) -> list[Alarm]:
    """Note what is wrong with a domain's site; what was and is not any more is over.

    Args:
        domain: The question.
        site: Which of its sites.
        found: All that is wrong now.
        now: The time.
        unsure: Subjects of which it is not known whether they still are wrong; they stay.

    Returns:
        What was not known before, and is not silenced.

    Raises:
        DatabaseError: The database is out of reach.
    """
    here = (_ROW.domain == domain) & (_ROW.site == site)
    with transaction(write=True) as connection:
        if connection.dialect.name == "postgresql":  # SQLite has one writer anyway
            connection.execute(select(func.pg_advisory_xact_lock(_NOTING)))
        late = _ROW.over_at.is_(None) | (_ROW.over_at > now - AGAIN)
        known = {(a.subject, a.kind): a for a in _read(connection, here & late)}
        quiet = {
            (a.subject, a.kind): a.silenced_until
            for a in _read(connection, here & (_ROW.silenced_until > now))
        }
        fresh = []
        for each in found:
            key, told = (each.subject, each.kind), vars(each)
            if before := known.pop(key, None):
                _change(connection, before.id, **told, over_at=None)
                continue
            about = f"{domain} {site} {key} {now.isoformat()}"
            name = hashlib.sha256(about.encode()).hexdigest()[:8]
            fresh.append(Alarm(**told, id=name, domain=domain, site=site, noticed_at=now))
            row = vars(fresh[-1]) | {"silenced_until": quiet.get(key)}
            connection.execute(insert(connection, alarms).values(row))
        for (subject, _), before in known.items():
            if before.over_at is None and subject not in unsure:
                _change(connection, before.id, over_at=now)
    return [alarm for alarm in fresh if (alarm.subject, alarm.kind) not in quiet]


def listed(*, everything: bool = False) -> list[Alarm]:
    """List the alarms that go on, or all there ever were, the newest first.

    Raises:
        DatabaseError: The database is out of reach.
    """
    with transaction() as connection:
        return _read(connection, _ROW.id.is_not(None) if everything else _ROW.over_at.is_(None))


def get(name: str) -> Alarm:
    """Give the alarm of that id.

    Raises:
        UsageError: There is none; the message lists those that go on.
        DatabaseError: The database is out of reach.
    """
    with transaction() as connection:
        if found := _read(connection, _ROW.id == name):
            return found[0]
    raise unknown("alarm", name, [alarm.id for alarm in listed()])


def acknowledge(name: str, now: datetime, who: str, said: str) -> Alarm:
    """Note that somebody has seen an alarm, and what they make of it.

    Raises:
        UsageError: There is no such alarm.
        DatabaseError: The database is out of reach.
    """
    get(name)
    with transaction(write=True) as connection:
        _change(connection, name, acknowledged_at=now, acknowledged_by=who, note=said)
    return get(name)


def silence(name: str, until: datetime | None) -> Alarm:
    """Let nobody be told of an alarm, nor of another like it, for a while; None ends that.

    Raises:
        UsageError: There is no such alarm.
        DatabaseError: The database is out of reach.
    """
    get(name)
    with transaction(write=True) as connection:
        _change(connection, name, silenced_until=until)
    return get(name)


def turn(now: datetime, every: timedelta) -> bool:
    """Say whether it is time to look for alarms again: of all who ask, to one.

    Raises:
        DatabaseError: The database is out of reach.
    """
    first = {"report": _LOOK, "since": now, "paused": False}
    late = (schedules.c.report == _LOOK) & (schedules.c.since <= now - every)
    with transaction(write=True) as connection:
        made = insert(connection, schedules).values(first).on_conflict_do_nothing()
        if connection.execute(made.returning(schedules.c.report)).first():
            return True
        return bool(connection.execute(update(schedules).where(late).values(since=now)).rowcount)


def looked_at() -> datetime | None:
    """Say when alarms were last looked for by the schedule; None if they never were.

    Raises:
        DatabaseError: The database is out of reach.
    """
    query = select(schedules.c.since).where(schedules.c.report == _LOOK)
    with transaction() as connection:
        return connection.execute(query).scalar_one_or_none()


def _read(connection: Connection, which: Any) -> list[Alarm]:
    query = select(*(_ROW[name] for name in _STORED)).where(which)
    newest = query.order_by(_ROW.noticed_at.desc(), _ROW.domain, _ROW.subject)
    return [Alarm(**row) for row in connection.execute(newest).mappings()]


def _change(connection: Connection, name: str, **values: object) -> None:
    connection.execute(update(alarms).where(_ROW.id == name).values(values))
