"""Backups: whole under load, equal after a disaster, honest about damage, silent about secrets."""

import json
import os
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from conftest import Postgres, eventually, forget, usual
from fastapi.testclient import TestClient
from sqlalchemy import insert, select
from typer.testing import CliRunner

from smartcity import backup, registry, settings
from smartcity.api import create_app
from smartcity.cli import app
from smartcity.errors import SmartCityError, UsageError
from smartcity.store import answers, dumps, importer, tables
from smartcity.store import database as store
from smartcity.store.spool import Spool

pytestmark = pytest.mark.skipif(shutil.which("restic") is None, reason="no restic: tests/setup")

PASSWORD = "never-shown-7d1c"  # noqa: S105  # of repositories that live as long as a test


@pytest.fixture
def repository(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the backups of the test's installation go."""
    monkeypatch.setenv("SMARTCITY_BACKUP_REPOSITORY", str(home / "repository"))
    monkeypatch.setenv("SMARTCITY_BACKUP_PASSWORD", PASSWORD)
    monkeypatch.setenv("RESTIC_CACHE_DIR", str(home / "cache"))
    forget()
    return home / "repository"


def some_files(home: Path, size: int = 1000) -> None:
    """Write a model and a report that only look like ones."""
    for name in ("models/energy/1.0.0/model.onnx", "reports/runs/05_report/energy/r/report.html"):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_bytes(os.urandom(size))


def everything() -> dict[str, list[Any]]:
    """Read all rows of all tables."""
    found: dict[str, list[Any]] = {}
    with store.transaction() as connection:
        for table in tables.metadata.sorted_tables:
            found[table.name] = sorted(map(repr, connection.execute(select(table)).all()))
    return found


def ask(models: dict[str, registry.Card]) -> None:
    """Let the API answer each question, once with a time, and keep what it said."""
    with TestClient(create_app()) as client:
        for name, card in models.items():
            rows: list[Any] = [usual(card), *({**usual(card), f: v} for f, v in varied(card))]
            assert client.post(f"/api/v1/predict/{name}", json=rows[0]).status_code == 200
            answer = client.post(f"/api/v1/predict/batch/{name}", json=rows)
            assert answer.json()["failed"] == 0
        timed = {n: v for n, v in usual(models["energy"]).items() if n not in clock("energy")}
        timed |= {"timestamp": "2022-02-01T08:20"}  # type: ignore[dict-item]
        assert client.post("/api/v1/predict/energy", json=timed).status_code == 200
    importer.import_waiting()


def clock(name: str) -> set[str]:
    from smartcity import domains

    return {spec.name for spec in domains.load(name).inputs if spec.from_time}


def varied(card: registry.Card) -> list[tuple[str, float]]:
    """Give the first input some other values it has had."""
    first = card.inputs[0]
    return [(first.name, value) for value in {first.low, first.high, first.typical}]


def pair(number: int) -> None:
    """Add two rows that belong together, as one transaction."""
    row = {"model_name": "energy", "request_time_ms": number, "timestamp": datetime.now(UTC)}
    person = {"id": uuid4(), "email": f"{number}@city.example", "created_at": datetime.now(UTC)}
    with store.transaction(write=True) as connection:
        connection.execute(insert(tables.metrics), row | {"prediction_latency_ms": 0})
        connection.execute(insert(tables.users), person)


@contextmanager
def writing() -> Iterator[list[int]]:
    """Add pairs of rows, and lines to the spool, until told to stop."""
    stop, done = threading.Event(), [0]

    def go() -> None:
        while not stop.is_set():
            pair(done[0])
            done[0] += 1
            time.sleep(0.001)

    thread = threading.Thread(target=go)
    thread.start()
    try:
        yield done
    finally:
        stop.set()
        thread.join(60)
        assert not thread.is_alive()


@contextmanager
def restored_database(folder: Path) -> Iterator[Any]:
    [path] = (folder / "database").iterdir()
    with dumps.opened(path) as url, store.transaction(at=url) as connection:
        yield connection


def test_a_backup_made_while_rows_are_added_is_whole(
    database: str, home: Path, repository: Path
) -> None:
    some_files(home)
    with writing() as done:
        eventually(lambda: done[0] >= 20, seconds=60)
        before = done[0]
        made = backup.create(init=True)
        assert done[0] > before, "nothing was added meanwhile"

    backup.restore(home / "restored")

    manifest = backup.verify()
    with restored_database(home / "restored") as connection:
        numbers = set(connection.scalars(select(tables.metrics.c.request_time_ms)))
        people = {email.split("@")[0] for email in connection.scalars(select(tables.users.c.email))}
        assert dumps.rows(connection) == manifest.rows
    assert numbers == set(range(len(numbers)))
    assert people == {str(number) for number in numbers}
    assert before <= len(numbers) <= done[0]
    assert made["rows"] == 2 * len(numbers) + 1  # and the revision


def test_a_line_is_in_the_spool_or_in_the_database_never_in_both(
    database: str, home: Path, repository: Path
) -> None:
    some_files(home)
    row = {"kind": "metric", "model_name": "energy", "prediction_latency_ms": 0}
    row |= {"timestamp": datetime.now(UTC).isoformat()}
    lines = [json.dumps(row | {"request_time_ms": n}).encode() + b"\n" for n in range(6)]
    writer = Spool()
    writer.add(b"".join(lines[:3]))
    importer.import_waiting()
    writer.add(b"".join(lines[3:]))

    backup.create(init=True)
    writer.close()
    place(backup.restore(home / "restored"), home, database)

    importer.import_waiting()
    with store.transaction() as connection:
        found = sorted(connection.scalars(select(tables.metrics.c.request_time_ms)))
    assert found == list(range(6))


def place(steps: list[str], home: Path, database: str) -> None:
    """Do what the restore said, but for pg_restore, which needs an empty database."""
    store.close()
    lines = [line for line in steps if not line.startswith("smartcity")]
    if database == "postgresql":
        [load] = [line for line in lines if line.startswith("pg_restore")]
        lines.remove(load)
        with store.transaction(write=True) as connection:
            connection.exec_driver_sql("DROP SCHEMA public CASCADE")
            connection.exec_driver_sql("CREATE SCHEMA public")
        dumps.load(store.address(), Path(shlex.split(load)[-1]))
    for line in lines:
        subprocess.run(line, shell=True, check=True)  # noqa: S602  # as a person would
    forget()


def test_what_was_destroyed_comes_back_equal_to_the_last_digit(
    database: str, home: Path, repository: Path, models: dict[str, registry.Card]
) -> None:
    ask(models)
    some = home / "reports" / "runs" / "05_report" / "energy" / "r" / "report.html"
    some.parent.mkdir(parents=True)
    some.write_text("as it was")
    rows, whole = everything(), backup._sums(home / "models")
    assert len(rows["predictions"]) > 10
    backup.create(init=True)

    shutil.rmtree(home / "models")
    shutil.rmtree(home / "reports")
    if database == "sqlite":
        store.close()
        shutil.rmtree(home / "state")
    else:
        with store.transaction(write=True) as connection:
            connection.execute(tables.predictions.delete())
    place(backup.restore(home / "restored"), home, database)

    assert everything() == rows
    assert backup._sums(home / "models") == whole
    assert some.read_text() == "as it was"
    assert store.check() == []
    done, report = backup.drill()
    assert done.differences == []
    assert (done.compared, done.left_out) == (len(rows["predictions"]), 0)
    assert set(done.models) == set(models)
    assert done.rows["predictions"] == len(rows["predictions"])
    assert json.loads(report.read_text())["compared"] == done.compared
    assert "the backup is good" in report.with_suffix(".txt").read_text()


def test_a_drill_finds_an_answer_that_comes_out_otherwise_and_one_that_lacks(
    home: Path, repository: Path, models: dict[str, registry.Card]
) -> None:
    store.upgrade()
    ask(models)
    with store.transaction(write=True) as connection:
        [key, *_] = connection.scalars(select(tables.predictions.c.id))
        changed = tables.predictions.update().where(tables.predictions.c.id == key)
        connection.execute(changed.values(prediction=tables.predictions.c.prediction + 1e-9))
        row = {"id": uuid4(), "model_name": "energy", "model_version": "1.0.0"}
        long_ago = row | {"input_data": {"recent": 3}, "prediction": 1.0}
        connection.execute(insert(tables.predictions), long_ago)
    backup.create(init=True)

    answer = CliRunner().invoke(app, ["backup", "drill", "--json"])

    told = json.loads(answer.stdout)
    assert isinstance(answer.exception, SmartCityError)
    assert told["differences"] == [f"Prediction {key}: prediction came out otherwise."]
    assert told["left_out"] == 1
    store.close()


def test_a_flipped_byte_is_found_by_verify_and_by_the_drill(home: Path, repository: Path) -> None:
    some_files(home, 300_000)
    backup.create(init=True)
    backup.verify()
    pack = max((repository / "data").rglob("*"), key=lambda path: path.stat().st_size)
    content = bytearray(pack.read_bytes())
    content[len(content) // 2] ^= 1
    pack.chmod(0o600)
    pack.write_bytes(content)

    with pytest.raises(backup.BackupError, match="check failed"):
        backup.verify()
    done, report = backup.drill()
    with pytest.raises(backup.BackupError):
        backup.restore(home / "restored")

    assert any("check failed" in each for each in done.differences)
    assert "NOT good" in report.with_suffix(".txt").read_text()
    assert not (home / "restored").exists()
    assert list((home / "state").glob(".backup-*")) == []


def test_a_file_that_is_not_as_the_manifest_says_is_found(
    home: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    some_files(home)
    with monkeypatch.context() as patch:
        true = backup._sums
        patch.setattr(backup, "_sums", lambda folder: true(folder) | {"models/gone": "0" * 64})
        backup.create(init=True)

    with pytest.raises(backup.BackupError, match="1 files are not .* models/gone"):
        backup.verify()


def test_a_full_disk_leaves_the_backup_before_good(
    home: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(repository)]
    if os.getuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a small disk")
    try:
        some_files(home)
        first = backup.create(init=True)
        some_files(home, 6_000_000)

        with pytest.raises(backup.BackupError, match="no space left on device"):
            backup.create()

        assert [each["snapshot"] for each in backup.listed()] == [first["snapshot"]]
        assert len(backup.verify().files) == first["files"]
        some_files(home)
        assert backup.create()["snapshot"] != first["snapshot"], "there is room again"
    finally:
        subprocess.run(["umount", str(repository)], check=True)


def test_a_wrong_password_is_refused_and_changes_nothing(
    home: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    some_files(home)
    backup.create(init=True)
    before = backup._sums(repository)
    monkeypatch.setenv("SMARTCITY_BACKUP_PASSWORD", "another-one-5e1f")
    forget()

    for refused in (backup.create, backup.verify, lambda: backup.restore(home / "restored")):
        with pytest.raises(backup.BackupError, match="does not open the repository"):
            refused()

    assert backup._sums(repository) == before
    assert not (home / "restored").exists()


def test_without_settings_restic_or_repository_it_says_what_to_do(
    home: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(backup.BackupError, match="backup create --init"):
        backup.create()
    assert not repository.exists(), "a disk that is not there must not be mistaken for a new one"

    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(home))
        with pytest.raises(backup.BackupError, match="apt-get install restic"):
            backup.listed()

    monkeypatch.delenv("SMARTCITY_BACKUP_PASSWORD")
    forget()
    with pytest.raises(UsageError, match="SMARTCITY_BACKUP_PASSWORD"):
        backup.drill()
    assert not (home / "reports").exists()


def test_nothing_is_restored_over_what_is_there(
    home: Path, repository: Path, postgres: Postgres
) -> None:
    some_files(home)
    backup.create(init=True)

    with pytest.raises(UsageError, match="is not empty"):
        backup.restore(home / "models")
    with pytest.raises(UsageError, match="is not empty: it has the table"):
        backup.restore(home / "restored", into=postgres.url("made"))
    with pytest.raises(UsageError, match="as PGPASSWORD"):
        backup.restore(home / "restored", into="postgresql://me:secret@localhost/city")
    assert not (home / "restored").exists()

    (home / "restored").mkdir()
    backup.restore(home / "restored")
    assert (home / "restored").stat().st_mode & 0o077 == 0
    assert backup._sums(home / "restored" / "models") == backup._sums(home / "models")


def test_a_dump_goes_into_an_empty_database(
    home: Path, repository: Path, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, template in (("source", "made"), ("target", "template0")):
        postgres.run(f"CREATE DATABASE {name} TEMPLATE {template}")
    monkeypatch.setenv("SMARTCITY_DATABASE_URL", postgres.url("source"))
    forget()
    pair(1)
    rows = everything()
    backup.create(init=True)
    store.close()

    backup.restore(home / "restored", into=postgres.url("target"))

    monkeypatch.setenv("SMARTCITY_DATABASE_URL", postgres.url("target"))
    forget()
    assert everything() == rows
    assert answers.counts()["metrics"] == 1
    store.close()
    postgres.run(*(f"DROP DATABASE {name} WITH (FORCE)" for name in ("source", "target")))


def test_programs_get_a_databases_password_by_their_environment_alone() -> None:
    url = store.parse("postgresql://me:one@localhost/city?password=two&sslpassword=three")

    address, secret = store.programs(url)

    assert address == "postgresql://me@localhost/city"
    assert secret == {"PGPASSWORD": "one"}


#: Stands in for restic on the way: notes how it was called and hands on.
WRAPPER = """#!{python}
import os, pathlib, sys
with open({log!r}, "ab") as log:
    log.write(pathlib.Path("/proc/self/cmdline").read_bytes() + b"\\n")
    log.write(pathlib.Path(f"/proc/{{os.getppid()}}/cmdline").read_bytes() + b"\\n")
os.execv({restic!r}, ["restic", *sys.argv[1:]])
"""


def test_the_password_is_in_no_process_list_log_report_or_backup(
    home: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    some_files(home)
    (home / "bin").mkdir()
    wrapper, calls = home / "bin" / "restic", home / "calls"
    real = str(shutil.which("restic"))
    wrapper.write_text(WRAPPER.format(python=sys.executable, log=str(calls), restic=real))
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{home / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("SMARTCITY_MAIL_URL", f"smtp://me:{PASSWORD}@mail.example")
    commands = (["create", "--init"], ["list"], ["verify"], ["drill"], ["restore", "out"])

    said = ""
    for words in commands:
        done = subprocess.run(
            [sys.executable, "-m", "smartcity", "backup", *words],
            cwd=home,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, (words, done.stderr)
        said += done.stdout + done.stderr

    assert b"--read-data" in calls.read_bytes()
    written = [*(home / "logs").rglob("*"), *(home / "reports").rglob("*"), calls]
    written += (home / "out").rglob("*")
    texts = [path.read_bytes() for path in written if path.is_file()]
    assert len(texts) > 6
    assert PASSWORD not in said
    assert not [text for text in texts if PASSWORD.encode() in text]
    listing = (home / "out" / "environment").read_text()
    assert "# SMARTCITY_MAIL_URL: secret" in listing
    assert f"SMARTCITY_MODELS={home / 'models'}" in listing


def test_seven_days_four_weeks_and_twelve_months_are_kept(home: Path, repository: Path) -> None:
    some_files(home)
    backup.create(init=True)
    today = datetime.now(UTC).replace(hour=1, minute=0, second=0, microsecond=0)
    ages = [*range(1, 10), *range(12, 40, 5), *range(50, 460, 22)]
    times = sorted(today - timedelta(days=age) for age in ages)
    (home / "one").mkdir()
    (home / "one" / "file").write_text("small")
    for at in times:
        told = f"--time={at:%Y-%m-%d %H:%M:%S}"
        backup._restic("backup", backup._HOST, told, ".", folder=home / "one")
    before = moments()
    assert len(before) == len(times) + 1

    backup.create()

    kept = moments()
    assert set(kept) == wanted([*before, max(kept)])
    assert 12 < len(kept) < 24


def moments() -> list[datetime]:
    return [datetime.fromisoformat(each["time"][:19]) for each in backup.listed()]


def wanted(times: list[datetime]) -> set[datetime]:
    """Choose the last of each of the newest seven days, four weeks and twelve months."""
    kept: set[datetime] = set()
    kinds = ((7, "%Y-%m-%d"), (4, "%G-%V"), (12, "%Y-%m"))
    for count, kind in kinds:
        last = {at.strftime(kind): at for at in sorted(times)}
        kept |= set(sorted(last.values())[-count:])
    return kept


def test_what_a_killed_backup_left_does_not_hinder_the_next(home: Path, repository: Path) -> None:
    some_files(home)
    backup.create(init=True)
    left = home / "state" / ".backup-left"
    left.mkdir()
    child = subprocess.Popen(
        ["restic", "backup", "--host=smartcity", "--stdin"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=backup._environment(),
    )

    def locks() -> list[Path]:  # but those restic has not written to the end
        return [lock for lock in (repository / "locks").iterdir() if "-tmp-" not in lock.name]

    eventually(locks, seconds=60)
    child.kill()
    child.wait()
    if child.stdin:
        child.stdin.close()
    assert locks()

    backup.create()

    assert not locks()
    assert not left.exists()
    assert settings.current().state.is_dir()
    backup.verify()
