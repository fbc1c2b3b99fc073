"""Who may ask and how often; whose answers are whose; what is counted, logged and never logged."""

import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
import pytest
from conftest import Postgres, eventually, forget, usual
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import update
from test_api import assert_error
from test_faults import AIR, all_answer, hanging, serving
from test_predict import COUNTS

from smartcity import monitoring, registry
from smartcity.api import create_app, guard, routes
from smartcity.store import database as store
from smartcity.store import tables, users
from smartcity.store.importer import import_waiting

Models = dict[str, registry.Card]
TRAFFIC, FEEDBACK, MINE = "/api/v1/predict/traffic", "/api/v1/feedback", "/api/v1/predictions"
ANN, BEN = "ann@city.org", "ben@city.org"
PROBES = ("/health", "/health/live", "/health/ready", "/health/startup", "/metrics")


@contextmanager
def api(address: str = "198.51.100.7", **changes: str) -> Iterator[TestClient]:
    """Run the application in this process, with some settings of its own."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in changes.items():
            patch.setenv(f"SMARTCITY_{name.upper()}", value)
        forget()
        app = create_app()
        with TestClient(app, raise_server_exceptions=False, client=(address, 4217)) as client:
            yield client
    forget()


@pytest.fixture
def always_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no key be known for any time."""
    monkeypatch.setattr(guard, "KEY_SECONDS", 0.0)


def key_of(email: str, *scopes: str, days: float | None = None) -> str:
    with suppress(Exception):
        users.add_user(email)
    return users.new_key(email, scopes or users.SCOPES, days)


def by_header(key: str) -> dict[str, str]:
    return {"X-API-Key": key}


def predict(client: TestClient, key: str | None = None, **headers: str) -> Any:
    return client.post(TRAFFIC, json=COUNTS, headers=headers | (by_header(key) if key else {}))


def kept_id(client: TestClient, key: str | None = None) -> str:
    """Have a row answered, and the answer brought into the database."""
    told = predict(client, key).json()["id"]
    import_waiting()
    return str(told)


def test_without_a_key_everything_but_ones_own_is_open_unless_keys_are_required(
    database: str, models: Models
) -> None:
    key = key_of(ANN)
    with api() as client:
        assert predict(client).status_code == 200
        assert predict(client, key).status_code == 200
        assert_error(client.get(MINE), 401)
    with api(require_key="true") as client:
        for answer in (
            predict(client),
            predict(client, "sc_nonsense"),
            client.get("/api/v1/models"),
            client.post(FEEDBACK, json={}),
            client.get("/api/v1/nowhere"),
        ):
            assert_error(answer, 401)
            assert answer.headers["www-authenticate"] == "Bearer"
        assert predict(client, key).status_code == 200
        for path in (*PROBES, "/", "/api/docs", "/api/redoc", "/openapi.json"):
            assert client.get(path).status_code == 200


def test_a_key_comes_in_either_header(database: str, models: Models) -> None:
    key = key_of(ANN)
    with api(require_key="true") as client:
        for kind in ("Bearer", "bearer", "BEARER"):
            answer = client.get("/api/v1/models", headers={"Authorization": f"{kind} {key}"})
            assert answer.status_code == 200
        for value in (f"Basic {key}", key, "Bearer", "Bearer ", f"Bearer {key}x", f"Bearer é{key}"):
            headers = {b"Authorization": value.encode("latin-1")}
            assert_error(client.get("/api/v1/models", headers=headers), 401)


def test_a_key_that_is_known_no_longer_is_refused(
    database: str, models: Models, always_asked: None
) -> None:
    good, brief, gone = key_of(ANN), key_of(ANN, days=1), key_of(ANN)
    forged = good[:-4] + ("aaaa" if good[-4:] != "aaaa" else "bbbb")
    with api() as client:
        assert [predict(client, key).status_code for key in (good, brief, gone)] == [200] * 3
        users.revoke(gone.split("_")[1])
        with store.transaction(write=True) as connection:
            ended = {"expires_at": datetime.now(UTC) - timedelta(seconds=1)}
            table = tables.api_keys
            connection.execute(
                update(table).where(table.c.id == brief.split("_")[1]).values(**ended)
            )
        for key in (brief, gone, forged, "sc_", "x" * 5000):
            assert_error(predict(client, key), 401)
        assert predict(client, good).status_code == 200

        users.erase_user(ANN)
        assert_error(predict(client, good), 401)


