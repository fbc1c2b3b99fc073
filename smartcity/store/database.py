"""The database: where it is, how it is reached, brought up to date and checked."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import orjson
from sqlalchemy import (
    URL,
    Connection,
    Engine,
    Select,
    Table,
    create_engine,
    event,
    func,
    make_url,
    select,
    text,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from smartcity import logs, settings
from smartcity.atomic import lock, storage
from smartcity.errors import SmartCityError, UsageError
from smartcity.store import tables

log = logs.get(__name__)

#: Seconds a statement waits for another process to let go of the SQLite file.
BUSY_SECONDS = 5
_SAFE_MODES = ("require", "verify-ca", "verify-full")
#: Names the advisory lock that lets one process at a time migrate a PostgreSQL database.
_MIGRATING = 0x5C17
_MISSING = ("no such table", "no such column", "UndefinedTable", "UndefinedColumn")


class DatabaseError(SmartCityError):
    """The database cannot be reached, is damaged, or is not what this version expects."""


def address() -> URL:
    """Say which database the settings mean.

    Raises:
        UsageError: It is none we can use, or its network connection would be open to others.
    """
    known = settings.current()
    if known.database_url is None:
        return file(known.state / "smartcity.db")
    return parse(known.database_url.get_secret_value())


def file(path: Path) -> URL:
    """Give the address of a SQLite file."""
    return URL.create("sqlite", database=str(path))


def parse(text: str) -> URL:
    """Read the address of a database, as ``SMARTCITY_DATABASE_URL`` gives it.

    Raises:
        UsageError: It is none we can use, or its network connection would be open to others.
    """
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        # from None, and no details: they would repeat the password
        raise UsageError(
            "SMARTCITY_DATABASE_URL cannot be read. It looks like "
            "postgresql://user:password@host/name; write special characters as %40 and so on."
        ) from None
    if url.drivername in {"sqlite", "sqlite+pysqlite"} and url.database not in {None, ":memory:"}:
        return url
    if url.drivername in {"postgres", "postgresql", "postgresql+psycopg"}:
        return _encrypted(url.set(drivername="postgresql+psycopg"))
    raise UsageError(
        f"SMARTCITY_DATABASE_URL starts with {url.drivername!r}, which does not work here. "
        "What does: postgresql://user:password@host/name and sqlite:////path/of/a/file"
    )


def _encrypted(url: URL) -> URL:
    """Insist that what leaves this machine is encrypted, to a server that proves its name."""
    query = dict(url.query)
    asked = [url.host or query.get("host") or os.environ.get("PGHOST", ""), query.get("hostaddr")]
    hosts = [host for part in asked if part for host in _split(part)]
    local = all(h in {"localhost", "::1"} or h.startswith(("127.", "/", "@")) for h in hosts)
    if local and "service" not in query:
        return url
    mode = query.get("sslmode")
    if mode is None:
        return url.update_query_dict({"sslmode": "verify-full", "sslrootcert": "system"})
    if mode in _SAFE_MODES:
        return url
    raise UsageError(
        f"SMARTCITY_DATABASE_URL has sslmode={mode}, with which people's data may cross the "
        f"network readable to others. Use one of {', '.join(_SAFE_MODES)}, or leave it out for "
        "verify-full."
    )


def _split(hosts: str | tuple[str, ...]) -> list[str]:
    return hosts.split(",") if isinstance(hosts, str) else list(hosts)


def where(url: URL) -> str:
    """Name a database without its password or options, for messages."""
    bare = URL.create(url.drivername, url.username, None, url.host, url.port, url.database)
    return bare.render_as_string()


def programs(url: URL) -> tuple[str, dict[str, str]]:
    """Write a PostgreSQL address as its programs take it, and its secret as their variable."""
    secret = url.password or url.query.get("password")
    query = {k: v for k, v in url.query.items() if k not in {"password", "sslpassword"}}
    bare = URL.create("postgresql", url.username, None, url.host, url.port, url.database, query)
    return bare.render_as_string(), {"PGPASSWORD": str(secret)} if secret else {}


def engine(at: URL | None = None) -> Engine:
    """Give this process's connections to the database, or to another; nothing is opened yet.

    Raises:
        UsageError: The settings mean none we can use.
        DatabaseError: The driver is not installed.
    """
    return _engine(at or address(), os.getpid())  # connections must not be shared with a fork


@lru_cache(maxsize=8)
def _engine(url: URL, process: int) -> Engine:
    del process
    # Parameters hold people's data; they have no place in a message or a log.
    common: dict[str, Any] = {"hide_parameters": True, "json_deserializer": orjson.loads}
    common |= {"json_serializer": lambda value: orjson.dumps(value).decode()}
    if url.get_backend_name() == "sqlite":
        made = create_engine(url, connect_args={"timeout": BUSY_SECONDS}, **common)
        event.listen(made, "connect", _prepare)
        event.listen(made, "begin", _begin)
        return made
    # What else is secret leaves the URL: an engine shows all of it but the password.
    secret = {name: url.query[name] for name in ("password", "sslpassword") if name in url.query}
    known = url.difference_update_query(secret)
    # A server that vanished would otherwise be waited for by the quarter of an hour.
    limits = {"connect_timeout": "3", "tcp_user_timeout": "10000", "keepalives_idle": "30"}
    known = known.update_query_dict({k: v for k, v in limits.items() if k not in known.query})
    try:
        return create_engine(known, pool_pre_ping=True, connect_args=secret, **common)
    except ModuleNotFoundError:
        raise DatabaseError(
            f"No driver for {where(url)} is installed: pip install 'smartcity[postgres]'"
        ) from None


def close(at: URL | None = None) -> None:
    """Close this process's connections, or those to another database; the next use opens new."""
    engine(at).dispose()
    if at is None:
        _engine.cache_clear()


