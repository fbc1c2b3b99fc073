"""Messages that wait to be delivered, and what became of the others."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import or_, select, update

from smartcity.store.database import insert, transaction
from smartcity.store.tables import deliveries


def add(rows: Sequence[dict[str, Any]], now: datetime) -> int:
    """Let messages wait; one that is there already for its run, channel and target stays.

    Args:
        rows: ``run_id``, ``report``, ``channel``, ``target``, ``kind`` and ``content`` of each.
        now: The time; they are due from then on.

    Returns:
        How many are new.

    Raises:
        DatabaseError: The database is out of reach.
    """
    fresh = {"state": "waiting", "attempts": 0, "next_at": now, "updated_at": now}
    with transaction(write=True) as connection:
        query = insert(connection, deliveries).on_conflict_do_nothing()
        return sum(connection.execute(query, dict(row) | fresh).rowcount for row in rows)


def claim(owner: str, now: datetime, until: datetime) -> dict[str, Any] | None:
    """Take the message that has been due for longest, if nobody is at it.

    Args:
        owner: Who takes it.
        now: The time.
        until: When others may take it, if nothing was noted by then.

    Returns:
        The message, this try counted in ``attempts``; None if none is due.

    Raises:
        DatabaseError: The database is out of reach.
    """
    free = or_(deliveries.c.lease_until.is_(None), deliveries.c.lease_until <= now)
    due = (deliveries.c.state == "waiting") & (deliveries.c.next_at <= now) & free
    query = select(deliveries).where(due).order_by(deliveries.c.next_at, deliveries.c.id).limit(1)
    with transaction(write=True) as connection:
        row = connection.execute(query.with_for_update(skip_locked=True)).mappings().one_or_none()
        if row is None:
            return None
        taken = {"owner": owner, "lease_until": until, "attempts": row["attempts"] + 1}
        connection.execute(update(deliveries).where(deliveries.c.id == row["id"]).values(taken))
    return dict(row) | taken


def note(
    key: int, owner: str, now: datetime, *, state: str, reason: str, next_at: datetime
) -> bool:
    """Note what became of a message and let go of it.

    Returns:
        False if it was no longer the owner's, and nothing was noted.

    Raises:
        DatabaseError: The database is out of reach.
    """
    values = {"state": state, "reason": reason, "next_at": next_at, "updated_at": now}
    mine = (deliveries.c.id == key) & (deliveries.c.owner == owner)
    change = update(deliveries).where(mine).values(**values, owner=None, lease_until=None)
    with transaction(write=True) as connection:
        return bool(connection.execute(change).rowcount)


def listed(limit: int) -> list[dict[str, Any]]:
    """List messages without what they say, the newest first.

    Raises:
        DatabaseError: The database is out of reach.
    """
    hidden = {"content", "owner", "lease_until"}
    columns = [column for column in deliveries.c if column.name not in hidden]
    query = select(*columns).order_by(deliveries.c.id.desc()).limit(limit)
    with transaction() as connection:
        return [dict(row) for row in connection.execute(query).mappings()]
