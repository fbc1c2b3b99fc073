"""The dashboard's server as visitors and others meet it: over HTTP and the page's wire."""

import asyncio
import http.client
import http.cookiejar
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import eventually
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.connect import write_connection_file
from jupyter_server.services.kernels.connection.base import serialize_msg_to_ws_v1
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect

from smartcity import registry
from smartcity.dashboard import kernels

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="kernels are forked on Linux only")

MOST = 12
V1 = "v1.kernel.websocket.jupyter.org"


@dataclass
class Served:
    """A dashboard in a process of its own."""

    address: str
    process: psutil.Popen
    log: Path

    def get(self, path: str = "", **headers: str) -> tuple[int, Any, bytes]:
        """Fetch something: status, headers, body."""
        request = urllib.request.Request(self.address + path, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, answer.headers, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers, error.read()

    def visit(self, **headers: str) -> str:
        """Open the page; give its kernel's id."""
        status, _, body = self.get(**headers)
        assert status == 200, body[:300]
        return str(re.findall(r'data-kernel="([\w-]{36})"', body.decode())[0])

    @contextmanager
    def wire(
        self, kernel: str, *, protocol: str | None = None, **given: Any
    ) -> Iterator[ClientConnection]:
        """Connect to a kernel as its page does."""
        path = f"api/kernels/{kernel}/channels?session_id={uuid.uuid4().hex}"
        protocols: Any = [protocol] if protocol else None
        address = self.address.replace("http", "ws") + path
        with connect(address, subprotocols=protocols, **given) as wire:
            yield wire

    def sessions(self) -> int:
        """Ask how many visitors there are."""
        return int(json.loads(self.get("smartcity/health")[2])["sessions"])

    def fork_server(self) -> psutil.Process:
        """Find the process the kernels are forked from."""
        return self.process.children()[0]

    def kernel_process(self, kernel: str) -> psutil.Process:
        """Find the process of a kernel, by the connection file it holds a socket beside."""
        return next(
            p for p in self.fork_server().children() if kernel in str(p.net_connections("unix"))
        )


@contextmanager
def served(built: Path, log: Path, **more: str) -> Iterator[Served]:
    """Serve the simulated city's page."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    variables = {name: value for name, value in os.environ.items() if "SMARTCITY" not in name}
    folders = ("datasets", "models", "reports", "state")
    variables |= {f"SMARTCITY_{n.upper()}": str(built / n) for n in folders}
    variables |= {"SMARTCITY_DASHBOARD_PORT": str(port), "SMARTCITY_LOGS": str(log)}
    base = more.get("SMARTCITY_DASHBOARD_BASE_URL", "/")
    with (log / "errors.log").open("w") as errors:
        process = psutil.Popen(
            [sys.executable, "-m", "smartcity", "dashboard"],
            env=variables | more,
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )
    dashboard = Served(f"http://127.0.0.1:{port}{base}", process, log / "smartcity.log")
    try:

        def answers() -> bool:
            with suppress(OSError):
                return dashboard.get("smartcity/health")[0] == 200
            return False

        eventually(answers, seconds=60)
        yield dashboard
    finally:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
        process.wait(timeout=30)


@pytest.fixture(scope="module")
def page(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The dashboard with room for a dozen."""
    log = tmp_path_factory.mktemp("page")
    with served(built, log, SMARTCITY_DASHBOARD_SESSIONS=str(MOST)) as dashboard:
        eventually(lambda: len(dashboard.process.children(recursive=True)) == 4, seconds=30)
        yield dashboard


def message(kind: str, content: Any = None, *, channel: str = "shell") -> str:
    """Write a message in the protocol of old."""
    header = {"msg_id": uuid.uuid4().hex, "msg_type": kind, "session": "s", "username": "u"}
    header |= {"version": "5.3", "date": "2026-01-01T00:00:00Z"}
    said = {"header": header, "parent_header": {}, "metadata": {}, "content": content or {}}
    return json.dumps(said | {"channel": channel, "buffers": []})


def in_v1(text: str, *buffers: bytes) -> bytes:
    """Write a message in the protocol of today."""
    said = json.loads(text)
    parts = [
        json.dumps(said[p]).encode() for p in ("header", "parent_header", "metadata", "content")
    ]
    write: Any = serialize_msg_to_ws_v1
    return bytes(write([*parts, *buffers], said["channel"]))


def hear(wire: ClientConnection, kind: str, seconds: float = 10) -> dict[str, Any]:
    """Wait for a message of some kind."""
    deadline = time.monotonic() + seconds
    while True:
        said: dict[str, Any] = json.loads(wire.recv(timeout=deadline - time.monotonic()))
        if said["header"]["msg_type"] == kind:
            return said


def test_ten_visitors_at_once_are_all_served_and_one_too_many_is_told_and_let_in_later(
    page: Served,
) -> None:
    with ThreadPoolExecutor(10) as many:
        visits = list(many.map(lambda _: page.visit(), range(10)))
    visits += [page.visit() for _ in range(MOST - 10)]
    with page.wire(visits[0]) as kept, ExitStack() as wires:
        for kernel in visits[1:]:
            wires.enter_context(page.wire(kernel))

        status, headers, body = page.get()

        assert len(set(visits)) == MOST
        assert status == 503
        assert int(headers["Retry-After"]) > 0
        assert b"data-kernel" not in body
        assert b"<h1" in body
        full = {"status": "full", "sessions": MOST, "most": MOST}
        assert json.loads(page.get("smartcity/health")[2]) == full
        wires.close()
        eventually(lambda: page.get()[0] == 200)
        kept.send(message("kernel_info_request"))
        assert hear(kept, "kernel_info_reply")


def test_the_page_is_ready_before_it_is_asked_for(page: Served) -> None:
    started = time.perf_counter()
    status, headers, body = page.get()

    assert time.perf_counter() - started < 0.5
    assert status == 200
    assert b"data-kernel" in body
    assert b"import Dashboard" not in body
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"


def test_a_session_takes_less_than_40_mb(page: Served) -> None:
    kernel = page.visit()
    with page.wire(kernel) as wire:
        wire.send(message("comm_info_request"))
        assert len(hear(wire, "comm_info_reply")["content"]["comms"]) > 20

        used = page.kernel_process(kernel).memory_full_info()

    assert used.pss < 40 * 2**20, used


@pytest.mark.parametrize(
    "path",
    [
        "favicon.ico",
        "robots.txt",
        "index.html",
        "04_predict.ipynb",
        "voila/render/01_explore.ipynb",
        "voila/files/04_predict.ipynb",
        "voila/static/voila.js",
        "voila/templates/lab/index.html.j2",
        "voila/templates/smartcity/static/../index.html.j2",
        "voila/labextensions/@jupyter-widgets/jupyterlab-manager/package.json",
        "voila/api/shutdown/00000000-0000-0000-0000-000000000000",
        "api/kernels",
        "api/contents/04_predict.ipynb",
        "smartcity/static/../server.py",
        "smartcity/static/%2e%2e/server.py",
        "smartcity/static//etc/passwd",
        "smartcity/reports/traffic/x/../../../../models/traffic/CURRENT",
        "smartcity/reports/traffic/%2e%2e/x.json",
        "smartcity/reports/../../../models/traffic/1.0.0/card.json",
        "login",
    ],
)
def test_nothing_else_is_there(path: str, page: Served) -> None:
    taken = page.sessions()
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(page.address).netloc)
    connection.request("GET", f"/{path}")  # as it is, not as a browser would tidy it
    answer = connection.getresponse()
    body = answer.read()
    connection.close()

    assert answer.status == 404
    assert b"There is no such page here." in body
    assert "default-src 'self'" in str(answer.headers["Content-Security-Policy"])
    assert page.sessions() <= taken


