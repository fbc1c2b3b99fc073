"""The routes that predict: bytes in, bytes out, every answer kept before it is given."""

import asyncio
import hashlib
import json
import random
import time
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple
from urllib.parse import parse_qs

import orjson
from cachetools import LRUCache
from pydantic import BaseModel, FailFast, Field, TypeAdapter, ValidationError
from pydantic_core import from_json

from smartcity import domains, logs, monitoring, settings
from smartcity.api.door import IDS, Asked, Handler
from smartcity.api.replies import RefusedError, Reply, now
from smartcity.domains import Domain
from smartcity.errors import InputError, UsageError
from smartcity.predict import Predictor, Predictors, faults, history_model, plain, row_model
from smartcity.store.spool import Spool, SpoolFullError

#: Most rows of a batch, and how many are answered before others get a turn.
MOST_ROWS, TURN = 1000, 500
#: Most faults of a row that are looked at one by one: each takes a kilobyte.
MOST_READ = 2000

log = logs.get(__name__)

#: Asks models while we put into words what they said. One thread: more would take turns with us.
_BESIDE = ThreadPoolExecutor(1, "batch")

Row = dict[str, Any]


@dataclass(slots=True)
class Recorder:
    """Keeps what was answered: lines in the spool, before the answer goes out.

    Attributes:
        spool: Where; None keeps nothing.
        share: Of the requests, how many leave a row in the metrics table.
        is_full: Whether the last answer could not be kept.
    """

    spool: Spool | None
    share: float
    is_full: bool = False

    def keep(self, lines: Sequence[bytes]) -> None:
        """Write lines, all of them or none.

        Raises:
            SpoolFullError: None was written.
        """
        if self.spool is None:
            return
        try:
            self.spool.add(b"".join(lines))
        except SpoolFullError as error:
            if not self.is_full:
                log.warning("answers withheld", reason=str(error))
            self.is_full = True
            monitoring.REFUSED.inc()
            raise
        if self.is_full:
            log.info("answers are kept again")
            self.is_full = False

    def metric(self, domain: str, asked: Asked, latency: float, at: bytes) -> list[bytes]:
        """Give the line for the metrics table, for the share of requests that leave one."""
        if self.spool is None or random.random() >= self.share:  # noqa: S311  # a sample
            return []
        line = {
            "kind": "metric",
            "model_name": domain,
            "request_time_ms": round((time.perf_counter() - asked.started) * 1000),
            "prediction_latency_ms": round(latency * 1000),
            "timestamp": at.decode(),
        }
        return [orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)]


class _Said(NamedTuple):
    """An answer as it is sent and as it is kept, each without its beginning.

    Text, so that thousands of them are nothing to the garbage collector.
    """

    answer: bytes
    record: bytes
    tag: str

    @classmethod
    def of(cls, predictor: Predictor, said: Mapping[str, Any]) -> "_Said":
        interval = said["interval"] or {}
        record = {
            "model_name": domains.at(predictor.domain.name, predictor.site),
            "model_version": said["model_version"],
            "part": predictor.part_of(said),
            "prediction": said["prediction"],
            "confidence": said["confidence"],
            "low": interval.get("low"),
            "high": interval.get("high"),
        }
        return cls(orjson.dumps(said)[1:], orjson.dumps(record)[1:], predictor.tag)


