"""The database: the same on SQLite and PostgreSQL, from its first migration to its last query."""

import multiprocessing
import sqlite3
import subprocess
import sys
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from alembic import op
from conftest import forget
from sqlalchemy import insert, inspect, select, text
from sqlalchemy.exc import IntegrityError

from smartcity import monitoring, settings
from smartcity.errors import UsageError
from smartcity.store import answers, tables
from smartcity.store import database as store

NOW = datetime(2026, 11, 23, 20, 0, 0, 123000, tzinfo=UTC)


def keep(**changes: Any) -> UUID:
    """Put an answer into the database."""
    row = {
        "id": uuid4(),
        "user_id": None,
        "model_name": "air_quality",
        "model_version": "1.0.0",
        "input_data": {"C6H6_GT": 11.9},
        "prediction": 2.0,
        "confidence": 0.9,
        "low": 1.0,
        "high": 3.0,
        "timestamp": NOW,
    } | changes
    with store.transaction(write=True) as connection:
        connection.execute(insert(tables.predictions), row)
    key: UUID = row["id"]
    return key


def a_user() -> UUID:
    key = uuid4()
    with store.transaction(write=True) as connection:
        connection.execute(insert(tables.users), {"id": key, "email": f"{key.hex}@city.org"})
    return key


def everything(table: Any) -> list[dict[str, Any]]:
    with store.transaction() as connection:
        return [dict(row) for row in connection.execute(select(table)).mappings()]


def test_rows_at_the_first_migration_survive_the_way_to_the_last(empty_database: str) -> None:
    key = uuid4()

    assert store.upgrade("0001") == ["0001"]
    with store.transaction(write=True) as connection:
        names = {column["name"] for column in inspect(connection).get_columns("predictions")}
        connection.execute(
            text("INSERT INTO users (id, email) VALUES (:id, 'a@b.org')"), {"id": key.hex}
        )
        connection.execute(
            text(
                "INSERT INTO predictions (id, user_id, model_name, input_data, prediction, "
                "confidence, timestamp) VALUES (:id, :id, 'energy', '{\"day\": 3}', 4.5, 0.9, :at)"
            ),
            {"id": key.hex, "at": "2026-11-23 20:00:00.123000" + "+00" * (store_is_postgres())},
        )
        connection.execute(text("INSERT INTO metrics (model_name, request_time_ms) VALUES ('x',7)"))
    assert names == {
        "id", "user_id", "model_name", "input_data", "prediction", "confidence", "timestamp",
    }  # fmt: skip
    assert store.check()[0].startswith("It is at revision 0001")

    assert store.upgrade() == ["0002", "0003", "0004", "0005"]
    assert store.upgrade() == []

    found = answers.get_prediction(key)
    assert found is not None
    assert (found["user_id"], found["input_data"], found["timestamp"]) == (key, {"day": 3}, NOW)
    assert (found["prediction"], found["model_version"]) == (4.5, None)
    assert [row["request_time_ms"] for row in everything(tables.metrics)] == [7]


def store_is_postgres() -> bool:
    return store.address().get_backend_name() == "postgresql"


def test_models_and_migrations_agree_and_a_difference_is_seen(database: str) -> None:
    assert store.check() == []

    with store.transaction(write=True) as connection:
        connection.execute(text("ALTER TABLE metrics ADD COLUMN surprise INTEGER"))

    [problem] = store.check()
    assert "surprise" in problem


def test_the_specified_columns_have_the_specified_types(database: str) -> None:
    with store.transaction() as connection:
        found = inspect(connection)
        types = {
            name: {column["name"]: str(column["type"]) for column in found.get_columns(name)}
            for name in ("users", "predictions", "metrics")
        }
        indexes = [index["column_names"] for index in found.get_indexes("metrics")]

    postgres = database == "postgresql"
    assert types["users"]["email"] == "VARCHAR(255)"
    assert types["predictions"]["model_name"] == types["metrics"]["model_name"] == "VARCHAR(50)"
    assert types["predictions"]["input_data"] == ("JSONB" if postgres else "JSON")
    assert types["predictions"]["id"] == ("UUID" if postgres else "CHAR(32)")
    assert types["metrics"]["id"] == ("BIGINT" if postgres else "INTEGER")
    assert types["metrics"]["request_time_ms"] == "INTEGER"
    assert ["model_name", "timestamp"] in indexes