def test_who_only_looks_whether_it_is_there_takes_no_kernel(page: Served) -> None:
    taken = page.sessions()
    request = urllib.request.Request(page.address, method="HEAD")

    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.status == 200

    assert page.sessions() <= taken


def test_kernels_cannot_be_listed_and_strangers_learn_nothing(page: Served) -> None:
    own, other = page.visit(), str(uuid.uuid4())

    assert json.loads(page.get(f"api/kernels/{own}")[2])["id"] == own
    assert page.get(f"api/kernels/{other}")[0] == 410
    with pytest.raises(InvalidStatus, match="404"), page.wire(other):
        pass
    with (
        pytest.raises(InvalidStatus, match="403"),
        page.wire(own, origin="http://elsewhere.example"),
    ):
        pass


@pytest.mark.parametrize("protocol", [None, V1])
@pytest.mark.parametrize("channel", ["shell", "control", "stdin"])
def test_nothing_can_be_run_over_the_wire(
    channel: str, protocol: str | None, page: Served, tmp_path: Path
) -> None:
    trace = tmp_path / "run"
    code = f"open({str(trace)!r}, 'w').close()"
    kinds = {
        "execute_request": {"code": code, "silent": False, "store_history": True},
        "complete_request": {"code": "import o", "cursor_pos": 8},
        "inspect_request": {"code": "Dashboard", "cursor_pos": 5, "detail_level": 1},
        "history_request": {"hist_access_type": "tail", "n": 9, "output": True, "raw": True},
        "comm_open": {"comm_id": "c", "target_name": "jupyter.widget.control", "data": {}},
        "debug_request": {"command": "evaluate", "arguments": {"expression": code}},
        "interrupt_request": {},
        "shutdown_request": {"restart": False},
    }
    kernel = page.visit()
    with page.wire(kernel, protocol=protocol) as wire, page.wire(kernel) as other:
        for kind, content in kinds.items():
            text = message(kind, content, channel=channel)
            wire.send(in_v1(text) if protocol else text)
        other.send(message("kernel_info_request"))
        heard = []
        with suppress(TimeoutError):
            while True:
                heard.append(json.loads(other.recv(timeout=1)))

    kinds_heard = {said["header"]["msg_type"] for said in heard}
    assert "kernel_info_reply" in kinds_heard, "it was shut down"
    assert kinds_heard <= {"status", "kernel_info_reply"}
    assert not trace.exists()


