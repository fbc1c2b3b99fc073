"""``smartcity up``: what dies is started again, and whatever ends it, nothing stays behind."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread

import psutil
import pytest
from conftest import at_home, eventually
from test_cli import assert_refused, smartcity
from test_doctor import free_ports

from smartcity import registry, stack
from smartcity.errors import SmartCityError

API, PAGE = "SMARTCITY_API_PORT", "SMARTCITY_DASHBOARD_PORT"
Models = dict[str, registry.Card]


class Up:
    """``smartcity up`` in a process of its own; what it says is read as it comes."""

    def __init__(self, ports: dict[str, int], **more: str) -> None:
        """Start it."""
        self.ports = ports
        names = {name: str(port) for name, port in ports.items()}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "smartcity", "up"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **names, "SMARTCITY_SCHEDULE": "false", **more},
        )
        self.said = ""
        self.reading = Thread(target=self._read)
        self.reading.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said += line

    def wait_until_it_serves(self) -> None:
        """Wait for the two addresses."""
        eventually(lambda: "(docs:" in self.said or self.process.poll() is not None, seconds=120)
        assert self.process.poll() is None, self.said

    def family(self) -> list[psutil.Process]:
        """Give it and all it started, by whomever."""
        me = psutil.Process(self.process.pid)
        return [me, *me.children(recursive=True)]

    def child(self, name: str) -> psutil.Process:
        """Give one of the servers."""
        children = psutil.Process(self.process.pid).children()
        [found] = [c for c in children if c.cmdline()[-1] == name]
        return found

    def answers(self) -> bool:
        """Tell whether the API is well."""
        with suppress(OSError, http.client.HTTPException):
            address = f"http://127.0.0.1:{self.ports[API]}/health"
            with urllib.request.urlopen(address, timeout=10) as answer:
                return bool(json.load(answer)["status"] == "healthy")
        return False


@contextmanager
def up(ports: dict[str, int], **more: str) -> Iterator[Up]:
    """Start it, and leave nothing of it whatever the test finds."""
    running = Up(ports, **more)
    family: list[psutil.Process] = []
    try:
        running.wait_until_it_serves()
        family = running.family()
        yield running
    finally:
        with suppress(psutil.NoSuchProcess):
            family += running.family()
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        running.process.wait(30)
        running.reading.join(30)
        assert running.process.stdout is not None
        running.process.stdout.close()


def is_gone(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE or not process.is_running()
    except psutil.NoSuchProcess:
        return True


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


@pytest.fixture
def ports(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Ports nobody listens on, named by the environment."""
    return free_ports(monkeypatch)


@pytest.fixture
def serving(built: Path, ports: dict[str, int]) -> Iterator[Up]:
    """A whole installation, served."""
    with at_home(built), up(ports) as running:
        yield running


def test_an_api_that_is_killed_answers_again(serving: Up) -> None:
    before = serving.child("serve")
    before.kill()
    eventually(lambda: is_gone(before))

    eventually(serving.answers, seconds=90)

    assert serving.child("serve").pid != before.pid
    assert re.search(r"smartcity serve ended by signal 9 .* started again in 0.5 s", serving.said)
    assert serving.child("dashboard").is_running()


def test_when_it_is_killed_nothing_is_left(serving: Up) -> None:
    family = serving.family()
    assert len(family) >= 4  # itself, both servers, the importer

    serving.process.kill()

    eventually(lambda: all(map(is_gone, family)), seconds=stack.STOP_SECONDS + 30)
    eventually(lambda: all(map(is_free, serving.ports.values())))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_with_all_it_started_when_told_to(serving: Up, number: signal.Signals) -> None:
    family = serving.family()

    serving.process.send_signal(number)
    code = serving.process.wait(stack.STOP_SECONDS + 30)

    assert code == 0, serving.said
    eventually(lambda: all(map(is_gone, family)))
    eventually(lambda: all(map(is_free, serving.ports.values())))
    assert "ended by" not in serving.said


def test_a_server_that_dies_again_and_again_is_given_up(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    servers: dict[str, subprocess.Popen[bytes]] = {}
    said: list[str] = []

    def die(servers: dict[str, subprocess.Popen[bytes]], words: list[str]) -> None:
        servers[words[0]] = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
        servers[words[0]].wait()

    monkeypatch.setattr(stack, "_start", die)
    die(servers, ["serve"])
    watch = stack._Watch("serve")
    for _ in range(4):
        watch.look(servers, said.append)
        dead = servers["serve"]
        watch.again_at = 0.0  # its pause is over
        watch.look(servers, said.append)
        assert servers["serve"] is not dead

    with pytest.raises(SmartCityError, match=r"ended \(3\).* 5 times.*smartcity doctor"):
        watch.look(servers, said.append)
    assert [re.findall(r"in (\S+) s", line) for line in said] == [["0.5"], ["1"], ["2"], ["4"]]


def test_a_server_that_ended_pauses_before_it_is_started_again(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    servers = {"serve": subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])}
    servers["serve"].wait()
    started: list[object] = []
    monkeypatch.setattr(stack, "_start", lambda *given: started.append(given))
    watch = stack._Watch("serve")

    watch.look(servers, lambda _: None)
    watch.again_at = time.monotonic() + 3600
    watch.look(servers, lambda _: None)

    assert started == []
    assert watch.deaths == 1


def test_a_port_in_use_is_refused_before_anything_starts(
    models: Models, home: Path, ports: dict[str, int]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", ports[PAGE]))
        taken.listen()

        assert_refused(smartcity("up"), 1, "choose another port: SMARTCITY_DASHBOARD_PORT=")

    assert not (home / "logs" / "serve.log").exists()


def test_an_installation_without_models_is_refused_before_anything_starts(
    home: Path, ports: dict[str, int]
) -> None:
    assert_refused(smartcity("up"), 1, "smartcity up --build")

    assert not (home / "logs" / "serve.log").exists()


@pytest.mark.parametrize("name", ["state", "reports"])
def test_a_folder_that_cannot_be_written_is_refused_before_anything_starts(
    name: str, models: Models, home: Path, ports: dict[str, int]
) -> None:
    (home / "in-the-way").write_text("")
    variable = f"SMARTCITY_{name.upper()}"

    done = smartcity("up", **{variable: str(home / "in-the-way" / name)})

    assert_refused(done, 1, f"{variable}=")
    assert not (home / "logs" / "serve.log").exists()
