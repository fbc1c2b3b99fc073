"""A real nginx in front of it all: what it lets through, keeps out, and bridges."""

import json
import os
import pwd
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import httpx2
import psutil
import pytest
from conftest import CHROMIUM, QUIET, eventually
from playwright.sync_api import Page, expect, sync_playwright

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
GIXY = shutil.which("gixy", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
pytestmark = pytest.mark.skipif(
    not NGINX, reason="no nginx; install it, as in: sudo apt-get install nginx-light"
)
UNITS = sorted((Path(__file__).parents[1] / "deploy" / "nginx").glob("*.service"))
ROW = {"car_count": 60, "bike_count": 10, "bus_count": 8, "truck_count": 5}
PREDICT = "api/v1/predict/traffic"


def ports(number: int) -> list[int]:
    """Ports nothing listens on."""
    probes = [socket.socket() for _ in range(number)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    found = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return found


def environment(home: Path, **more: str) -> dict[str, str]:
    """Give the settings of a process of ours, and no others."""
    variables = {name: value for name, value in os.environ.items() if "SMARTCITY" not in name}
    folders = ("datasets", "models", "reports", "logs", "state")
    variables |= {f"SMARTCITY_{n.upper()}": str(home / n) for n in folders}
    return variables | {f"SMARTCITY_{name.upper()}": value for name, value in more.items()}


class Server:
    """A server of ours, which can be killed, stopped and started again."""

    def __init__(self, home: Path, command: str, port: int, ready: str, **more: str) -> None:
        """Say what it is; ``start`` starts it."""
        self.command, self.port, self.ready = command, port, f"http://127.0.0.1:{port}{ready}"
        names = {"api_port": str(port), "dashboard_port": str(port), "rate_limit": "off"}
        self.variables = environment(home, **names | more)
        self.output = home / f"{command}-{port}.out"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "smartcity", self.command],
                env=self.variables,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        eventually(self.answers, seconds=120)

    def answers(self) -> bool:
        """Tell whether it is up."""
        assert self.process.poll() is None, self.output.read_text()[-2000:]
        with suppress(httpx2.TransportError):
            return httpx2.get(self.ready, timeout=10, trust_env=False).status_code == 200
        return False

    def stop(self, how: int = signal.SIGTERM) -> None:
        """End it, and wait until it has."""
        with suppress(ProcessLookupError):
            self.process.send_signal(how)
        self.process.wait(timeout=60)


@contextmanager
def serving(*servers: Server) -> Iterator[None]:
    """Have servers run for a while."""
    begun = []
    try:
        for server in servers:
            begun.append(server)
            server.start()
        yield
    finally:
        for server in begun:
            server.stop()


def written(folder: Path, home: Path, **more: str) -> Path:
    """Write the configuration into a folder, with a certificate beside it."""
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    files = {"certificate": str(folder / "cert.pem"), "certificate_key": str(folder / "key.pem")}
    keep = ["-out", files["certificate"], "-keyout", files["certificate_key"]]
    subprocess.run(
        ["openssl", "req", "-x509", *kind, *subject, *keep], check=True, capture_output=True
    )
    subprocess.run(
        [sys.executable, "-m", "smartcity", "proxy", "--output", str(folder)],
        env=environment(home, **files, **more),
        check=True,
        capture_output=True,
    )
    return folder / "nginx.conf"


class Proxy:
    """An nginx of the test's own, run by a user who may do nothing."""

    def __init__(self, home: Path, **more: str) -> None:
        """Write its configuration and start it."""
        self.port, self.http_port = ports(2)
        self.url = f"https://localhost:{self.port}/"
        # Not below pytest's folders: those are closed to everybody else.
        self.folder = Path(tempfile.mkdtemp(prefix="smartcity-nginx-"))
        self.folder.chmod(0o755)
        mine = {"public_url": self.url.rstrip("/"), "http_port": str(self.http_port)}
        more = {name: value.replace("URL", self.url) for name, value in more.items()}
        written(self.folder, home, **mine | more)
        nobody: dict[str, Any] = {}
        if os.geteuid() == 0:
            user = pwd.getpwnam("nobody")
            nobody = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
            for path in (self.folder, *self.folder.rglob("*")):
                os.chown(path, user.pw_uid, user.pw_gid)
        where = ["-p", str(self.folder), "-c", "nginx.conf", "-e", "logs/error.log"]
        self.process = subprocess.Popen([str(NGINX), *where, "-g", "daemon off;"], **nobody)
        self.tls = ssl.create_default_context(cafile=self.folder / "cert.pem")
        self.client = self.connect()
        eventually(self.listens, seconds=30)

    def connect(self) -> httpx2.Client:
        """Give a client that trusts the certificate."""
        return httpx2.Client(base_url=self.url, verify=self.tls, timeout=60, trust_env=False)

    def listens(self) -> bool:
        """Tell whether it is up."""
        assert self.process.poll() is None
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 5):
            return True
        return False

    @property
    def log(self) -> Path:
        """Where it notes every request."""
        return self.folder / "logs" / "access.log"

    def lines(self, start: int = 0) -> list[dict[str, Any]]:
        """Read the access log from some byte on: whole lines, all of them JSON."""
        with self.log.open("rb") as file:
            file.seek(start)
            text = file.read().rpartition(b"\n")[0]
        return [json.loads(line) for line in text.splitlines()]

    def stop(self) -> None:
        """End it and leave nothing."""
        self.client.close()
        self.process.terminate()
        self.process.wait(timeout=30)
        shutil.rmtree(self.folder)