def test_a_large_file_comes_through(page: Served) -> None:
    kernel = page.visit()
    content = {"comm_id": "nobody", "data": {"method": "update", "state": {}}}

    with page.wire(kernel, protocol=V1) as wire, page.wire(kernel) as other:
        wire.send(in_v1(message("comm_msg", content), bytes(20 * 2**20)))
        other.send(message("kernel_info_request"))

        assert hear(other, "kernel_info_reply")
        wire.ping().wait(5)


def test_a_closed_page_frees_its_kernel_within_ten_seconds(page: Served) -> None:
    kernel = page.visit()
    with page.wire(kernel):
        process = page.kernel_process(kernel)

    eventually(lambda: not process.is_running(), seconds=10)
    assert page.get(f"api/kernels/{kernel}")[0] == 410


def test_a_connection_lost_for_a_moment_costs_nothing(page: Served) -> None:
    kernel = page.visit()
    with page.wire(kernel):
        pass
    time.sleep(3)

    with page.wire(kernel) as wire:
        time.sleep(4.5)
        wire.send(message("comm_info_request"))

        assert hear(wire, "comm_info_reply")["content"]["comms"]


def test_a_page_nobody_connects_frees_its_kernel(page: Served) -> None:
    eventually(lambda: page.sessions() == 0, seconds=25)  # the last one went a moment ago
    eventually(lambda: len(page.fork_server().children()) == 3)
    time.sleep(2)
    assert len(page.fork_server().children()) == 3, "those that wait for visitors stay"


def test_a_killed_kernel_does_no_harm_to_others(page: Served) -> None:
    hurt, well = page.visit(), page.visit()
    with page.wire(hurt) as lost, page.wire(well) as kept:
        page.kernel_process(hurt).kill()

        heard = [json.loads(said)["content"] for said in lost]  # until it was closed
        assert heard[-1] == {"execution_state": "dead"}
        kept.send(message("kernel_info_request"))
        assert hear(kept, "kernel_info_reply")
        assert page.get(f"api/kernels/{hurt}")[0] == 410


