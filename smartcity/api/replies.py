"""What goes out: every error, of any route, in one shape; no stack trace, ever."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import orjson

from smartcity import logs
from smartcity.errors import InputError, ModelError, SmartCityError
from smartcity.store.spool import SpoolFullError

log = logs.get(__name__)

#: Seconds after which to ask again what cannot be answered now.
_SOON = "5"


def now() -> str:
    """Give the time as it stands in every answer: ISO 8601, UTC, milliseconds."""
    moment = time.time()
    return f"{_second(int(moment))}.{int(moment * 1000) % 1000:03d}Z"


@lru_cache(maxsize=2)
def _second(moment: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(moment))


class RefusedError(SmartCityError):
    """A request that is not answered, with the HTTP status that says why."""

    def __init__(
        self,
        status: int,
        error: str,
        *,
        details: Sequence[Mapping[str, object]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Keep what the error body and its headers will say."""
        super().__init__(error)
        self.status = status
        self.details = list(details)
        self.headers = dict(headers or {})


@dataclass(frozen=True, slots=True)
class Reply:
    """A response, ready to be sent."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


def failure(error: Exception, request_id: str | None = None) -> Reply:
    """Put an error into the shape all of them have."""
    told = _refusal(error, request_id)
    body: dict[str, Any] = {"success": False, "error": str(told), "timestamp": now()}
    if told.details:
        body["details"] = told.details
    if request_id:
        body["request_id"] = request_id
    return Reply(told.status, orjson.dumps(body), told.headers)


def _refusal(error: Exception, request_id: str | None) -> RefusedError:
    if isinstance(error, RefusedError):
        return error
    if isinstance(error, InputError):
        return RefusedError(422, f"The inputs cannot be used. {error}", details=error.details)
    if isinstance(error, SpoolFullError):
        said = "Answers cannot be kept at the moment, so none is given. Try again later."
        return RefusedError(503, said, headers={"Retry-After": _SOON})
    if isinstance(error, ModelError):
        return RefusedError(503, str(error), headers={"Retry-After": _SOON})
    if _is_outage(error):
        log.error("database out of reach", error=str(error))
        said = "The database is out of reach. Try again later."
        return RefusedError(503, said, headers={"Retry-After": _SOON})
    log.error("request failed", request_id=request_id, exc_info=error)
    return RefusedError(500, "Something went wrong on our side; the log tells more.")


def _is_outage(error: Exception) -> bool:
    """Tell whether the database is the cause, without loading what talks to it."""
    return type(error).__name__ == "DatabaseError" and isinstance(error, SmartCityError)