@contextmanager
def proxied(home: Path, **more: str) -> Iterator[Proxy]:
    """Have an nginx for a while."""
    proxy = Proxy(home, **more)
    try:
        yield proxy
    finally:
        proxy.stop()


class City:
    """Two APIs and a dashboard behind an nginx."""

    def __init__(self, built: Path, home: Path) -> None:
        """Take the built city's models and reports, and a database of its own."""
        folders = {name: str(built / name) for name in ("datasets", "models", "reports")}
        *api, page = ports(3)
        self.apis = [Server(home, "serve", port, "/health", **folders) for port in api]
        self.dashboard = Server(home, "dashboard", page, "/smartcity/health", **folders)
        self.home = home
        self.settings = folders | {
            "api_backends": " ".join(f"127.0.0.1:{port}" for port in api),
            "dashboard_backends": f"127.0.0.1:{page}",
        }


@pytest.fixture(scope="module")
def city(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[City]:
    one = City(built, tmp_path_factory.mktemp("behind"))
    with serving(*one.apis, one.dashboard):
        yield one


@pytest.fixture(scope="module")
def proxy(city: City) -> Iterator[Proxy]:
    with proxied(city.home, **city.settings, rate_limit="off") as one:
        yield one


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Proxy]:
    """An nginx behind which nobody answers."""
    api, dashboard = ports(2)
    behind = {"api_port": str(api), "dashboard_port": str(dashboard)}
    with proxied(tmp_path, **behind) as one:
        yield one


KINDS = [
    {},
    {"dashboard_base_url": "/city/", "dashboard_user_header": "X-User", "rate_limit": "off"},
    {"reports_url": "https://localhost:8443/reports/index.html", "key_rate_limit": "off"},
    {"api_backends": "api-1:8000 api-2:8000", "dashboard_backends": "a:1 b:2"},
]


@pytest.fixture(params=KINDS, ids=["plain", "below a path", "reports", "containers"])
def configuration(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = written(tmp_path, tmp_path, **request.param)
    # Names of other containers mean nothing here; nginx would look them up.
    path.write_text(re.sub(r"server (?:api-\d|a|b):", "server 127.0.0.1:", path.read_text()))
    return path


def test_nginx_finds_nothing_wrong(configuration: Path) -> None:
    where = ["-p", str(configuration.parent), "-c", "nginx.conf", "-e", "logs/error.log"]

    said = subprocess.run([str(NGINX), "-t", "-q", *where], capture_output=True, check=False)

    assert (said.returncode, said.stderr) == (0, b"")


@pytest.mark.skipif(not GIXY, reason="no gixy; install it, as in: pip install gixy-next")
def test_gixy_finds_nothing_wrong(configuration: Path) -> None:
    found = subprocess.run(
        [str(GIXY), str(configuration)], capture_output=True, text=True, check=False
    )

    assert found.returncode == 0, found.stdout


def test_without_a_certificate_the_command_says_what_is_lacking(tmp_path: Path) -> None:
    said = subprocess.run(
        [sys.executable, "-m", "smartcity", "proxy", "--output", str(tmp_path)],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )

    assert said.returncode == 2
    assert "SMARTCITY_CERTIFICATE" in said.stderr
    assert not (tmp_path / "nginx.conf").exists()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
def test_systemd_finds_nothing_wrong_with_the_units(tmp_path: Path) -> None:
    for unit in UNITS:
        # Neither is installed where the tests run; everything else stays as it is.
        text = re.sub(r"=/\S+/(?:smartcity|nginx) ", "=/bin/true ", unit.read_text())
        (tmp_path / unit.name.replace("@", "@8000")).write_text(text)

    found = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *map(str, tmp_path.iterdir())],
        capture_output=True,
        text=True,
        check=False,
    )

    assert len(UNITS) == 3
    assert (found.returncode, found.stderr) == (0, "")


