"""A real server under attack: every hostile request has its answer, and the next is served."""

import contextlib
import itertools
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from conftest import at_home, eventually
from test_predict import COUNTS

TRAFFIC, ENERGY, AIR = (f"/api/v1/predict/{slug}" for slug in ("traffic", "energy", "air-quality"))
BATCH, FEEDBACK = "/api/v1/predict/batch/traffic", "/api/v1/feedback"
AHEAD = "/api/v1/forecast/energy/next_day"
JSON = {"content-type": "application/json"}
GOOD = json.dumps(COUNTS).encode()
THEN, NOW = b"2022-02-01T08:00", b"2022-02-01T08:20"
SOME = b"0b7d1c8e-5a52-4f6e-9a35-6f2f9b1c4f10"
#: What a request may take that nobody may wait for longer: 10 s, a look a second, and some air.
PATIENCE = 13.0
MB = 2**20


@dataclass(frozen=True)
class Server:
    """A server in a process of its own."""

    port: int
    process: subprocess.Popen[bytes]
    output: Path

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def is_up(self) -> bool:
        """Tell whether it answers; it must not have ended."""
        assert self.process.poll() is None, self.output.read_text()
        with contextlib.suppress(httpx2.HTTPError):
            return httpx2.get(f"{self.url}/health").status_code == 200
        return False

    def grown(self, act: Callable[[], object]) -> float:
        """Give by how many MB something makes the server's memory grow at most."""
        folder = Path(f"/proc/{self.process.pid}")
        (folder / "clear_refs").write_text("5")  # forget the highest so far

        def highest() -> int:
            found = re.search(r"VmHWM:\s+(\d+) kB", (folder / "status").read_text())
            assert found
            return int(found[1])

        before = highest()
        act()
        return (highest() - before) / 1024


@contextlib.contextmanager
def serving(folder: Path, models: Path, **more: str) -> Iterator[Server]:
    """Serve published models from a process of its own, its state and logs in a folder."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    given = {"MODELS": str(models), "API_PORT": str(port), "RATE_LIMIT": "off"} | more
    with at_home(folder, **{f"SMARTCITY_{name}": value for name, value in given.items()}):
        variables = dict(os.environ)
    output = folder / "output"
    with output.open("wb") as out:
        command = [sys.executable, "-m", "smartcity", "serve"]
        process = subprocess.Popen(command, env=variables, stdout=out, stderr=out, cwd=folder)
    server = Server(port, process, output)
    try:
        eventually(server.is_up, seconds=60)
        yield server
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=60)
        finally:
            process.kill()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, published: Path) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("served"), published) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=server.url, timeout=30) as client:
        yield client


@dataclass(frozen=True)
class Answer:
    """A response as it came over the wire."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @classmethod
    def read(cls, raw: bytes) -> tuple["Answer", bytes]:
        """Take the first answer off what came; give the rest as well."""
        head, _, rest = raw.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
        length = int(headers.get("content-length", 0))
        assert len(rest) >= length, raw[:300]
        return cls(int(first.split()[1]), headers, rest[:length]), rest[length:]


def is_whole(raw: bytes) -> bool:
    head, end, rest = raw.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: (\d+)", head)
    return bool(end) and len(rest) >= (int(length[1]) if length else 0)


def converse(server: Server, sent: Iterable[bytes], *, answers: int = 1) -> list[Answer]:
    """Send bytes as they are, and give the answers; a server may well close in between."""
    raw = b""
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as wire:
        with contextlib.suppress(ConnectionError):
            for part in sent:
                wire.sendall(part)
        given: list[Answer] = []
        while len(given) < answers:
            while not is_whole(raw):
                part = wire.recv(MB)
                assert part, f"closed without an answer: {raw[:300]!r}"
                raw += part
            answer, raw = Answer.read(raw)
            given += [answer] if answer.status != 100 else []
    return given


def request(path: str = TRAFFIC, body: bytes = GOOD, method: str = "POST", **more: Any) -> bytes:
    """Write a request; a header that is None is left out."""
    headers: dict[str, str | None] = {
        "Host": "city",
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
    }
    headers |= {name.replace("_", "-"): value for name, value in more.items()}
    lines = [f"{name}: {value}\r\n" for name, value in headers.items() if value is not None]
    return f"{method} {path} HTTP/1.1\r\n{''.join(lines)}\r\n".encode() + body


def assert_refused(answer: Any, status: int | tuple[int, ...]) -> dict[str, Any]:
    """Check an error, raw or from the client: its status and the shape all errors have."""
    raw = answer.body if isinstance(answer, Answer) else answer.content
    found = answer.status if isinstance(answer, Answer) else answer.status_code
    assert found in (status if isinstance(status, tuple) else (status,)), raw[:500]
    assert answer.headers["content-type"] == "application/json"
    body: dict[str, Any] = json.loads(raw)
    assert body["success"] is False
    assert body["error"]
    assert set(body) <= {"success", "error", "timestamp", "details", "request_id"}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", body["timestamp"])
    assert b"Traceback" not in raw
    assert len(raw) < 20_000, "an error that is larger than what it is about"
    return body