def _upgrade(failed: Any) -> None:
    try:
        store.upgrade()
    except BaseException:
        failed.set()
        raise


def test_two_upgrades_at_once_do_no_harm(empty_database: str) -> None:
    start = multiprocessing.get_context("fork")
    failed = start.Event()
    both = [start.Process(target=_upgrade, args=(failed,)) for _ in range(3)]
    for process in both:
        process.start()
    for process in both:
        process.join()

    assert not failed.is_set()
    assert [process.exitcode for process in both] == [0, 0, 0]
    assert store.check() == []


def test_a_newer_database_is_left_alone(database: str) -> None:
    with store.transaction(write=True) as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))

    with pytest.raises(store.DatabaseError, match="revision 9999, which this version does not"):
        store.upgrade()
    assert "9999" in store.check()[0]


def test_a_failed_migration_changes_nothing(
    empty_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.upgrade("0001")

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("the power went out")

    monkeypatch.setattr(op, "create_index", fail)  # comes after predictions was widened
    with pytest.raises(RuntimeError):
        store.upgrade()
    monkeypatch.undo()
    with store.transaction() as connection:
        names = {column["name"] for column in inspect(connection).get_columns("predictions")}

    assert "low" not in names
    assert store.upgrade() == ["0002", "0003", "0004", "0005"]


def test_a_missing_table_names_the_remedy(empty_database: str) -> None:
    with pytest.raises(store.DatabaseError, match="smartcity db upgrade"):
        answers.counts()


def test_a_damaged_file_is_noticed(home: Path) -> None:
    store.upgrade()
    for _ in range(200):
        keep()
    store.close()
    path = home / "state" / "smartcity.db"
    content = bytearray(path.read_bytes())
    content[len(content) // 2 :] = b"\x55" * (len(content) - len(content) // 2)
    path.write_bytes(content)

    assert store.check()
    store.close()


def use(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("SMARTCITY_DATABASE_URL", url)
    monkeypatch.delenv("PGHOST", raising=False)
    forget()


@pytest.mark.parametrize(
    ("url", "mode"),
    [
        ("postgresql://u:p@localhost/d", None),
        ("postgres://u:p@127.0.0.1:5433/d", None),
        ("postgresql://u:p@[::1]/d", None),
        ("postgresql:///d?host=/run/postgresql", None),
        ("postgresql:///d", None),
        ("postgresql+psycopg://u:p@localhost/d?sslmode=disable", "disable"),
        ("postgres://u:p@db.city.org/d", "verify-full"),
        ("postgresql:///d?host=db.city.org", "verify-full"),
        ("postgresql:///d?host=/run/postgresql,db.city.org", "verify-full"),
        ("postgresql://u:p@localhost/d?hostaddr=10.0.0.1", "verify-full"),
        ("postgresql:///d?service=far", "verify-full"),
        ("postgresql://u:p@localhost.evil.org/d", "verify-full"),
        ("postgresql://u:p@db.city.org/d?sslmode=require", "require"),
        ("postgresql://u:p@db.city.org/d?sslmode=verify-ca", "verify-ca"),
    ],
)
def test_what_leaves_the_machine_is_encrypted(
    url: str, mode: str | None, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, url)

    known = store.address()

    assert known.drivername == "postgresql+psycopg"
    assert known.query.get("sslmode") == mode
    assert known.query.get("sslrootcert") == ("system" if mode == "verify-full" else None)


def test_a_host_named_by_the_environment_counts(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, "postgresql:///d")
    monkeypatch.setenv("PGHOST", "db.city.org")

    assert store.address().query["sslmode"] == "verify-full"


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("postgresql://u:hunter2@db.city.org/d?sslmode=disable", "readable to others"),
        ("postgresql://u:hunter2@db.city.org/d?sslmode=allow", "readable to others"),
        ("postgresql://u:hunter2@db.city.org/d?sslmode=prefer", "readable to others"),
        ("mysql://u:hunter2@db.city.org/d", "sqlite:////path"),
        ("postgresql+asyncpg://u:hunter2@localhost/d", "does not work here"),
        ("sqlite://", "does not work here"),
        ("hunter2", "cannot be read"),
        ("postgresql://u:hunter2@localhost:port/d", "cannot be read"),
    ],
)
def test_an_address_that_does_not_work_is_refused(
    url: str, says: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, url)

    with pytest.raises(UsageError, match=says) as refused:
        store.engine()
    assert "hunter2" not in str(refused.value)
    assert "hunter2" not in repr(settings.current())


def test_an_unreachable_server_is_named_without_its_password(
    home: Path, free_port: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    use(monkeypatch, f"postgresql://ann:hunter2@127.0.0.1:{free_port}/d?sslpassword=hunter2")

    began = time.monotonic()
    with pytest.raises(store.DatabaseError, match=f"ann@127.0.0.1:{free_port}/d") as away:
        answers.counts()

    assert time.monotonic() - began < 5
    assert "hunter2" not in str(away.value) + caplog.text + repr(store.engine())
    assert away.value.__suppress_context__
    store.close()


def test_a_missing_driver_names_the_extra(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, "postgresql://u:p@localhost/d")
    monkeypatch.setitem(sys.modules, "psycopg", None)

    with pytest.raises(store.DatabaseError, match=r"pip install 'smartcity\[postgres\]'"):
        store.engine()


def test_a_sqlite_file_may_lie_elsewhere(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, f"sqlite:///{home}/else where/50%.db")

    store.upgrade()
    keep()
    store.close()

    with sqlite3.connect(home / "else where" / "50%.db") as there:
        assert there.execute("SELECT count(*) FROM predictions").fetchone() == (1,)
        assert there.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    there.close()


def test_values_come_back_as_they_went_in(database: str) -> None:
    zone = datetime.fromisoformat("2026-11-24T01:30:00.123456+05:30")
    inputs = {"ä": [1, None, "x"], "big": 1e300, "nested": {"a": True}}
    key = keep(input_data=inputs, timestamp=zone, prediction=0.1, low=None)

    found = answers.get_prediction(key)

    assert found is not None
    assert found["input_data"] == inputs
    assert (found["timestamp"], found["timestamp"].utcoffset()) == (zone, timedelta(0))
    assert (found["prediction"], found["low"], found["id"]) == (0.1, None, key)
    assert answers.get_prediction(uuid4()) is None


def test_pages_show_each_answer_once_newest_first(database: str) -> None:
    ann, bob = a_user(), a_user()
    # Many at the same moment: only the id tells them apart.
    kept = [keep(user_id=ann, timestamp=NOW + timedelta(seconds=n // 5)) for n in range(23)]
    keep(user_id=bob)
    keep()
    keep(user_id=ann, model_name="energy")

    seen: list[dict[str, Any]] = []
    cursor: str | None = None
    pages = 0
    while pages == 0 or cursor:
        rows, cursor = answers.page(ann, "air_quality", cursor, limit=5)
        if pages == 1:
            keep(user_id=ann, timestamp=NOW + timedelta(hours=1))  # comes in while one reads
        seen += rows
        pages += 1

    assert pages == 5
    assert {row["id"] for row in seen} == set(kept)
    order = [(row["timestamp"], row["id"].hex) for row in seen]
    assert order == sorted(order, reverse=True)
    assert len(seen) == 23
    assert len(answers.page(None, limit=10)[0]) == 1
    assert {row["model_name"] for row in answers.page(ann)[0]} == {"air_quality", "energy"}


@pytest.mark.parametrize("cursor", ["x", "é", "YWJj", "", "MjAyNiBhYmM="])
def test_a_cursor_of_someone_elses_make_is_refused(cursor: str, home: Path) -> None:
    with pytest.raises(UsageError, match="cursor"):
        answers.page(None, None, cursor)


def test_feedback_is_given_once_and_by_its_owner(database: str) -> None:
    ann, bob = a_user(), a_user()
    hers, nobodys = keep(user_id=ann), keep()

    assert answers.add_feedback(uuid4(), 1.0, ann) == "unknown"
    assert answers.add_feedback(hers, 1.0, bob) == "unknown"
    assert answers.add_feedback(hers, 1.0, None) == "unknown"
    assert everything(tables.feedback) == []
    assert answers.add_feedback(hers, 1.5, ann) == "created"
    assert answers.add_feedback(hers, 1.5, ann) == "same"
    assert answers.add_feedback(hers, 9.0, ann) == "different"
    assert [row["observed"] for row in everything(tables.feedback)] == [1.5]
    assert answers.add_feedback(nobodys, 1.0, bob) == "created"


@pytest.mark.parametrize("observed", [float("nan"), float("inf"), -1e200])
def test_an_observation_that_would_spoil_the_sums_is_refused(observed: float, home: Path) -> None:
    with pytest.raises(UsageError, match="observed"):
        answers.add_feedback(uuid4(), observed, None)


def test_accuracy_is_that_of_the_answers_someone_checked(database: str) -> None:
    for prediction, observed in ((2.0, 3.0), (2.0, 5.0)):
        answers.add_feedback(keep(prediction=prediction), observed, None)
    for prediction, observed in ((1.0, 1.0), (1.0, 2.0), (3.0, 3.0), (0.0, 0.0)):
        key = keep(model_name="traffic", prediction=prediction)
        answers.add_feedback(key, observed, None)
    answers.add_feedback(keep(model_name="traffic@north", prediction=1.0), 1.0, None)
    keep(prediction=99.0)

    assert answers.live_accuracy() == {
        "air_quality": {"observed": 2, "mae": 2.0, "rmse": pytest.approx(5**0.5)},
        "traffic": {"observed": 4, "accuracy": 0.75},
        "traffic@north": {"observed": 1, "accuracy": 1.0},
    }
    told = monitoring.exposition().decode()
    assert 'smartcity_live_accuracy{domain="traffic",measure="accuracy"} 0.75' in told
    assert "north" not in told


def test_retention_removes_answers_and_keeps_their_sums(database: str) -> None:
    old = datetime.now(UTC) - timedelta(days=31)
    day = old.date()
    for prediction in (2.0, 4.0):
        answers.add_feedback(keep(prediction=prediction, timestamp=old), 1.0, None)
    keep(timestamp=old)
    young = keep(timestamp=datetime.now(UTC))
    answers.add_feedback(young, 1.0, None)
    row = {"model_name": "traffic", "request_time_ms": 1, "prediction_latency_ms": 0}
    with store.transaction(write=True) as connection:
        moments = [old, old, datetime.now(UTC)]
        connection.execute(insert(tables.metrics), [{**row, "timestamp": at} for at in moments])
    before = answers.live_accuracy()

    assert answers.expire(0, 100) is False
    assert answers.counts()["predictions"] == 4
    assert answers.expire(30, 2) is True
    assert answers.expire(30, 2) is False

    assert [row["id"] for row in everything(tables.predictions)] == [young]
    assert len(everything(tables.feedback)) == len(everything(tables.metrics)) == 1
    assert everything(tables.daily) == [
        {
            "model_name": "air_quality",
            "model_version": "1.0.0",
            "day": day,
            "predictions": 3,
            "observed": 2,
            "abs_error": 4.0,
            "squared_error": 10.0,
            "correct": 0,
        }
    ]
    assert answers.live_accuracy() == before


def test_sums_fall_on_the_day_it_was_in_utc(database: str) -> None:
    late = datetime.fromisoformat("2020-01-02T01:00:00+05:00")
    keep(timestamp=late)

    answers.expire(30, 10)

    assert [row["day"] for row in everything(tables.daily)] == [date(2020, 1, 1)]


def test_dangling_references_are_refused_by_both(database: str) -> None:
    store.close()  # a new connection knows it, not only the one that migrated
    with pytest.raises(IntegrityError) as refused:
        keep(user_id=uuid4())
    assert "C6H6_GT" not in str(refused.value)  # parameters stay out of messages


def test_serving_processes_load_no_database_library_for_the_spool() -> None:
    asked = "import sys, smartcity.store.spool; print('sqlalchemy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)

    assert done.stdout == "False\n"
