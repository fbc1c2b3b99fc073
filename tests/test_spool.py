"""The spool and its import: nothing that was acknowledged is lost, and nothing is kept twice."""

import logging
import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
import pytest
from conftest import Postgres, eventually, forget
from sqlalchemy import insert, select

from smartcity.errors import StorageError
from smartcity.store import answers, importer, tables
from smartcity.store import database as store
from smartcity.store.importer import Imported, import_waiting
from smartcity.store.spool import Spool, SpoolFullError, files, waiting

FORK = multiprocessing.get_context("fork")


def prediction(**changes: Any) -> bytes:
    row = {
        "kind": "prediction",
        "id": uuid4().hex,
        "user_id": None,
        "model_name": "air_quality",
        "model_version": "1.0.0",
        "input_data": {"C6H6_GT": 11.9},
        "prediction": 1.2,
        "confidence": 0.9,
        "low": 0.8,
        "high": 1.9,
        "timestamp": "2026-11-23T20:00:00.123Z",
    } | changes
    return orjson.dumps(row) + b"\n"


def metric(number: int) -> bytes:
    """Make a line whose number tells it from all others: metrics have no id of their own."""
    row = {"kind": "metric", "model_name": "traffic", "request_time_ms": number}
    row |= {"prediction_latency_ms": 0, "timestamp": datetime.now(UTC).isoformat()}
    return orjson.dumps(row) + b"\n"


def spooled(*lines: bytes) -> None:
    """Write lines as a process does that then ends."""
    spool = Spool()
    for line in lines:
        spool.add(line)
    spool.close()


def numbers() -> list[int]:
    with store.transaction() as connection:
        return sorted(connection.scalars(select(tables.metrics.c.request_time_ms)))


def kept() -> list[dict[str, Any]]:
    with store.transaction() as connection:
        return [dict(row) for row in connection.execute(select(tables.predictions)).mappings()]


def quarantined(home: Path) -> list[dict[str, str]]:
    found = sorted((home / "state" / "spool" / "quarantine").glob("*"))
    return [orjson.loads(line) for path in found for line in path.read_bytes().splitlines()]


def until(done: Callable[[], bool], seconds: float = 15) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


@contextmanager
def following(every: float = 0.02) -> Iterator[threading.Event]:
    stop = threading.Event()
    thread = threading.Thread(target=importer.follow, args=(stop, every))
    thread.start()
    try:
        yield stop
    finally:
        stop.set()
        thread.join(30)
        assert not thread.is_alive()


def test_what_is_spooled_is_found_in_the_database(database: str, home: Path) -> None:
    line = prediction(model_name="energy", low=None, high=None)
    spooled(line, metric(7) + metric(8))

    assert import_waiting() == Imported(rows=3, quarantined=0, files=1)

    [row] = kept()
    known = orjson.loads(line)
    assert row["id"].hex == known["id"]
    assert row["timestamp"] == datetime(2026, 11, 23, 20, 0, 0, 123000, tzinfo=UTC)
    same = ("model_name", "model_version", "input_data", "prediction", "confidence", "low", "high")
    assert {name: row[name] for name in same} == {name: known[name] for name in same}
    assert numbers() == [7, 8]
    assert import_waiting() == Imported()
    assert answers.counts()["spool_files"] == 0
    assert [path.name for path in (home / "state" / "spool").iterdir()] == [".import"]


def test_a_live_writers_lines_come_in_once_while_it_writes_on(database: str, home: Path) -> None:
    spool = Spool()
    spool.add(metric(1))
    assert import_waiting() == Imported(rows=1)
    spool.add(metric(2) + metric(3))
    assert import_waiting() == Imported(rows=2)
    assert import_waiting() == Imported()
    assert len(files()) == 1, "its writer holds it"

    spool.rotate()
    spool.add(metric(4))
    assert import_waiting() == Imported(rows=1, files=1)

    spool.close()
    assert import_waiting() == Imported(files=1)
    assert numbers() == [1, 2, 3, 4]


def test_the_same_answer_twice_is_kept_once(database: str, home: Path) -> None:
    line = prediction()

    spooled(line, line)
    spooled(line)
    import_waiting()

    assert len(kept()) == 1


