"""What the doctor finds in an installation, and that it finds nothing where nothing is wrong."""

import json
import os
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from conftest import at_home, forget
from sqlalchemy import update
from test_cli import smartcity
from test_registry import flip_a_byte

from smartcity import doctor, registry, settings
from smartcity.store import claims, spool
from smartcity.store import database as store
from smartcity.store.claims import Due
from smartcity.store.tables import due_runs

#: Of city.example, good in 2020; nobody has its key.
OLD = """-----BEGIN CERTIFICATE-----
MIIBFTCBvAIBATAKBggqhkjOPQQDAjAXMRUwEwYDVQQDDAxjaXR5LmV4YW1wbGUw
HhcNMjAwMTAxMDAwMDAwWhcNMjEwMTAxMDAwMDAwWjAXMRUwEwYDVQQDDAxjaXR5
LmV4YW1wbGUwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAASdbaXegl2gmn1kAMxw
EwBD5uGb1kPgScgDqFJzAHPruTvWYNKDopRrVGfuxsms5XaLm+NFv6PfiMp0YAIe
CNEyMAoGCCqGSM49BAMCA0gAMEUCIAxS8J2BcUGDYqTVxkp3Mn+1CbdLv0eSq4Xr
COU/GqD9AiEAgA2+UM0bYcb3dMm6a+Bm6djOkKiRQvLJBAmt4BAOAjg=
-----END CERTIFICATE-----
"""
#: What depends on the machine the tests run on, not on the installation.
MACHINE = {"browser", "clock", "disk"}


def found(name: str) -> doctor.Check:
    """Give the worst of what the doctor says of something."""
    checks = [check for check in doctor.examine() if check.check == name]
    return max(checks, key=lambda check: ("ok", "warning", "problem").index(check.state))


