"""The HTTP API: three questions answered, every error in one shape."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conftest import DOMAINS, eventually, usual
from fastapi.testclient import TestClient
from test_predict import COUNTS, history

from smartcity import domains, registry
from smartcity.api import create_app
from smartcity.predict import Predictor

Models = dict[str, registry.Card]
JSON = {"content-type": "application/json"}


@pytest.fixture
def client(models: Models) -> Iterator[TestClient]:
    with TestClient(create_app(), raise_server_exceptions=False) as client:
        yield client


def assert_error(answer: Any, status: int) -> dict[str, Any]:
    body: dict[str, Any] = answer.json()
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/json"
    assert body["success"] is False
    assert body["error"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", body["timestamp"])
    assert "Traceback" not in answer.text
    return body


@pytest.mark.parametrize("name", DOMAINS)
def test_answers_as_the_predictor_does(name: str, client: TestClient, models: Models) -> None:
    row = usual(models[name])

    answer = client.post(f"/api/v1/predict/{domains.load(name).slug}", json=row)

    body = answer.json()
    assert answer.status_code == 200
    assert body["success"] is True
    assert body["prediction"] == Predictor.load(name).predict(row).prediction
    assert re.fullmatch(r"\d+\.\d+\.\d+", body["model_version"])
    assert {"timestamp", "confidence", "unit", "interval", "warnings", "simulated"} <= set(body)


@pytest.mark.parametrize(
    ("content", "headers", "status"),
    [
        (b"{", JSON, 400),
        (b"", JSON, 400),
        (b"\xff", JSON, 400),
        (b"[]", JSON, 422),
        (b"3", JSON, 422),
        (b'{"car_count": NaN}', JSON, 422),
        (b'{"car_count": 1e999}', JSON, 422),
        (b'{"car_count": "\\ud800"}', JSON, 400),
        (b"{}", {"content-type": "text/plain"}, 415),
        (b"{}", {}, 415),
    ],
)
def test_refuses_bad_bodies(
    content: bytes, headers: dict[str, str], status: int, client: TestClient
) -> None:
    answer = client.post("/api/v1/predict/traffic", content=content, headers=headers)

    assert_error(answer, status)


def test_a_refusal_names_field_value_and_problem(client: TestClient, models: Models) -> None:
    row = usual(models["air_quality"]) | {"humidity": 140}

    body = assert_error(client.post("/api/v1/predict/air-quality", json=row), 422)

    assert body["details"] == [
        {"field": "humidity", "problem": "must lie in 0 to 100 %", "value": "140"}
    ]


def test_unknown_routes_and_methods_are_errors_of_the_same_shape(client: TestClient) -> None:
    assert_error(client.get("/nowhere"), 404)
    assert_error(client.post("/api/v1/predict/noise", json={}), 404)
    assert_error(client.get("/api/v1/predict/traffic"), 405)


def test_a_domain_without_a_model_is_unavailable_alone(
    publish: Callable[..., registry.Card],
) -> None:
    card = publish("energy")
    with TestClient(create_app()) as client:
        row = {"car_count": 1, "bike_count": 1, "bus_count": 1, "truck_count": 1}
        assert_error(client.post("/api/v1/predict/traffic", json=row), 503)

        assert client.post("/api/v1/predict/energy", json=usual(card)).status_code == 200
        health = client.get("/health")
        assert health.json()["status"] == "partial"
        assert health.json()["models"]["energy"] == "1.0.0"
        assert "No model of 'traffic'" in health.json()["models"]["traffic"]


def test_health_tells_all_partly_or_none(client: TestClient, home: Any, models: Models) -> None:
    assert client.get("/health").json()["status"] == "healthy"
    assert client.head("/health").status_code == 200

    (home / "models" / "energy" / "CURRENT").write_text("9.9.9\n")

    eventually(lambda: client.get("/health").json()["status"] == "partial")
    assert client.get("/health").json()["models_loaded"] is False
    assert client.post("/api/v1/predict/energy", json=usual(models["energy"])).status_code == 200


def test_health_without_any_model_is_unhealthy(home: object) -> None:
    with TestClient(create_app()) as client:
        answer = client.get("/health")

    assert (answer.status_code, answer.json()["status"]) == (503, "unhealthy")


def test_a_model_published_while_running_is_served(client: TestClient, publish: Any) -> None:
    card = publish("energy")

    def version() -> str:
        answer = client.post("/api/v1/predict/energy", json=usual(card))
        assert answer.status_code == 200
        return str(answer.json()["model_version"])

    eventually(lambda: version() == card.version == "1.0.1")


def test_an_unexpected_error_is_no_stack_trace(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, models: Models
) -> None:
    monkeypatch.setattr(Predictor, "tell", lambda *_, **__: 1 / 0)

    assert_error(client.post("/api/v1/predict/energy", json=usual(models["energy"])), 500)


def test_documents_itself(client: TestClient) -> None:
    schema = client.get("/openapi.json").json()

    assert client.get("/api/docs").status_code == 200
    for domain in domains.load_all().values():
        route = schema["paths"][f"/api/v1/predict/{domain.slug}"]["post"]
        assert route["summary"] == domain.question
        assert set(route["responses"]) >= {"200", "422", "503"}
    assert client.get("/").json()["version"]


def test_reasons_are_given_where_asked_for(client: TestClient) -> None:
    plain = client.post("/api/v1/predict/traffic", json=COUNTS).json()
    told = client.post("/api/v1/predict/traffic?reasons=true", json=COUNTS).json()

    assert plain["reasons"] is None
    added = told["reasons"]["usual"] + sum(
        reason["contribution"] for reason in told["reasons"]["contributions"]
    )
    assert added == pytest.approx(told["confidence"], abs=1e-3)


def test_a_forecast_looks_ahead_from_recent_readings(client: TestClient) -> None:
    recent = history("air_quality", 240)

    answer = client.post("/api/v1/forecast/air-quality/next_hour", json={"recent": recent})

    assert answer.status_code == 200
    [ahead] = answer.json()["forecasts"]
    assert ahead["minutes"] == 60
    assert ahead["interval"]["low"] <= ahead["prediction"] <= ahead["interval"]["high"]
    assert ahead["at"] == "2024-03-11T00:00:00"


@pytest.mark.parametrize(
    ("path", "rows", "status", "problem"),
    [
        ("next_century", 240, 404, "next_century"),
        ("next_hour", 0, 422, "recent"),
        ("next_hour", 5, 422, "reach back"),
    ],
)
def test_a_forecast_that_cannot_be_made_says_why(
    path: str, rows: int, status: int, problem: str, client: TestClient
) -> None:
    body = {"recent": history("air_quality", rows)}

    answer = client.post(f"/api/v1/forecast/air-quality/{path}", json=body)

    assert answer.status_code == status
    assert answer.json()["success"] is False
    assert problem in answer.text


@pytest.mark.parametrize("page", ["/api/docs", "/api/redoc"])
def test_the_documentation_pages_need_no_network(page: str, client: TestClient) -> None:
    text = client.get(page).text

    parts = re.findall(r"(?:src|href)=\"([^\"]+)\"", text)
    assert parts
    for part in parts:
        assert part.startswith("/"), part
        assert client.get(part).status_code == 200