def test_old_tls_is_refused_and_new_is_spoken(alone: Proxy) -> None:
    def speak(version: ssl.TLSVersion) -> tuple[str | None, str | None]:
        tls = ssl.create_default_context(cafile=alone.folder / "cert.pem")
        tls.minimum_version = tls.maximum_version = version
        tls.set_ciphers("ALL:@SECLEVEL=0")  # this side would speak the old ones
        tls.set_alpn_protocols(["h2", "http/1.1"])
        with (
            socket.create_connection(("127.0.0.1", alone.port), 30) as plain,
            tls.wrap_socket(plain, server_hostname="localhost") as wire,
        ):
            return wire.version(), wire.selected_alpn_protocol()

    assert speak(ssl.TLSVersion.TLSv1_2) == ("TLSv1.2", "h2")
    assert speak(ssl.TLSVersion.TLSv1_3) == ("TLSv1.3", "h2")
    # It is the server that says no, in so many words.
    with (
        pytest.warns(match="TLSv1_1 is deprecated"),
        pytest.raises(ssl.SSLError, match="ALERT_PROTOCOL"),
    ):
        speak(ssl.TLSVersion.TLSv1_1)


def test_plain_http_is_sent_on_with_its_method_but_for_the_proof_of_the_name(alone: Proxy) -> None:
    plain = f"http://127.0.0.1:{alone.http_port}"
    proof = alone.folder / "acme" / ".well-known" / "acme-challenge"
    proof.mkdir(parents=True)
    (proof / "token").write_text("ours")

    said = httpx2.post(f"{plain}/{PREDICT}?a=1", headers={"Host": "evil.example"}, trust_env=False)
    proved = httpx2.get(f"{plain}/.well-known/acme-challenge/token", trust_env=False)

    assert (said.status_code, said.headers["Location"]) == (308, f"{alone.url}{PREDICT}?a=1")
    assert (proved.status_code, proved.text) == (200, "ours")


def test_where_nobody_answers_page_and_api_say_so_each_in_its_way(alone: Proxy) -> None:
    page = alone.client.get("?token=secret-of-the-page")
    api = alone.client.post(PREDICT, json=ROW, headers={"X-Request-ID": "mine-1"})

    assert (page.status_code, page.headers["Retry-After"]) == (503, "20")
    assert "No seat is free just now." in page.text
    assert 'http-equiv="refresh"' in page.text
    assert "script-src" not in page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert page.headers["Strict-Transport-Security"]
    assert alone.client.get("smartcity-away.html").status_code == 404
    refused(api, 503, "mine-1")
    eventually(lambda: len(alone.lines()) == 3)
    logs = "".join(path.read_text() for path in (alone.folder / "logs").iterdir())
    assert "secret" not in logs
    assert {line["path"] for line in alone.lines()} == {"/", f"/{PREDICT}", "/smartcity-away.html"}


def refused(said: Any, status: int, name: str | None = None) -> None:
    """Check that an error of nginx has the shape of the API's own."""
    assert said.status_code == status
    assert said.headers["Content-Type"].startswith("application/json")
    body = said.json()
    assert body.keys() == {"success", "error", "timestamp", "request_id"}
    assert body["success"] is False
    assert body["request_id"] == said.headers["X-Request-ID"]
    assert name in {None, body["request_id"]}
    assert said.headers["Strict-Transport-Security"]


def smoke(proxy: Proxy, *more: str) -> tuple[int, list[str]]:
    """Ask as the pipeline does after a deployment: exit code and lines."""
    script = Path(__file__).parents[1] / "deploy" / "smoke"
    said = subprocess.run(
        [script, proxy.url, *more], capture_output=True, text=True, check=False, timeout=300
    )
    assert said.stderr == ""
    return said.returncode, said.stdout.splitlines()