def insert(connection: Connection, table: Table) -> Any:
    """Begin an INSERT that can say what to do ON CONFLICT, which each database has for itself."""
    dialects = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
    return dialects[connection.dialect.name](table)


def _prepare(connection: Any, _: object) -> None:
    connection.isolation_level = None  # the driver's own idea of when to begin is not ours
    for pragma in (
        "journal_mode=WAL",
        "synchronous=NORMAL",
        "foreign_keys=ON",
        "secure_delete=ON",  # what is erased is overwritten, not only unlinked
    ):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin(connection: Connection) -> None:
    if begin := connection.get_execution_options().get("begin", "BEGIN"):
        connection.exec_driver_sql(begin)


@contextmanager
def transaction(*, write: bool = False, at: URL | None = None) -> Iterator[Connection]:
    """Do all of it or nothing, in the settings' database or another.

    Raises:
        DatabaseError: The database is out of reach, locked or not up to date.
    """
    # SQLite: a transaction that reads first and writes later fails at once if another wrote in
    # between; one that says so at its beginning waits its turn.
    begin, url = "BEGIN IMMEDIATE" if write else "BEGIN", at or address()
    if not write and url.get_backend_name() == "sqlite" and not Path(str(url.database)).exists():
        # To open it would make an empty one.
        raise DatabaseError(f"Database {where(url)} is not there yet: smartcity db upgrade")
    with (
        _explained(at),
        engine(at).connect() as connection,
        connection.execution_options(begin=begin).begin(),
    ):
        yield connection


def fetch(query: Select[Any]) -> list[dict[str, Any]]:
    """Read all rows a query finds.

    Raises:
        DatabaseError: The database is out of reach, locked or not up to date.
    """
    with transaction() as connection:
        return [dict(row) for row in connection.execute(query).mappings()]


@contextmanager
def _explained(at: URL | None = None) -> Iterator[None]:
    """Turn the database's errors into ours, but for a row's that it refused."""
    url = at or address()
    try:
        if url.get_backend_name() == "sqlite":
            folder = Path(str(url.database)).absolute().parent
            with storage(folder):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        yield
    except (IntegrityError, DataError):
        raise
    except (DBAPIError, PoolTimeoutError) as error:
        cause = getattr(error, "orig", None) or error
        told = (str(cause).strip().splitlines() or [type(cause).__name__])[0]
        missing = any(sign in f"{type(cause).__name__} {told}" for sign in _MISSING)
        remedy = (
            "Its tables are missing or old: smartcity db upgrade"
            if missing
            else "Check that it runs and can be reached, then try again: smartcity db check"
        )
        raise DatabaseError(f"Database {where(url)}: {told}. {remedy}") from None


