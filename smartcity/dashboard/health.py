"""What the API says of itself, asked over HTTP: whether it is up, its models, its figures."""

import asyncio
import time
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime
from threading import Thread
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel

from smartcity import settings

if TYPE_CHECKING:
    from smartcity.monitoring import Figure

#: Share of the patience a question may take; the rest is for reading the answer.
_SHARE = 0.9
#: Most bytes of an answer: ours have some fifty thousand.
_MOST = 4 * 2**20


class _Told(BaseModel):
    """What /health says, as far as we need it."""

    success: bool
    status: Literal["healthy", "partial", "unhealthy"]
    models: dict[str, str]


@dataclass(frozen=True)
class Health:
    """How the API is.

    Attributes:
        url: Where it was asked.
        asked_at: When, UTC.
        is_up: Whether it answers, and has a model to answer with.
        status: In its own words; ``unknown`` where it did not say.
        models: Domain -> version served, or what is wrong.
        figures: The specification's metrics; none where they are not known.
        problem: What is not known or not well, and what to do, in one sentence.
    """

    url: str
    asked_at: datetime
    is_up: bool
    status: Literal["healthy", "partial", "unhealthy", "unknown"]
    models: dict[str, str]
    figures: "tuple[Figure, ...]"
    problem: str | None


def ask(url: str = "", patience: float = 1.0) -> Health:
    """Ask the API how it is; whatever happens there, give an answer in time.

    Args:
        url: Where it listens; as the settings say when left out.
        patience: Longest to wait, in seconds.

    Returns:
        What is known.
    """
    known, asked_at = settings.current(), datetime.now(UTC)
    url = (url or known.api_url or f"http://{known.host}:{known.api_port}").rstrip("/")
    deadline, coming = time.monotonic() + patience, Future[Health]()

    def run() -> None:
        try:
            coming.set_result(_health(url, asked_at, *asyncio.run(_both(url, deadline))))
        except Exception as error:  # noqa: BLE001  # whoever waits gets it
            coming.set_exception(error)

    # In a thread of its own: a notebook's has an event loop already, and looking a name up can
    # take longer than anybody has patience for.
    Thread(target=run, name="health", daemon=True).start()
    try:
        return coming.result(timeout=deadline - time.monotonic())
    except Exception as error:  # noqa: BLE001  # whatever it is, we say that we do not know
        return _health(url, asked_at, error, error)


async def _both(url: str, deadline: float) -> tuple[object, object]:
    """Ask both routes; what is loaded for it takes its time, once, before they are given theirs."""
    from tornado.httpclient import AsyncHTTPClient

    from smartcity import monitoring

    client = AsyncHTTPClient(force_instance=True, max_body_size=_MOST)
    patience = max(_SHARE * (deadline - time.monotonic()), 0.001)  # 0 would be no limit at all
    timeouts: Any = {"connect_timeout": patience, "request_timeout": patience}

    async def health() -> _Told:  # what it says counts, whatever the status
        answer = await client.fetch(f"{url}/health", raise_error=False, **timeouts)
        return _Told.model_validate_json(answer.body)

    async def metrics() -> "tuple[Figure, ...]":
        answer = await client.fetch(f"{url}/metrics", **timeouts)
        return tuple(monitoring.read(answer.body.decode()))

    try:
        return await asyncio.gather(health(), metrics(), return_exceptions=True)
    finally:
        client.close()


def _health(url: str, asked_at: datetime, said: object, measured: object) -> Health:
    """Put the two answers together, or what went wrong instead of one."""
    told = said if isinstance(said, _Told) else None
    figures = measured if isinstance(measured, tuple) else ()
    problems = []
    if told is None:
        problems.append(
            f"The API at {url} {_why(said)}, so whether it can answer is not known; start it: "
            f"smartcity up"
        )
    elif not told.success:
        problems.append("The API answers, but no model is open; make models: smartcity build")
    elif told.status == "partial":
        problems.append("Not every model is served as it should be; the models below say why.")
    if told and not figures:
        problems.append(
            f"How it does is not known, as {url}/metrics {_why(measured)}; ask again in a moment."
        )
    return Health(
        url=url,
        asked_at=asked_at,
        is_up=told is not None and told.success,
        status=told.status if told else "unknown",
        models=told.models if told else {},
        figures=figures,
        problem=" ".join(problems) or None,
    )


def _why(error: object) -> str:
    from tornado.simple_httpclient import HTTPTimeoutError

    if isinstance(error, TimeoutError | HTTPTimeoutError):
        return "does not answer in time"
    if isinstance(error, OSError):
        return "cannot be reached"
    return "gives no answer that makes sense"