def test_the_smoke_test_passes_a_city_that_works(proxy: Proxy) -> None:
    code, lines = smoke(proxy, "--insecure")

    assert [line.split(":")[0] for line in lines] == [
        "ok    GET /health",
        *(f"ok    POST /api/v1/predict/{name}" for name in ("air-quality", "traffic", "energy")),
        "ok    GET /openapi.json",
        "ok    GET /",
    ]
    assert code == 0


def test_the_smoke_test_fails_for_a_certificate_nobody_vouches_for(proxy: Proxy) -> None:
    code, lines = smoke(proxy)

    assert code == 1
    assert all("certificate verify failed" in line for line in lines)


def test_the_smoke_test_fails_where_nobody_answers(alone: Proxy) -> None:
    code, lines = smoke(alone, "--insecure")

    assert code == 1
    assert [line[:4] for line in lines] == ["FAIL"] * 3


def test_too_large_a_body_is_refused_as_the_api_would(alone: Proxy) -> None:
    refused(alone.client.post(PREDICT, content=b"x" * (4 * 2**20 + 1)), 413)


def test_nobody_says_who_they_are_where_a_list_says_who_they_may_be(tmp_path: Path) -> None:
    hashed = subprocess.run(
        ["openssl", "passwd", "-apr1", "right"], capture_output=True, text=True, check=True
    ).stdout
    with proxied(tmp_path, dashboard_user_header="X-User", dashboard_port="1") as one:
        (one.folder / "users").write_text(f"anna:{hashed}")
        (one.folder / "users").chmod(0o644)

        assert one.client.get("", headers={"X-User": "anna"}).status_code == 401
        assert one.client.get("", auth=("anna", "wrong")).status_code == 401
        assert one.client.get("", auth=("anna", "right")).status_code == 503


def test_reports_are_files_only_where_asked_and_only_reports(tmp_path: Path) -> None:
    reports = Path(tempfile.mkdtemp(prefix="smartcity-reports-"))
    reports.chmod(0o755)
    shown, hidden = ("index.html", "runs/a/r.html"), ("runs/.tmp-1/r.html", "outbox/1.html")
    for name in (*shown, *hidden):
        (reports / name).parent.mkdir(parents=True, exist_ok=True)
        (reports / name).write_text(name)

    def found(where: str) -> list[int]:
        with proxied(tmp_path, reports=str(reports), reports_url=where) as one:
            said = [one.client.get(f"reports/{name}") for name in (*shown, *hidden)]
        assert all(s.text == n for s, n in zip(said, shown, strict=False) if s.status_code == 200)
        return [each.status_code for each in said]

    try:
        # What is not shown is asked of the dashboard, which is away.
        assert found("https://elsewhere/reports/index.html") == [503, 503, 404, 503]
        assert found("URLreports/index.html") == [200, 200, 404, 503]
    finally:
        shutil.rmtree(reports)


def test_the_page_and_the_api_come_with_headers_that_keep_them_safe(proxy: Proxy) -> None:
    page = proxy.client.get("")
    api = proxy.client.get("health", headers={"Accept-Encoding": "identity"})
    docs = proxy.client.get("api/docs")

    for said in (page, api, docs):
        assert said.status_code == 200
        assert said.headers["Strict-Transport-Security"] == "max-age=31536000"
        assert said.headers["X-Content-Type-Options"] == "nosniff"
        assert said.headers["X-Frame-Options"] == "DENY"
        assert said.headers["Server"] == "nginx"
        [policy] = said.headers.get_list("Content-Security-Policy")
        assert "frame-ancestors 'none'" in policy
        assert "unsafe-eval" not in policy
    policy = page.headers["Content-Security-Policy"]
    assert "script-src 'self' blob:;" in policy
    assert f"wss://localhost:{proxy.port};" in policy
    assert api.headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert proxy.client.get("api/redoc").status_code == 200
    described = proxy.client.get("openapi.json", headers={"Accept-Encoding": "gzip"})
    assert described.json()["info"]["title"] == "SmartCity"
    assert described.headers["Content-Encoding"] == "gzip"


