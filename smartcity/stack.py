"""API and dashboard as one stack: started together, watched, stopped together."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from smartcity import logs, settings
from smartcity.errors import SmartCityError, UsageError

log = logs.get(__name__)

#: Longest time a server may take to answer for the first time.
START_SECONDS = 90
#: Pause between two rounds of ``smartcity report due``.
ROUND_SECONDS = 30


def require_free(port: int, variable: str) -> None:
    """Make sure a port can be listened on.

    Raises:
        SmartCityError: Something else listens there, or the address is not this machine's.
    """
    host = settings.current().host
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise SmartCityError(
                f"Cannot listen on {host}:{port}: {error.strerror}. Stop what listens there, or "
                f"choose another port: {variable}={port + 1}"
            ) from None


def up(
    say: Callable[[str], None],
    *,
    meanwhile: Callable[[], None] = lambda: None,
    afterwards: Sequence[Sequence[str]] = (),
) -> None:
    """Run the API and the dashboard until stopped.

    Args:
        say: Told the two addresses once they answer.
        meanwhile: Done while the servers start; they follow the models it publishes.
        afterwards: Commands of ours to run beside them once they answer, one after the other.

    Raises:
        SmartCityError: A port is taken, or a server did not start or died.
    """
    known = settings.current()
    if known.api_port == known.dashboard_port:
        raise UsageError(
            f"API and dashboard cannot both listen on port {known.api_port}: "
            f"set SMARTCITY_API_PORT or SMARTCITY_DASHBOARD_PORT to another."
        )
    require_free(known.api_port, "SMARTCITY_API_PORT")
    require_free(known.dashboard_port, "SMARTCITY_DASHBOARD_PORT")
    # Not the page itself: whoever fetches that takes a kernel.
    page = f"{known.dashboard_port}{known.dashboard_base_url}"
    checks = {
        "serve": f"http://{known.host}:{known.api_port}/health",
        "dashboard": f"http://{known.host}:{page}smartcity/health",
    }
    with _servers(list(checks)) as servers:
        meanwhile()
        for name, address in checks.items():
            _wait(servers[name], name, address)
        say(f"Dashboard  http://localhost:{page.rstrip('/')}")
        say(f"API        http://localhost:{known.api_port}  (docs: /api/docs)")
        with suppress(KeyboardInterrupt):  # once they serve, to be stopped is no failure
            waiting = [list(words) for words in afterwards]
            next_round = 0.0
            while all(server.poll() is None for name, server in servers.items() if name in checks):
                _go_on(servers, waiting, say)
                if known.scheduler and not waiting:
                    next_round = _make_reports(servers, next_round)
                time.sleep(0.5)
            died = [name for name in checks if servers[name].poll() is not None]
            raise SmartCityError(f"smartcity {died[0]} stopped; the log tells more: {known.logs}")


def _go_on(
    servers: dict[str, subprocess.Popen[bytes]],
    waiting: list[list[str]],
    say: Callable[[str], None],
) -> None:
    """Start the next command once the one before has ended, and say how that ended."""
    if not waiting:
        return
    name = waiting[0][0]
    if name not in servers:
        _start(servers, waiting[0])
    elif (code := servers[name].poll()) is not None:
        words = " ".join(waiting.pop(0))
        del servers[name]
        log_file = settings.current().logs / f"{name}.log"
        say(f"smartcity {words} {f'failed; see {log_file}' if code else 'is done'}")


def _make_reports(servers: dict[str, subprocess.Popen[bytes]], at: float) -> float:
    """Let what is due be made, a round at a time; give when the next may begin."""
    if "report" not in servers:
        if time.monotonic() >= at:
            _start(servers, ["report", "due"])
    elif (code := servers["report"].poll()) is not None:
        del servers["report"]
        if code:
            log.error("not all reports were made", code=code, log="report.log")
        return time.monotonic() + ROUND_SECONDS
    return at


@contextmanager
def _servers(names: list[str]) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """Start each server as a process of its own; stop them all on the way out."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    servers: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for name in names:
            _start(servers, [name])
        yield servers
    finally:
        for server in servers.values():
            server.terminate()
        for server in servers.values():
            try:
                server.wait(timeout=25)
            except subprocess.TimeoutExpired:
                server.kill()
        signal.signal(signal.SIGTERM, before)


def _start(
    servers: dict[str, subprocess.Popen[bytes]], words: Sequence[str]
) -> subprocess.Popen[bytes]:
    """Start a command of ours as a process of its own, beside the others."""
    with _output(settings.current().logs / f"{words[0]}.log") as output:
        servers[words[0]] = subprocess.Popen(
            [sys.executable, "-m", "smartcity", *words],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ,
        )
    return servers[words[0]]


def _output(path: Path) -> BinaryIO:
    """Open the file a server prints to, or nowhere: a full log disk keeps no service down."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("ab")
    except OSError:
        return Path(os.devnull).open("ab")


def _wait(server: subprocess.Popen[bytes], name: str, address: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise SmartCityError(
                f"smartcity {name} stopped while starting; see {settings.current().logs / name}.log"
            )
        try:
            with urllib.request.urlopen(address, timeout=5):  # noqa: S310  # our own http address
                return
        except urllib.error.HTTPError:
            return  # it answers; /health says 503 while no model is published
        except OSError:
            time.sleep(0.2)
    raise SmartCityError(f"smartcity {name} did not answer at {address} within {START_SECONDS} s.")
