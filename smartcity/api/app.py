"""Routes and their answers; every error, of any route, has the same three fields."""

from datetime import UTC, datetime
from typing import Any, Literal

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from smartcity import __version__, domains, logs
from smartcity.domains import Domain
from smartcity.errors import InputError, ModelError, SmartCityError
from smartcity.predict import Ahead, Prediction, Predictors, faults, history_model, row_model

log = logs.get(__name__)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Answer(Prediction):
    """A prediction, and when it was made."""

    success: Literal[True] = True
    timestamp: str = Field(default_factory=_now, description="When it was made, UTC")


class Outlook(BaseModel):
    """A forecast: one answer per time asked about, the nearest first."""

    success: Literal[True] = True
    forecasts: list[Ahead]
    timestamp: str = Field(default_factory=_now, description="When it was made, UTC")


class Failure(BaseModel):
    """An error: what went wrong, in words."""

    success: Literal[False] = False
    error: str
    timestamp: str = Field(default_factory=_now)
    details: list[dict[str, Any]] | None = None


class Health(BaseModel):
    """Whether the service can answer, domain by domain."""

    status: Literal["healthy", "partial", "unhealthy"]
    models_loaded: bool = Field(description="Every domain's current model is loaded")
    models: dict[str, str] = Field(description="Domain -> version served, or what is wrong")
    timestamp: str = Field(default_factory=_now)


def _fail(status: int, error: str, details: list[dict[str, Any]] | None = None) -> JSONResponse:
    body = Failure(error=error, details=details).model_dump(exclude_none=True)
    return JSONResponse(body, status_code=status)


def _wants_json(request: Request) -> None:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise HTTPException(415, f"Content-Type is {kind!r}; send application/json.")


def _add_domain(app: FastAPI, predictors: Predictors, domain: Domain) -> None:
    """Add the routes of one domain; their schemas come from the domain's record."""

    async def predict(row: Any, *, reasons: bool = False) -> Answer:
        given = predictors.get(domain.name).answer([row.model_dump()], reasons=reasons)
        return Answer(**given[0].model_dump())

    async def forecast(history: Any, question: str) -> Outlook:
        recent = [reading.model_dump() for reading in history.recent]
        return Outlook(forecasts=predictors.get(domain.name).ahead(question, recent))

    predict.__annotations__["row"] = row_model(domain)
    names = tuple(known.name for known in domain.forecasts)
    forecast.__annotations__ |= {"history": history_model(domain), "question": Literal[names]}
    refusals: dict[int | str, dict[str, Any]] = {
        status: {"model": Failure} for status in (400, 415, 422, 503)
    }
    app.post(
        f"/api/v1/predict/{domain.slug}",
        summary=domain.question,
        description=domain.target.label,
        tags=["predictions"],
        responses=refusals,
        dependencies=[Depends(_wants_json)],
    )(predict)
    if names:
        app.post(
            f"/api/v1/forecast/{domain.slug}/{{question}}",
            summary=f"{domain.target.label} in time to come",
            description="From recent readings, oldest first.",
            tags=["forecasts"],
            responses=refusals,
            dependencies=[Depends(_wants_json)],
        )(forecast)


def _add_errors(app: FastAPI) -> None:
    """Give every error of every route the same shape, and none a stack trace."""

    @app.exception_handler(RequestValidationError)
    async def refuse(_: Request, error: RequestValidationError) -> JSONResponse:
        found = error.errors()
        if found and found[0]["type"] == "json_invalid":
            return _fail(400, "The body is not JSON.")
        if any(fault["loc"] == ("body",) and fault["type"] == "missing" for fault in found):
            return _fail(400, "The body is empty; send a JSON object.")
        said = faults([fault | {"loc": fault["loc"][1:]} for fault in found])
        told = "; ".join(f"{fault['field']}: {fault['problem']}" for fault in said)
        return _fail(422, f"The inputs cannot be used. {told}", said)

    @app.exception_handler(InputError)
    async def unusable(_: Request, error: InputError) -> JSONResponse:
        return _fail(422, str(error), error.details)

    @app.exception_handler(ModelError)
    async def unavailable(_: Request, error: ModelError) -> JSONResponse:
        return _fail(503, str(error))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        answer = _fail(error.status_code, f"{error.detail} ({request.method} {request.url.path})")
        answer.headers.update(error.headers or {})
        return answer

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> JSONResponse:
        log.error("request failed", path=request.url.path, exc_info=error)
        return _fail(500, "Something went wrong on our side; the log tells more.")


def create_app(predictors: Predictors | None = None) -> FastAPI:
    """Build the application.

    Args:
        predictors: What answers; the published models by default.

    Returns:
        An ASGI application.
    """
    serving = predictors or Predictors()
    app = FastAPI(
        title="SmartCity",
        version=__version__,
        description="Carbon monoxide, traffic level and energy use from a city's sensors.",
        docs_url="/api/docs",
        redoc_url="/api/redoc",
        openapi_url="/openapi.json",
    )
    _add_errors(app)
    for domain in domains.load_all().values():
        _add_domain(app, serving, domain)

    @app.head("/", include_in_schema=False)
    @app.get("/", summary="Name and version", tags=["service"])
    async def root() -> dict[str, str]:
        return {"message": "SmartCity API; see /api/docs", "version": __version__}

    @app.head("/health", include_in_schema=False)
    @app.get(
        "/health",
        summary="Which models are being served",
        tags=["service"],
        response_model=Health,
        responses={503: {"model": Health}},
    )
    async def health() -> JSONResponse:
        served: dict[str, str] = {}
        is_loaded = []
        for name in domains.load_all():
            try:
                served[name] = serving.get(name).card.version
                is_loaded.append(True)
            except SmartCityError as error:
                served[name] = str(error)
                is_loaded.append(False)
        served |= serving.errors
        if not any(is_loaded):
            status: Literal["healthy", "partial", "unhealthy"] = "unhealthy"
        else:
            status = "partial" if serving.errors else "healthy"
        body = Health(status=status, models_loaded=not serving.errors, models=served)
        return JSONResponse(body.model_dump(), status_code=503 if status == "unhealthy" else 200)

    return app