def test_the_fork_server_is_replaced_when_it_ends(page: Served) -> None:
    before = page.fork_server()
    orphans = before.children()
    before.kill()

    # By itself, within a moment: the pages that waited for visitors are lost with it.
    eventually(lambda: page.process.children() not in ([], [before]), seconds=20)
    with page.wire(page.visit()):
        pass
    eventually(lambda: not any(orphan.is_running() for orphan in orphans))


def test_static_files_are_zipped_kept_and_compared(page: Served) -> None:
    _, headers, body = page.get("smartcity/static/page.css", **{"Accept-Encoding": "gzip"})
    plain = page.get("smartcity/static/page.css")[2]

    assert headers["Content-Encoding"] == "gzip"
    assert len(body) < len(plain)
    assert headers["Cache-Control"] == "no-cache"
    assert (
        page.get(
            "smartcity/static/page.css",
            **{"If-None-Match": headers["Etag"], "Accept-Encoding": "gzip"},
        )[0]
        == 304
    )
    assert "immutable" in page.get("smartcity/static/page.css?v=1")[1]["Cache-Control"]


def test_a_report_opens_and_reaches_nothing_else(page: Served, built: Path) -> None:
    run = next((built / "reports" / "runs" / "05_report" / "traffic").iterdir())

    status, headers, body = page.get(f"smartcity/reports/traffic/{run.name}/report.html")

    assert status == 200
    assert b"City report" in body
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert page.get(f"smartcity/reports/traffic/{run.name}/metrics.json")[0] == 200


def test_what_is_published_meanwhile_is_on_the_next_page(page: Served, built: Path) -> None:
    waiting = {p.pid for p in page.fork_server().children()}

    os.utime(built / "models" / "traffic" / "CURRENT")

    eventually(lambda: not waiting & {p.pid for p in page.fork_server().children()}, seconds=25)


def test_a_token_is_asked_for_once_and_everything_works_under_a_path(
    built: Path, tmp_path: Path
) -> None:
    variables = {"SMARTCITY_DASHBOARD_TOKEN": "o-pen", "SMARTCITY_DASHBOARD_BASE_URL": "/city/"}
    with served(built, tmp_path, **variables) as page:
        jar = http.cookiejar.CookieJar()
        browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(jar))
        form = browser.open(page.address, timeout=30).read().decode()
        assert "data-kernel" not in form
        action = re.findall(r'action="([^"]+)"', form)[0]
        xsrf = re.findall(r'name="_xsrf" value="([^"]+)"', form)[0]
        where = urllib.parse.urljoin(page.address, action)

        def sign_in(token: str) -> bytes:
            fields = urllib.parse.urlencode({"password": token, "_xsrf": xsrf}).encode()
            body: bytes = browser.open(where, fields, timeout=30).read()
            return body

        with pytest.raises(urllib.error.HTTPError, match="401"):
            sign_in("wrong")
        kernel = re.findall(r'data-kernel="([\w-]{36})"', sign_in("o-pen").decode())[0]
        with pytest.raises(InvalidStatus, match="403"), page.wire(kernel):
            pass
        cookies = "; ".join(f"{c.name}={c.value}" for c in jar)
        with page.wire(kernel, additional_headers={"Cookie": cookies}) as wire:
            wire.send(message("kernel_info_request"))
            assert hear(wire, "kernel_info_reply")
        assert b"Token" in page.get("smartcity/reports/traffic/x/report.html")[2]
        assert page.get(Authorization="token o-pen")[0] == 200
        assert page.get("?token=wrong")[0] == 200  # the form again
        assert (
            urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
            .open(f"{page.address}?token=o-pen", timeout=30)
            .geturl()
            == page.address
        )
        assert page.get("smartcity/health")[0] == 200
        assert json.loads(page.get("smartcity/health")[2])["sessions"] == 3
    assert "o-pen" not in page.log.read_text(encoding="utf-8")


