"""From the spool into the database: every line once, whatever dies in between."""

import fcntl
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TextIO
from uuid import UUID

import orjson
from pydantic import AwareDatetime, Field, FiniteFloat, TypeAdapter, ValidationError
from sqlalchemy import Connection, delete, select
from sqlalchemy.exc import StatementError
from typing_extensions import TypedDict

from smartcity import logs, settings
from smartcity.atomic import storage
from smartcity.errors import SmartCityError
from smartcity.store import answers, database, spool, tables

log = logs.get(__name__)

#: Lines of one transaction.
BATCH = 500
#: Seconds between two tries to reach a database that is away: at first, and at most.
_BACK_OFF = (0.5, 5.0)
#: Rows retention removes at a time, so that new ones need not wait.
_RETENTION_ROWS = 5000
_RETENTION_SECONDS = 3600

Name = Annotated[str, Field(min_length=1, max_length=50)]
Milliseconds = Annotated[int, Field(ge=0, lt=2**31)]


class Prediction(TypedDict):
    """A line of the spool that tells an answer."""

    kind: Literal["prediction"]
    id: UUID
    user_id: UUID | None
    model_name: Name
    model_version: Annotated[str, Field(max_length=20)]
    input_data: dict[str, Any]
    prediction: FiniteFloat
    confidence: FiniteFloat | None
    low: FiniteFloat | None
    high: FiniteFloat | None
    part: NotRequired[Annotated[str, Field(max_length=20)] | None]
    timestamp: AwareDatetime


class Metric(TypedDict):
    """A line of the spool that tells how long a request took."""

    kind: Literal["metric"]
    model_name: Name
    request_time_ms: Milliseconds
    prediction_latency_ms: Milliseconds
    timestamp: AwareDatetime


Row = dict[str, Any]
# SQLite takes what PostgreSQL refuses (long names, large numbers), so a row is checked before.
_LINE: TypeAdapter[Any] = TypeAdapter(Annotated[Prediction | Metric, Field(discriminator="kind")])


@dataclass(frozen=True)
class Imported:
    """What an import did.

    Attributes:
        rows: Lines that entered the database, as rows or in the daily sums.
        quarantined: Lines set aside, with the reason.
        files: Spool files finished and removed.
    """

    rows: int = 0
    quarantined: int = 0
    files: int = 0

    def __add__(self, other: "Imported") -> "Imported":
        """Add up two imports."""
        return Imported(
            self.rows + other.rows, self.quarantined + other.quarantined, self.files + other.files
        )


def parse(line: bytes) -> Row:
    """Read a line of the spool.

    Raises:
        ValueError: It is none; the message says why and repeats no value.
    """
    if not line.endswith(b"\n"):
        raise ValueError("it is torn: its writer died")
    try:
        row: Row = _LINE.validate_python(orjson.loads(line))
        orjson.dumps(row.get("input_data"))
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise ValueError("; ".join(faults)) from None
    except TypeError:  # it reads deeper than it writes
        raise ValueError("input_data: too deeply nested") from None
    # Taking out escaped backslashes leaves only the escapes that mean a NUL, which PostgreSQL
    # cannot keep.
    if b"\\u0000" in line and b"\\u0000" in line.replace(b"\\\\", b""):
        raise ValueError("it holds a NUL character")
    return row


def import_waiting() -> Imported:
    """Bring what waits in the spool into the database, oldest first.

    Only one process does so at a time; to a second one nothing is waiting.

    Raises:
        DatabaseError: It is out of reach. What was not imported waits on.
        StorageError: The quarantine cannot be written. What was not imported waits on.
    """
    done = Imported()
    folder = spool.place()
    if not folder.is_dir():
        return done
    with _door(folder) as door:
        if not _lock(door):
            return done
        paths = spool.files(folder)
        offsets = _offsets([path.name for path in paths])
        for path in paths:
            done += _import_file(path, offsets.get(path.name, 0))
        _tidy(folder)
    return done


