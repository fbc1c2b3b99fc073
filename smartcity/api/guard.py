"""Who may ask, and how often: API keys, scopes, limits per key and per address."""

import asyncio
import hashlib
import math
import time
from typing import TYPE_CHECKING

from cachetools import LRUCache
from limits import RateLimitItem, parse
from limits.aio.storage import RedisStorage
from limits.aio.strategies import FixedWindowRateLimiter
from limits.errors import StorageError

from smartcity import logs
from smartcity.api.replies import RefusedError
from smartcity.errors import SmartCityError, UsageError
from smartcity.settings import Settings

if TYPE_CHECKING:
    from smartcity.api.door import Asked
    from smartcity.store.users import Key

log = logs.get(__name__)

#: Seconds a key is known without asking the database again: a revoked one works no longer.
KEY_SECONDS = 10.0
#: Seconds the database may take to find a key; more is an outage.
_FIND_SECONDS = 2.0
#: Always open: probes, documentation, and what Prometheus reads (hidden by the proxy in front).
_OPEN = ("/health", "/api/docs", "/api/redoc", "/openapi.json", "/metrics")
_NO_KEY = {"WWW-Authenticate": "Bearer"}


class _Own:
    """Counts of this process, by window of time.

    The library's own memory starts a thread again and again to forget old windows, and threads
    hold up answers; here the least used are forgotten.
    """

    def __init__(self) -> None:
        self._counts: LRUCache[tuple[str, int], int] = LRUCache(100_000)

    async def admit(self, rate: RateLimitItem, whom: str) -> float:
        """Count a request; give 0 if it is within the limit, else the seconds to wait."""
        moment, length = time.time(), rate.get_expiry()
        window = int(moment // length)
        count = self._counts.get((whom, window), 0)
        if count >= rate.amount:
            return max((window + 1) * length - moment, 1.0)
        self._counts[whom, window] = count + 1
        return 0.0


class _Shared:
    """Counts of all workers and machines, in Redis; while that is away, each counts its own."""

    def __init__(self, url: str) -> None:
        try:
            storage = RedisStorage(f"async+{url}", implementation="redispy", wrap_exceptions=True)
        except Exception as error:
            said = "Redis cannot be used. Install its client: pip install 'smartcity[scale]'"
            raise UsageError(f"SMARTCITY_REDIS_URL: {said}") from error
        self._windows, self._own = FixedWindowRateLimiter(storage), _Own()
        self._away_until = 0.0

    async def admit(self, rate: RateLimitItem, whom: str) -> float:
        if time.monotonic() < self._away_until:
            return await self._own.admit(rate, whom)
        try:
            async with asyncio.timeout(0.5):
                if await self._windows.hit(rate, whom):
                    return 0.0
                window = await self._windows.get_window_stats(rate, whom)
        except (StorageError, TimeoutError, OSError):
            self._away_until = time.monotonic() + 5
            log.warning("redis out of reach; each worker limits by itself")
            return await self._own.admit(rate, whom)
        return max(window.reset_time - time.time(), 1.0)


class Guard:
    """Lets a request in, or says why not."""

    def __init__(self, known: Settings) -> None:
        """Read the rules.

        Raises:
            UsageError: A limit or the address of Redis cannot be read.
        """
        self._is_closed = known.require_key
        self._per_address = rate("SMARTCITY_RATE_LIMIT", known.rate_limit)
        self._per_key = rate("SMARTCITY_KEY_RATE_LIMIT", known.key_rate_limit)
        url = known.redis_url.get_secret_value() if known.redis_url else ""
        self._limiter: _Own | _Shared = _Shared(url) if url else _Own()
        self._keys: LRUCache[bytes, tuple[float, Key | None]] = LRUCache(10_000)

    async def admit(self, asked: "Asked") -> None:
        """Let a request in.

        Args:
            asked: The request; learns whose key it brought.

        Raises:
            RefusedError: 401, 403 or 429.
            DatabaseError: The key cannot be looked up.
        """
        path = asked.path
        if path == "/" or path.startswith(_OPEN):
            return
        token = _token(asked.headers)
        digest = hashlib.sha256(token.encode()).digest() if token else b""
        if digest and digest not in self._keys:
            # Or else random tokens would reach the database as often as somebody likes.
            await self._count(self._per_address, f"look-ups for {asked.client}")
        key = await self._find(token, digest) if token else None
        if key is None:
            await self._count(self._per_address, f"address {asked.client}")
        else:
            await self._count(self._per_key, f"key {key.id}")
            asked.user = key.user_id.hex
        wanted = _scope_of(path)
        if token and key is None:
            raise RefusedError(
                401, "This API key is not known, or no longer valid.", headers=_NO_KEY
            )
        if key is None and (self._is_closed or path.startswith("/api/v1/predictions")):
            said = "An API key is needed: send it as X-API-Key, or as Authorization: Bearer KEY."
            raise RefusedError(401, said, headers=_NO_KEY)
        if key and wanted not in key.scopes and "admin" not in key.scopes:
            raise RefusedError(403, f"This API key is not allowed to {wanted}.")

    async def _count(self, rate: RateLimitItem | None, whom: str) -> None:
        wait = await self._limiter.admit(rate, whom) if rate else 0.0
        if wait:
            seconds = math.ceil(wait)
            said = f"Too many requests: {rate}. Try again in {seconds} s."
            raise RefusedError(429, said, headers={"Retry-After": str(seconds)})

    async def _find(self, token: str, digest: bytes) -> "Key | None":
        """Look a key up, at most every ``KEY_SECONDS``; an outage extends what was known."""
        from smartcity.store import database, users

        known = self._keys.get(digest)
        if known and time.monotonic() < known[0]:
            return known[1]
        if known and known[1]:  # only this request waits; those that come meanwhile need not
            self._keys[digest] = (time.monotonic() + KEY_SECONDS, known[1])
        try:
            async with asyncio.timeout(_FIND_SECONDS):
                key = await asyncio.to_thread(users.find_key, token)
        except (SmartCityError, TimeoutError) as error:
            if known is None or known[1] is None:
                raise database.DatabaseError(str(error) or "it does not answer") from None
            key = known[1]
        self._keys[digest] = (time.monotonic() + KEY_SECONDS, key)
        return key


def rate(name: str, text: str) -> RateLimitItem | None:
    """Read a limit; None for ``off``.

    Args:
        name: The setting's, for the message.
        text: As in ``600/minute``.

    Raises:
        UsageError: It is no limit.
    """
    if text == "off":
        return None
    try:
        return parse(text)
    except ValueError:
        raise UsageError(f"{name}={text!r} is no limit; write one as in 600/minute") from None


def _token(headers: dict[bytes, bytes]) -> str:
    given = headers.get(b"x-api-key") or b""
    if not given:
        kind, _, rest = headers.get(b"authorization", b"").partition(b" ")
        given = rest.strip() if kind.lower() == b"bearer" else b""
    return given.decode("latin-1")[:200]


def _scope_of(path: str) -> str:
    return "feedback" if path.startswith("/api/v1/feedback") else "predict"