class Answering:
    """Answers what is asked about one domain.

    Single rows that come at the same time are answered together: whatever arrived in one round of
    the event loop is worked on at its end, with one call of the model and one write to the disk.
    Nobody waits for company.
    """

    def __init__(self, domain: Domain, predictors: Predictors, recorder: Recorder) -> None:
        """Take who answers and who keeps."""
        self.domain = domain
        self._predictors, self._recorder = predictors, recorder
        self._model, self._history = row_model(domain), history_model(domain)
        self._inputs = [spec.name for spec in domain.inputs if not spec.sum_of]
        self._options = [*(option.name for option in domain.options), "timestamp"]
        self._parts = sum(bool(spec.from_time) for spec in domain.inputs)
        rows: Any = list[self._model]  # type: ignore[name-defined]  # made just here
        self._rows: TypeAdapter[list[BaseModel]] = TypeAdapter(
            Annotated[rows, FailFast(), Field(max_length=MOST_ROWS)]  # else a fault for every row
        )
        self._waiting: list[tuple[Row, Asked, asyncio.Future[Reply]]] = []
        self._known: LRUCache[bytes, _Said] = LRUCache(settings.current().cache_rows)
        name = domain.name
        self._answered = monitoring.PREDICTIONS.labels(name)
        self._hits, self._misses = monitoring.HITS.labels(name), monitoring.MISSES.labels(name)
        self._latency = monitoring.LATENCY.labels(name)

    async def one(self, asked: Asked) -> Reply:
        """Answer one row."""
        row = self._parse(asked.body, self._model)
        if asked.query and ((reasons := _wants_reasons(asked)) or _site(asked)):
            predictor = await self._whose(asked)
            return self._replies([row], [asked], predictor, reasons=reasons)[0]
        if not self._waiting:
            self._loop = asyncio.get_running_loop()
            self._loop.call_soon(self._answer)
        future: asyncio.Future[Reply] = self._loop.create_future()
        self._waiting.append((row, asked, future))
        return await future

    def _answer(self) -> None:
        """Answer all that wait."""
        waiting, self._waiting = self._waiting, []
        rows, asked, futures = zip(*waiting, strict=True)
        try:
            replies: list[Reply | Exception] = [*self._replies(rows, asked)]
        except Exception:  # noqa: BLE001  # one of them may be to blame: each by itself
            replies = [self._alone(row, who) for row, who in zip(rows, asked, strict=True)]
        for future, reply in zip(futures, replies, strict=True):
            if future.done():  # a client may have gone
                continue
            if isinstance(reply, Exception):
                future.set_exception(reply)
            else:
                future.set_result(reply)

    def _alone(self, row: Row, asked: Asked) -> Reply | Exception:
        try:
            return self._replies([row], [asked])[0]
        except Exception as error:  # noqa: BLE001  # it is the answer
            return error

    async def _whose(self, asked: Asked) -> Predictor:
        """Give who answers for the site that is asked about.

        Raises:
            RefusedError: 404, there is no such site.
        """
        site = _site(asked)
        return (
            self._predictors.ready(self.domain.name)
            if site is None
            else await of_site(self._predictors, self.domain, site)
        )

    def _replies(
        self,
        rows: Sequence[Row],
        asked: Sequence[Asked],
        predictor: Predictor | None = None,
        *,
        reasons: bool = False,
    ) -> list[Reply]:
        predictor = predictor or self._predictors.ready(self.domain.name)
        told, latency = self._ask(predictor, rows, reasons=reasons)
        at, lines, replies = now().encode(), [], []
        for row, said, who in zip(rows, told, asked, strict=True):
            key = _identify(who, said.tag)
            head = b'{"success":true,"id":"%s","timestamp":"%s",' % (key, at)
            replies.append(Reply(200, head + said.answer))
            lines.append(self._line(key, row, said, who, at))
            lines += self._recorder.metric(self.domain.name, who, latency, at)
        self._recorder.keep(lines)
        return replies

    def _ask(
        self, predictor: Predictor, rows: Sequence[Row], *, reasons: bool = False
    ) -> tuple[list[_Said], float]:
        """Ask the served version what was not asked before, and count."""
        started = time.perf_counter()
        keys = [None] * len(rows) if reasons else predictor.keys(rows)
        told = [self._known.get(key) if key else None for key in keys]
        missed = [n for n, said in enumerate(told) if said is None]
        answers = predictor.tell([rows[n] for n in missed], reasons=reasons)
        for n, answer in zip(missed, answers, strict=True):
            told[n] = said = _Said.of(predictor, answer)
            if (key := keys[n]) and self._known.maxsize:
                self._known[key] = said
        latency = time.perf_counter() - started
        self._answered.inc(len(rows))
        self._hits.inc(len(rows) - len(missed))
        self._misses.inc(len(missed))
        self._latency.observe(latency)
        return [said for said in told if said], latency

    def _line(self, key: bytes, row: Row, said: _Said, asked: Asked, at: bytes) -> bytes:
        """Write an answer as the database will keep it; of recent readings, only how many."""
        given = {name: row[name] for name in self._inputs}
        given |= {name: row[name] for name in self._options if row[name] is not None}
        if row["recent"]:
            given["recent"] = len(row["recent"])
        return (
            b'{"kind":"prediction","id":"%s","user_id":%s,"timestamp":"%s","input_data":%s,%s\n'
            % (
                key,
                b'"%s"' % asked.user.encode() if asked.user else b"null",
                at,
                orjson.dumps(given),
                said.record,
            )
        )

    async def batch(self, asked: Asked) -> Reply:
        """Answer up to 1,000 rows; a bad one is an error in its place."""
        rows, failed = self._parse_rows(asked.body)
        good = [n for n in range(len(rows)) if n not in failed]
        predictor, started = await self._whose(asked), time.perf_counter()
        turns = [good[n : n + TURN] for n in range(0, len(good), TURN)]
        # While the model answers the next rows in a thread, these are put into words.
        loop = asyncio.get_running_loop()
        coming = [
            loop.run_in_executor(_BESIDE, predictor.ask, [rows[n] for n in turn]) for turn in turns
        ]
        at, lines = now().encode(), []
        parts = [orjson.dumps(failed.get(n)) for n in range(len(rows))]
        for turn, answered in zip(turns, coming, strict=True):
            told = predictor.tell([rows[n] for n in turn], await answered)
            for n, said in zip(turn, (_Said.of(predictor, each) for each in told), strict=True):
                key = _identify(asked, said.tag, n)
                parts[n] = b'{"success":true,"id":"%s",%s' % (key, said.answer)
                lines.append(self._line(key, rows[n], said, asked, at))
        latency = time.perf_counter() - started
        self._answered.inc(len(good))
        self._latency.observe(latency)
        self._recorder.keep(lines + self._recorder.metric(self.domain.name, asked, latency, at))
        counts = (len(good), len(failed), at)
        head = b'{"success":true,"count":%d,"failed":%d,"timestamp":"%s","predictions":[' % counts
        return Reply(200, b"".join((head, b",".join(parts), b"]}")))

    def ahead(self, question: str) -> Handler:
        """Give what answers a question about later."""

        async def answer(asked: Asked) -> Reply:
            history = self._parse(asked.body, self._history)
            predictor = await self._whose(asked)
            told = predictor.ahead(question, history["recent"])
            said = [each.model_dump(mode="json", exclude_unset=True) for each in told]
            return Reply(
                200, orjson.dumps({"success": True, "forecasts": said, "timestamp": now()})
            )

        return answer

    def _parse(self, body: bytes, model: type[BaseModel]) -> Row:
        """Read and check a body.

        Raises:
            RefusedError: 400, it is no JSON, or 422, a name stands in it twice.
            InputError: It is JSON, and no row that can be answered.
        """
        try:
            row = model.model_validate_json(body)
        except ValidationError as error:
            if error.error_count() == 1 and (found := error.errors()[0])["type"] == "json_invalid":
                raise _no_json(body, found["msg"]) from None
            raise self._why(error) from None
        refuse_doubled(body, self._names(row))
        return plain(row)

    def _why(self, error: ValidationError) -> InputError:
        """Say what is wrong with a row; of too many faults, only how many there are."""
        if (count := error.error_count()) > MOST_READ:
            problem = f"has {count} faults"
            return InputError([{"field": "row", "problem": problem, "value": None}])
        return InputError(faults(self.domain, error.errors(include_url=False)))

    def _names(self, row: BaseModel) -> int:
        """Count the names that came with a row; parts of its ``timestamp`` did not come."""
        taken = self._parts and (self._parts if getattr(row, "timestamp", None) else 0)
        return len(row.model_fields_set) - taken

    def _parse_rows(self, body: bytes) -> tuple[list[Row], dict[int, Row]]:
        """Read a batch: the rows, those that cannot be answered empty, and why not, by place."""
        try:
            models: list[BaseModel | None] = [*self._rows.validate_json(body)]
            failed: dict[int, Row] = {}
        except ValidationError:
            models, failed = self._one_by_one(body)
        if not 1 <= len(models) <= MOST_ROWS:
            raise _too_many(len(models))
        refuse_doubled(body, sum([self._names(row) for row in models if row]))
        return [plain(row) if row else {} for row in models], failed

    def _one_by_one(self, body: bytes) -> tuple[list[BaseModel | None], dict[int, Row]]:
        """Read a batch that is not all good."""
        try:
            given = from_json(body)
        except ValueError as error:
            raise _no_json(body, str(error)) from None
        if not isinstance(given, list):
            problem = "must be a list of rows"
            raise InputError([{"field": "body", "problem": problem, "value": None}])
        if len(given) > MOST_ROWS:
            raise _too_many(len(given))
        models: list[BaseModel | None] = []
        failed: dict[int, Row] = {}
        for n, row in enumerate(given):
            try:
                models.append(self._model.model_validate(row))
            except ValidationError as error:
                why = self._why(error)
                failed[n] = {"success": False, "error": str(why), "details": why.details}
                models.append(None)
        return models, failed


