"""People and keys: shown once, kept as hashes, exported whole, erased without a trace."""

import hmac
import json
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
import pytest
from sqlalchemy import select, update
from test_cli import assert_refused, smartcity
from test_spool import alive, kept, metric, prediction, quarantined, spooled, until

from smartcity.errors import UsageError
from smartcity.store import answers, importer, tables, users
from smartcity.store import database as store
from smartcity.store.spool import Spool, files

ANN = "Ann.Example@city.org"
MARK = 4217.90625318


def rows_of(table: Any) -> list[dict[str, Any]]:
    with store.transaction() as connection:
        return [dict(row) for row in connection.execute(select(table)).mappings()]


def test_a_person_is_added_once(database: str) -> None:
    key = users.add_user(f"  {ANN} ")

    with pytest.raises(UsageError, match="already") as refused:
        users.add_user(ANN.upper())
    assert "ann" not in str(refused.value).lower()
    [row] = users.list_users()
    assert (row["id"], row["email"], row["keys"]) == (key, ANN.lower(), 0)


@pytest.mark.parametrize(
    "email",
    ["", "ann", "ann@city", "a b@city.org", "a@b@c.org", "a\x00@b.org", "x" * 250 + "@b.org"],
)
def test_what_is_no_address_is_refused(email: str, home: Path) -> None:
    with pytest.raises(UsageError, match="no email address"):
        users.add_user(email)


def test_a_key_opens_until_it_is_revoked(database: str) -> None:
    owner = users.add_user(ANN)
    token, other = users.new_key(ANN), users.new_key(ANN, ("predict",))

    found = users.find_key(token)
    assert found == users.Key(token.split("_")[1], owner, frozenset({"predict", "feedback"}))
    narrow = users.find_key(other)
    assert narrow is not None
    assert narrow.scopes == {"predict"}
    assert users.list_users()[0]["keys"] == 2

    users.revoke(found.id)
    users.revoke(found.id)

    assert users.find_key(token) is None
    assert users.find_key(other) == narrow
    assert users.list_users()[0]["keys"] == 1
    assert [row["action"] for row in rows_of(tables.audit)] == [
        "user added",
        "key made",
        "key made",
        "key revoked",
    ]


def test_a_key_expires(database: str) -> None:
    users.add_user(ANN)
    token = users.new_key(ANN, expires_days=1)
    assert users.find_key(token) is not None

    with store.transaction(write=True) as connection:
        past = datetime.now(UTC) - timedelta(seconds=1)
        connection.execute(update(tables.api_keys).values(expires_at=past))

    assert users.find_key(token) is None
    assert users.find_key(users.new_key(ANN, expires_days=0)) is None


def test_only_the_whole_key_opens(database: str) -> None:
    users.add_user(ANN)
    token, other = users.new_key(ANN), users.new_key(ANN)
    _, key, secret = token.split("_", 2)

    changed = secret[:-1] + ("A" if secret[-1] != "A" else "B")
    for wrong in (
        f"sc_{key}_{changed}",
        f"sc_{key}_{other.split('_', 2)[2]}",
        f"sc_00000000_{secret}",
        f"sc_{key}_{secret[:-1]}",
        f"sc_{key}_{secret}x",
        f"sc_{key}_{'0' * 64}",
        f"sc_{key}_",
        f"{token}\n",
        f"sc_{key}\x00_{secret}",
        secret,
        "",
        "é" * 50,
    ):
        assert users.find_key(wrong) is None, wrong
    assert users.find_key(token) is not None