def free_ports(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Name two ports that nobody listens on, in the environment too.

    They lie below those the system gives to whoever asks for any port: nobody else on this
    machine is given one of them while a server of ours is down.
    """
    named: dict[str, int] = {}
    for name in ("SMARTCITY_API_PORT", "SMARTCITY_DASHBOARD_PORT"):
        while name not in named:
            port = 20_000 + secrets.randbelow(12_000)
            if port in named.values():
                continue
            with socket.socket() as probe, suppress(OSError):
                probe.bind(("127.0.0.1", port))
                named[name] = port
        monkeypatch.setenv(name, str(named[name]))
    return named


@pytest.fixture
def ports(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Ports nobody listens on, named by the environment."""
    return free_ports(monkeypatch)


@pytest.fixture
def own(models: dict[str, registry.Card], home: Path, ports: dict[str, int]) -> Iterator[Path]:
    """An installation with models, of the test's own."""
    settings.current.cache_clear()
    yield home
    store.close()


def test_nothing_is_wrong_with_a_whole_installation(built: Path, ports: dict[str, int]) -> None:
    with at_home(built, **{name: str(port) for name, port in ports.items()}):
        done = smartcity("doctor", "--json")
    checks = json.loads(done.stdout)

    assert [c for c in checks if c["state"] != "ok" and c["check"] not in MACHINE] == []
    assert done.returncode == 0, done.stderr
    assert {c["check"] for c in checks} >= {"python", "packages", "database", "model energy"}


def test_every_fault_is_in_the_table_with_its_remedy(home: Path, ports: dict[str, int]) -> None:
    done = smartcity("doctor")

    assert done.returncode == 1
    assert "No model of 'energy' is published" in done.stdout
    assert "3 problem(s): model air_quality, model traffic, model energy" in done.stderr


def test_a_folder_that_cannot_be_written_is_found(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (own / "in-the-way").write_text("")
    monkeypatch.setenv("SMARTCITY_REPORTS", str(own / "in-the-way" / "reports"))
    settings.current.cache_clear()

    check = found("reports")

    assert check.state == "problem"
    assert "SMARTCITY_REPORTS=" in check.seen
    assert found("state").state == "ok"


def test_a_damaged_model_is_found(own: Path) -> None:
    flip_a_byte(own / "models" / "traffic" / "1.0.0" / "model.onnx")

    assert found("model traffic").state == "problem"
    assert "not the file that was published" in found("model traffic").seen
    assert found("model energy").state == "ok"


def test_a_port_somebody_else_listens_on_is_found(own: Path, ports: dict[str, int]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", ports["SMARTCITY_API_PORT"]))
        taken.listen()

        assert found("port of API").state == "problem"
    assert found("port of dashboard").state == "ok"


def test_a_schedule_with_faults_is_found(own: Path) -> None:
    (own / "reports").mkdir(exist_ok=True)
    (own / "reports" / "schedule.toml").write_text('[city]\nnotebook = "05_report"\ncron = "x"\n')

    assert found("schedule").state == "problem"
    assert "write five fields" in found("schedule").seen


def test_a_report_that_failed_or_that_nobody_makes_is_found(own: Path) -> None:
    (own / "reports").mkdir(exist_ok=True)
    plan = '[city]\nnotebook = "05_report"\ndomains = ["energy"]\ncron = "0 * * * *"\n'
    (own / "reports" / "schedule.toml").write_text(plan)
    store.upgrade()
    now = datetime.now(UTC)
    hour = now.replace(minute=0, second=0, microsecond=0)
    rows = [Due("city", hour - timedelta(hours=5), "", "05_report", "energy", {})]
    claims.note("city", now - timedelta(hours=5), lambda *_: rows, timedelta(days=3))

    assert f"was due at {hour - timedelta(hours=4):%F %R} UTC" in found("report city").seen

    with store.transaction(write=True) as connection:
        connection.execute(update(due_runs).values(state="failed", reason="Cell 3 failed."))

    assert "failed for energy: Cell 3 failed." in found("report city").seen
    assert "smartcity report run city" in found("report city").remedy


def test_an_old_certificate_is_found(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (own / "old.pem").write_text(OLD)
    monkeypatch.setenv("SMARTCITY_CERTIFICATE", str(own / "old.pem"))
    settings.current.cache_clear()

    assert found("certificate").state == "problem"
    assert "days ago" in found("certificate").seen


def test_a_key_that_anybody_may_read_is_found(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = own / "key.pem"
    key.write_text("-----BEGIN PRIVATE KEY-----")
    monkeypatch.setenv("SMARTCITY_CERTIFICATE_KEY", str(key))
    settings.current.cache_clear()

    key.chmod(0o644)
    assert found("secrets").remedy == f"chmod 600 {key}"
    key.chmod(0o600)
    assert found("secrets").state == "ok"


def test_a_missing_browser_is_found(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(own))

    assert found("browser").state == "warning"


def test_a_database_that_is_behind_is_found(own: Path) -> None:
    assert "is made when it is needed" in found("database").seen
    store.upgrade("0001")
    assert found("database").state == "problem"
    assert "smartcity db upgrade" in found("database").seen

    store.upgrade()
    assert found("database").state == "ok"


def test_answers_the_database_refused_are_found(own: Path) -> None:
    refused = spool.place() / "quarantine"
    refused.mkdir(parents=True)
    (refused / "1.jsonl").write_text("{}\n")

    assert found("spool").state == "warning"
    assert "refused 1 files" in found("spool").seen


def test_a_clock_that_went_back_is_found(own: Path) -> None:
    later = time.time() + 3600
    os.utime(own / "models" / "energy" / "CURRENT", (later, later))

    assert found("clock").state == "problem"


def test_settings_that_do_not_go_together_are_found(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert found("settings").state == "ok"
    monkeypatch.setenv("SMARTCITY_DELIVER", "true")
    monkeypatch.setenv("SMARTCITY_RETENTION_DAY", "a secret perhaps")
    forget()

    told = [check for check in doctor.examine() if check.check == "settings"]

    assert [check.remedy for check in told] == [
        "Name the mail server: SMARTCITY_MAIL_URL",
        "Did you mean SMARTCITY_RETENTION_DAYS?",
    ]


def test_no_secret_is_told(own: Path) -> None:
    secret = "hunter2-and-a-half"  # noqa: S105  # planted
    url = f"postgresql://u:{secret}@127.0.0.1:1/none"
    for words in (["doctor"], ["doctor", "--json"], ["doctor", "--settings", "--json"]):
        done = smartcity(*words, SMARTCITY_DATABASE_URL=url, SMARTCITY_DASHBOARD_TOKEN=secret)
        assert "SMARTCITY" in done.stdout or "127.0.0.1:1" in done.stdout
        assert secret not in done.stdout + done.stderr