def test_a_revoked_key_works_no_longer_than_it_is_known(
    home: Path, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "KEY_SECONDS", 0.5)
    store.upgrade()
    key = key_of(ANN)
    with api() as client:
        assert predict(client, key).status_code == 200
        users.revoke(key.split("_")[1])
        revoked = time.monotonic()
        while predict(client, key).status_code == 200:
            assert time.monotonic() < revoked + 2
        assert_error(predict(client, key), 401)
    store.close()


def test_a_key_allows_what_its_scopes_say(database: str, models: Models) -> None:
    ask, note, all_of_it = key_of(ANN, "predict"), key_of(ANN, "feedback"), key_of(ANN, "predict")
    with store.transaction(write=True) as connection:
        mine = tables.api_keys.c.id == all_of_it.split("_")[1]
        connection.execute(update(tables.api_keys).where(mine).values(scopes="admin"))
    with api() as client:
        told = {"id": kept_id(client, ask), "observed": 2}

        assert_error(predict(client, note), 403)
        assert_error(client.get(MINE, headers=by_header(note)), 403)
        assert_error(client.post(FEEDBACK, json=told, headers=by_header(ask)), 403)
        assert client.post(FEEDBACK, json=told, headers=by_header(note)).status_code == 201
        assert predict(client, all_of_it).status_code == 200
        assert client.get(MINE, headers=by_header(all_of_it)).status_code == 200
        assert client.post(FEEDBACK, json=told, headers=by_header(all_of_it)).status_code == 201


def test_limits_are_counted_by_address_and_by_key(home: Path, models: Models) -> None:
    store.upgrade()
    first, second = key_of(ANN), key_of(ANN)
    with api(rate_limit="3/hour", key_rate_limit="5/hour") as client:
        elsewhere = TestClient(client.app, client=("203.0.113.9", 1))
        assert [predict(client).status_code for _ in range(4)] == [200, 200, 200, 429]
        answer = predict(client)
        assert_error(answer, 429)
        assert 1 <= int(answer.headers["retry-after"]) <= 3600
        assert_error(client.get("/api/v1/models"), 429)
        assert_error(client.get("/nowhere"), 429)
        assert predict(elsewhere).status_code == 200

        assert [predict(client, first).status_code for _ in range(6)] == [*[200] * 5, 429]
        assert predict(elsewhere, first).status_code == 429
        assert predict(client, second).status_code == 200
        assert [predict(elsewhere, "sc_wrong").status_code for _ in range(3)] == [401, 401, 429]

        for _ in range(20):
            assert {client.get(path).status_code for path in PROBES} == {200}
    store.close()


def test_a_limit_is_over_when_its_window_is(home: Path, models: Models) -> None:
    with api(rate_limit="2/second") as client:
        started = time.monotonic()
        codes = [predict(client).status_code for _ in range(10)]
        assert codes.count(429) >= 4
        eventually(lambda: predict(client).status_code == 200, seconds=3)
        assert time.monotonic() - started < 5