def test_what_is_nobodys_business_is_hidden(proxy: Proxy, city: City) -> None:
    behind = httpx2.get(f"http://127.0.0.1:{city.apis[0].port}/metrics", trust_env=False)

    assert behind.status_code == 200
    for path in ("metrics", ".env", "smartcity/.git/config"):
        assert proxy.client.get(path).status_code == 404


def test_only_nginx_listens_beyond_this_machine(proxy: Proxy, city: City) -> None:
    def listening(root: int) -> set[tuple[str, int]]:
        parent = psutil.Process(root)
        wires = [w for p in (parent, *parent.children(recursive=True)) for w in p.net_connections()]
        return {(w.laddr.ip, w.laddr.port) for w in wires if w.status == psutil.CONN_LISTEN}

    ours = [listening(s.process.pid) for s in (*city.apis, city.dashboard)]
    for server, found in zip((*city.apis, city.dashboard), ours, strict=True):
        assert ("127.0.0.1", server.port) in found
        assert {ip for ip, _ in found} == {"127.0.0.1"}
    open_ports = {port for ip, port in listening(proxy.process.pid) if ip in {"0.0.0.0", "::"}}  # noqa: S104
    assert open_ports == {proxy.port, proxy.http_port}


def test_who_asks_is_who_connects_and_not_who_they_say(proxy: Proxy, city: City) -> None:
    headers = {"X-Forwarded-For": "6.6.6.6", "X-Request-ID": "who-asks"}
    assert proxy.client.post(PREDICT, json=ROW, headers=headers).status_code == 200

    def told() -> list[str]:
        lines = [line for api in city.apis for line in api.output.read_text().splitlines()]
        return [json.loads(line)["client"] for line in lines if '"who-asks"' in line]

    eventually(told, seconds=30)
    assert told() == ["127.0.0.1"]


def test_a_request_sent_twice_is_one_prediction_whichever_api_answers(proxy: Proxy) -> None:
    same = [
        proxy.client.post(PREDICT, json=ROW, headers={"X-Request-ID": "twice"}).json()
        for _ in range(6)
    ]
    other = [proxy.client.post(PREDICT, json=ROW).json() for _ in range(6)]

    assert len({each["id"] for each in same}) == 1
    assert len({each["id"] for each in other}) == 6


class Load:
    """Requests from many at once for as long as it lasts, and what became of them."""

    def __init__(self, proxy: Proxy) -> None:
        """Say where to."""
        self.proxy, self.count = proxy, 0
        self.failed: list[str] = []
        self._over, self._lock = threading.Event(), threading.Lock()
        self._threads = [threading.Thread(target=self._ask, args=(n,)) for n in range(8)]

    def _ask(self, place: int) -> None:
        with self.proxy.connect() as client:
            while not self._over.is_set():
                try:
                    if place % 4:
                        said = client.post(PREDICT, json=ROW)
                    else:
                        said = client.get("api/v1/models")
                    fault = "" if said.status_code == 200 else f"{said.status_code} {said.text}"
                except httpx2.TransportError as error:
                    fault = repr(error)
                with self._lock:
                    self.count += 1
                    self.failed += [fault] if fault else []

    def more(self, number: int) -> None:
        """Wait until so many more have been answered."""
        wanted = self.count + number
        eventually(lambda: self.count >= wanted, seconds=120)

    def answered_by(self, server: Server) -> None:
        """Wait until nginx gives requests to a server (again)."""
        seen = self.proxy.log.stat().st_size
        address = f"127.0.0.1:{server.port}"

        def does() -> bool:
            new = self.proxy.lines(seen)
            return any(
                (line["backend"], line["backend_status"]) == (address, "200") for line in new
            )

        eventually(does, seconds=60)

    def __enter__(self) -> Self:
        """Begin."""
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        self._over.set()
        for thread in self._threads:
            thread.join()


def test_no_request_fails_when_an_api_is_killed_under_load(proxy: Proxy, city: City) -> None:
    with Load(proxy) as load:
        for api in city.apis:
            load.answered_by(api)
        city.apis[0].stop(signal.SIGKILL)
        load.more(300)
        city.apis[0].start()
        load.answered_by(city.apis[0])

    assert load.failed == []


