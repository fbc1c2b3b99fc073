"""What was answered: found again, compared with what was observed, summed up and forgotten."""

import base64
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from itertools import islice
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import Connection, case, delete, func, literal, or_, select, tuple_, union_all
from sqlalchemy.exc import IntegrityError

from smartcity import domains
from smartcity.errors import UsageError
from smartcity.store import tables
from smartcity.store.database import fetch, insert, transaction
from smartcity.store.tables import daily, feedback, metrics, predictions

Row = dict[str, Any]
#: Larger observations are mistakes, and their squares would spoil every sum.
_LARGEST = 1e100
#: Answers asked about, noted or fetched in one go.
_AT_ONCE = 500
#: What is told of an answer.
TOLD = (
    *("id", "model_version", "part", "timestamp"),
    *("prediction", "low", "high", "confidence", "observed"),
)
_SUMS = ("predictions", "observed", "abs_error", "squared_error", "correct")


def get_prediction(key: UUID) -> Row | None:
    """Find an answer by its id.

    Raises:
        DatabaseError: The database is out of reach.
    """
    found = fetch(select(predictions).where(predictions.c.id == key))
    return found[0] if found else None


def page(
    user_id: UUID | None, model_name: str | None = None, before: str | None = None, limit: int = 100
) -> tuple[list[Row], str | None]:
    """List the answers someone got, newest first.

    Args:
        user_id: Whose; None for those given without a key.
        model_name: Of one model only.
        before: Cursor from the page before; None for the first.
        limit: Most rows.

    Returns:
        The rows, ``observed`` among them, and the cursor of the next page or None.

    Raises:
        UsageError: The cursor is none of ours.
        DatabaseError: The database is out of reach.
    """
    columns = predictions.c
    query = select(predictions, feedback.c.observed).outerjoin_from(predictions, feedback)
    query = query.where(columns.user_id == user_id)
    if model_name is not None:
        query = query.where(columns.model_name == model_name)
    if before is not None:
        moment, key = _read_cursor(before)
        last = tuple_(literal(moment, columns.timestamp.type), literal(key, columns.id.type))
        query = query.where(tuple_(columns.timestamp, columns.id) < last)
    query = query.order_by(columns.timestamp.desc(), columns.id.desc()).limit(limit + 1)
    rows = fetch(query)
    more = len(rows) > limit
    rows = rows[:limit]
    return rows, _cursor(rows[-1]) if more and rows else None


def _cursor(row: Row) -> str:
    text = f"{row['timestamp'].isoformat()} {row['id'].hex}"
    return base64.urlsafe_b64encode(text.encode()).decode()


def _read_cursor(cursor: str) -> tuple[datetime, UUID]:
    try:
        moment, key = base64.urlsafe_b64decode(cursor.encode()).decode().split()
        return datetime.fromisoformat(moment).astimezone(UTC), UUID(key)
    except ValueError:
        raise UsageError(
            "The cursor is not one that a page gave; leave it out for the first page."
        ) from None


def add_feedback(
    prediction_id: UUID, observed: float, user_id: UUID | None
) -> Literal["created", "same", "different", "unknown"]:
    """Note what was really observed, once per answer.

    Args:
        prediction_id: The answer.
        observed: The truth.
        user_id: Who says so; another person's answer is unknown to them.

    Returns:
        ``created``; ``same`` if it was said before; ``different`` if something else was, which
        stays; ``unknown`` if there is no such answer.

    Raises:
        UsageError: ``observed`` is no number a measurement could give.
        DatabaseError: The database is out of reach.
    """
    if not abs(observed) <= _LARGEST:
        raise UsageError(f"observed must be a number between {-_LARGEST:g} and {_LARGEST:g}.")
    mine = or_(predictions.c.user_id.is_(None), predictions.c.user_id == user_id)
    try:
        with transaction(write=True) as connection:
            asked = select(predictions.c.id).where(predictions.c.id == prediction_id, mine)
            if connection.execute(asked).first() is None:
                return "unknown"
            return _note(connection, {prediction_id: observed}, user_id)[prediction_id]
    except IntegrityError:
        return "unknown"  # it was erased in between