@contextmanager
def paused() -> Iterator[None]:
    """Keep imports out: meanwhile each line is either in the spool or in the database.

    Raises:
        StorageError: The spool's folder cannot be written.
    """
    folder = spool.place()
    with storage(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _door(folder) as door:
        fcntl.flock(door, fcntl.LOCK_EX)
        yield


def _door(folder: Path) -> TextIO:
    """Open the file that whoever imports holds locked."""
    with storage(folder):
        return (folder / ".import").open("w")


def _lock(file: Any) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _offsets(names: list[str]) -> dict[str, int]:
    if not names:
        return {}
    known = tables.spool_files.c
    with database.transaction() as connection:
        found = connection.execute(
            select(known.name, known.imported_bytes).where(known.name.in_(names))
        )
        return {row.name: row.imported_bytes for row in found}


def _tidy(folder: Path) -> None:
    """Forget files that are finished: first in the database, then on disk.

    The other way round, a process killed in between would leave a row for ever.
    """
    for path in folder.glob("*.done"):
        with database.transaction(write=True) as connection:
            known = tables.spool_files
            connection.execute(delete(known).where(known.c.name == f"{path.stem}.jsonl"))
        with storage(path):
            path.unlink()


def _import_file(path: Path, offset: int) -> Imported:
    done = Imported()
    with storage(path), path.open("rb") as file:
        ended = _lock(file)  # nobody writes it any more; a live writer's file is read along
        end = os.fstat(file.fileno()).st_size  # a writer faster than this one has to be left
        file.seek(offset)
        while offset < end and (lines := list(islice(file, BATCH))):
            torn = None if lines[-1].endswith(b"\n") else lines.pop()
            if torn and ended:
                lines.append(torn)
            if lines:
                offset += sum(map(len, lines))
                done += _import_lines(path, lines, offset)
            if torn:
                break
        if ended:
            path.rename(path.with_suffix(".done"))
            done += Imported(files=1)
    return done


def _import_lines(path: Path, lines: list[bytes], offset: int) -> Imported:
    """Import some lines and, in the same transaction, how far the file is read now."""
    rows: list[tuple[bytes, Row]] = []
    bad: list[tuple[bytes, str]] = []
    for line in lines:
        try:
            rows.append((line, parse(line)))
        except ValueError as error:
            bad.append((line, str(error)))
    try:
        with database.transaction(write=True) as connection:
            _store(connection, [row for _, row in rows])
            _finish(connection, path, offset, bad)
    except StatementError:  # the database refused one of them: which?
        with database.transaction(write=True) as connection:
            for line, row in rows:
                try:
                    with connection.begin_nested():
                        _store(connection, [row])
                except StatementError as error:
                    bad.append((line, f"the database refused it: {type(error.orig).__name__}"))
            _finish(connection, path, offset, bad)
    return Imported(rows=len(lines) - len(bad), quarantined=len(bad))


def _store(connection: Connection, rows: list[Row]) -> None:
    groups: dict[str, list[Row]] = {"prediction": [], "metric": []}
    for row in rows:
        groups[row["kind"]].append({k: v for k, v in row.items() if k != "kind"})
    told = [{"part": None} | row for row in groups["prediction"]]
    if owners := {row["user_id"] for row in told} - {None}:
        # The lock keeps them from being erased before their answers are in.
        people = tables.users.c
        known = select(people.id).where(people.id.in_(owners))
        gone = owners - set(connection.scalars(known.with_for_update(read=True, key_share=True)))
        answers.fold(connection, [row for row in told if row["user_id"] in gone])
        told = [row for row in told if row["user_id"] not in gone]
    if told:
        statement = database.insert(connection, tables.predictions).on_conflict_do_nothing(
            index_elements=["id"]
        )
        connection.execute(statement, told)
    if groups["metric"]:
        connection.execute(tables.metrics.insert(), groups["metric"])


def _finish(
    connection: Connection, path: Path, offset: int, bad: Sequence[tuple[bytes, str]]
) -> None:
    """Set aside what cannot be imported, and note how far the file is read."""
    statement = database.insert(connection, tables.spool_files).values(
        name=path.name, imported_bytes=offset
    )
    connection.execute(
        statement.on_conflict_do_update(index_elements=["name"], set_={"imported_bytes": offset})
    )
    if not bad:
        return
    folder = path.with_name("quarantine")
    with storage(folder):
        folder.mkdir(mode=0o700, exist_ok=True)
        (folder / path.name).touch(mode=0o600)
        with (folder / path.name).open("ab") as file:
            for line, reason in bad:
                told = {"reason": reason, "line": line.decode(errors="backslashreplace")}
                file.write(orjson.dumps(told) + b"\n")
            file.flush()
            os.fsync(file.fileno())
    log.warning("lines quarantined", path=str(folder / path.name), lines=len(bad))


def follow(stop: threading.Event, every: float = 0.25) -> None:
    """Import until told to stop, or until the process that started this one is gone.

    The database is brought up to date first, and what is older than ``retention_days`` removed.
    While the database is away everything waits in the spool.

    Args:
        stop: Ends it, after one last import.
        every: Seconds between two looks.
    """
    os.nice(10)  # answering comes before keeping answers
    # Who started this one says so: by now they may be gone already.
    parent = int(os.environ.get("SMARTCITY_PARENT") or os.getppid())
    outage = _Outage()
    upgraded, due = False, 0.0
    while not stop.is_set() and os.getppid() == parent:
        pause = every
        try:
            if not upgraded:
                database.upgrade()
                upgraded = True
            import_waiting()
            if time.monotonic() >= due:
                more = answers.expire(settings.current().retention_days, _RETENTION_ROWS)
                due = 0.0 if more else time.monotonic() + _RETENTION_SECONDS
                pause = 0.0 if more else every
            outage.over()
        except SmartCityError as error:
            pause = outage.pause(error)
        stop.wait(pause)
    try:
        import_waiting()
    except SmartCityError as error:
        outage.pause(error)  # what waits is imported by whoever follows next


class _Outage:
    """How long the database has been away: said once, asked less and less often."""

    def __init__(self) -> None:
        self._next: float | None = None

    def pause(self, error: SmartCityError) -> float:
        """Tell how long to wait now."""
        if self._next is None:
            log.error("database away", reason=str(error))
            self._next = _BACK_OFF[0]
        pause, self._next = self._next, min(2 * self._next, _BACK_OFF[1])
        return pause

    def over(self) -> None:
        """Note that all went well."""
        if self._next is not None:
            log.info("database back")
            self._next = None
