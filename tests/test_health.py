"""What the page says of the API: true while it is up, and in time whatever else it meets."""

import contextlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson
import pytest
from conftest import DOMAINS, eventually, forget, usual
from hypothesis import example, given
from hypothesis import strategies as st
from test_faults import Server, serving
from test_predict import COUNTS

from smartcity import monitoring, registry
from smartcity.dashboard import health
from smartcity.errors import SmartCityError, UsageError
from smartcity.monitoring import Figure
from smartcity.store import database as store

NAMES = [
    "Request count",
    "Response time, mean",
    "Response time, p99",
    "Error rate",
    "Cache hit rate",
    "CPU",
    "Memory",
    "Disk",
    "Network in",
    "Network out",
    *["Prediction latency"] * 3,
    *["Live accuracy"] * 3,
    *["Model load time"] * 3,
    *["Alarms"] * 3,
    "Cache efficiency",
]
WELL = orjson.dumps(
    {"success": True, "status": "healthy", "models": dict.fromkeys(DOMAINS, "1.0.0")}
)
MACHINE = "".join(
    f"smartcity_{name} {value}\n"
    for name, value in {
        "cpu_percent": 12.5,
        "memory_used_bytes": 2e9,
        "memory_total_bytes": 8e9,
        "process_memory_bytes": 3e8,
        "disk_used_bytes": 1e9,
        "disk_total_bytes": 4e9,
        "network_received_bytes_total": 5e6,
        "network_sent_bytes_total": 7e6,
    }.items()
)


def answer(body: bytes, status: str = "200 OK", length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status.encode(), size, body)


Talk = Callable[[socket.socket, str], None]


def says(**bodies: bytes) -> Talk:
    """Answer each route by its name and hang up; a route that is not named gets nothing."""

    def talk(client: socket.socket, route: str) -> None:
        client.sendall(bodies.get(route, b""))

    return talk


def silent(client: socket.socket, _: str) -> None:
    """Take the question, and never answer."""
    with contextlib.suppress(OSError):
        client.recv(1)


def dripping(client: socket.socket, _: str) -> None:
    """Answer a byte at a time, for ever."""
    with contextlib.suppress(OSError):
        client.sendall(b"HTTP/1.1 200 OK\r\nX-Drip: ")
        while True:
            client.sendall(b"x")
            time.sleep(0.02)


@pytest.fixture
def stranger() -> Iterator[Callable[[Talk], str]]:
    """Let something that is no API of ours listen; give its address."""
    listener = socket.create_server(("127.0.0.1", 0))

    def start(talk: Talk) -> str:
        def meet(client: socket.socket) -> None:
            with client:
                asked = client.recv(65536)
                talk(client, "metrics" if b"/metrics" in asked else "health")

        def listen() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    threading.Thread(target=meet, args=(client,), daemon=True).start()

        threading.Thread(target=listen, daemon=True).start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    yield start
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def named(figures: tuple[Figure, ...] | list[Figure]) -> dict[tuple[str, str | None], Figure]:
    return {(figure.name, figure.domain): figure for figure in figures}


@pytest.mark.parametrize("workers", [1, 2])
def test_a_real_api_tells_how_it_is(
    workers: int, home: Path, models: dict[str, registry.Card], free_port: int
) -> None:
    store.upgrade()
    store.close()
    url = f"http://127.0.0.1:{free_port}"
    with serving(home, free_port, workers=workers) as server:
        counts = orjson.dumps(COUNTS)
        for _ in range(6):
            told = server.ask("POST", "/api/v1/predict/traffic", counts)[1]
        server.ask("POST", "/api/v1/predict/traffic", b'{"car_count": -1}')
        server.ask("POST", "/api/v1/predict/energy", orjson.dumps(usual(models["energy"])))
        seen = orjson.dumps({"id": told["id"], "observed": told["prediction"]})
        eventually(lambda: server.ask("POST", "/api/v1/feedback", seen)[0] == 201)

        said = health.ask(url, patience=10)
        again = health.ask(url, patience=10)

    assert (said.is_up, said.status, said.problem) == (True, "healthy", None)
    assert said.models == {name: card.version for name, card in models.items()}
    assert datetime.now(UTC) - said.asked_at < timedelta(minutes=1)
    assert [figure.name for figure in said.figures] == NAMES
    found = named(said.figures)
    count, errors = found["Request count", None], found["Error rate", None]
    # Asking how it is changes nothing of what is told, nor does a probe.
    assert named(again.figures)["Request count", None].value == count.value
    assert count.value is not None
    assert count.value >= 9
    assert errors.value == 0
    assert "4xx" in errors.note
    for name in ("Response time, mean", "Response time, p99"):
        assert 0 < (found[name, None].value or 0) < 10_000
    for name in ("Cache hit rate", "Cache efficiency", "CPU", "Memory", "Disk"):
        assert 0 <= (found[name, None].value or 0) <= 100
    assert found["Cache hit rate", None].value == found["Cache efficiency", None].value
    assert (found["Network in", None].value or 0) > 0
    assert found["Prediction latency", "air_quality"].value is None
    assert (found["Prediction latency", "traffic"].value or 0) > 0
    assert found["Live accuracy", "traffic"].value == 100
    assert found["Live accuracy", "energy"].value is None
    assert all((found["Model load time", name].value or 0) > 0 for name in DOMAINS)