def car(value: bytes) -> bytes:
    """Give a row of traffic with one value as it is written here."""
    return b'{"car_count":%b,"bike_count":10,"bus_count":10,"truck_count":10}' % value


def also(more: str) -> bytes:
    """Give the good row with something added."""
    return GOOD[:-1] + f",{more}}}".encode()


def recent(reading: bytes) -> bytes:
    return b'{"timestamp":"%b","recent":[%b]}' % (NOW, reading)


def deep(opened: bytes, closed: bytes, depth: int) -> bytes:
    return opened * depth + b"1" + closed * depth


def names(count: int) -> bytes:
    return b",".join(b'"a%d":1' % n for n in range(count))


def at(time: object) -> bytes:
    return json.dumps({"timestamp": time}).encode()


#: What is no JSON, whatever the field: 400.
NO_VALUES = {
    "escaped lone surrogate": b'"\\ud800"',
    "raw lone surrogate": b'"\xed\xa0\x80"',
    "overlong digit": b"\xc0\xb1",
    "overlong in text": b'"\xc0\xaf"',
    "cut UTF-8": b'"\xe2\x82"',
    "raw NUL": b'"\x00"',
    "raw newline in text": b'"\n"',
    "5,000 digits": b"9" * 5000,
    "leading zero": b"01",
    "plus": b"+1",
    "no digit before the point": b".5",
    "no digit after the point": b"1.",
    "hexadecimal": b"0x10",
    "underscore": b"1_000",
    "nothing": b"",
    "single quotes": b"'1'",
    "a comment": b"1 /* one */",
    "nan in lower case": b"nan",
    "undefined": b"undefined",
    "True": b"True",
    "1,000 arrays": deep(b"[", b"]", 1000),
    "100,000 arrays": deep(b"[", b"]", 100_000),
    "1,000 objects": deep(b'{"a":', b"}", 1000),
    "100,000 objects": deep(b'{"a":', b"}", 100_000),
    "arrays that do not end": b"[" * 100_000,
}
#: What is JSON, or nearly so, and no count: 422, and the field is named.
NO_COUNTS = {
    "NaN": b"NaN",
    "Infinity": b"Infinity",
    "-Infinity": b"-Infinity",
    "1e999": b"1e999",
    "-1e999": b"-1e999",
    "400 digits": b"9" * 400,
    "a number in quotes": b'"60"',
    "an empty text": b'""',
    "a huge text": b'"' + b"x" * 3 * MB + b'"',
    "right to left": '"\u202e06"'.encode(),
    "Arabic digits": '"٦٠"'.encode(),
    "true": b"true",
    "false": b"false",
    "null": b"null",
    "an array": b"[60]",
    "an empty array": b"[]",
    "an object": b'{"value":60}',
    "100 arrays": deep(b"[", b"]", 100),
    "100 objects": deep(b'{"a":', b"}", 100),
    "sentinel": b"-200",
    "negative": b"-1",
    "out of range": b"1e9",
    "a fraction": b"1.5",
    "a hair's breadth off": b"100.00000001",
    "the least there is": b"5e-324",
}


@pytest.mark.parametrize("value", NO_VALUES.values(), ids=list(NO_VALUES))
def test_what_is_no_json_is_told_so(value: bytes, client: httpx2.Client) -> None:
    assert_refused(client.post(TRAFFIC, content=car(value), headers=JSON), 400)
    assert_refused(client.post(BATCH, content=b"[" + car(value) + b"]", headers=JSON), 400)


@pytest.mark.parametrize("value", NO_COUNTS.values(), ids=list(NO_COUNTS))
def test_what_is_no_count_is_told_so(value: bytes, client: httpx2.Client) -> None:
    body = assert_refused(client.post(TRAFFIC, content=car(value), headers=JSON), 422)

    assert [fault["field"] for fault in body["details"]] == ["car_count"]
    batch = client.post(BATCH, content=b"[%b,%b]" % (car(value), GOOD), headers=JSON).json()
    assert [row["success"] for row in batch["predictions"]] == [False, True]
    assert batch["predictions"][0]["details"] == body["details"]