def _note(
    connection: Connection, truths: Mapping[UUID, float], user_id: UUID | None
) -> dict[UUID, Literal["created", "same", "different"]]:
    """Note truths of answers that are there; what was said before stays."""
    common = {"user_id": user_id, "created_at": datetime.now(UTC)}
    rows = [{"prediction_id": key, "observed": value} | common for key, value in truths.items()]
    statement = insert(connection, feedback).values(rows).on_conflict_do_nothing()
    made = set(connection.scalars(statement.returning(feedback.c.prediction_id)))
    asked = select(feedback.c.prediction_id, feedback.c.observed)
    said = dict(connection.execute(asked.where(feedback.c.prediction_id.in_(truths))).all())
    return {
        key: "created" if key in made else "same" if said[key] == value else "different"
        for key, value in truths.items()
    }


def observe(truths: Mapping[UUID, float]) -> tuple[int, dict[UUID, str]]:
    """Note what the operator knows of anybody's answers: all of it, or nothing at all.

    Args:
        truths: Answer -> what was observed.

    Returns:
        How many had no truth before, and what is wrong with the others; if anything is, nothing
        was noted.

    Raises:
        DatabaseError: The database is out of reach.
    """
    known, created, faults = domains.load_all(), 0, dict[UUID, str]()
    keys = iter(truths)
    with transaction(write=True) as connection:
        while some := list(islice(keys, _AT_ONCE)):
            asked = select(predictions.c.id, predictions.c.model_name)
            # Locked: none of them can be erased before its truth is in.
            asked = asked.with_for_update(read=True, key_share=True)
            names = dict(connection.execute(asked.where(predictions.c.id.in_(some))).all())
            good = {}
            for key in some:
                target = known[names[key]].target if names.get(key) in known else None
                fault = target.problem(truths[key]) if target else "no answer of this id is kept"
                if fault:
                    faults[key] = fault
                else:
                    good[key] = truths[key]
            for key, outcome in (_note(connection, good, None) if good else {}).items():
                created += outcome == "created"
                if outcome == "different":
                    faults[key] = "another value was observed already; it stays"
        if faults:
            connection.rollback()
    return 0 if faults else created, faults


def unobserved(model_name: str) -> Iterator[tuple[UUID, Row]]:
    """Go through a model's answers that say which time they speak of and have no truth yet.

    Returns:
        Their ids and their inputs, ``timestamp`` among them.

    Raises:
        DatabaseError: The database is out of reach.
    """
    query = (
        select(predictions.c.id, predictions.c.input_data)
        .outerjoin_from(predictions, feedback)
        .where(
            predictions.c.model_name == model_name,
            feedback.c.prediction_id.is_(None),
            predictions.c.input_data["timestamp"].as_string().is_not(None),
        )
    )
    with transaction() as connection:
        for row in connection.execute(query.execution_options(yield_per=_AT_ONCE)):
            yield row.id, row.input_data


def told(
    model_name: str, since: datetime | None = None, *, observed: bool = False
) -> Iterator[tuple[Any, ...]]:
    """Go through a model's answers, oldest first, each beside what was observed, if anything.

    Args:
        model_name: The model.
        since: Leave out answers made before.
        observed: Leave out those whose truth is not known yet.

    Returns:
        The columns ``TOLD``.

    Raises:
        DatabaseError: The database is out of reach.
    """
    query = (
        select(*(predictions.c[name] for name in TOLD[:-1]), feedback.c.observed)
        .join_from(predictions, feedback, isouter=not observed)
        .where(predictions.c.model_name == model_name, predictions.c.timestamp.is_not(None))
        .order_by(predictions.c.timestamp, predictions.c.id)
    )
    if since is not None:
        query = query.where(predictions.c.timestamp >= since)
    with transaction() as connection:
        yield from connection.execute(query.execution_options(yield_per=_AT_ONCE))


