"""What the API documents is what it does: the whole OpenAPI fuzzed, every validator tried."""

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from conftest import DOMAINS, at_home, usual
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_hostile import assert_refused, serving

from smartcity import domains, registry
from smartcity.api import create_app, describe
from smartcity.domains import Domain
from smartcity.predict.rows import MOST, measured
from smartcity.store import database as store
from smartcity.store import users

Models = dict[str, registry.Card]
ROOT = Path(__file__).parents[1]
#: Cases per operation and per property: few in CI, thousands with SMARTCITY_FUZZ=1000.
FUZZ = int(os.environ.get("SMARTCITY_FUZZ", "0"))
CASES = FUZZ or 25
TRIES = settings(
    max_examples=FUZZ or 250,
    deadline=None,
    derandomize=not FUZZ,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
JSON = {"content-type": "application/json"}
#: Statuses a body may meet with.
STATUSES = (200, 400, 413, 415, 422)

# Where schemathesis has to be told what a schema cannot say:
# - fields of a row depend on each other (a total is a sum, February has 29 days, readings stand in
#   time order and reach back far enough): a row the schema allows may be refused with 422;
# - an id of the right shape may be of no prediction, a name of no domain: 404;
# - a model may do without a forecast: 503;
# - more than 1,000 rows are too large, 413, and a bad row of a batch is an error in its place, 200.
CONFIG = """
[checks]
positive_data_acceptance.expected-statuses = ["2xx", "404", "422", "503"]
negative_data_rejection.expected-statuses = ["400", "404", "405", "413", "415", "422"]

[[operations]]
include-path-regex = "/predict/batch/"
[operations.checks]
positive_data_acceptance.expected-statuses = ["200", "404"]
negative_data_rejection.expected-statuses = ["200", "400", "404", "413", "415", "422"]
"""


def test_the_committed_description_is_what_the_code_says(home: object) -> None:
    committed = json.loads((ROOT / "docs" / "openapi.json").read_text(encoding="utf-8"))

    assert committed == describe(), "docs/openapi.json is out of date: run make openapi"


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """An installation with a person, and her API key."""
    folder = tmp_path_factory.mktemp("contract")
    with at_home(folder):
        store.upgrade()
        users.add_user("ann@city.org")
        token = users.new_key("ann@city.org")
        store.close()
    return folder, token


def test_schemathesis_finds_no_difference(key: tuple[Path, str], published: Path) -> None:
    folder, token = key
    (folder / "schemathesis.toml").write_text(CONFIG, encoding="utf-8")
    program = str(Path(sys.executable).with_name("schemathesis"))
    chosen = ["--generation-database=none"] if FUZZ else ["--generation-deterministic"]
    with serving(folder, published, KEY_RATE_LIMIT="off") as server:
        command = [program, "--config-file", "schemathesis.toml", "run", "--no-color", *chosen]
        command += [f"{server.url}/openapi.json", "--phases", "examples,coverage,fuzzing"]
        command += ["--max-examples", str(CASES), "--continue-on-failure"]
        command += ["--header", f"X-API-Key: {token}"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        written = server.output.read_text()

    print(done.stdout[-1500:])  # noqa: T201  # the counts, where one looks for them
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2000:]
    tested = re.search(r"Selected: (\d+)/(\d+)\s+Tested: (\d+)", done.stdout)
    generated = re.search(r"(\d+) generated, (\d+) passed", done.stdout)
    assert tested
    assert len(set(tested.groups())) == 1, "an operation was left out"
    assert generated
    assert int(generated[1]) > 60 * int(tested[1])
    assert "Traceback" not in written


@pytest.fixture
def client(models: Models, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    from smartcity import settings as known

    monkeypatch.setenv("SMARTCITY_RATE_LIMIT", "off")
    monkeypatch.setenv("SMARTCITY_RECORDING", "false")
    known.current.cache_clear()
    with TestClient(create_app(), raise_server_exceptions=False) as client:
        yield client


def anything() -> st.SearchStrategy[Any]:
    """Any JSON value, and what Python writes that is none: NaN, infinities, lone surrogates."""
    texts = st.text(st.characters(), max_size=12) | st.just("2022-02-01T08:20")
    leaves = st.none() | st.booleans() | st.integers() | st.floats() | texts
    leaves |= st.sampled_from([10**400, -(10**400), -200, 1e308, 5e-324, 1.5, "60", "__proto__"])
    return st.recursive(
        leaves,
        lambda inner: (
            st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
        ),
        max_leaves=8,
    )


def field_names(domain: Domain) -> list[str]:
    own = [spec.name for spec in domain.inputs]
    columns = [spec.column for spec in domain.inputs if spec.column]
    options = [option.name for option in domain.options]
    return [*own, *columns, *options, "timestamp", "recent", "stranger", ""]


def good_rows(domain: Domain) -> st.SearchStrategy[dict[str, Any]]:
    """Rows that must be answered: all inputs in their ranges, days that every month has."""
    fields: dict[str, st.SearchStrategy[Any]] = {}
    for spec in domain.inputs:
        if spec.sum_of:
            continue
        high = 28 if spec.from_time == "day" else spec.high
        fields[spec.name] = (
            st.integers(int(spec.low), int(high)) | st.integers(int(spec.low), int(high)).map(float)
            if spec.whole
            else st.floats(spec.low, high) | st.integers(int(spec.low), int(high))
        )
        if spec.optional:
            fields[spec.name] |= st.none()
    optional = {
        option.name: st.none() | st.floats(max(option.low, 0.1), option.high)
        for option in domain.options
    }
    return st.fixed_dictionaries(fields, optional=optional)


def assert_sensible(answer: dict[str, Any], domain: Domain) -> None:
    assert answer["success"] is True
    target = domain.target
    assert target.low <= answer["prediction"] <= (target.high or len(target.levels) - 1)
    assert 0 <= answer["confidence"] <= 1
    assert all(math.isfinite(value) for value in numbers(answer))
    if interval := answer["interval"]:
        assert target.low <= interval["low"] <= answer["prediction"] <= interval["high"]
    if target.levels:
        shares = answer["probabilities"]
        assert sum(shares.values()) == pytest.approx(1, abs=1e-3)
        assert all(0 <= share <= 1 for share in shares.values())
        assert answer["label"] == target.levels[int(answer["prediction"])].label
        assert answer["label"] in answer["prediction_set"]
        assert answer["confidence"] == max(shares.values())
    else:
        assert answer["interval"]


def numbers(value: Any) -> Iterator[float]:
    """Every number of a JSON value."""
    if isinstance(value, int | float):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from numbers(inner)


def route(domain: Domain) -> str:
    return f"/api/v1/predict/{domain.slug}"


def without(answer: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in answer.items() if name not in names}


@pytest.mark.parametrize("name", DOMAINS)
def test_any_value_in_any_field_is_answered_or_named(
    name: str, client: TestClient, models: Models
) -> None:
    domain = domains.load(name)
    row = usual(models[name])

    @TRIES
    @given(field=st.sampled_from(field_names(domain)), value=anything())
    def check(field: str, value: object) -> None:
        body = json.dumps({**row, field: value})
        answer = client.post(route(domain), content=body, headers=JSON)

        if answer.status_code == 200:
            assert_sensible(answer.json(), domain)
            return
        told = assert_refused(answer, STATUSES)
        if answer.status_code == 422:
            assert {fault["field"] for fault in told["details"]} <= {field, "row"}
            assert all(set(fault) == {"field", "problem", "value"} for fault in told["details"])
            assert all(fault["problem"] for fault in told["details"])

    check()


@pytest.mark.parametrize("name", DOMAINS)
def test_any_body_has_its_answer(name: str, client: TestClient) -> None:
    domain = domains.load(name)
    paths = [route(domain), f"/api/v1/predict/batch/{domain.slug}", "/api/v1/feedback"]
    paths += [f"/api/v1/forecast/{domain.slug}/{known.name}" for known in domain.forecasts]
    rows = st.dictionaries(st.sampled_from(field_names(domain)), anything(), max_size=12)
    readings = st.builds(lambda rows: {"recent": rows}, st.lists(rows, max_size=3))
    bodies = anything() | rows | st.lists(rows, max_size=3) | readings
    raw = bodies.map(lambda body: json.dumps(body).encode()) | st.binary(max_size=40)

    @TRIES
    @given(path=st.sampled_from(paths), body=raw)
    def check(path: str, body: bytes) -> None:
        answer = client.post(path, content=body, headers=JSON)

        assert answer.status_code in (*STATUSES, 404)
        if answer.status_code != 200:
            assert_refused(answer, answer.status_code)

    check()


@pytest.mark.parametrize("name", DOMAINS)
def test_every_good_row_is_answered_sensibly(name: str, client: TestClient) -> None:
    domain = domains.load(name)

    @TRIES
    @given(row=good_rows(domain))
    def check(row: dict[str, Any]) -> None:
        answer = client.post(route(domain), json=row)

        assert answer.status_code == 200, answer.text
        assert_sensible(answer.json(), domain)
        total = {s.name: sum(row[part] for part in s.sum_of) for s in domain.inputs if s.sum_of}
        for wrong in (1, -1, 0.5):
            given_total = {name: value + wrong for name, value in total.items()}
            if given_total:
                assert_refused(client.post(route(domain), json=row | given_total), 422)

    check()


@pytest.mark.parametrize("name", DOMAINS)
def test_a_batch_answers_as_single_rows_do_in_their_order(name: str, client: TestClient) -> None:
    domain = domains.load(name)
    bad = st.one_of(
        st.builds(
            lambda row, field, value: {**row, field: value},
            good_rows(domain),
            st.sampled_from(field_names(domain)),
            anything(),
        ),
        anything(),
    )

    @TRIES
    @given(rows=st.lists(good_rows(domain) | bad, min_size=1, max_size=8))
    def check(rows: list[Any]) -> None:
        bodies = [json.dumps(row) for row in rows]
        singles = [client.post(route(domain), content=body, headers=JSON) for body in bodies]
        batch = client.post(
            f"/api/v1/predict/batch/{domain.slug}", content=f"[{','.join(bodies)}]", headers=JSON
        )

        if any(single.status_code == 400 for single in singles):  # it is no JSON as a whole
            assert_refused(batch, 400)
            return
        told = batch.json()
        assert batch.status_code == 200, told
        assert told["count"] == sum(single.status_code == 200 for single in singles)
        assert told["count"] + told["failed"] == len(rows) == len(told["predictions"])
        for given_back, single in zip(told["predictions"], singles, strict=True):
            alone = single.json()
            if single.status_code == 200:
                mine = without(given_back, "id")
                assert mine == without(alone, "id", "timestamp")
            else:
                assert given_back["success"] is False
                assert given_back["details"] == alone["details"]
                assert alone["error"].endswith(given_back["error"])

    check()


def histories(domain: Domain, rows: int) -> st.SearchStrategy[list[dict[str, Any]]]:
    """Recent readings at their usual distance, at any time there may be, any of them lacking."""
    step = timedelta(minutes=domain.format.step_minutes)
    last = datetime(2199, 12, 31, 23, 59) - step * rows
    values: dict[str, st.SearchStrategy[Any]] = {}
    for spec in measured(domain):
        among = st.floats(spec.low, spec.high)
        if spec.whole:
            among = st.integers(int(spec.low), int(spec.high)).map(float)
        values[spec.name] = st.lists(st.none() | among, min_size=4, max_size=4)

    def lay_out(first: datetime, few: dict[str, list[float | None]]) -> list[dict[str, Any]]:
        return [
            {"timestamp": (first + n * step).isoformat()}
            | {name: column[n * n % 4] for name, column in few.items()}
            for n in range(rows)
        ]

    starts = st.datetimes(datetime(1900, 1, 1), last) | st.sampled_from([last])
    return st.builds(lay_out, starts, st.fixed_dictionaries(values))


@pytest.mark.parametrize("name", DOMAINS)
def test_a_forecast_is_sensible_at_any_time_and_with_any_readings(
    name: str, client: TestClient, models: Models
) -> None:
    domain = domains.load(name)
    back = max(part.view.history for part in models[name].parts.values())
    rows = min(MOST, round(back / domain.format.step_minutes) + 1)

    @settings(TRIES, max_examples=TRIES.max_examples // 8)
    @given(recent=histories(domain, rows), row=good_rows(domain))
    def check(recent: list[dict[str, Any]], row: dict[str, Any]) -> None:
        for known in domain.forecasts:
            url = f"/api/v1/forecast/{domain.slug}/{known.name}"
            answer = client.post(url, json={"recent": recent})
            status = 200 if known.name in models[name].parts else 503
            assert answer.status_code == status, answer.text[:500]
            for ahead in answer.json().get("forecasts", ()):
                assert_sensible({"success": True, **ahead}, domain)
        parts = [spec.name for spec in domain.inputs if spec.from_time]
        now = {"timestamp": recent[-1]["timestamp"], "recent": recent[:-1]}
        answer = client.post(route(domain), json=without(row, *parts) | now)
        assert answer.status_code == 200, answer.text[:500]
        assert_sensible(answer.json(), domain)

    check()


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("POST", "/nowhere", 404),
        ("OPTIONS", "/nowhere", 404),
        ("GET", "/api/v1", 404),
        ("GET", "/api/v1/models/noise", 404),
        ("POST", "/api/v1/predict/noise", 404),
        ("POST", "/api/v1/predict/batch/noise", 404),
        ("POST", "/api/v1/forecast/traffic/next_century", 404),
        ("GET", "/api/v1/predict/traffic", 405),
        ("PUT", "/api/v1/predict/traffic", 405),
        ("DELETE", "/api/v1/models", 405),
        ("PATCH", "/health", 405),
        ("OPTIONS", "/health", 405),
        ("OPTIONS", "/api/v1/predict/traffic", 405),
        ("POST", "/openapi.json", 405),
        ("GET", "/api/v1/predictions", 401),
        ("OPTIONS", "/api/v1/predictions", 401),
    ],
)
def test_every_refusal_of_a_route_has_the_one_shape(
    method: str, path: str, status: int, client: TestClient
) -> None:
    answer = client.request(method, path)

    told = assert_refused(answer, status)
    assert told["request_id"] == answer.headers["x-request-id"]
    assert ("allow" in answer.headers) == (status == 405)


@pytest.mark.parametrize("path", ["predict/traffic", "predict/batch/traffic", "feedback"])
def test_every_refusal_of_a_body_has_the_one_shape(path: str, client: TestClient) -> None:
    url = f"/api/v1/{path}"
    for content, headers, status in (
        (b"{}", {"content-type": "text/plain"}, 415),
        (b"{}", JSON | {"content-encoding": "gzip"}, 415),
        (b" " * (4 * 2**20 + 1), JSON, 413),
        (b"{", JSON, 400),
        (b'{"stranger":1}', JSON, 422),
    ):
        assert_refused(client.post(url, content=content, headers=headers), status)


@pytest.mark.parametrize("path", ["/", "/health", "/health/live", "/metrics", "/api/v1/models"])
def test_a_head_is_answered_as_its_get_is(path: str, client: TestClient) -> None:
    got, head = client.get(path), client.head(path)

    assert head.status_code == got.status_code == 200
    assert head.headers["content-type"] == got.headers["content-type"]


def test_a_head_of_what_takes_a_body_is_refused(client: TestClient) -> None:
    assert client.head("/api/v1/predict/traffic").status_code == 405
    assert client.head("/nowhere").status_code == 404


def test_every_status_that_is_documented_has_the_one_shape(home: object) -> None:
    shape = "#/components/schemas/Failure"

    for path, methods in describe()["paths"].items():
        for method, operation in methods.items():
            failures = {s: said for s, said in operation["responses"].items() if s >= "400"}
            assert {"400", "404", "405", "413", "415", "422", "429", "503"} <= set(failures)
            for status, said in failures.items():
                schema = said["content"]["application/json"]["schema"]
                assert schema == {"$ref": shape}, (method, path, status)