def _too_many(count: int) -> Exception:
    if count:
        return RefusedError(413, f"{count} rows; send at most {MOST_ROWS} at a time.")
    problem = "must hold at least one row"
    return InputError([{"field": "body", "problem": problem, "value": None}])


async def of_site(predictors: Predictors, domain: Domain, site: str) -> Predictor:
    """Give who answers for a site; a model that has to be opened holds nobody else up.

    Raises:
        RefusedError: 404, there is no such site.
        ModelError: No model of it can be served.
    """
    try:
        return await asyncio.to_thread(predictors.of_site, domain.name, site)
    except UsageError as error:
        fault = {"field": "site", "problem": "is not known", "value": site[:80]}
        raise RefusedError(404, str(error), details=[fault]) from None


def _parameters(asked: Asked) -> dict[str, list[str]]:
    return parse_qs(asked.query.decode("latin-1"), keep_blank_values=True)


def _site(asked: Asked) -> str | None:
    """Read which site is asked about, if one is named."""
    return _parameters(asked).get("site", [None])[-1] if asked.query else None


def _wants_reasons(asked: Asked) -> bool:
    """Read whether it is to be said what moved the answer.

    Raises:
        InputError: The parameter is neither true nor false.
    """
    given = _parameters(asked).get("reasons", ["false"])
    known = {"true": True, "1": True, "false": False, "0": False}
    if given[-1].lower() not in known:
        problem = "must be true or false"
        raise InputError([{"field": "reasons", "problem": problem, "value": given[-1][:80]}])
    return known[given[-1].lower()]


