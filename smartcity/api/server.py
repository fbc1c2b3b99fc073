"""Serve the API with uvicorn, one process or several, and the importer beside it."""

import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from smartcity import logs, settings
from smartcity.api.replies import RefusedError, failure

if TYPE_CHECKING:
    import asyncio

log = logs.get(__name__)

#: Seconds a client may take to send a head, a body, or what it sends after its answer.
_PATIENCE = 10.0
#: Most bytes of a head, or of anything else that is no body.
_MOST_HEAD = 64 * 2**10
#: Seconds after which an importer that ended is started again.
_AGAIN = 2.0
#: Seconds the importer has for what is left when the server ends, and all that is left to do then.
_LAST_IMPORT, _LAST = 8.0, 10.0


class _Whole:
    """A transport that sends the head of an answer together with its body.

    uvicorn writes the one and then the other, and each write is a call of the system, which takes
    longer than most of what else is done for an answer.
    """

    def __init__(self, transport: Any, loop: "asyncio.AbstractEventLoop") -> None:
        self._transport, self._loop = transport, loop
        self._head = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send what is held back with this; hold this back if there is nothing."""
        if self._head:
            self._transport.write(self._head + data)
            self._head = b""
        elif data:
            self._head = data
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Send what is held back, as nothing followed it at once."""
        if self._head:
            self._transport.write(self._head)
            self._head = b""

    def close(self) -> None:
        """Close once all is sent."""
        self.flush()
        self._transport.close()


class PatientProtocol(HttpToolsProtocol):
    """HTTP that waits for no client for ever, keeps no endless head, and refuses in our shape."""

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for a head."""
        super().connection_made(_Whole(transport, self.loop))  # type: ignore[arg-type]
        self._in_head = self._is_whole = True
        self._unread = 0
        self._late: asyncio.TimerHandle | None = None
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Take what came, as long as it is not too much and not too slow."""
        self._unread += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._unread > _MOST_HEAD:
            self._refuse(431, f"The head is larger than {_MOST_HEAD // 2**10} kB.")
        elif not self._is_whole or (self.cycle and self.cycle.response_complete):
            self._wait()

    def on_message_begin(self) -> None:
        """Count anew: this is a head."""
        super().on_message_begin()
        self._in_head, self._is_whole = True, False

    def on_headers_complete(self) -> None:
        """Begin to wait anew, for the body."""
        self._in_head, self._unread = False, 0
        self._settle()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Leave the size of bodies to the door."""
        self._unread = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Wait no longer: nothing of this request is still to come."""
        self._is_whole, self._unread = True, 0
        self._settle()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Wait again, for a body nobody reads any more."""
        super().on_response_complete()
        if not self._is_whole:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer."""
        self._settle()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP."""
        self._refuse(400, msg)

    def _wait(self) -> None:
        if self._late is None:
            self._late = self.loop.call_later(_PATIENCE, self._give_up)

    def _settle(self) -> None:
        if self._late:
            self._late.cancel()
            self._late = None

    def _give_up(self) -> None:
        if self._in_head or not (self.cycle and self.cycle.response_started):
            self._refuse(408, f"The request did not come within {_PATIENCE:g} seconds.")
        else:
            self.transport.close()

    def _refuse(self, status: int, why: str) -> None:
        body = failure(RefusedError(status, why)).body
        head = (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()


def application() -> ASGIApp:
    """Build the application in each serving process, its logs going to stdout and the file."""
    from smartcity.api.app import create_app

    logs.configure(console=sys.stdout)
    if multiprocessing.parent_process():
        threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    return create_app()


def _end_with_parent() -> None:
    """End once nobody looks after this worker: it would keep the port from those who come next."""
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
        log.error("parent gone; ending")
        os.kill(os.getpid(), signal.SIGTERM)


def serve(*, workers: int, reload: bool) -> None:
    """Serve until stopped; answers under way are finished first.

    Args:
        workers: Number of processes.
        reload: Start anew when the code changes, for development.
    """
    known, stop = settings.current(), threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: _end(stop))
    with tempfile.TemporaryDirectory(prefix="smartcity-metrics-") as shared, _importing(stop):
        if workers > 1:
            # Before prometheus-client is imported: it then counts in files all workers share.
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = shared
        uvicorn.run(
            "smartcity.api.server:application",
            factory=True,
            host=known.host,
            port=known.api_port,
            workers=workers,
            reload=reload,
            http=PatientProtocol,
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=20,
        )


def _end(stop: threading.Event) -> None:
    """End in order, once uvicorn has finished its answers and raises the signal again.

    Left alone the signal would end us at once, before the importer, and leave our folder behind.
    A thread that waits for a database that hangs holds nobody up.
    """
    stop.set()
    last = threading.Timer(_LAST, os._exit, [0])
    last.daemon = True
    last.start()
    sys.exit(0)


@contextmanager
def _importing(stop: threading.Event) -> Iterator[None]:
    """Bring what was answered into the database, in a process of its own beside the servers.

    In a thread it would take turns with the answers.

    Args:
        stop: Set to end it; leaving the context does so too.
    """

    def run() -> None:
        while not stop.is_set():
            command = [sys.executable, "-m", "smartcity", "db", "import", "--follow"]
            mine = {**os.environ, "SMARTCITY_PARENT": str(os.getpid())}
            importer = subprocess.Popen(command, stdin=subprocess.DEVNULL, env=mine)
            while importer.poll() is None and not stop.wait(0.2):
                continue
            if stop.is_set():
                importer.terminate()  # it takes in what is left, then ends
                try:
                    importer.wait(timeout=_LAST_IMPORT)
                except subprocess.TimeoutExpired:  # what waits is imported at the next start
                    importer.kill()
                return
            log.error("importer ended; starting it again", code=importer.returncode)
            stop.wait(_AGAIN)

    if not settings.current().recording:
        yield
        return
    watching = threading.Thread(target=run, name="importer")
    watching.start()
    try:
        yield
    finally:
        stop.set()
        watching.join()