def test_who_comes_without_the_proxys_header_is_refused(built: Path, tmp_path: Path) -> None:
    variables = {"SMARTCITY_DASHBOARD_USER_HEADER": "X-User", "SMARTCITY_LOG_LEVEL": "DEBUG"}
    with served(built, tmp_path, **variables) as page:
        status, _, body = page.get()
        kernel = page.visit(**{"X-User": "anna"})

        assert status == 403
        assert b"who you are" in body
        assert page.get("smartcity/reports/traffic/x/report.html")[0] == 403
        for headers, answer in (({}, "403"), ({"X-User": "bert"}, "404")):
            with (
                pytest.raises(InvalidStatus, match=answer),
                page.wire(kernel, additional_headers=headers),
            ):
                pass
        with page.wire(kernel, additional_headers={"X-User": "anna"}) as wire:
            wire.send(message("kernel_info_request"))
            assert hear(wire, "kernel_info_reply")
        assert page.get("smartcity/health")[0] == 200


def test_a_notebook_that_fails_is_told_politely_and_logged_in_full(
    built: Path, tmp_path: Path
) -> None:
    (tmp_path / "notebooks").mkdir()
    notebook = (Path(__file__).parents[1] / "notebooks" / "04_predict.ipynb").read_text()
    broken = notebook.replace("Dashboard(first_page)", "1 / 0  # a secret")
    (tmp_path / "notebooks" / "04_predict.ipynb").write_text(broken)
    with served(built, tmp_path, SMARTCITY_NOTEBOOKS=str(tmp_path / "notebooks")) as page:
        status, _, body = page.get()

        assert status == 503
        assert b"<h1" in body
        assert not any(word in body for word in (b"ZeroDivision", b"Traceback", b"secret"))
        assert "ZeroDivisionError" in page.log.read_text(encoding="utf-8")
        assert page.sessions() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_when_it_is_stopped(number: int, built: Path, tmp_path: Path) -> None:
    folder = Path(tempfile.mkdtemp(prefix="sc-"))  # a socket's path must be short
    with served(built, tmp_path, TMPDIR=str(folder)) as page:
        kernel = page.visit()
        with page.wire(kernel):
            processes = page.process.children(recursive=True)
            assert len(processes) >= 2
            page.process.send_signal(number)

            code = page.process.wait(timeout=15)

        assert code == (-9 if number == signal.SIGKILL else 0)
        eventually(lambda: not any(p.is_running() for p in processes), seconds=5)
        eventually(lambda: not list(folder.iterdir()), seconds=5)
    folder.rmdir()


def test_a_forked_kernel_has_the_models_its_parent_opened(
    publish: Callable[..., registry.Card],
) -> None:
    folder = tempfile.mkdtemp(prefix="sc-")
    publish("traffic")

    def run(file: str, code: str) -> str:
        client = BlockingKernelClient()
        client.load_connection_file(file)
        client.start_channels(hb=False)
        client.wait_for_ready(timeout=30)
        said: list[str] = []
        client.execute_interactive(
            code, timeout=30, output_hook=lambda m: said.append(m["content"].get("text", ""))
        )
        client.stop_channels()
        return "".join(said)

    async def ask() -> list[str]:
        server = kernels.ForkServer(folder)
        answers = []
        for name in ("traffic", "energy"):
            file, _ = write_connection_file(
                f"{folder}/{name}.json", transport="ipc", ip=f"{folder}/{name}", key=b"k"
            )
            if name == "energy":
                publish("energy")
            await server.fork(file, folder, os.environ)
            code = "from smartcity.dashboard import kernels; print(sorted(kernels.warm()._open))"
            answers.append(await asyncio.to_thread(run, file, code))
        await asyncio.to_thread(server.stop)
        return answers

    assert asyncio.run(ask()) == ["['traffic']\n", "['energy', 'traffic']\n"]
    assert not Path(folder).exists()
    assert kernels.warm() is None