@contextmanager
def redis_server(port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run a real Redis that keeps nothing on disk."""
    if not shutil.which("redis-server"):
        pytest.skip("no redis-server on PATH: apt-get install redis-server")
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    server = subprocess.Popen([*command, "--dir", tempfile.gettempdir()], stdout=subprocess.DEVNULL)

    def listens() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        eventually(listens)
        yield server
    finally:
        server.kill()
        server.wait()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_two_servers_share_limits_through_redis_and_go_on_without_it(
    how: signal.Signals, home: Path, models: Models, free_port: int
) -> None:
    more = {"redis_url": f"redis://127.0.0.1:{free_port}/0", "rate_limit": "6/hour"}
    seconds = []

    def ask(client: TestClient) -> int:
        started = time.monotonic()
        answer = predict(client)
        seconds.append(time.monotonic() - started)
        assert "retry-after" in answer.headers or answer.status_code == 200
        return int(answer.status_code)

    with redis_server(free_port) as server, api(**more) as one, api(**more) as other:
        codes = [ask(client) for _ in range(4) for client in (one, other)]
        assert Counter(codes) == {200: 6, 429: 2}
        server.send_signal(how)
        codes = [ask(client) for _ in range(8) for client in (one, other)]
        assert Counter(codes) == {200: 12, 429: 4}, "each counts its own"
        assert max(seconds) < 1
        assert one.get("/health").status_code == 200
        server.send_signal(signal.SIGCONT)


def test_an_outage_extends_what_was_known_of_a_key(
    home: Path, models: Models, always_asked: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.upgrade()
    known, unseen = key_of(ANN), key_of(ANN)
    with api(require_key="true") as client:
        assert predict(client, known).status_code == 200

        def away(token: str) -> None:
            raise store.DatabaseError("secret details")

        monkeypatch.setattr(users, "find_key", away)
        for _ in range(3):
            assert predict(client, known).status_code == 200
            answer = predict(client, unseen)
            assert "secret" not in str(assert_error(answer, 503))
            assert int(answer.headers["retry-after"]) > 0
        monkeypatch.undo()
        assert predict(client, unseen).status_code == 200
    store.close()


def test_a_database_that_says_nothing_holds_nobody_up_for_long(
    home: Path, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "KEY_SECONDS", 0.0)
    monkeypatch.setattr(guard, "_FIND_SECONDS", 0.2)
    monkeypatch.setattr(routes, "_DATABASE_SECONDS", 1.0)
    server = Postgres(Path(tempfile.mkdtemp(prefix="sc-")))
    monkeypatch.setenv("SMARTCITY_DATABASE_URL", server.url("made"))
    forget()
    store.upgrade()
    known, unseen = key_of(ANN), key_of(ANN)
    try:
        with api(require_key="true", database_url=server.url("made")) as client:
            told = {"id": kept_id(client, known), "observed": 2}
            headers = by_header(known)
            with hanging(server):
                for _ in range(8):  # more than there are threads to wait in
                    started = time.monotonic()
                    assert predict(client, known).status_code == 200
                    assert time.monotonic() - started < 1
                asks: list[Callable[[], Any]] = [
                    lambda: predict(client, unseen),
                    lambda: client.post(FEEDBACK, json=told, headers=headers),
                    lambda: client.get(MINE, headers=headers),
                ]
                for ask in asks:
                    started = time.monotonic()
                    answer = ask()
                    assert_error(answer, 503)
                    assert int(answer.headers["retry-after"]) > 0
                    assert time.monotonic() - started < 3
            eventually(lambda: predict(client, unseen).status_code == 200)
            assert client.post(FEEDBACK, json=told, headers=headers).status_code == 201
    finally:
        store.close()
        server.end()


def test_one_lists_all_of_ones_own_predictions_exactly_once(database: str, models: Models) -> None:
    ann, ben = key_of(ANN), key_of(BEN)
    made: dict[str, list[str]] = {ann: [], ben: []}
    with api() as client:
        for n in range(23):
            row = COUNTS | {"car_count": n}
            for key in (ann, ben) if n % 3 == 0 else (ann,):
                told = client.post(TRAFFIC, json=row, headers=by_header(key)).json()
                made[key].append(told["id"])
        energy = client.post(
            "/api/v1/predict/energy", json=usual(models["energy"]), headers=by_header(ben)
        ).json()["id"]
        predict(client)
        import_waiting()
        note = {"id": made[ann][0], "observed": 3}
        assert client.post(FEEDBACK, json=note, headers=by_header(ann)).status_code == 201

        def pages(key: str, limit: int, **query: str) -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = []
            cursor: str | None = None
            while True:
                asked = query | {"limit": str(limit)} | ({"before": cursor} if cursor else {})
                body = client.get(MINE, params=asked, headers=by_header(key)).json()
                assert body["success"] is True
                found += body["predictions"]
                cursor = body["next"]
                if cursor is None:
                    return found
                assert len(body["predictions"]) == limit

        for limit in (1, 5, 23, 1000):
            listed = pages(ann, limit)
            assert sorted(each["id"] for each in listed) == sorted(made[ann])
            times = [each["made_at"] for each in listed]
            assert times == sorted(times, reverse=True)
        assert {each["id"] for each in pages(ben, 3)} == {*made[ben], energy}
        assert [each["id"] for each in pages(ben, 3, domain="energy")] == [energy]
        observed = {each["id"]: each["observed"] for each in pages(ann, 100)}
        assert observed.pop(made[ann][0]) == 3
        assert set(observed.values()) == {None}
        first = next(each for each in pages(ann, 100) if each["id"] == made[ann][7])
        assert first["inputs"] == COUNTS | {"car_count": 7}

        for query in ({"limit": "0"}, {"limit": "1001"}, {"limit": "x"}, {"before": "nonsense"}):
            assert_error(client.get(MINE, params=query, headers=by_header(ann)), 422)
        assert_error(client.get(MINE, params={"domain": "noise"}, headers=by_header(ann)), 404)


def test_feedback_joins_its_prediction_once(
    database: str, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routes, "_CATCH_UP", (0.0, 0.1))
    ann, ben = key_of(ANN), key_of(BEN)
    with api() as client:
        mine, anyones = kept_id(client, ann), kept_id(client)

        def note(key: str, observed: Any, who: str | None = ann) -> Any:
            headers = by_header(who) if who else {}
            return client.post(FEEDBACK, json={"id": key, "observed": observed}, headers=headers)

        for odd in (-1, 4, 1.5, 1e300, "2", None, True, [2]):
            body = assert_error(note(mine, odd), 422)
            assert body["details"][0]["field"] == "observed"
        assert_error(note(mine, 2, ben), 404)
        assert_error(note(mine, 2, None), 404)
        assert_error(note(str(uuid4()), 2), 404)
        assert_error(note("nonsense", 2), 422)
        for content in (b'{"id": "%s", "observed": NaN}' % mine.encode(), b"{}", b"[]"):
            headers = by_header(ann) | {"content-type": "application/json"}
            assert_error(client.post(FEEDBACK, content=content, headers=headers), 422)

        first, again = note(mine, 2), note(mine, 2.0)
        assert (first.status_code, again.status_code) == (201, 201)
        assert {k: first.json()[k] for k in ("success", "id", "observed")} == {
            "success": True,
            "id": mine,
            "observed": 2,
        }
        assert_error(note(mine, 3), 409)
        assert note(mine, 2).status_code == 201, "what was said first stays"
        assert note(mine.replace("-", "").upper(), 2).status_code == 201
        assert note(anyones, 1, None).status_code == 201
        assert_error(note(anyones, 2, ben), 409)


def test_feedback_waits_for_a_prediction_made_just_now(home: Path, models: Models) -> None:
    store.upgrade()
    with api() as client:
        key = predict(client).json()["id"]
        with subprocess.Popen(["sleep", "0.5"]) as slow:
            slow.wait()
            import_waiting()
        started = time.monotonic()
        assert client.post(FEEDBACK, json={"id": key, "observed": 1}).status_code == 201
        assert time.monotonic() - started < 4
    store.close()


def values(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Read Prometheus's text."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(text: str, name: str, **labels: str) -> float:
    return values(text).get((f"smartcity_{name}", frozenset(labels.items())), 0.0)


def test_metrics_tell_all_that_the_specification_asks_for(
    database: str, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitoring.metrics, "_FRESH", 0.0)
    with api() as client:
        before = client.get("/metrics").text
        for _ in range(4):
            assert predict(client).status_code == 200
        client.post(TRAFFIC, json={})
        client.post(TRAFFIC, content=b"{", headers={"content-type": "application/json"})
        told = {"id": kept_id(client), "observed": 2}
        said = client.post(FEEDBACK, json=told).json()
        answer = client.get("/metrics")

    assert answer.headers["content-type"].startswith("text/plain")
    text = answer.text

    def more(name: str, **labels: str) -> float:
        return value(text, name, **labels) - value(before, name, **labels)

    posted = {"route": TRAFFIC, "method": "POST"}
    assert more("requests_total", **posted, status="200") == 5
    assert more("requests_total", **posted, status="422") == 1
    assert more("requests_total", **posted, status="400") == 1
    assert more("requests_total", route=FEEDBACK, method="POST", status="201") == 1
    assert more("request_seconds_count", route=TRAFFIC) == 7
    assert 0 < more("request_seconds_sum", route=TRAFFIC) < 30
    assert more("predictions_total", domain="traffic") == 5
    assert more("cache_hits_total", domain="traffic") == 4
    assert more("cache_misses_total", domain="traffic") == 1
    assert more("prediction_seconds_count", domain="traffic") == 5
    for domain in models:
        assert 0 < value(text, "model_load_seconds", domain=domain) < 60
    for name in (
        "memory_used_bytes",
        "memory_total_bytes",
        "process_memory_bytes",
        "disk_used_bytes",
        "disk_total_bytes",
        "network_received_bytes_total",
        "network_sent_bytes_total",
        "spool_bytes",
    ):
        assert value(text, name) > 0, name
    assert 0 <= value(text, "cpu_percent") <= 100
    live = {"domain": "traffic"}
    assert value(text, "live_accuracy", **live, measure="observed") == 1
    assert value(text, "live_accuracy", **live, measure="accuracy") == (said["prediction"] == 2)


def test_metrics_add_up_over_workers_and_logs_tell_of_requests_but_of_no_input(
    home: Path, models: Models, free_port: int
) -> None:
    secret = 42.1790625
    row = usual(models["air_quality"])
    with serving(home, free_port, workers=2) as server:
        eventually(lambda: all_answer(server, server.worker_ids()))
        store.upgrade()
        key = key_of(ANN)
        status, body, headers = server.ask("POST", AIR, orjson.dumps(row | {"humidity": secret}))
        assert status == 200
        made = headers["x-request-id"]
        assert re.fullmatch(r"[0-9a-f-]{36}", made)
        refused = [
            orjson.dumps(row | {"humidity": -secret}),
            orjson.dumps(row | {"humidity": f"{secret}"}),
            orjson.dumps({f"{secret}": 1}),
            b'{"humidity": %f' % secret,
            orjson.dumps([row, {"humidity": secret}]),
        ]
        codes = [server.ask("POST", AIR, each)[0] for each in refused]
        assert codes == [422, 422, 422, 400, 422]
        note = orjson.dumps({"id": body["id"], "observed": secret})
        eventually(lambda: server.ask("POST", FEEDBACK, note, x_api_key=key)[0] == 201)
        server.get(f"{MINE}?before={secret}", x_api_key=key)
        batch = b"[%b,{}]" % orjson.dumps(row | {"humidity": secret})
        assert server.ask("POST", AIR.replace("/air", "/batch/air"), batch)[0] == 200
        for n in range(40):
            told = server.ask("POST", AIR, orjson.dumps(row), x_request_id=f"line.{n}_-")
            assert told[2]["x-request-id"] == f"line.{n}_-"
        for odd in ("a b", "x" * 65, "a/b", "é"):
            told = server.ask("POST", AIR, orjson.dumps(row), x_request_id=odd)
            assert re.fullmatch(r"[0-9a-f-]{36}", told[2]["x-request-id"])
        assert server.get("/nowhere", x_request_id="lost-1")[1]["request_id"] == "lost-1"
        said = _metrics(server.port)
        server.stop()
    assert_counted(said)
    for text in ((home / "logs" / "smartcity.log").read_text(), server.output.read_text()):
        for word in ("42.179", key, key.split("_", 2)[2], ANN, "Traceback"):
            assert word not in text
        lines = [orjson.loads(line) for line in text.splitlines() if line.startswith("{")]
        access = [line for line in lines if line["event"] == "request answered"]
        ids = Counter(line["request_id"] for line in access)
        assert set(ids.values()) == {1}
        assert {f"line.{n}_-" for n in range(40)} | {made, "lost-1"} <= set(ids)
        assert {"method", "path", "status", "ms", "client", "user", "timestamp"} <= set(access[0])
    for path in (home / "logs").iterdir():
        assert "42.179" not in path.read_text(), path


def assert_counted(said: str) -> None:
    """Compare the sums over both workers with what was asked of them."""
    air = {"domain": "air_quality"}
    posted = {"route": AIR, "method": "POST"}
    assert value(said, "requests_total", **posted, status="200") == 45
    assert value(said, "requests_total", **posted, status="422") == 4
    assert value(said, "requests_total", **posted, status="400") == 1
    assert value(said, "predictions_total", **air) == 46
    misses = value(said, "cache_misses_total", **air)
    hits = value(said, "cache_hits_total", **air)
    assert hits + misses == 45, "rows of a batch are not looked up"
    assert 2 <= misses <= 4, "each worker asks once"


def _metrics(port: int) -> str:
    import urllib.request

    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return str(answer.read().decode())


def test_pages_of_allowed_origins_may_call_and_others_may_not(home: Path, models: Models) -> None:
    good, bad = {"Origin": "https://a.city"}, {"Origin": "https://evil.example"}
    asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-api-key"}
    allow = "access-control-allow-origin"
    with api(cors_origins="https://a.city https://b.city", rate_limit="12/hour") as client:
        answer = client.options(TRAFFIC, headers=good | asks)
        assert (answer.status_code, answer.headers[allow]) == (200, "https://a.city")
        assert "x-api-key" in answer.headers["access-control-allow-headers"].lower()
        assert "POST" in answer.headers["access-control-allow-methods"]
        answer = client.options(TRAFFIC, headers=bad | asks)
        assert allow not in answer.headers
        assert_error(answer, 400)

        answers: list[tuple[int, Callable[[Any], Any]]] = [
            (200, lambda h: client.post(TRAFFIC, json=COUNTS, headers=h)),
            (422, lambda h: client.post(TRAFFIC, json={}, headers=h)),
            (401, lambda h: client.get(MINE, headers=h)),
            (404, lambda h: client.get("/nowhere", headers=h)),
            (415, lambda h: client.post(TRAFFIC, content=b"{}", headers=h)),
        ]
        for status, ask in answers:
            answer = ask(good)
            assert (answer.status_code, answer.headers[allow]) == (status, "https://a.city")
            assert "X-Request-ID" in answer.headers["access-control-expose-headers"]
            assert allow not in ask(bad).headers
        while predict(client).status_code != 429:
            continue
        answer = client.post(TRAFFIC, json=COUNTS, headers=good)
        assert (answer.status_code, answer.headers[allow]) == (429, "https://a.city")
        assert "Retry-After" in answer.headers["access-control-expose-headers"]
    with api() as client:
        assert allow not in client.post(TRAFFIC, json=COUNTS, headers=good).headers


def test_an_unexpected_fault_of_a_plain_route_is_answered_counted_and_logged_once(
    home: Path, models: Models, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sent: list[str] = []
    watched = TestClient(_watched(create_app(), sent), raise_server_exceptions=False)
    with watched as client:
        before = faults(client)
        with monkeypatch.context() as patch:
            patch.setattr(routes, "_served", lambda _: 1 / 0)
            sent.clear()
            answer = client.get("/api/v1/models/traffic", headers={"X-Request-ID": "oops"})
        assert assert_error(answer, 500)["request_id"] == "oops"
        assert sent == ["http.response.start", "http.response.body"]
        assert faults(client) == before + 1
    assert sum("request failed" in record.getMessage() for record in caplog.records) == 1


def faults(client: TestClient) -> float:
    found = values(client.get("/metrics").text).items()
    return sum(
        number
        for (name, labels), number in found
        if name == "smartcity_requests_total" and ("status", "500") in labels
    )


def _watched(inner: Callable[..., Any], sent: list[str]) -> Callable[..., Any]:
    async def watch(scope: Any, receive: Any, send: Any) -> None:
        async def note(message: Any) -> None:
            sent.append(message["type"])
            await send(message)

        await inner(scope, receive, note)

    return watch


def test_the_state_folder_is_closed_to_others(home: Path, models: Models) -> None:
    with api() as client:
        assert predict(client).status_code == 200
        folder = home / "state" / "spool"
        found = [folder, *folder.glob("*.jsonl")]
        assert len(found) == 2
        assert all(path.stat().st_mode & 0o077 == 0 for path in found)