#: Path, body, status, and the field that is named.
BODIES: dict[str, tuple[str, bytes, int, str | None]] = {
    "empty": (TRAFFIC, b"", 400, None),
    "white space": (TRAFFIC, b" \r\n\t" * 100, 400, None),
    "a BOM": (TRAFFIC, b"\xef\xbb\xbf" + GOOD, 400, None),
    "UTF-16": (TRAFFIC, GOOD.decode().encode("utf-16"), 400, None),
    "UTF-16 without BOM": (TRAFFIC, GOOD.decode().encode("utf-16-be"), 400, None),
    "UTF-32": (TRAFFIC, GOOD.decode().encode("utf-32"), 400, None),
    "NUL before": (TRAFFIC, b"\x00" + GOOD, 400, None),
    "NUL after": (TRAFFIC, GOOD + b"\x00", 400, None),
    "binary": (TRAFFIC, bytes(range(256)), 400, None),
    "two documents": (TRAFFIC, GOOD + GOOD, 400, None),
    "two lines": (TRAFFIC, GOOD + b"\n" + GOOD, 400, None),
    "cut off": (TRAFFIC, GOOD[:-1], 400, None),
    "a trailing comma": (TRAFFIC, GOOD[:-1] + b",}", 400, None),
    "a comment": (TRAFFIC, b"// row\n" + GOOD, 400, None),
    "single quotes": (TRAFFIC, GOOD.replace(b'"', b"'"), 400, None),
    "no quotes": (TRAFFIC, GOOD.replace(b'"', b""), 400, None),
    "form": (TRAFFIC, b"car_count=60&bike_count=10", 400, None),
    "a name for itself": (TRAFFIC, b'{1:2,"car_count":60}', 400, None),
    "arrays all the way": (TRAFFIC, deep(b"[", b"]", 100), 422, "row"),
    "arrays 1,000 deep": (TRAFFIC, deep(b"[", b"]", 1000), 400, None),
    "arrays 100,000 deep": (TRAFFIC, deep(b"[", b"]", 100_000), 400, None),
    "objects 100,000 deep": (TRAFFIC, deep(b'{"car_count":', b"}", 100_000), 400, None),
    "a batch 100,000 deep": (BATCH, deep(b"[", b"]", 100_000), 400, None),
    "a reading 1,000 deep": (AHEAD, b'{"recent":%b}' % deep(b"[", b"]", 1000), 400, None),
    "in a reading, 100,000 deep": (
        ENERGY, recent(b'{"timestamp":"%b","x":%b}' % (THEN, deep(b"[", b"]", 100_000))),
        400, None,
    ),
    "a list for a row": (TRAFFIC, b"[" + GOOD + b"]", 422, "row"),
    "a text for a row": (TRAFFIC, b'"row"', 422, "row"),
    "a number for a row": (TRAFFIC, b"3", 422, "row"),
    "null for a row": (TRAFFIC, b"null", 422, "row"),
    "an empty row": (TRAFFIC, b"{}", 422, "car_count"),
    "a row for a batch": (BATCH, GOOD, 422, "body"),
    "rows in an object": (BATCH, b'{"rows":[%b]}' % GOOD, 422, "body"),
    "an empty batch": (BATCH, b"[]", 422, "body"),
    "1,001 rows": (BATCH, b"[" + b",".join([GOOD] * 1001) + b"]", 413, None),
    "1,001 bad rows": (BATCH, b"[" + b",".join([b"{}"] * 1001) + b"]", 413, None),
    "a million bad rows": (BATCH, b"[" + b",".join([b"0"] * 1_000_000) + b"]", 413, None),
    "an extra field": (TRAFFIC, also('"tram_count":1'), 422, "tram_count"),
    "a prototype": (TRAFFIC, also('"__proto__":{"total":1}'), 422, "__proto__"),
    "a class": (TRAFFIC, also('"__class__":"x"'), 422, "__class__"),
    "a config": (TRAFFIC, also('"model_config":{"extra":"allow"}'), 422, "model_config"),
    "an empty name": (TRAFFIC, also('"":1'), 422, ""),
    "a name in another case": (TRAFFIC, GOOD.replace(b"car_", b"Car_"), 422, "car_count"),
    "right to left": (TRAFFIC, also('"\u202ecar_count":1'), 422, "\u202ecar_count"),
    "a combining name": (TRAFFIC, also('"ca\u0301r_count":1'), 422, "ca\u0301r_count"),
    "a Cyrillic a": (TRAFFIC, GOOD.replace(b"car_", "cаr_".encode()), 422, "car_count"),
    "NUL in a name": (TRAFFIC, also('"car_count\\u0000":1'), 422, "car_count\x00"),
    "a huge name": (TRAFFIC, GOOD[:-1] + b',"%b":1}' % (b"x" * 3 * MB), 422, "x" * 80),
    "10,000 fields": (TRAFFIC, GOOD[:-1] + b",%b}" % names(10_000), 422, "row"),
    "250,000 fields": (TRAFFIC, GOOD[:-1] + b",%b}" % names(250_000), 422, "row"),
    "a wrong total": (TRAFFIC, also('"total":91'), 422, "row"),
    "no lanes": (TRAFFIC, also('"lanes":0'), 422, "lanes"),
    "a name twice": (TRAFFIC, also('"car_count":60'), 422, "car_count"),
    "a name twice, escaped": (TRAFFIC, also('"\\u0063ar_count":1'), 422, "car_count"),
    "a name twice in a batch": (
        BATCH, b"[%b,%b]" % (GOOD, also('"car_count":1')), 422, "car_count",
    ),
    "a time twice": (ENERGY, b'{"timestamp":"%b","timestamp":"%b"}' % (NOW, NOW), 422, "timestamp"),
    "a time twice, as many colons as names": (
        ENERGY, b'{"timestamp":"%b:00","timestamp":"%b"}' % (NOW, NOW), 422, "timestamp",
    ),
    "names twice in a batch, as many colons as names": (
        "/api/v1/predict/batch/energy",
        b'[{"timestamp":"%b"},{"day":1,"day":2,"day":3,"month":1,"hour":1,"minute":3,"minute":3}]'
        % NOW,
        422, "day",
    ),
    "a name twice in a reading": (
        ENERGY, recent(b'{"timestamp":"%b","consumption_kwh":1,"consumption_kwh":2}' % THEN),
        422, "consumption_kwh",
    ),
    "recent twice": (AHEAD, b'{"recent":[],"recent":[{"timestamp":"%b"}]}' % NOW, 422, "recent"),
    "no recent readings": (AHEAD, b'{"recent":[]}', 422, "recent"),
    "recent is null": (AHEAD, b'{"recent":null}', 422, "recent"),
    "readings that are none": (AHEAD, b'{"recent":[1,"x",null]}', 422, "recent"),
    "1,001 readings": (
        AHEAD, b'{"recent":[%b]}' % b",".join([b'{"timestamp":"%b"}' % NOW] * 1001), 422, "recent",
    ),
    "a reading twice": (
        ENERGY, recent(b'{"timestamp":"%b"},{"timestamp":"%b"}' % (THEN, THEN)), 422, "recent",
    ),
    "readings backwards": (
        ENERGY, recent(b'{"timestamp":"%b"},{"timestamp":"%b"}' % (NOW, THEN)), 422, "recent",
    ),
    "readings at the end of time": (
        "/api/v1/forecast/air-quality/next_day",
        b'{"recent":[{"timestamp":"9999-12-01T00:00"},{"timestamp":"9999-12-31T23:00"}]}',
        422, "recent",
    ),
    "a row at the end of time": (
        ENERGY, b'{"timestamp":"9999-12-31T23:30","recent":[{"timestamp":"9999-12-31T23:00"}]}',
        422, "timestamp",
    ),
    "the 31st of February": (ENERGY, b'{"day":31,"month":2,"hour":8,"minute":20}', 422, "row"),
    "the 31st, nearly of February": (
        ENERGY, b'{"day":31,"month":1.999999999,"hour":8,"minute":20}', 422, "month",
    ),
    "hour 24": (ENERGY, b'{"day":1,"month":2,"hour":24,"minute":0}', 422, "hour"),
    "a time and its parts": (ENERGY, b'{"timestamp":"2022-02-01T08:20","day":1}', 422, "timestamp"),
    "a negative tariff": (ENERGY, b'{"timestamp":"2022-02-01T08:20","tariff":-1}', 422, "tariff"),
    "feedback without a body": (FEEDBACK, b"", 400, None),
    "feedback 100,000 deep": (FEEDBACK, deep(b"[", b"]", 100_000), 400, None),
    "feedback on nothing": (FEEDBACK, b"{}", 422, "id"),
    "feedback on an id of another shape": (FEEDBACK, b'{"id":"1 OR 1=1","observed":1}', 422, "id"),
    "feedback of no number": (FEEDBACK, b'{"id":"%b","observed":NaN}' % SOME, 422, "observed"),
    "feedback twice": (
        FEEDBACK, b'{"id":"%b","observed":1,"observed":2}' % SOME, 422, "observed",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("path", "body", "status", "field"), BODIES.values(), ids=list(BODIES))
def test_a_hostile_body_has_its_answer(
    path: str, body: bytes, status: int, field: str | None, client: httpx2.Client
) -> None:
    told = assert_refused(client.post(path, content=body, headers=JSON), status)

    fields = [fault["field"] for fault in told.get("details", ())]
    assert field in fields if field is not None else not fields


TIMES = [
    "", "x", "now", "2022-02-30T08:20", "2022-13-01T08:20", "2022-02-01T24:00", "2022-02-01T08:60",
    "2022-02-01T08:20:60", "2022-02-01", "08:20", "2022-02-01T08:20Z", "2022-02-01T08:20+01:00",
    "20220201T0820", "2022-W05-2T08:20", "0000-01-01T00:00", "0001-01-01T00:00", "1899-12-31T23:59",
    "2200-01-01T00:00", "9999-12-31T23:59:59", "２０２２-02-01T08:20",
    "2022-02-01T08:20:00.1234567",
    "2022-02-01T08:20:00,5", "2022-02-01T08:20\n", " 2022-02-01T08:20", "-2022-02-01T08:20",
    "2022-02-01T08:20\x00", "9" * 5000, 1643703600, 1.5, True, [], {},
]  # fmt: skip


@pytest.mark.parametrize("moment", TIMES, ids=lambda moment: repr(moment)[:30])
def test_a_time_that_is_none_is_named(moment: object, client: httpx2.Client) -> None:
    row = assert_refused(client.post(ENERGY, content=at(moment), headers=JSON), 422)
    reading = recent(at(moment))
    readings = assert_refused(client.post(ENERGY, content=reading, headers=JSON), 422)

    assert [fault["field"] for fault in row["details"]] == ["timestamp"]
    assert [fault["field"] for fault in readings["details"]] == ["recent"]
    assert "reading 0, timestamp" in readings["error"]


def test_an_alias_beside_its_name_is_refused(client: httpx2.Client) -> None:
    row = client.get("/api/v1/models/air_quality").json()["example"]
    assert client.post(AIR, json=row).status_code == 200

    both = assert_refused(client.post(AIR, json=row | {"C6H6(GT)": 1}), 422)
    lacking = assert_refused(client.post(AIR, json=row | {"humidity": -200}), 422)
    null = assert_refused(client.post(AIR, json=row | {"humidity": None}), 422)

    assert [fault["field"] for fault in both["details"]] == ["C6H6(GT)"]
    assert "-200 stands for a missing reading" in lacking["error"]
    assert [fault["field"] for fault in null["details"]] == ["humidity"]


@pytest.mark.parametrize(
    "kind",
    [
        None, "", "*/*", "text/plain", "text/json", "application/jsonx", "application/problem+json",
        "application/json, text/plain", "text/plain; application/json",
        "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "x" * 5000, "\xe4",
    ],
    ids=lambda kind: str(kind)[:30],
)  # fmt: skip
def test_a_body_of_another_type_is_refused(kind: str | None, server: Server) -> None:
    [answer] = converse(server, [request(Content_Type=kind)])

    assert_refused(answer, 415)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "gzip, gzip", "x", ""])