def test_no_request_fails_when_one_api_after_the_other_is_started_anew(
    proxy: Proxy, city: City
) -> None:
    with Load(proxy) as load:
        for api in city.apis:
            load.answered_by(api)
            api.stop()
            load.more(50)
            api.start()
            load.answered_by(api)
        load.more(50)

    assert load.failed == []


def test_who_asks_too_often_is_refused_while_the_page_still_answers(city: City) -> None:
    with proxied(city.home, **city.settings, rate_limit="60/minute") as one:
        began = time.monotonic()
        said = [one.client.post(PREDICT, json=ROW) for _ in range(600)]
        page = one.client.get("")
        keyed = one.client.post(PREDICT, json=ROW, headers={"X-API-Key": "of-nobody"})
        seconds = time.monotonic() - began

    late = [each for each in said if each.status_code != 200]
    # One at once, twenty more in a burst, then one a second.
    assert len(said) - len(late) <= 21 + seconds + 1
    assert len(late) > 300
    refused(late[0], 429)
    assert late[0].headers["Retry-After"] == "1"
    assert page.status_code == 200
    assert keyed.status_code == 401  # who brings a key is judged by the API, not by the address


def test_nobody_takes_all_seats(city: City) -> None:
    mine = city.settings | {"dashboard_sessions": "12"}
    with proxied(city.home, **mine) as one, ThreadPoolExecutor(12) as many:
        said = list(many.map(lambda _: one.client.get(""), range(12)))

    allowed = [each for each in said if each.status_code == 200]
    assert 1 <= len(allowed) < 12
    assert {each.status_code for each in said} == {200, 429}
    assert "No seat is free just now." in next(e.text for e in said if e.status_code == 429)


@contextmanager
def reading(but: str = "nothing") -> Iterator[Page]:
    """Have a Chromium's page, which must not complain of anything but what is named."""
    wrong: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        page = browser.new_page(ignore_https_errors=True)
        page.set_default_timeout(120_000)
        page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        yield page
        browser.close()
    assert [said for said in wrong if but not in said] == []


def turn_a_slider(url: str) -> str:
    """Open the page, turn a slider, wait for the answer; give the wire's address."""
    wires: list[str] = []
    with reading() as page:
        page.on("websocket", lambda wire: wires.append(wire.url))
        page.goto(f"{url}?page=traffic")
        page.locator("#live:not([hidden])").wait_for()
        shown = page.locator(".smartcity-answer:visible")
        before = shown.inner_text()
        page.locator('.smartcity-page-traffic input[type="range"]').first.focus()
        for _ in range(3):
            page.keyboard.press("PageUp")
        expect(shown).not_to_have_text(before, timeout=120_000)
    return wires[0]


@pytest.mark.browser
@pytest.mark.skipif(not CHROMIUM, reason="no Chromium; tests/setup installs one")
def test_the_apis_own_pages_work_under_their_policy(proxy: Proxy) -> None:
    # Redoc would like to fetch its maker's logo from elsewhere, and is not let.
    with reading(but="redoc/logo-mini.svg") as page:
        for name, shown in (("docs", ".opblock"), ("redoc", "h1")):
            page.goto(f"{proxy.url}api/{name}")
            page.locator(shown).first.wait_for()


@pytest.mark.browser
@pytest.mark.skipif(not CHROMIUM, reason="no Chromium; tests/setup installs one")
def test_a_slider_is_answered_through_nginx(proxy: Proxy) -> None:
    wire = turn_a_slider(proxy.url)

    assert wire.startswith(f"wss://localhost:{proxy.port}/api/kernels/")


@pytest.mark.browser
@pytest.mark.skipif(not CHROMIUM, reason="no Chromium; tests/setup installs one")
def test_a_slider_is_answered_below_a_path_too(city: City) -> None:
    base = {"dashboard_base_url": "/city/"}
    [port] = ports(1)
    folders = {name: city.settings[name] for name in ("datasets", "models", "reports")}
    dashboard = Server(city.home, "dashboard", port, "/city/smartcity/health", **folders, **base)
    mine = city.settings | base | {"dashboard_backends": f"127.0.0.1:{port}"}
    with serving(dashboard), proxied(city.home, **mine) as one:
        assert one.client.get("").headers["Location"] == "/city/"
        wire = turn_a_slider(f"{one.url}city/")

        assert wire.startswith(f"wss://localhost:{one.port}/city/api/kernels/")
        assert one.client.post(PREDICT, json=ROW).status_code == 200