def test_an_api_without_a_model_is_up_to_nothing(home: Path, free_port: int) -> None:
    server = Server(home, free_port)
    try:
        server.start(wait=False)
        eventually(lambda: server.probe("live") == 200, seconds=60)
        said = health.ask(f"http://127.0.0.1:{free_port}", patience=10)
    finally:
        server.kill_all()

    assert (said.is_up, said.status) == (False, "unhealthy")
    assert said.problem
    assert "smartcity build" in said.problem
    assert "No model of 'traffic'" in said.models["traffic"]
    assert named(said.figures)["Model load time", "traffic"].value is None
    assert (named(said.figures)["CPU", None].value or 0) >= 0


def test_no_api_says_how_to_start_one(home: Path, free_port: int) -> None:
    said = health.ask(f"http://127.0.0.1:{free_port}/")

    assert (said.is_up, said.status, said.models, said.figures) == (False, "unknown", {}, ())
    assert said.url == f"http://127.0.0.1:{free_port}"
    assert said.problem
    assert "cannot be reached" in said.problem
    assert "smartcity up" in said.problem


@pytest.mark.parametrize(
    ("talk", "why"),
    [
        (silent, "in time"),
        (dripping, "in time"),
        (says(), "makes sense"),
        (says(health=b"\x00\xff garbage \n\n" * 50, metrics=b"SSH-2.0\r\n"), "makes sense"),
        (says(health=answer(WELL[:40])), "makes sense"),
        (says(health=answer(b"<html>", "503 Service Unavailable")), "makes sense"),
        (says(health=answer(b"[]"), metrics=answer(b"")), "makes sense"),
        (says(health=answer(b'{"success": true}')), "makes sense"),
        (says(health=answer(b"x" * 100, length=2**40)), "makes sense"),
    ],
)
def test_whatever_is_met_there_is_an_answer_in_time(
    talk: Talk, why: str, stranger: Callable[[Talk], str], home: Path
) -> None:
    url, started = stranger(talk), time.monotonic()

    said = health.ask(url, patience=0.6)

    assert time.monotonic() - started < 0.7
    assert (said.is_up, said.status, said.figures) == (False, "unknown", ())
    assert said.problem
    assert why in said.problem
    assert "smartcity up" in said.problem


@pytest.mark.parametrize(
    "metrics",
    [
        b"",
        answer(b"", "403 Forbidden"),
        answer(MACHINE.encode(), length=10**6),
        answer(MACHINE[:-40].encode()),
        answer(b"up 1\n"),
        answer(b"\xff\xfe"),
    ],
)
def test_half_an_answer_is_told_as_half(
    metrics: bytes, stranger: Callable[[Talk], str], home: Path
) -> None:
    said = health.ask(stranger(says(health=answer(WELL), metrics=metrics)), patience=2)

    assert (said.is_up, said.status, said.figures) == (True, "healthy", ())
    assert said.models["energy"] == "1.0.0"
    assert said.problem
    assert "/metrics" in said.problem


def test_slow_metrics_hold_up_nothing_else(stranger: Callable[[Talk], str], home: Path) -> None:
    def talk(client: socket.socket, route: str) -> None:
        (silent if route == "metrics" else says(health=answer(WELL)))(client, route)

    said = health.ask(stranger(talk), patience=0.5)

    assert (said.is_up, said.figures) == (True, ())
    assert said.problem
    assert "/metrics does not answer in time" in said.problem


def test_a_model_that_is_not_served_is_pointed_out(
    stranger: Callable[[Talk], str], home: Path
) -> None:
    models = {"traffic": "1.0.0", "energy": "No model of 'energy' is published."}
    body = orjson.dumps({"success": True, "status": "partial", "models": models})

    said = health.ask(stranger(says(health=answer(body), metrics=answer(MACHINE.encode()))))

    assert (said.is_up, said.status, said.models) == (True, "partial", models)
    assert said.problem
    assert "Not every model" in said.problem


def test_can_be_asked_where_an_event_loop_runs(home: Path, free_port: int) -> None:
    """As it does in every notebook."""
    import asyncio

    async def notebook() -> health.Health:
        return health.ask(f"http://127.0.0.1:{free_port}")

    assert not asyncio.run(notebook()).is_up