def test_a_body_in_another_encoding_is_refused(encoding: str, server: Server) -> None:
    [answer] = converse(server, [request(Content_Encoding=encoding)])

    assert_refused(answer, 415)


@pytest.mark.parametrize(
    "query",
    ["reasons=", "reasons", "reasons=yes", "reasons=true&reasons=no", "reasons=%00", "reasons=%ff",
     "reasons=" + "a" * 9000, "reasons=%7B%7D", "a=1&" * 3000 + "reasons=2"],
    ids=lambda query: query[:30],
)  # fmt: skip
def test_a_question_for_reasons_is_yes_or_no(query: str, client: httpx2.Client) -> None:
    told = assert_refused(client.post(f"{TRAFFIC}?{query}", content=GOOD, headers=JSON), 422)

    assert [fault["field"] for fault in told["details"]] == ["reasons"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/%2e%2e/%2e%2e/etc/passwd", 404),
        ("GET", "/../../etc/passwd", 404),
        ("GET", "/api/docs/../../etc/passwd", 404),
        ("GET", "//health", 404),
        ("GET", "/health/", 404),
        ("GET", "/health%00", 404),
        ("GET", "/health;x", 404),
        ("GET", "/healthz", 404),
        ("GET", "/%ff%fe", 404),
        ("GET", "/\xff", 400),
        ("GET", "/api/v1/models/%2e%2e%2f%2e%2e%2fetc", 404),
        ("GET", "/api/v1/models/..", 404),
        ("GET", "/api/v1/models/%0d%0aX-Evil:%201", 404),
        ("GET", "/api/v1/models/" + "a" * 9000, 404),
        ("GET", "/api/v1/models/traffic%00", 404),
        ("GET", "/api/v1/models/Traffic", 404),
        ("GET", "/" + "a" * 60_000, 404),
        ("GET", "/" + "a" * 400_000, 431),
        ("GET", "/?" + "a" * 400_000, 431),
        ("POST", TRAFFIC + "/", 404),
        ("POST", TRAFFIC + "%00", 404),
        ("POST", "/api/v1//predict/traffic", 404),
        ("POST", "/api/v1/predict/../predict/traffic", 404),
        ("POST", "/api/v1/predict/noise", 404),
        ("POST", "/api/v1/predict/batch", 404),
        ("GET", TRAFFIC, 405),
        ("GET", "/api/v1/predict/%74raffic", 405),
        ("PUT", TRAFFIC, 405),
        ("DELETE", FEEDBACK, 405),
        ("OPTIONS", TRAFFIC, 405),
        ("OPTIONS", "*", 404),
        ("TRACE", "/health", 405),
        ("PROPFIND", "/health", 405),
        ("POST", "/health", 405),
        ("GET", "/api/v1/predictions", 401),
        ("CONNECT", "city:80", 400),
        ("NONSENSE", "/health", 400),
        ("get", "/health", 400),
        ("GET", "health", 400),
        ("GET", "", 400),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_path_or_method_that_is_none_is_refused(
    method: str, path: str, status: int, server: Server
) -> None:
    body = GOOD if method == "POST" else b""
    raw = request("@", body, method).replace(b"@", path.encode("latin-1"), 1)
    [answer] = converse(server, [raw])

    assert "x-evil" not in answer.headers
    assert_refused(answer, status)


GET = b"GET /health HTTP/1.1\r\nHost: city\r\n"
CHUNKED: dict[str, Any] = {"Content_Length": None, "Transfer_Encoding": "chunked"}
#: What is no HTTP, or could be read in two ways: refused, and the connection closed.
WIRES = {
    "both lengths": request(Transfer_Encoding="chunked"),
    "both lengths the other way round": request(body=b"0\r\n\r\n", Transfer_Encoding="chunked"),
    "two lengths": request(X="1\r\nContent-Length: 3"),
    "the same length twice": request(X=f"1\r\nContent-Length: {len(GOOD)}"),
    "a list of lengths": request(Content_Length=f"{len(GOOD)}, {len(GOOD)}"),
    "a length with a sign": request(Content_Length=f"+{len(GOOD)}"),
    "a negative length": request(Content_Length="-1"),
    "a hexadecimal length": request(Content_Length="0x3c"),
    "no length after all": request(Content_Length=""),
    "a length beyond 64 bits": request(Content_Length="9" * 30),
    "a length in words": request(Content_Length="sixty"),
    "a blank before the colon": request(X="1\r\nContent-Length : 3"),
    "an unknown transfer encoding": request(Content_Length=None, Transfer_Encoding="xchunked"),
    "chunked, and then not": request(Content_Length=None, Transfer_Encoding="chunked, identity"),
    "a chunk without a size": request(body=b"zz\r\n{}\r\n", **CHUNKED),
    "a negative chunk": request(body=b"-2\r\n{}\r\n", **CHUNKED),
    "an endless chunk": request(body=b"f" * 17 + b"\r\n{}\r\n", **CHUNKED),
    "a chunk longer than it says": request(body=b"1\r\n{}\r\n0\r\n\r\n", **CHUNKED),
    "a folded header": request(X="a\r\n b"),
    "a header without a name": GET + b": x\r\n\r\n",
    "a header without a colon": GET + b"nonsense\r\n\r\n",
    "NUL in a header": GET + b"X-A: a\x00b\r\n\r\n",
    "newline in a request id": GET + b"X-Request-ID: a\nX-Evil: 1\r\n\r\n",
    "lone newlines": GET.replace(b"\r\n", b"\n") + b"\n",
    "an unknown version": b"GET /health HTTP/9.9\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
    "noise": bytes(range(128, 256)) * 4,
    "JSON without HTTP": GOOD + b"\r\n\r\n",
}


@pytest.mark.parametrize("raw", WIRES.values(), ids=list(WIRES))
def test_what_is_no_http_is_refused_and_cut_off(raw: bytes, server: Server) -> None:
    [answer] = converse(server, [raw])

    assert_refused(answer, 400)
    assert answer.headers.get("connection", "close") == "close"
    assert "x-evil" not in answer.headers


def test_nothing_is_smuggled_behind_another_request(server: Server) -> None:
    hidden = b"GET /api/v1/models/smuggled HTTP/1.1\r\nHost: city\r\n\r\n"
    for raw in (
        request(body=b"0\r\n\r\n" + hidden, Transfer_Encoding="chunked"),
        request(body=hidden, Content_Length="0\r\nContent-Length: 54"),
        request(body=hidden, Content_Length=None, Transfer_Encoding="identity"),
        request(body=hidden, Content_Length=None, X="1\r\nTransfer-Encoding : chunked"),
        request(body=hidden, Connection="Upgrade", Upgrade="websocket"),
    ):
        with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as wire:
            wire.sendall(raw)
            wire.settimeout(0.5)
            given = b""
            with contextlib.suppress(TimeoutError, ConnectionError):
                while part := wire.recv(MB):
                    given += part

        assert given.count(b"HTTP/1.1 ") == 1, given
        assert b"smuggled" not in given


def test_pipelined_requests_are_answered_in_their_order(server: Server) -> None:
    marks = [f"mark-{n}" for n in range(20)]
    bad = {7: b"{", 13: b"{}"}
    raw = [request(body=bad.get(n, GOOD), X_Request_ID=mark) for n, mark in enumerate(marks)]

    given = converse(server, [b"".join(raw)], answers=20)

    assert [answer.headers["x-request-id"] for answer in given] == marks
    assert [answer.status for answer in given] == [{7: 400, 13: 422}.get(n, 200) for n in range(20)]


@pytest.mark.parametrize(
    "given",
    ["a" * 65, "a" * 10_000, "ä", "<script>", "a b", "a\tb", "%0d%0aX-Evil:1", "'; --", "\u2028"],
    ids=lambda given: repr(given)[:20],
)
def test_a_request_id_of_another_shape_is_replaced(given: str, server: Server) -> None:
    for path, body in ((TRAFFIC, GOOD), (TRAFFIC, b"{"), ("/nowhere", b"{}")):
        [answer] = converse(server, [request(path, body, X_Request_ID=given)])

        assert re.fullmatch(r"[0-9a-f-]{36}", answer.headers["x-request-id"])
        assert given.encode() not in answer.body
        assert "x-evil" not in answer.headers


def test_a_request_id_of_our_shape_is_kept(server: Server) -> None:
    [answer] = converse(server, [request(X_Request_ID="from-me.1")])

    assert (answer.status, answer.headers["x-request-id"]) == (200, "from-me.1")


def chunks(size: int) -> Iterator[bytes]:
    part = b"%x\r\n%b\r\n" % (MB, b" " * MB)
    for _ in range(size // MB):
        yield part


HUGE: dict[str, tuple[bytes, int, bool, int]] = {
    "50 MB declared": (request(body=b"", Content_Length=str(50 * MB)), 50, False, 413),
    "200 MB declared": (request(body=b"", Content_Length=str(200 * MB)), 200, False, 413),
    "50 MB in chunks": (request(body=b"", **CHUNKED), 50, True, 413),
    "200 MB in chunks": (request(body=b"", **CHUNKED), 200, True, 413),
    "200 MB of batch": (request(BATCH, b"", **CHUNKED), 200, True, 413),
    "200 MB of feedback": (request(FEEDBACK, b"", **CHUNKED), 200, True, 413),
    "200 MB to nowhere": (request("/nowhere", b"", **CHUNKED), 200, True, 404),
    "200 MB of text": (request(body=b"", Content_Type="text/plain", **CHUNKED), 200, True, 415),
    "200 MB of address": (b"GET /", 200, False, 431),
    "200 MB of header": (GET + b"X-A: ", 200, False, 431),
    "200 MB of trailer": (request(body=b"2\r\n{}\r\n0\r\nX-A: ", **CHUNKED), 200, False, 431),
    "200 MB about a chunk": (request(body=b"2;a=", **CHUNKED), 200, False, 431),
}  # fmt: skip


@pytest.mark.parametrize(("head", "size", "is_chunked", "status"), HUGE.values(), ids=list(HUGE))
def test_what_is_too_large_is_not_taken_in(
    head: bytes, size: int, is_chunked: bool, status: int, server: Server
) -> None:
    def act() -> None:
        body = chunks(size * MB) if is_chunked else (b"a" * MB for _ in range(size))
        [answer] = converse(server, itertools.chain([head], body))
        assert_refused(answer, status)

    assert server.grown(act) < 16


def test_a_hundred_thousand_headers_are_too_many(server: Server) -> None:
    def act() -> None:
        raw = GET + b"".join(b"X-%d: b\r\n" % n for n in range(100_000)) + b"\r\n"
        [answer] = converse(server, [raw[n : n + 50_000] for n in range(0, len(raw), 50_000)])
        assert_refused(answer, 431)

    assert server.grown(act) < 16


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (TRAFFIC, b"{%b}" % names(250_000)),
        (BATCH, b"[{%b}]" % names(250_000)),
        (BATCH, b"[" + b",".join([b"{}"] * 1_000_000) + b"]"),
        (BATCH, b"[" + b",".join([GOOD] * 50_000) + b"]"),
        (ENERGY, recent(b'{"timestamp":"2022-02-01T08:00",%b}' % names(250_000))),
        (AHEAD, b'{"recent":[%b]}' % b",".join([b"{}"] * 1_000_000)),
    ],
    ids=["names", "names in a batch", "bad rows", "good rows", "names in a reading", "readings"],
)
def test_no_body_of_the_allowed_size_holds_the_others_up(
    path: str, body: bytes, client: httpx2.Client
) -> None:
    assert len(body) < 4 * MB
    started = time.perf_counter()

    answer = client.post(path, content=body, headers=JSON)

    assert answer.status_code < 500
    assert len(answer.content) < 20_000
    assert time.perf_counter() - started < 3