def _identify(asked: Asked, tag: str, place: int | None = None) -> bytes:
    """Give an answer its id.

    Where the client, or a proxy, named the request, the same request sent again gets the same id:
    it is then kept once. Another version may answer differently, and its answer is another one.
    """
    if asked.is_named:
        named = f"{asked.request_id} {asked.user} {asked.path} {tag} {place} ".encode()
        digest = hashlib.blake2b(named + asked.body, digest_size=16).digest()
        return str(uuid.UUID(bytes=digest)).encode()
    return (asked.request_id if place is None else next(IDS)).encode()


def _no_json(body: bytes, why: str) -> RefusedError:
    if not body.strip():
        return RefusedError(400, "The body is empty; send JSON.")
    return RefusedError(400, f"The body is not JSON: {why.removeprefix('Invalid JSON: ')[:200]}.")


def refuse_doubled(body: bytes, names: int) -> None:
    """Refuse a body in which a name stands twice: readers differ in which of the two they take.

    Args:
        body: Valid JSON.
        names: How many names were found in it; with as many colons, none stands twice.
    """
    if body.count(b":") == names:
        return

    def once(pairs: list[tuple[str, Any]]) -> None:
        found = set()
        for name, _ in pairs:
            if name in found:
                problem = "is given twice"
                raise InputError([{"field": name[:80], "problem": problem, "value": None}])
            found.add(name)

    json.loads(body, object_pairs_hook=once)