def test_asks_where_the_settings_say(
    stranger: Callable[[Talk], str], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMARTCITY_API_PORT", "9")
    forget()
    assert health.ask().url == "http://127.0.0.1:9"

    url = stranger(says(health=answer(WELL), metrics=answer(MACHINE.encode())))
    monkeypatch.setenv("SMARTCITY_API_URL", f"{url}/")
    forget()
    assert (health.ask().url, health.ask().is_up) == (url, True)

    monkeypatch.setenv("SMARTCITY_API_URL", "file:///etc/passwd")
    forget()
    with pytest.raises(UsageError, match="SMARTCITY_API_URL"):
        health.ask()


def test_what_nobody_has_measured_is_not_zero(home: Path) -> None:
    found = named(monitoring.read(MACHINE))

    measured = {"CPU", "Memory", "Disk", "Network in", "Network out"}
    assert {name for (name, _), figure in found.items() if figure.value is not None} == measured
    assert found["Memory", None].value == 25
    assert found["Memory", None].note == "2.0 of 8.0 GB in use; the API itself 300 MB"
    assert found["Live accuracy", "energy"].note == "the database has not answered"


def test_figures_are_worked_out_as_they_say(home: Path) -> None:
    """By hand: 100 answers, 98 within 10 ms and 2 within 100 ms; p99 is half way between."""
    route = "/api/v1/predict/traffic"
    buckets = {"0.01": 98, "0.1": 100, "+Inf": 100}
    text = "".join(
        f'smartcity_request_seconds_bucket{{route="{route}",le="{le}"}} {count}\n'
        for le, count in buckets.items()
    )
    text += f"""smartcity_request_seconds_sum{{route="{route}"}} 0.7
smartcity_request_seconds_count{{route="{route}"}} 100
smartcity_request_seconds_bucket{{route="/metrics",le="+Inf"}} 1000
smartcity_request_seconds_sum{{route="/metrics"}} 2000
smartcity_request_seconds_count{{route="/metrics"}} 1000
smartcity_requests_total{{route="{route}",method="POST",status="200"}} 90
smartcity_requests_total{{route="{route}",method="POST",status="422"}} 8
smartcity_requests_total{{route="{route}",method="POST",status="503"}} 2
smartcity_requests_total{{route="/health/live",method="GET",status="200"}} 5000
smartcity_cache_hits_total{{domain="traffic"}} 30
smartcity_cache_misses_total{{domain="traffic"}} 60
smartcity_predictions_total{{domain="traffic"}} 300
smartcity_prediction_seconds_sum{{domain="traffic"}} 0.6
smartcity_live_accuracy{{domain="energy",measure="observed"}} 12
smartcity_live_accuracy{{domain="energy",measure="mae"}} 0.8
smartcity_model_load_seconds{{domain="energy"}} 0.05
"""

    found = named(monitoring.read(text + MACHINE))

    assert found["Request count", None].value == 100
    assert found["Response time, mean", None].value == pytest.approx(7)
    assert found["Response time, p99", None].value == pytest.approx(55)
    assert found["Error rate", None].value == pytest.approx(2)
    assert "8.0 % were refused" in found["Error rate", None].note
    assert found["Cache hit rate", None].value == pytest.approx(100 / 3)
    assert found["Cache efficiency", None].value == pytest.approx(10)
    assert found["Prediction latency", "traffic"].value == pytest.approx(2)
    assert found["Model load time", "energy"].value == pytest.approx(50)
    live = found["Live accuracy", "energy"]
    assert live.value == pytest.approx(0.8)
    assert live.unit == "kWh"
    assert "12 answers" in live.note
    assert found["Live accuracy", "traffic"].note == "no observation was sent yet"


@given(
    st.one_of(
        st.text(),
        st.integers(0, len(MACHINE) - 1).map(lambda n: MACHINE[:n]),
        st.text('smartcity_{}="\\,+-.# eENaIf0123456789\n').map(lambda text: MACHINE + text),
    )
)
@example(MACHINE + 'smartcity_request_seconds_bucket{le="x"} 1\n')
@example(MACHINE + "smartcity_requests_total 1\n")
@example(MACHINE + 'smartcity_request_seconds_bucket{le="1"} -3\n')
@example(MACHINE.replace("12.5", "NaN"))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(SmartCityError):
        assert [figure.name for figure in monitoring.read(text)] == NAMES


def test_asking_loads_neither_data_nor_database_libraries(home: Path) -> None:
    asked = "import sys; from smartcity.dashboard import health; health.ask('http://127.0.0.1:9'); "
    asked += "print(*{name.split('.')[0] for name in sys.modules})"

    loaded = subprocess.run(
        [sys.executable, "-c", asked], capture_output=True, text=True, check=True
    ).stdout.split()

    assert "prometheus_client" in loaded
    assert not {"pandas", "sklearn", "plotly", "sqlalchemy", "fastapi", "onnx"} & set(loaded)
