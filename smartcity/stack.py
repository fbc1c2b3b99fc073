"""API and dashboard as one stack: started together, watched, stopped together."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from smartcity import domains, logs, registry, settings
from smartcity.errors import ModelError, SmartCityError, StorageError, UsageError

log = logs.get(__name__)

#: Longest time a server may take to answer for the first time.
START_SECONDS = 90
#: Pause between two rounds of ``smartcity report due``.
ROUND_SECONDS = 30
#: Longest everything together may take to end; what has not ended by then is killed.
STOP_SECONDS = 25
#: A server that ends so many times in a row, within so many seconds each, is given up.
_DEATHS, _WITHIN = 5, 60.0
#: Names the process a command of ours belongs to.
_PARENT = "SMARTCITY_STACK"

#: The first word of a command of ours -> its process.
Processes = dict[str, subprocess.Popen[bytes]]
#: Takes a sentence for whoever looks on.
Say = Callable[[str], None]


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


def require_writable(folder: Path, variable: str) -> None:
    """Make sure a folder can be written, or made where it is not there yet; nothing is left.

    Raises:
        StorageError: It cannot.
    """
    there = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b".")
    except OSError as error:
        raise StorageError(
            f"Cannot write {folder}: {error.strerror}. Free some space, mend its permissions, or "
            f"name another folder: {variable}=..."
        ) from None


def stay_with_parent() -> None:
    """End in order once the stack this process was started by is gone, killed or not."""
    parent = os.environ.pop(_PARENT, "")  # what this process starts is its own business

    def watch() -> None:
        while os.getppid() == int(parent):
            time.sleep(0.5)
        log.error("the stack is gone; ending")
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(STOP_SECONDS)
        os._exit(1)

    if parent:
        threading.Thread(target=watch, name="parent", daemon=True).start()


def _require_all(say: Say, *, building: bool) -> None:
    """Make sure, before anything starts, that ports, folders and models are what they must be."""
    known = settings.current()
    if known.api_port == known.dashboard_port:
        raise UsageError(
            f"API and dashboard cannot both listen on port {known.api_port}: "
            f"set SMARTCITY_API_PORT or SMARTCITY_DASHBOARD_PORT to another."
        )
    require_free(known.api_port, "SMARTCITY_API_PORT")
    require_free(known.dashboard_port, "SMARTCITY_DASHBOARD_PORT")
    for name in ("state", "reports", *["models"][:building]):
        require_writable(getattr(known, name), f"SMARTCITY_{name.upper()}")
    lacking = []
    for name in domains.load_all():
        try:
            registry.current(name)
        except ModelError as error:
            lacking.append(str(error))
    if not building:
        if lacking and len(lacking) == len(domains.load_all()):
            raise ModelError(f"{lacking[0]} For all of them: smartcity up --build")
        for reason in lacking:
            say(reason)


def up(
    say: Say,
    *,
    meanwhile: Callable[[], None] = lambda: None,
    afterwards: Sequence[Sequence[str]] = (),
) -> None:
    """Run the API and the dashboard until stopped.

    A server that ends is started again; all of them end with this process, however it does.

    Args:
        say: Told the two addresses once they answer, and what ends by itself.
        meanwhile: Done while the servers start; they follow the models it publishes.
        afterwards: Commands of ours to run beside them once they answer, one after the other.

    Raises:
        SmartCityError: A port is taken, a folder cannot be written, there is no model, or a server
            did not start or died again and again.
    """
    known = settings.current()
    _require_all(say, building=bool(afterwards))
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
            next_round, watches = 0.0, [_Watch(name) for name in checks]
            while True:
                for watch in watches:
                    watch.look(servers, say)
                _go_on(servers, waiting, say)
                if known.schedule and not waiting:
                    next_round = _make_reports(servers, next_round)
                time.sleep(0.5)


@dataclass
class _Watch:
    """Starts one of the servers again whenever it has ended, after longer and longer pauses."""

    name: str
    deaths: int = 0
    begun: float = field(default_factory=time.monotonic)
    again_at: float | None = None

    def look(self, servers: Processes, say: Say) -> None:
        """Note that the server ended, or start it again when its pause is over.

        Raises:
            SmartCityError: It ended again and again.
        """
        now, code = time.monotonic(), servers[self.name].poll()
        if code is None:
            return
        if self.again_at is None:
            self.deaths = self.deaths + 1 if now - self.begun < _WITHIN else 1
            how = f"by signal {-code} ({signal.strsignal(-code)})" if code < 0 else f"({code})"
            told = f"smartcity {self.name} ended {how}; see {settings.current().logs}."
            if self.deaths == _DEATHS:
                raise SmartCityError(
                    f"{told} It did so {_DEATHS} times, each within {_WITHIN:g} s of its start, so "
                    "it is not started any more. Find out what is wrong: smartcity doctor"
                )
            pause = 0.5 * 2 ** (self.deaths - 1)
            self.again_at = now + pause
            log.error("server ended; starting it again", server=self.name, code=code, pause=pause)
            say(f"{told} It is started again in {pause:g} s.")
        elif now >= self.again_at:
            self.begun, self.again_at = now, None
            _start(servers, [self.name])


def _go_on(servers: Processes, waiting: list[list[str]], say: Say) -> None:
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


def _make_reports(servers: Processes, at: float) -> float:
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
def _servers(names: list[str]) -> Iterator[Processes]:
    """Start each server as a process of its own; stop them all on the way out."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    servers: Processes = {}
    try:
        for name in names:
            _start(servers, [name])
        yield servers
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # asked again, it would leave them behind
        deadline = time.monotonic() + STOP_SECONDS
        for server in servers.values():
            server.terminate()
        for name, server in servers.items():
            try:
                server.wait(timeout=max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                log.warning("server did not end in time; killed", server=name, seconds=STOP_SECONDS)
                server.kill()
                server.wait()
        signal.signal(signal.SIGTERM, before)


def _start(servers: Processes, words: Sequence[str]) -> None:
    """Start a command of ours as a process of its own, beside the others."""
    with _output(settings.current().logs / f"{words[0]}.log") as output:
        servers[words[0]] = subprocess.Popen(
            [sys.executable, "-m", "smartcity", *words],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | {_PARENT: str(os.getpid())},
        )


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