def test_an_unknown_key_takes_the_same_comparison(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    users.add_user(ANN)
    token = users.new_key(ANN)
    compared: list[tuple[int, int]] = []
    real = hmac.compare_digest

    def compare(expected: str, given: str) -> bool:
        compared.append((len(expected), len(given)))
        return real(expected, given)

    monkeypatch.setattr(hmac, "compare_digest", compare)
    users.find_key(token)
    users.find_key("sc_00000000_" + "x" * 43)

    assert compared == [(64, 64), (64, 64)]


def test_of_a_key_only_its_hash_is_kept(database: str, home: Path) -> None:
    users.add_user(ANN)
    secret = users.new_key(ANN).split("_", 2)[2]

    [row] = rows_of(tables.api_keys)
    store.close()

    assert len(secret) >= 32
    assert len(row["secret_hash"]) == 64
    assert secret not in str([rows_of(table) for table in tables.metadata.sorted_tables])
    assert traces(home / "state", secret) == []
    assert len({users.new_key(ANN) for _ in range(20)}) == 20


def test_a_key_needs_a_known_person_and_scope(database: str) -> None:
    with pytest.raises(UsageError, match="No user"):
        users.new_key(ANN)
    users.add_user(ANN)
    with pytest.raises(UsageError, match="Did you mean 'predict'"):
        users.new_key(ANN, ("predikt",))
    with pytest.raises(UsageError, match="no key"):
        users.revoke("00000000")
    assert rows_of(tables.api_keys) == []


def with_a_past(email: str, mark: float = MARK) -> UUID:
    """Add someone with keys, answers and feedback."""
    key = users.add_user(email)
    users.new_key(email)
    inputs = {"C6H6_GT": mark}
    spooled(*[prediction(user_id=key.hex, input_data=inputs, prediction=2.0) for _ in range(3)])
    importer.import_waiting()
    rows, _ = answers.page(key)
    answers.add_feedback(rows[0]["id"], 3.0, key)
    return key


def test_an_export_holds_all_of_a_person_and_nothing_of_others(database: str) -> None:
    key = with_a_past(ANN)
    other = with_a_past("bob@city.org", 99.5)
    spooled(prediction(user_id=key.hex, input_data={"C6H6_GT": 7}))  # waits, and belongs to it

    held = json.loads(json.dumps(users.export_user(ANN)))

    assert held["user"]["email"] == ANN.lower()
    assert sorted(row["input_data"]["C6H6_GT"] for row in held["predictions"]) == [7, *[MARK] * 3]
    assert [row["observed"] for row in held["feedback"]] == [3.0]
    actions = ["user added", "key made", "user exported"]
    assert [row["action"] for row in held["audit"]] == actions
    assert len(held["keys"]) == 1
    assert "secret_hash" not in held["keys"][0]
    assert str(other) not in str(held)
    assert "99.5" not in str(held)


def traces(folder: Path, *marks: str) -> list[str]:
    """List the files that hold any of some texts, in whatever case."""
    return [
        f"{path.name}: {mark}"
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        for mark in marks
        if mark.lower().encode() in path.read_bytes().lower()
    ]


def everything_stored() -> str:
    return str([rows_of(table) for table in tables.metadata.sorted_tables]).lower()


def test_an_erased_person_leaves_no_trace(
    database: str, home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = with_a_past("bob@city.org", 99.5)
    key = with_a_past(ANN)
    [public] = [row["id"] for row in rows_of(tables.api_keys) if row["user_id"] == key]
    mine = {"user_id": key.hex, "input_data": {"C6H6_GT": MARK}}
    spooled(prediction(**mine, model_version="1" * 30))  # one for the quarantine,
    spooled(metric(1) + prediction()[:-1])  # and one of nobody
    importer.import_waiting()
    spooled(prediction(**mine))  # and one that still waits
    assert traces(home / "state", key.hex)
    before = answers.live_accuracy()

    done = users.erase_user(ANN)

    assert done == {"predictions": 4, "keys": 1, "spool_files": 0}
    assert traces(home / "state", ANN, key.hex, str(key), str(MARK), public) == []
    stored = everything_stored()
    for mark in (ANN.lower(), key.hex, str(key), str(MARK), public):
        assert mark not in stored
    assert ANN.lower() not in caplog.text.lower()
    assert [row["id"] for row in users.list_users()] == [other]
    assert len(answers.page(other)[0]) == 3
    assert len(quarantined(home)) == 1
    assert answers.live_accuracy() == before
    assert sum(row["predictions"] for row in rows_of(tables.daily)) == 4
    assert rows_of(tables.audit)[-1]["details"] == {"predictions": 4, "keys": 1}
    with pytest.raises(UsageError, match="No user"):
        users.export_user(ANN)


def test_a_running_workers_file_is_waited_for(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smartcity.store.spool._TICK", 0.1)
    store.upgrade()
    key = users.add_user(ANN)
    spool = Spool()
    spool.add(prediction(user_id=key.hex, input_data={"C6H6_GT": MARK}))

    done = users.erase_user(ANN)
    assert done["spool_files"] == 0
    assert traces(home / "state", key.hex, str(MARK)) == []

    spool.add(prediction(user_id=key.hex, input_data={"C6H6_GT": MARK}))  # a key still cached
    spool.close()
    importer.import_waiting()
    assert traces(home / "state", key.hex, str(MARK)) == []
    assert kept() == []
    store.close()


def test_a_worker_that_lets_nothing_go_is_told_of(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smartcity.store.spool._TICK", 60)
    monkeypatch.setattr(users, "_SPOOL_SECONDS", 0.3)
    store.upgrade()
    key = users.add_user(ANN)
    spool = Spool()
    spool.add(prediction(user_id=key.hex))

    assert users.erase_user(ANN)["spool_files"] == 1
    assert len(files()) == 1
    monkeypatch.setattr("smartcity.store.spool._TICK", 0.01)
    spool._closed.set()
    spool.rotate()
    store.close()


def test_a_database_without_tables_is_told_of(empty_database: str) -> None:
    for ask in (
        lambda: users.add_user(ANN),
        lambda: users.new_key(ANN),
        lambda: users.find_key("sc_00000000_" + "x" * 43),
        users.list_users,
        lambda: users.erase_user(ANN),
        importer.import_waiting,
    ):
        spooled(metric(1))
        with pytest.raises(store.DatabaseError, match="smartcity db upgrade"):
            ask()


def test_the_commands_do_all_this(home: Path) -> None:
    assert_refused(smartcity("users", "list"), 1, "smartcity db upgrade")
    assert_refused(smartcity("db", "check"), 1, "1 problem")
    upgraded = json.loads(smartcity("db", "upgrade", "--json").stdout)
    assert upgraded["applied"] == ["0001", "0002", "0003", "0004", "0005"]
    assert "is up to date" in smartcity("db", "upgrade").stdout
    assert "nothing is wrong" in smartcity("db", "check").stdout

    owner = UUID(json.loads(smartcity("users", "add", ANN, "--json").stdout)["id"])
    assert_refused(smartcity("users", "add", ANN), 2, "already")
    token = smartcity("users", "key", ANN, "--scope", "predict", "--expires-days", "3").stdout
    found = users.find_key(token.strip())
    assert found is not None
    assert found == users.Key(found.id, owner, frozenset({"predict"}))
    [listed] = json.loads(smartcity("users", "list", "--json").stdout)
    assert (listed["email"], listed["keys"]) == (ANN.lower(), 1)

    spooled(prediction(user_id=owner.hex), b"oops\n")
    done = json.loads(smartcity("db", "import", "--json").stdout)
    assert done == {"rows": 1, "quarantined": 1, "files": 1}
    held = json.loads(smartcity("users", "export", ANN).stdout)
    assert len(held["predictions"]) == 1

    assert smartcity("users", "revoke", found.id).returncode == 0
    assert_refused(smartcity("users", "revoke", "nothing!"), 2, "no key 'nothing!'")
    assert_refused(smartcity("users", "erase", ANN), 2, "--yes")
    assert smartcity("users", "erase", ANN, "--yes").returncode == 0
    assert_refused(smartcity("users", "export", ANN), 2, "No user")
    assert traces(home, ANN, owner.hex) == [], "logs included"
    store.close()


@pytest.mark.parametrize("group", ["db", "users"])
def test_a_group_without_arguments_shows_help(group: str, home: Path) -> None:
    done = smartcity(group)

    assert "Usage:" in done.stdout + done.stderr
    assert "Commands" in done.stdout + done.stderr


FAILING = """
import sys
from smartcity import cli
from smartcity.store import users
users.add_user = lambda email: 1 / 0
cli.main()
"""


def test_an_unexpected_failure_logs_no_address(home: Path) -> None:
    words = [sys.executable, "-c", FAILING, "users", "add", ANN]
    done = subprocess.run(words, capture_output=True, text=True, check=False)

    assert done.returncode == 1
    assert "Unexpected ZeroDivisionError" in done.stderr
    assert traces(home / "logs", "command failed")
    assert traces(home / "logs", ANN, "ann.example") == []


def test_following_stops_when_it_is_told(home: Path) -> None:
    words = [sys.executable, "-m", "smartcity", "db", "import", "--follow"]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, env=os.environ.copy()) as follower:
        until((home / "state" / "smartcity.db").exists)
        spooled(metric(1))
        until(lambda: not files())
        began = time.monotonic()
        follower.send_signal(signal.SIGTERM)
        assert follower.wait(10) == 0

    assert time.monotonic() - began < 3
    assert not alive(follower.pid)
    store.close()


def test_quarantined_lines_are_plain_json_with_a_reason(home: Path) -> None:
    store.upgrade()
    spooled(b"{\n")
    importer.import_waiting()

    [path] = (home / "state" / "spool" / "quarantine").iterdir()
    assert orjson.loads(path.read_bytes()).keys() == {"reason", "line"}
    assert path.stat().st_mode & 0o077 == 0, "it may hold people's data"
    store.close()