def _alembic() -> Any:
    """Give Alembic's configuration; there is no ini file."""
    from alembic.config import Config

    config = Config()
    migrations = str(Path(__file__).with_name("migrations")).replace("%", "%%")
    config.set_main_option("script_location", migrations)
    return config


def _revisions(connection: Connection) -> tuple[str | None, list[str]]:
    """Tell which migration a database is at, and all there are, oldest first."""
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    known = ScriptDirectory.from_config(_alembic()).walk_revisions()
    current = MigrationContext.configure(connection).get_current_revision()
    return current, [script.revision for script in known][::-1]


def upgrade(revision: str = "head") -> list[str]:
    """Bring the database up to date; safe when several processes do so at once.

    Args:
        revision: Which migration to stop at; tests start from old ones.

    Returns:
        The migrations applied; none if there was nothing to do.

    Raises:
        DatabaseError: It is out of reach, or was made by a newer version.
    """
    from alembic import command

    url, config = address(), _alembic()
    with _explained(), _migrating(url) as connection:
        before, known = _revisions(connection)
        if before is not None and before not in known:
            raise DatabaseError(
                f"Database {where(url)} is at revision {before}, which this version does not "
                "know. Install the SmartCity version that made it, or a newer one."
            )
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
        after, _ = _revisions(connection)
    applied = known[known.index(before) + 1 if before else 0 : known.index(str(after)) + 1]
    if applied:
        log.info("database upgraded", database=where(url), revisions=applied)
    return applied


@contextmanager
def _migrating(url: URL) -> Iterator[Connection]:
    """Hold the database for one migration, in one transaction."""
    with engine().connect() as connection:
        if url.get_backend_name() != "sqlite":
            with connection.begin():
                connection.execute(select(func.pg_advisory_xact_lock(_MIGRATING)))
                yield connection
            return
        # Copying a table ends with dropping the old one, which would delete what refers to it.
        driver = connection.connection.driver_connection
        assert driver is not None  # noqa: S101  # it is connected
        driver.execute("PRAGMA foreign_keys=OFF")
        try:
            write = connection.execution_options(begin="BEGIN IMMEDIATE")
            with lock(Path(str(url.database)).absolute().parent), write.begin():
                yield connection
        finally:
            driver.execute("PRAGMA foreign_keys=ON")


def check() -> list[str]:
    """Look for what is wrong with the database; nothing is changed.

    Returns:
        One sentence per problem, none if all is well.
    """
    from alembic.autogenerate import compare_metadata
    from alembic.runtime.migration import MigrationContext

    problems = []
    try:
        with transaction() as connection:
            current, known = _revisions(connection)
            if current != known[-1]:
                problems.append(
                    f"It is at revision {current or 'none'}, this version needs {known[-1]}: "
                    "smartcity db upgrade"
                )
            else:
                drift = compare_metadata(MigrationContext.configure(connection), tables.metadata)
                problems += [f"It differs from what the migrations make: {d!r}" for d in drift]
            if connection.dialect.name == "sqlite":
                for pragma in ("integrity_check", "foreign_key_check"):
                    found = connection.execute(text(f"PRAGMA {pragma}")).all()
                    problems += [f"{pragma}: {tuple(row)}" for row in found if row[0] != "ok"]
    except DatabaseError as error:
        problems.append(str(error))
    return problems


def shred() -> None:
    """Leave no byte of what was removed in a SQLite file; PostgreSQL vacuums by itself.

    Raises:
        DatabaseError: It is out of reach.
    """
    with _explained(), engine().connect() as connection:
        if connection.dialect.name != "sqlite":
            return
        alone = connection.execution_options(begin="")  # neither works inside a transaction
        alone.exec_driver_sql("VACUUM")
        end = time.monotonic() + BUSY_SECONDS
        while alone.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").scalar():
            if time.monotonic() > end:  # someone reads on and on
                log.warning("write-ahead log not emptied yet", database=where(address()))
                return
            time.sleep(0.05)
