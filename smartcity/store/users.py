"""People and their keys: added, shown, exported and erased, with an audit trail."""

import getpass
import hashlib
import hmac
import os
import re
import secrets
import string
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import orjson
from sqlalchemy import Connection, delete, func, or_, select, update
from sqlalchemy.exc import IntegrityError

from smartcity import atomic, logs
from smartcity.errors import UsageError, unknown
from smartcity.store import database, spool
from smartcity.store.answers import fold, foldable
from smartcity.store.database import transaction
from smartcity.store.importer import import_waiting
from smartcity.store.tables import api_keys, audit, feedback, predictions, users

log = logs.get(__name__)

#: What a key may be allowed to do.
SCOPES = ("predict", "feedback", "admin")
#: What one is allowed that names nothing.
USUAL = SCOPES[:2]
#: Seconds an erasure waits for running workers to let go of spool files with the person's lines.
_SPOOL_SECONDS = 15
_EMAIL = re.compile(r"[^@\s\x00-\x1f]+@[^@\s\x00-\x1f]+\.[^@\s\x00-\x1f]+")
_TOKEN = re.compile(r"sc_([a-z0-9]{8})_([A-Za-z0-9_-]{32,64})")


@dataclass(frozen=True)
class Key:
    """A key that was shown and is good.

    Attributes:
        id: Its public part.
        user_id: Whose it is.
        scopes: What it allows.
    """

    id: str
    user_id: UUID
    scopes: frozenset[str]


def add_user(email: str) -> UUID:
    """Add a person.

    Raises:
        UsageError: It is no address, or is there already.
        DatabaseError: The database is out of reach.
    """
    email = _address(email)
    now, key = datetime.now(UTC), uuid4()
    row = {"id": key, "email": email, "created_at": now, "updated_at": now}
    try:
        with transaction(write=True) as connection:
            connection.execute(users.insert(), row)
            _record(connection, "user added", key)
    except IntegrityError:
        raise UsageError("There is a user with this address already.") from None
    return key


def _address(email: str) -> str:
    email = email.strip().lower()
    if len(email) > 255 or not _EMAIL.fullmatch(email):
        raise UsageError("This is no email address: it looks like name@example.org")
    return email


def _find(connection: Connection, email: str) -> dict[str, Any]:
    query = select(users).where(users.c.email == _address(email))
    found = connection.execute(query.with_for_update()).mappings().one_or_none()
    if found is None:
        raise UsageError("No user has this address. List them: smartcity users list")
    return dict(found)


def _record(connection: Connection, action: str, subject: UUID | None, **details: Any) -> None:
    """Note who did what; only ``subject`` says to whom, so an erasure knows where to look."""
    try:
        actor = getpass.getuser()
    except (KeyError, OSError):  # a container may run under a number without a name
        actor = f"uid {os.getuid()}"
    row = {"at": datetime.now(UTC), "actor": actor, "action": action, "details": details}
    connection.execute(audit.insert(), row | {"subject": subject.hex if subject else None})


def list_users() -> list[dict[str, Any]]:
    """List everyone with the number of their good keys, oldest first.

    Raises:
        DatabaseError: The database is out of reach.
    """
    good = func.count(api_keys.c.id).filter(*_good())
    query = select(users, good.label("keys")).outerjoin_from(users, api_keys)
    return database.fetch(query.group_by(users.c.id).order_by(users.c.created_at))


def _good() -> tuple[Any, ...]:
    ends = api_keys.c.expires_at
    return api_keys.c.revoked_at.is_(None), or_(ends.is_(None), ends > datetime.now(UTC))


def new_key(email: str, scopes: Iterable[str] = USUAL, expires_days: float | None = None) -> str:
    """Make a key and tell it; nobody can tell it again.

    Raises:
        UsageError: There is no such user or scope.
        DatabaseError: The database is out of reach.
    """
    wanted = sorted(set(scopes))
    for scope in wanted:
        if scope not in SCOPES:
            raise unknown("scope", scope, SCOPES)
    letters = string.ascii_lowercase + string.digits
    key = "".join(secrets.choice(letters) for _ in range(8))
    secret = secrets.token_urlsafe(32)
    now = datetime.now(UTC)
    row = {
        "id": key,
        "secret_hash": _hash(secret),
        "scopes": " ".join(wanted),
        "created_at": now,
        "expires_at": now + timedelta(days=expires_days) if expires_days is not None else None,
    }
    with transaction(write=True) as connection:
        owner = _find(connection, email)["id"]
        connection.execute(api_keys.insert(), row | {"user_id": owner})
        _record(connection, "key made", owner, key=key, scopes=wanted)
    return f"sc_{key}_{secret}"


def _hash(secret: str) -> str:
    # A plain hash is enough: the secret is 256 random bits, which no dictionary holds; slow
    # hashes are for what people make up.
    return hashlib.sha256(secret.encode()).hexdigest()


