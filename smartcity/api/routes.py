"""Every other route: what is served, what was kept, how the service is, and who describes it."""

import asyncio
from collections.abc import Callable
from typing import Annotated, Any, TypeVar
from uuid import UUID

import orjson
from fastapi import APIRouter, Query, Request, Response, Security
from fastapi.security import APIKeyHeader
from pydantic import ValidationError

from smartcity import __version__, domains, monitoring, registry
from smartcity.api import schemas
from smartcity.api.answering import Recorder, of_site, refuse_doubled
from smartcity.api.door import Asked
from smartcity.api.replies import RefusedError, Reply, now
from smartcity.domains import MAIN, Domain
from smartcity.errors import SmartCityError, UsageError
from smartcity.predict import Predictor, Predictors, row_model

#: How long feedback waits for its prediction to reach the database, in seconds.
_CATCH_UP = (0.0, 0.3, 0.7, 1.5)
#: Seconds the database may take to answer; SQLite's lock is waited for a little less.
_DATABASE_SECONDS = 8.0
_T = TypeVar("_T")
SITE = Annotated[str, Query(description="Whose readings these are, or will be")]


async def feedback(asked: Asked) -> Reply:
    """Let what was observed join its prediction."""
    from smartcity.store import answers

    try:
        given = schemas.Observed.model_validate_json(asked.body)
    except ValidationError as error:
        raise _unreadable(error) from None
    refuse_doubled(asked.body, len(given.model_fields_set))
    key, user = UUID(given.id), UUID(asked.user) if asked.user else None
    for wait in _CATCH_UP:
        await asyncio.sleep(wait)
        found = await _in_time(answers.get_prediction, key)
        if found:
            break
    else:
        said = f"No prediction {key} is kept. One made just now may need a few seconds."
        raise RefusedError(404, said, details=[_fault("id", "is not known", given.id)])
    domain, _ = domains.apart(found["model_name"])
    _require_possible(domains.load(domain), given.observed)
    outcome = await _in_time(answers.add_feedback, key, given.observed, user)
    if outcome == "unknown":
        raise RefusedError(404, f"No prediction {key} is kept for you.")
    if outcome == "different":
        said = "Another value was observed already; it stays."
        raise RefusedError(409, said, details=[_fault("observed", "differs", given.observed)])
    body = {"id": str(key), "prediction": found["prediction"], "observed": given.observed}
    return Reply(201, orjson.dumps({"success": True, **body, "timestamp": now()}))


async def _in_time(ask: Callable[..., _T], *about: object) -> _T:
    """Ask the database, beside the answers, but not for ever.

    Raises:
        DatabaseError: It is out of reach, or does not answer.
    """
    from smartcity.store import database

    try:
        async with asyncio.timeout(_DATABASE_SECONDS):
            return await asyncio.to_thread(ask, *about)
    except TimeoutError:
        raise database.DatabaseError("it does not answer") from None


def _unreadable(error: ValidationError) -> RefusedError:
    found = error.errors(include_url=False)
    if found[0]["type"] == "json_invalid":
        return RefusedError(400, "The body is not JSON.")
    details = [
        _fault(".".join(map(str, each["loc"])) or "body", each["msg"], each["input"])
        for each in found
    ]
    told = "; ".join(f"{each['field']}: {each['problem']}" for each in details)
    return RefusedError(422, f"This cannot be noted. {told}", details=details)


def _fault(field: str, problem: str, value: object) -> dict[str, object]:
    shown = repr(value)[:80] if isinstance(value, str | int | float) else None
    return {"field": field, "problem": problem, "value": shown}


def _require_possible(domain: Domain, observed: float) -> None:
    if problem := domain.target.problem(observed):
        details = [_fault("observed", problem, observed)]
        raise RefusedError(422, f"This cannot be noted. observed: {problem}", details=details)


def kept() -> APIRouter:
    """Build the routes about what was kept."""
    key = APIKeyHeader(
        name="X-API-Key", auto_error=False, description="Or as `Authorization: Bearer`"
    )
    router = APIRouter(tags=["records"], dependencies=[Security(key)])

    @router.get("/predictions", summary="One's own predictions, the latest first")
    async def predictions(
        request: Request,
        domain: Annotated[str | None, Query(description="Of one question only")] = None,
        site: Annotated[str, Query(description="With `domain`: which of its sites")] = MAIN,
        before: Annotated[
            str | None, Query(description="`next` of the page before", max_length=200)
        ] = None,
        limit: Annotated[int, Query(ge=1, le=1000, description="Most of one page")] = 100,
    ) -> schemas.Page:
        from smartcity.store import answers

        asked: Asked = request.scope["asked"]
        name = domains.at(_domain(domain).name, site) if domain else None
        user = UUID(str(asked.user))
        try:
            rows, following = await _in_time(answers.page, user, name, before, limit)
        except UsageError as error:
            raise RefusedError(
                422, str(error), details=[_fault("before", str(error), before)]
            ) from None
        return schemas.Page(predictions=[_kept(row) for row in rows], next=following)

    return router