def test_files_are_left_to_the_importer_within_a_second_or_so(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smartcity.store.spool._TICK", 0.05)
    monkeypatch.setenv("SMARTCITY_SYNC_SECONDS", "0.05")
    forget()
    store.upgrade()
    spool = Spool()
    spool.add(metric(1))

    until(lambda: import_waiting().files == 1, 3)

    assert files() == []
    spool.close()
    store.close()


@pytest.mark.parametrize(("seconds", "times"), [("0", 3), ("0.05", 1), ("60", 0)])
def test_a_disk_is_asked_to_hold_lines_as_often_as_set(
    seconds: str, times: int, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMARTCITY_SYNC_SECONDS", seconds)
    forget()
    calls: list[int] = []
    real = os.fsync

    def count(file: int) -> None:
        calls.append(file)
        real(file)

    monkeypatch.setattr(os, "fsync", count)
    spool = Spool()
    for number in range(3):
        spool.add(metric(number))
    if seconds != "0":
        time.sleep(0.3)

    assert len(calls) == times
    spool.close()
    assert len(calls) == times + 1


def test_every_forked_worker_has_a_file_of_its_own(home: Path) -> None:
    store.upgrade()
    spool = Spool()
    spool.add(metric(0))

    def work(number: int) -> None:
        spool.add(metric(number))
        os._exit(0)

    workers = [FORK.Process(target=work, args=(number,)) for number in (1, 2, 3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()

    assert len(files()) == 4
    assert import_waiting() == Imported(rows=4, files=3)
    spool.close()
    assert import_waiting() == Imported(files=1)
    assert numbers() == [0, 1, 2, 3]
    store.close()


def test_a_child_that_lives_on_does_not_hold_its_parents_file(home: Path) -> None:
    store.upgrade()
    spool = Spool()
    spool.add(metric(0))
    child = FORK.Process(target=time.sleep, args=(60,))
    child.start()
    spool.close()

    eventually(lambda: import_waiting().files == 1)  # once the child has come to itself

    child.kill()
    child.join()
    store.close()


def test_threads_never_mix_their_lines(home: Path) -> None:
    store.upgrade()
    spool = Spool()

    def work(first: int) -> None:
        for number in range(first, first + 500):
            spool.add(metric(number) + metric(number + 10_000))
            if not number % 50:
                spool.rotate()

    threads = [threading.Thread(target=work, args=(first * 1000,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    spool.close()

    assert import_waiting().quarantined == 0
    written = {first * 1000 + n for first in range(4) for n in range(500)}
    assert numbers() == sorted(written | {number + 10_000 for number in written})
    store.close()


def test_a_torn_line_of_a_dead_writer_is_set_aside(database: str, home: Path) -> None:
    folder = home / "state" / "spool"
    folder.mkdir(parents=True)
    (folder / "1-2-3.jsonl").write_bytes(metric(1) + prediction()[:50])

    assert import_waiting() == Imported(rows=1, quarantined=1, files=1)

    [told] = quarantined(home)
    assert "torn" in told["reason"]
    assert told["line"].startswith('{"kind":"prediction"')
    assert numbers() == [1]


def test_a_line_still_being_written_is_left_for_later(database: str, home: Path) -> None:
    spool = Spool()
    spool.add(metric(1))
    [path] = files()
    line = metric(2)
    with path.open("ab") as file:
        file.write(line[:20])
    assert import_waiting() == Imported(rows=1)
    with path.open("ab") as file:
        file.write(line[20:])

    assert import_waiting() == Imported(rows=1)
    assert numbers() == [1, 2]
    spool.close()


POISON = {
    "no JSON": b"{oops\n",
    "no object": b"[1]\n",
    "empty": b"\n",
    "not UTF-8": b'{"kind":"\xff"}\n',
    "NaN": prediction().replace(b"11.9", b"NaN"),
    "infinity": prediction().replace(b"1.2,", b"1e999,"),
    "surrogate": prediction().replace(b"air_quality", b"\\ud800"),
    "unknown kind": prediction(kind="rumour"),
    "NUL": prediction(input_data={"note": "a\x00b"}),
    "NUL in a key": prediction(input_data={"a\x00b": 1}),
    "NUL in a name": prediction(model_name="a\x00b"),
    "long name": prediction(model_name="x" * 51),
    "long version": prediction(model_version="1" * 21),
    "no id": prediction(id="abc"),
    "no zone": prediction(timestamp="2026-11-23T20:00:00"),
    "no time": prediction(timestamp=None),
    "text as number": prediction(prediction="high"),
    "large number": metric(2**31),
    "deep": prediction(input_data={"a": 1}).replace(b'{"a":1}', b'{"a":' * 400 + b"1" + b"}" * 400),
}


@pytest.mark.parametrize("bad", POISON.values(), ids=POISON.keys())
def test_what_cannot_be_kept_is_set_aside_and_the_rest_goes_on(
    bad: bytes, database: str, home: Path
) -> None:
    spooled(metric(1), bad, prediction(), metric(2))

    assert import_waiting() == Imported(rows=3, quarantined=1, files=1)

    assert numbers() == [1, 2]
    assert len(kept()) == 1
    [told] = quarantined(home)
    assert told["reason"]
    assert told["line"] == bad.decode(errors="backslashreplace")
    assert import_waiting() == Imported()


def test_an_escaped_backslash_is_no_nul(database: str, home: Path) -> None:
    spooled(prediction(input_data={"path": "c:\\u0000"}))

    assert import_waiting().rows == 1
    assert kept()[0]["input_data"] == {"path": "c:\\u0000"}


def test_a_row_only_the_database_refuses_is_found(
    database: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Should a check before the database be missing, the database still decides row by row."""
    real = importer.parse

    def careless(line: bytes) -> dict[str, Any]:
        return real(line) | ({"timestamp": "yesterday"} if b"energy" in line else {})

    monkeypatch.setattr(importer, "parse", careless)
    spooled(metric(1), prediction(model_name="energy"), metric(2), prediction())

    assert import_waiting() == Imported(rows=3, quarantined=1, files=1)
    assert numbers() == [1, 2]
    assert [row["model_name"] for row in kept()] == ["air_quality"]
    assert "the database refused it" in quarantined(home)[0]["reason"]


def test_answers_to_someone_erased_only_count(database: str, home: Path) -> None:
    here = uuid4()
    with store.transaction(write=True) as connection:
        connection.execute(insert(tables.users), {"id": here, "email": "a@b.org"})
    gone = uuid4().hex
    spooled(prediction(user_id=gone), prediction(user_id=here.hex), prediction(user_id=gone))

    assert import_waiting() == Imported(rows=3, quarantined=0, files=1)

    assert [row["user_id"] for row in kept()] == [here]
    with store.transaction() as connection:
        [day] = connection.execute(select(tables.daily)).mappings()
    assert (day["predictions"], str(day["day"])) == (2, "2026-11-23")
    assert quarantined(home) == []


def test_a_spool_at_its_limit_refuses_and_recovers(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMARTCITY_SPOOL_MB", "1")
    monkeypatch.setattr("smartcity.store.spool._TICK", 0.05)
    forget()
    store.upgrade()
    spool = Spool()
    line = prediction(input_data={"x": "y" * 100_000})
    accepted = 0
    while accepted < 20 and not refused(spool, line):
        accepted += 1
    with pytest.raises(SpoolFullError, match="SMARTCITY_SPOOL_MB"):
        spool.add(line)
    assert accepted == 10
    assert waiting() == accepted * len(line)

    spool.rotate()
    import_waiting()
    until(lambda: not refused(spool, metric(1)), 3)
    spool.close()
    store.close()


def refused(spool: Spool, line: bytes) -> bool:
    try:
        spool.add(line)
    except SpoolFullError:
        return True
    return False


def test_another_process_counts_towards_the_limit(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMARTCITY_SPOOL_MB", "1")
    monkeypatch.setattr("smartcity.store.spool._TICK", 0.05)
    forget()
    spool = Spool()
    spool.add(metric(1))
    other = Spool()
    other.add(b"x" * 1024 * 1000 + b"\n")

    time.sleep(0.3)

    with pytest.raises(SpoolFullError):
        spool.add(prediction(input_data={"x": "y" * 50_000}))
    spool.close()
    other.close()


def test_half_a_write_leaves_no_half_line(
    database: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool()
    spool.add(metric(1))
    real = os.write
    lines = metric(2) + metric(3)

    def short(file: int, data: bytes) -> int:
        return real(file, data[: len(metric(2)) + 5])

    monkeypatch.setattr(os, "write", short)
    with pytest.raises(SpoolFullError, match="No space left"):
        spool.add(lines)
    monkeypatch.setattr(os, "write", real)
    assert import_waiting() == Imported(rows=1, files=1), "only what was acknowledged"

    until(lambda: not refused(spool, metric(4)), 3)
    spool.close()
    import_waiting()
    assert numbers() == [1, 4]
    assert quarantined(home) == []


def test_lines_read_before_they_were_taken_back_hide_no_later_ones(
    database: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool()
    spool.add(metric(1))
    real = os.write

    def short(file: int, data: bytes) -> int:
        written = real(file, metric(2) + b"{")
        import_waiting()  # the importer comes by at the worst moment
        return written

    monkeypatch.setattr(os, "write", short)
    with pytest.raises(SpoolFullError):
        spool.add(metric(2) + metric(3))
    monkeypatch.setattr(os, "write", real)
    until(lambda: not refused(spool, metric(4)), 3)
    spool.close()
    import_waiting()

    assert {1, 4} <= set(numbers()), "all that was acknowledged"
    assert len(numbers()) == len(set(numbers()))


def test_a_full_disk_refuses_whole_lines(home: Path) -> None:
    """Write to a disk of one megabyte until it is full, then make room."""
    folder = home / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.getuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a small disk; the test above stands in")
    try:
        spool = Spool(folder / "spool")
        accepted = 0
        while accepted < 100 and not refused(spool, prediction(input_data={"x": "y" * 30_000})):
            accepted += 1
        with pytest.raises(SpoolFullError, match="No space left"):
            spool.add(metric(1))
        assert accepted > 25
        spool.close()
        lines = [line for path in files(folder / "spool") for line in path.read_bytes().split()]
        assert len(lines) == accepted
        assert all(orjson.loads(line) for line in lines)
        for path in files(folder / "spool"):
            path.unlink()
        until(lambda: not refused(spool, metric(1)), 3)
        spool.close()
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_folder_that_cannot_be_written_says_so(home: Path) -> None:
    (home / "state").write_text("a file where the folder should be")

    with pytest.raises(StorageError, match="Cannot write"):
        Spool().add(metric(1))


WRITER = """
import sys, time, uuid
from smartcity.store.spool import Spool
from test_spool import metric, prediction
spool = Spool()
number = 0
while True:
    key = uuid.uuid4().hex
    spool.add(prediction(id=key) + metric(number))
    sys.stdout.write(f"{key} {number}\\n")
    sys.stdout.flush()
    number += 1
    time.sleep(0.0003)
"""


def test_every_acknowledged_line_of_a_killed_writer_is_kept_once(database: str, home: Path) -> None:
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        )
        for _ in range(2)
    ]
    acknowledged: list[list[str]] = [[], []]

    def listen(which: int) -> None:
        assert writers[which].stdout
        for line in writers[which].stdout:  # type: ignore[union-attr]
            acknowledged[which].append(line.rstrip("\n"))

    threads = [threading.Thread(target=listen, args=(which,)) for which in (0, 1)]
    for thread in threads:
        thread.start()
    until(lambda: waiting() > 300_000 and all(acknowledged), 30)  # one may start late
    import_waiting()  # and again while they write
    time.sleep(0.1)
    for writer in writers:
        writer.kill()
        writer.wait()
    for thread in threads:
        thread.join()
    for writer in writers:
        writer.stdout.close()  # type: ignore[union-attr]
    import_waiting()
    assert files() == []

    told = [line.split() for lines in acknowledged for line in lines if line.count(" ") == 1]
    assert len(told) > 500
    ids = {row["id"].hex for row in kept()}
    assert {key for key, number in told if number} <= ids
    assert len(ids) <= len(told) + 4, "at most what was written but not yet told"
    counted = numbers()
    for which in (0, 1):
        last = len([line for line in acknowledged[which] if line.count(" ") == 1])
        assert last
    assert len(counted) == len(ids), "each metric came in once"


def _import_and_die() -> None:
    store.close()
    import_waiting()


def test_an_importer_killed_again_and_again_loses_and_doubles_nothing(
    database: str, home: Path
) -> None:
    total = 12_000
    for first in range(0, total, 4000):
        spooled(*[metric(number) for number in range(first, first + 4000)])
    interrupted = 0
    for attempt in range(12):
        child = FORK.Process(target=_import_and_die)
        child.start()
        time.sleep(0.02 + attempt % 6 * 0.015)
        child.kill()
        child.join()
        interrupted += child.exitcode == -signal.SIGKILL and 0 < len(numbers()) < total
    assert interrupted, "no kill came in the middle"

    import_waiting()

    assert numbers() == list(range(total))
    assert files() == []
    assert answers.counts()["spool_files"] == 0


def test_a_kill_between_commit_and_removal_doubles_nothing(
    database: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spooled(metric(1), metric(2))

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "rename", die)
    with pytest.raises(KeyboardInterrupt):
        import_waiting()
    monkeypatch.undo()
    assert len(files()) == 1

    import_waiting()

    assert numbers() == [1, 2]
    assert files() == []


def test_only_one_imports_at_a_time(database: str, home: Path) -> None:
    spooled(metric(1))
    with importer.paused():
        assert import_waiting() == Imported()
    assert import_waiting().rows == 1


def test_a_locked_file_is_waited_for_and_nothing_is_set_aside(
    home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(store, "BUSY_SECONDS", 0.1)
    store.upgrade()
    spooled(metric(1), prediction())
    other = sqlite3.connect(home / "state" / "smartcity.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(store.DatabaseError, match="locked"):
        import_waiting()

    with caplog.at_level(logging.INFO), following():
        time.sleep(1.5)
        assert numbers() == []
        other.execute("ROLLBACK")
        until(lambda: numbers() == [1])
    other.close()

    assert quarantined(home) == []
    assert [said(caplog, event) for event in ("database away", "database back")] == [1, 1]
    store.close()


def said(caplog: pytest.LogCaptureFixture, event: str) -> int:
    return sum(event in record.getMessage() for record in caplog.records)


def test_a_server_may_stop_and_start_while_it_is_followed(
    home: Path,
    postgres: Postgres,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(importer, "_BACK_OFF", (0.05, 0.2))
    postgres.run("CREATE DATABASE follows TEMPLATE made")
    monkeypatch.setenv("SMARTCITY_DATABASE_URL", postgres.url("follows"))
    forget()
    spool = Spool()
    with caplog.at_level(logging.INFO), following():
        for number in range(1000):
            spool.add(metric(number))
            time.sleep(0.0005)
            if number == 300:
                until(lambda: len(numbers()) > 0)
                postgres.server.stop()
            if number == 900:
                time.sleep(0.5)
                with pytest.raises(store.DatabaseError):
                    numbers()
                postgres.server.start()
        until(lambda: len(numbers()) == 1000)
    spool.close()
    import_waiting()

    assert numbers() == list(range(1000))
    assert quarantined(home) == []
    assert said(caplog, "database away") == said(caplog, "database back") >= 1
    store.close()
    postgres.run("DROP DATABASE follows WITH (FORCE)")


def test_following_makes_the_tables_forgets_and_ends_with_a_last_look(
    empty_database: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMARTCITY_RETENTION_DAYS", "30")
    forget()
    old = (datetime.now(UTC) - timedelta(days=40)).isoformat()
    spooled(prediction(timestamp=old), prediction(timestamp=datetime.now(UTC).isoformat()))
    with following(every=0.1) as stop:
        until(lambda: not files())
        until(lambda: answers.counts()["predictions"] == 1)
        stop.set()
        spooled(metric(5))

    assert answers.counts()["daily"] == 1
    assert numbers() in ([5], [])  # its last look may have come before
    import_waiting()
    assert numbers() == [5]


PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-m", "smartcity", "db", "import", "--follow"])
print(child.pid, flush=True)
time.sleep(60)
"""


def test_an_orphan_ends(home: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout
        child = int(parent.stdout.readline())
        until((home / "state" / "smartcity.db").exists)
        spooled(metric(1))
        until(lambda: not files())
        nice = os.getpriority(os.PRIO_PROCESS, child)
        parent.kill()
    until(lambda: not alive(child), 5)

    assert nice >= 10
    assert numbers() == [1]
    store.close()


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False