def revoke(key: str) -> None:
    """Let a key be good no longer; running workers notice within seconds.

    Raises:
        UsageError: There is no such key.
        DatabaseError: The database is out of reach.
    """
    with transaction(write=True) as connection:
        found = select(api_keys.c.user_id, api_keys.c.revoked_at).where(api_keys.c.id == key)
        row = connection.execute(found).one_or_none()
        if row is None:
            raise UsageError(f"There is no key {key!r}: give the 8 characters after sc_")
        if row.revoked_at is None:
            change = update(api_keys).where(api_keys.c.id == key)
            connection.execute(change.values(revoked_at=datetime.now(UTC)))
            _record(connection, "key revoked", row.user_id, key=key)


def find_key(token: str) -> Key | None:
    """Find a key by what its owner shows, if it is good.

    Raises:
        DatabaseError: The database is out of reach.
    """
    shown = _TOKEN.fullmatch(token)
    if shown is None:
        return None
    with transaction() as connection:
        row = connection.execute(
            select(api_keys).where(api_keys.c.id == shown[1], *_good())
        ).one_or_none()
    # Compared also when there is nothing to compare with: the time taken tells nothing.
    expected = row.secret_hash if row else "0" * 64
    if not hmac.compare_digest(expected, _hash(shown[2])) or row is None:
        return None
    return Key(row.id, row.user_id, frozenset(row.scopes.split()))


def export_user(email: str) -> dict[str, Any]:
    """Give everything that is held on a person, as plain data.

    Raises:
        UsageError: There is no such user.
        DatabaseError: The database is out of reach.
    """
    import_waiting()
    with transaction(write=True) as connection:
        person = _find(connection, email)
        mine = person["id"]
        _record(connection, "user exported", mine)
        keys = [column for column in api_keys.c if column.name != "secret_hash"]
        own = select(predictions.c.id).where(predictions.c.user_id == mine)
        about = or_(feedback.c.user_id == mine, feedback.c.prediction_id.in_(own))
        queries = {
            "keys": select(*keys).where(api_keys.c.user_id == mine),
            "predictions": select(predictions).where(predictions.c.user_id == mine),
            "feedback": select(feedback).where(about),
            "audit": select(audit).where(audit.c.subject == mine.hex),
        }
        held: dict[str, Any] = {"user": person}
        for name, query in queries.items():
            held[name] = [dict(row) for row in connection.execute(query).mappings()]
    # SQLAlchemy's names are no plain strings; times and ids become text.
    return dict(orjson.loads(orjson.dumps(held, option=orjson.OPT_NON_STR_KEYS)))


def erase_user(email: str) -> dict[str, int]:
    """Remove a person and everything held on them; only daily sums stay.

    Returns:
        How many ``predictions`` and ``keys`` went, and in how many ``spool_files`` of running
        workers lines of theirs are left, which the next import counts and forgets.

    Raises:
        UsageError: There is no such user.
        DatabaseError: The database is out of reach.
    """
    import_waiting()
    with transaction(write=True) as connection:
        person = _find(connection, email)  # locked: answers that come in now wait, and then fold
        mine = person["id"]
        query = foldable().where(predictions.c.user_id == mine)
        rows = connection.execute(query.execution_options(yield_per=1000)).mappings()
        removed = fold(connection, rows)
        connection.execute(delete(predictions).where(predictions.c.user_id == mine))
        connection.execute(update(feedback).where(feedback.c.user_id == mine).values(user_id=None))
        keys = connection.execute(delete(api_keys).where(api_keys.c.user_id == mine)).rowcount
        scrubbed = update(audit).where(audit.c.subject == mine.hex)
        connection.execute(scrubbed.values(subject=None, details={}))
        connection.execute(delete(users).where(users.c.id == mine))
        _record(connection, "user erased", None, predictions=removed, keys=keys)
    marks = (mine.hex.encode(), str(person["email"]).encode())
    left = _empty_spool(marks)
    _scrub(marks)
    database.shred()
    return {"predictions": removed, "keys": keys, "spool_files": left}


def _empty_spool(marks: Sequence[bytes]) -> int:
    """Import until no spool file names a person; workers let go of theirs within seconds."""
    end = time.monotonic() + _SPOOL_SECONDS
    while True:
        import_waiting()
        left = sum(_names(path, marks) for path in [*spool.files(), *spool.place().glob("*.done")])
        if not left or time.monotonic() > end:
            return left
        time.sleep(0.2)


def _names(path: Path, marks: Sequence[bytes]) -> bool:
    try:
        with path.open("rb") as file:
            return any(_marked(line, marks) for line in file)
    except FileNotFoundError:
        return False


def _marked(line: bytes, marks: Sequence[bytes]) -> bool:
    line = line.lower()
    return any(mark in line or mark in line.replace(b"-", b"") for mark in marks)


def _scrub(marks: Sequence[bytes]) -> None:
    """Take a person's lines out of the quarantine."""
    for path in (spool.place() / "quarantine").glob("*.jsonl"):
        if _names(path, marks):
            lines = path.read_bytes().splitlines(keepends=True)
            kept = [line for line in lines if not _marked(line, marks)]
            atomic.write(path, b"".join(kept))
            if not kept:
                path.unlink()