def live_accuracy() -> dict[str, dict[str, float]]:
    """Compare answers with what was observed, removed ones included.

    Returns:
        For each model ``observed``, how many, and its ``mae`` and ``rmse``, or for a
        classification its ``accuracy``.

    Raises:
        DatabaseError: The database is out of reach.
    """
    error = predictions.c.prediction - feedback.c.observed
    right = case((error == 0, 1), else_=0)
    each = (literal(1), func.abs(error), error * error, right)
    named = [value.label(name) for name, value in zip(_SUMS[1:], each, strict=True)]
    model = func.coalesce(predictions.c.model_name, "").label("model_name")
    kept = select(model, *named).join_from(feedback, predictions).where(error.is_not(None))
    removed = select(daily.c.model_name, *(daily.c[name] for name in _SUMS[1:]))
    both = union_all(kept, removed).subquery().c
    sums = select(both.model_name, *(func.sum(both[name]) for name in _SUMS[1:]))
    known, results = domains.load_all(), dict[str, dict[str, float]]()
    with transaction() as connection:
        for name, *numbers in connection.execute(sums.group_by(both.model_name)):
            count, absolute, squared, correct = map(float, numbers)
            if not count:
                continue
            results[name] = {"observed": int(count)}
            domain = known.get(domains.apart(name)[0])
            if domain and domain.task == "classification":
                results[name] |= {"accuracy": correct / count}
            else:
                results[name] |= {"mae": absolute / count, "rmse": math.sqrt(squared / count)}
    return results


def counts() -> dict[str, int]:
    """Count the rows of each table.

    Raises:
        DatabaseError: The database is out of reach.
    """
    with transaction() as connection:
        return {
            table.name: connection.scalar(select(func.count()).select_from(table)) or 0
            for table in tables.metadata.sorted_tables
        }


def fold(connection: Connection, rows: Iterable[Mapping[Any, Any]]) -> int:
    """Add answers that are about to go to the daily sums, and count them.

    Args:
        connection: The transaction that removes them.
        rows: Answers with ``model_name, model_version, timestamp, prediction``, and ``observed``
            where it is known.
    """
    sums: dict[tuple[str, str, date], list[float]] = defaultdict(lambda: [0] * 5)
    for row in rows:
        day = row["timestamp"].astimezone(UTC).date() if row["timestamp"] else date(1970, 1, 1)
        total = sums[row["model_name"] or "", row["model_version"] or "", day]
        total[0] += 1
        if row.get("observed") is not None and row["prediction"] is not None:
            error = row["prediction"] - row["observed"]
            for at, more in enumerate((1, abs(error), error * error, int(error == 0)), start=1):
                total[at] += more
    for (name, version, day), total in sorted(sums.items()):  # one order: no deadlocks
        key = {"model_name": name, "model_version": version, "day": day}
        values = dict(zip(_SUMS, total, strict=True))
        added = {column: daily.c[column] + value for column, value in values.items()}
        statement = insert(connection, daily).values(key | values)
        connection.execute(statement.on_conflict_do_update(index_elements=list(key), set_=added))
    return int(sum(total[0] for total in sums.values()))


def foldable() -> Any:
    """Select what ``fold`` needs of stored answers, for this transaction alone to remove."""
    names = ("id", "model_name", "model_version", "timestamp", "prediction")
    chosen = [predictions.c[name] for name in names]
    query = select(*chosen, feedback.c.observed).outerjoin_from(predictions, feedback)
    return query.with_for_update(of=predictions)


def expire(days: int, limit: int) -> bool:
    """Remove answers older than some days, their feedback, and old metrics; daily sums stay.

    Args:
        days: How long they are kept; 0 keeps all.
        limit: Most rows of each kind removed now.

    Returns:
        Whether there may be more.

    Raises:
        DatabaseError: The database is out of reach.
    """
    if not days:
        return False
    oldest = datetime.now(UTC) - timedelta(days=days)
    moment = predictions.c.timestamp
    with transaction(write=True) as connection:
        query = foldable().where(moment < oldest).order_by(moment).limit(limit)
        rows = connection.execute(query).mappings().all()
        fold(connection, rows)
        old = predictions.c.id.in_([row["id"] for row in rows])
        connection.execute(delete(predictions).where(old))  # feedback goes with them
    with transaction(write=True) as connection:
        # Rows come in about the order of time, so the first are the oldest; there is no index.
        first = select(metrics.c.id).order_by(metrics.c.id).limit(limit).scalar_subquery()
        gone = connection.execute(
            delete(metrics).where(metrics.c.id.in_(first), metrics.c.timestamp < oldest)
        )
        return limit in {len(rows), gone.rowcount}