def _kept(row: dict[str, Any]) -> schemas.Kept:
    taken = ("model_version", "prediction", "confidence", "low", "high", "observed")
    domain, site = domains.apart(row["model_name"])
    return schemas.Kept(
        id=str(row["id"]),
        domain=domain,
        site=site,
        inputs=row["input_data"],
        made_at=row["timestamp"].isoformat().replace("+00:00", "Z"),
        **{name: row[name] for name in taken},
    )


def served(predictors: Predictors) -> APIRouter:
    """Build the routes about models."""
    router = APIRouter(tags=["models"])

    @router.get("/models", summary="What is served")
    async def models(site: SITE = MAIN) -> schemas.Models:
        found, strange = [], []
        for domain in domains.load_all().values():
            try:
                predictor = await of_site(predictors, domain, site)
                found.append(schemas.Served(**_served(predictor)))
            except RefusedError as error:  # a site need not have every question
                strange.append(error)
            except SmartCityError:
                continue  # /health says what is wrong with it
        if len(strange) == len(domains.load_all()):
            raise strange[0]
        return schemas.Models(models=found)

    @router.get("/models/{domain}", summary="One model: its card, and what it takes")
    async def model(domain: str, site: SITE = MAIN) -> schemas.Described:
        asked = _domain(domain)
        predictor = await of_site(predictors, asked, site)
        card = predictor.card
        return schemas.Described(
            **_served(predictor),
            inputs=list(map(_input, asked.inputs, card.inputs)),
            example=example(asked, {i.name: i.typical for i in card.inputs}),
            request_schema=row_model(asked).model_json_schema(),
            card=card.model_dump(mode="json"),
        )

    return router


def _domain(name: str) -> Domain:
    try:
        return domains.load(name[:80])  # what is said of it repeats it
    except UsageError as error:
        raise RefusedError(404, str(error)) from None


def _served(predictor: Predictor) -> dict[str, Any]:
    card, domain = predictor.card, predictor.domain
    return {
        "domain": domain.name,
        "site": predictor.site,
        "question": domain.question,
        "model_version": predictor.version,
        "created_at": card.created_at,
        "simulated": predictor.simulated,
        "verdict": card.verdict,
        "versions": registry.versions(card.name),
        "forecasts": [forecast.name for forecast in predictor.forecasts],
    }


def _input(spec: domains.Input, seen: registry.CardInput) -> schemas.InputField:
    same = {name: getattr(spec, name) for name in ("name", "label", "unit", "low", "high")}
    return schemas.InputField(
        **same,
        optional=spec.optional,
        computed=bool(spec.sum_of),
        seen_low=seen.low,
        seen_high=seen.high,
    )


def example(domain: Domain, usual: dict[str, float] | None = None) -> dict[str, float]:
    """Give a row that is answered: usual values, or the middle of what is allowed."""
    row = {}
    for spec in domain.inputs:
        if not spec.sum_of:
            value = (usual or {}).get(spec.name, (spec.low + spec.high) / 2)
            row[spec.name] = float(round(value)) if spec.whole else round(value, 3)
    return row


def about() -> APIRouter:
    """Build the routes about the service itself."""
    router = APIRouter(tags=["service"])

    @router.get("/", summary="Name and version")
    async def root() -> schemas.Service:
        return schemas.Service(message="SmartCity API; see /api/docs", version=__version__)

    @router.get("/metrics", summary="Metrics for Prometheus", response_class=Response)
    async def metrics() -> Response:
        text = await asyncio.to_thread(monitoring.exposition)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    return router


def probes(predictors: Predictors, recorder: Recorder, is_started: Callable[[], bool]) -> APIRouter:
    """Build the routes that tell whether the service is well."""
    router = APIRouter(tags=["service"])

    @router.get("/health", summary="Which models are being served")
    async def health(response: Response) -> schemas.Health:
        said = _health(predictors, recorder)
        response.status_code = 200 if said.success else 503
        return said

    @router.get("/health/live", summary="Whether the process answers; restart it if not")
    async def live() -> schemas.Probe:
        return schemas.Probe(status="alive")

    @router.get("/health/startup", summary="Whether starting is over; wait if not")
    async def startup() -> schemas.Probe:
        if not is_started():
            raise RefusedError(
                503, "Starting: models are being opened.", headers={"Retry-After": "1"}
            )
        return schemas.Probe(status="started")

    @router.get("/health/ready", summary="Whether to send requests here")
    async def ready() -> schemas.Probe:
        if not is_started() or not _health(predictors, recorder).success:
            raise RefusedError(503, "Not ready: no model is open.", headers={"Retry-After": "1"})
        return schemas.Probe(status="ready")

    return router


def _health(predictors: Predictors, recorder: Recorder) -> schemas.Health:
    told: dict[str, str] = {}
    is_open = []
    for name in domains.load_all():
        try:
            told[name] = predictors.ready(name).card.version
            is_open.append(True)
        except SmartCityError as error:
            told[name] = str(error)
            is_open.append(False)
    told |= predictors.errors
    is_whole = all(is_open) and not predictors.errors
    kept_now = "off" if recorder.spool is None else "full" if recorder.is_full else "on"
    return schemas.Health(
        success=any(is_open),
        status="unhealthy" if not any(is_open) else "healthy" if is_whole else "partial",
        models_loaded=is_whole,
        models=told,
        recording=kept_now,
        error=None if any(is_open) else "No model is loaded.",
    )