def drip(
    server: Server, sent: bytes, dripped: bytes, *, first: bytes = b"", every: float = 0.25
) -> tuple[bytes, float]:
    """Send something, wait for an answer if asked to, then go on byte by byte; until cut off."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as wire:
        wire.sendall(first)
        raw = b""
        while first and not is_whole(raw):
            raw += wire.recv(MB)
        wire.sendall(sent)
        started, raw = time.monotonic(), b""
        wire.settimeout(every)
        for n in range(int(60 / every)):
            try:
                part = wire.recv(MB)
            except TimeoutError:
                with contextlib.suppress(ConnectionError):
                    wire.sendall(dripped[n % max(len(dripped), 1) :][:1])
                continue
            except ConnectionError:
                part = b""
            if not part:
                return raw, time.monotonic() - started
            raw += part
    raise AssertionError(f"waits for ever, having said {raw[:200]!r}")


def test_slow_clients_are_not_waited_for(server: Server) -> None:
    ask = GET + b"\r\n"
    long = request(body=b"", Content_Length="4000")
    drips: dict[str, tuple[Callable[[], tuple[bytes, float]], bytes]] = {
        "nothing at all": (lambda: drip(server, b"", b"\r"), b"408"),
        "a head": (lambda: drip(server, b"GET /health HTTP/1.1\r\nX: ", b"a"), b"408"),
        "a line of the head": (lambda: drip(server, b"", b"GET /" + b"a" * 500), b"408"),
        "a second head": (lambda: drip(server, b"GET /", b"a", first=ask), b"408"),
        "blank lines after an answer": (lambda: drip(server, b"\r\n", b"\r\n", first=ask), b""),
        "a body": (lambda: drip(server, long, b" "), b"408"),
        "a body in chunks": (
            lambda: drip(server, request(body=b"", **CHUNKED), b"1\r\n \r\n"), b"408",
        ),
        "a body that stops": (lambda: drip(server, long, b"", every=0.5), b"408"),
        "a body nobody reads": (
            lambda: drip(server, long.replace(b"application/json", b"text/plain"), b" "), b"415",
        ),
        "a body to nowhere": (
            lambda: drip(server, long.replace(TRAFFIC.encode(), b"/nowhere"), b" "), b"404",
        ),
    }  # fmt: skip
    with ThreadPoolExecutor(len(drips)) as pool:
        found = {name: pool.submit(act) for name, (act, _) in drips.items()}

    for name, (_, status) in drips.items():
        raw, seconds = found[name].result()
        assert seconds < PATIENCE, name
        assert raw.startswith(b"HTTP/1.1 " + status) if status else not raw, (name, raw)
        if status:
            assert_refused(Answer.read(raw)[0], int(status))


def test_a_client_that_goes_away_leaves_nothing_behind(server: Server) -> None:
    before = server.output.read_text().count('"status":400')
    for sent in (request()[:-20], request(body=b"", Content_Length="4000"), GET, b"G"):
        for is_reset in (False, True):
            wire = socket.create_connection(("127.0.0.1", server.port))
            wire.sendall(sent)
            if is_reset:
                linger = (1).to_bytes(4, sys.byteorder) + (0).to_bytes(4, sys.byteorder)
                wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            wire.close()

    eventually(lambda: server.output.read_text().count('"status":400') >= before + 4)
    eventually(server.is_up)


def test_a_client_that_does_not_read_holds_nobody_up(server: Server) -> None:
    rows = b"[" + b",".join([GOOD] * 1000) + b"]"

    def act() -> None:
        with contextlib.ExitStack() as stack:
            for _ in range(20):
                wire = stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
                wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                wire.sendall(request(BATCH, rows))
            eventually(server.is_up)

    assert server.grown(act) < 100


def test_three_hundred_idle_connections_do_not_slow_health(
    server: Server, client: httpx2.Client
) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(300):
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
        seconds = []
        for _ in range(50):
            started = time.perf_counter()
            assert client.get("/health").status_code == 200
            seconds.append(time.perf_counter() - started)

    assert statistics.median(seconds) < 0.1


def test_many_hostile_clients_at_once_do_not_mix_answers(server: Server) -> None:
    barrier = threading.Barrier(8)

    def attack(n: int) -> None:
        barrier.wait()
        for m in range(25):
            mark = f"c{n}-{m}"
            body, status = [(GOOD, 200), (b"{", 400), (b"{}", 422), (car(b"NaN"), 422)][m % 4]
            [answer] = converse(server, [request(body=body, X_Request_ID=mark)])
            assert answer.status == status
            assert answer.headers["x-request-id"] == mark

    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(attack, n) for n in range(8)]:
            done.result()


def test_after_all_of_it_the_same_process_answers_without_a_fault(
    server: Server, client: httpx2.Client
) -> None:
    assert server.process.poll() is None
    assert client.post(TRAFFIC, content=GOOD, headers=JSON).status_code == 200
    assert client.get("/health").json()["status"] == "healthy"
    written = server.output.read_text()
    statuses = {int(found) for found in re.findall(r'"status":(\d+)', written)}

    assert "Traceback" not in written
    assert "exc_info" not in written
    assert statuses
    assert max(statuses) < 500
