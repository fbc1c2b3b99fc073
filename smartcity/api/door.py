"""Every request comes in and goes out here: id, key, limits, size, time, log and count.

FastAPI takes longer to find a route and to read and check a body than our models take to answer. It
keeps the documentation and the plain GET routes; the routes that take a body are answered here.
"""

import asyncio
import os
import re
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from smartcity import logs, monitoring
from smartcity.api.guard import Guard
from smartcity.api.replies import RefusedError, Reply, failure, now

#: Seconds and lines the access log waits for, to write many at once.
_LINES_WAIT, _LINES_MOST = 0.1, 500
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_JSON = b"application/json"


def ids() -> Iterator[str]:
    """Draw UUIDs of version 7: by time, so that a database keeps its index together, then random.

    The system's randomness is fetched for many at once.
    """
    while True:
        drawn = os.urandom(10 * 256).hex()
        for n in range(0, len(drawn), 20):
            moment, digits = int(time.time() * 1000), drawn[n : n + 20]
            first, second = moment >> 16, moment & 0xFFFF
            yield f"{first:08x}-{second:04x}-7{digits[:3]}-a{digits[3:6]}-{digits[6:18]}"


IDS = ids()


@dataclass(slots=True)
class Asked:
    """A request, as far as those who answer it need it."""

    method: str
    path: str
    query: bytes
    headers: dict[bytes, bytes]
    client: str
    request_id: str
    #: Whether the client named the request: then it may send it again.
    is_named: bool
    started: float
    body: bytes = b""
    #: Who asks, where a key was given.
    user: str | None = None

    @classmethod
    def of(cls, scope: Scope) -> "Asked":
        """Take a request from its ASGI scope."""
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"").decode("latin-1")
        is_named = bool(given and _REQUEST_ID.fullmatch(given))
        return cls(
            method=scope["method"],
            path=scope["path"],
            query=scope["query_string"],
            headers=headers,
            client=(scope.get("client") or ("unknown",))[0],
            request_id=given if is_named else next(IDS),
            is_named=is_named,
            started=time.perf_counter(),
        )


Handler = Callable[[Asked], Awaitable[Reply]]


class Door:
    """The outermost ASGI application."""

    def __init__(
        self, inner: ASGIApp, handlers: Mapping[str, Handler], guard: Guard, most_bytes: int
    ) -> None:
        """Take what is behind the door.

        Args:
            inner: What answers everything but the handlers.
            handlers: Path -> what answers a POST there.
            guard: Lets requests in, or not.
            most_bytes: Largest body.
        """
        self.inner, self._handlers, self._guard = inner, handlers, guard
        self._most = most_bytes
        self._counted: dict[tuple[str, str, int], tuple[Any, Any]] = {}
        self._lines: list[dict[str, object]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, whatever happens."""
        if scope["type"] != "http":  # start and stop
            await self.inner(scope, receive, send)
            self.write_log()
            return
        asked = Asked.of(scope)
        handler = self._handlers.get(asked.path) if asked.method == "POST" else None
        try:
            await self._guard.admit(asked)
            if handler:
                route, reply = asked.path, await self._answer(handler, asked, receive)
            else:
                route, status = await self._pass_on(asked, scope, receive, send)
                self._note(asked, route, status)
                return
        except Exception as error:  # noqa: BLE001  # whatever it is, the client gets an answer
            route, reply = asked.path if handler else "refused", failure(error, asked.request_id)
        await self._send(reply, asked, send)
        self._note(asked, route, reply.status)

    async def _answer(self, handler: Handler, asked: Asked, receive: Receive) -> Reply:
        kind = asked.headers.get(b"content-type", b"")
        if kind != _JSON and kind.partition(b";")[0].strip().lower() != _JSON:
            said = kind.decode("latin-1")[:80]
            raise RefusedError(415, f"Content-Type is {said!r}; send application/json.")
        if asked.headers.get(b"content-encoding", b"identity").lower() != b"identity":
            raise RefusedError(415, "The body is compressed; send it as it is, without encoding.")
        if int(asked.headers.get(b"content-length") or 0) > self._most:
            raise self._too_large()
        await self._read(asked, receive)
        return await handler(asked)

    async def _read(self, asked: Asked, receive: Receive) -> None:
        """Read the body, up to the limit; the protocol sees to it that it comes in time."""
        parts, size, has_more = [], 0, True
        while has_more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise RefusedError(400, "The client went away before its body was here.")
            parts.append(message.get("body", b""))
            has_more = message.get("more_body", False)
            size += len(parts[-1])
            if size > self._most:
                raise self._too_large()
        asked.body = parts[0] if len(parts) == 1 else b"".join(parts)

    def _too_large(self) -> RefusedError:
        said = f"The body is larger than {self._most / 2**20:g} MB; send fewer rows at a time."
        return RefusedError(413, said, headers={"Connection": "close"})

    async def _pass_on(
        self, asked: Asked, scope: Scope, receive: Receive, send: Send
    ) -> tuple[str, int]:
        """Let FastAPI answer; give the route it found and the status it sent."""
        status, has_begun = 500, False
        own = (b"x-request-id", asked.request_id.encode())

        async def named(message: Message) -> None:
            nonlocal status, has_begun
            if message["type"] == "http.response.start":
                status, has_begun = message["status"], True
                message = {**message, "headers": [*message["headers"], own]}
            await send(message)

        if asked.method == "HEAD":  # the server leaves the body out
            scope["method"] = "GET"
        scope["asked"] = asked
        with logs.about(request_id=asked.request_id):
            try:
                await self.inner(scope, receive, named)
            except Exception:
                if not has_begun:  # else Starlette has sent and logged it, and only tells us
                    raise
        found = scope.get("route")
        return getattr(found, "path", "unknown"), status

    @staticmethod
    async def _send(reply: Reply, asked: Asked, send: Send) -> None:
        headers = [
            (b"content-type", _JSON),
            (b"content-length", b"%d" % len(reply.body)),
            (b"x-request-id", asked.request_id.encode()),
        ]
        headers += [(k.lower().encode(), v.encode()) for k, v in reply.headers.items()]
        start = {"type": "http.response.start", "status": reply.status, "headers": headers}
        await send(start)
        await send({"type": "http.response.body", "body": reply.body})

    def _note(self, asked: Asked, route: str, status: int) -> None:
        """Count a request, and leave a line in the log: never what was asked, only that."""
        seconds = time.perf_counter() - asked.started
        key = (route, asked.method, status)
        if key not in self._counted:
            requests = monitoring.REQUESTS.labels(route, asked.method, str(status))
            self._counted[key] = (requests, monitoring.SECONDS.labels(route))
        requests, timed = self._counted[key]
        requests.inc()
        timed.observe(seconds)
        if not self._lines:
            asyncio.get_running_loop().call_later(_LINES_WAIT, self.write_log)
        self._lines.append(
            {
                "event": "request answered",
                "level": "info" if status < 500 else "error",
                "timestamp": now(),
                "request_id": asked.request_id,
                "method": asked.method,
                "path": asked.path[:200],
                "status": status,
                "ms": round(seconds * 1000, 2),
                "client": asked.client,
                "user": asked.user,
            }
        )
        if len(self._lines) >= _LINES_MOST:
            self.write_log()

    def write_log(self) -> None:
        """Write the lines that wait."""
        lines, self._lines = self._lines, []
        if lines:
            logs.write(lines)
