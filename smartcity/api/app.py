"""The application: routes documented by FastAPI, answered through the door."""

import gc
import inspect
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Annotated, Any

from fastapi import Body, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi_offline import FastAPIOffline
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from smartcity import __version__, domains, monitoring, settings
from smartcity.api import routes, schemas
from smartcity.api.answering import MOST_ROWS, Answering, Recorder
from smartcity.api.door import Door, Handler
from smartcity.api.guard import Guard
from smartcity.api.replies import RefusedError, failure
from smartcity.domains import Domain
from smartcity.errors import SmartCityError
from smartcity.predict import Predictors, history_model, row_model
from smartcity.store.spool import Spool

_BASE = "/api/v1"
_REFUSALS: dict[int, str] = {
    400: "The body is not JSON",
    401: "An API key is needed, or the one given is not valid",
    403: "The API key does not allow this",
    404: "There is no such thing",
    405: "The route takes another method",
    408: "The body did not come in time",
    413: "The body is too large",
    415: "The body is not `application/json`",
    422: "The inputs cannot be used; `details` says why, field by field",
    429: "Too many requests; `Retry-After` says when to try again",
    500: "Something went wrong on our side",
    503: "No model of this question is loaded, or answers cannot be kept",
}


class _Described:
    """Routes that take a body: described by FastAPI, answered by the door."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self.handlers: dict[str, Handler] = {}

    def post(
        self,
        path: str,
        handler: Handler,
        takes: Any,
        gives: Any,
        *,
        query: Any = None,
        **about: Any,
    ) -> None:
        """Add a route.

        Args:
            path: Below the base.
            handler: What answers.
            takes: Type of the body.
            gives: Type of the answer.
            query: Names and types of parameters.
            about: Passed to FastAPI.
        """
        self.handlers[f"{_BASE}{path}"] = handler

        async def described(**_: Any) -> None:
            raise AssertionError("the door answers this route")

        body = inspect.Parameter("body", inspect.Parameter.KEYWORD_ONLY, annotation=takes)
        described.__signature__ = inspect.Signature([body, *(query or [])])  # type: ignore[attr-defined]
        described.__name__ = about["summary"]
        self._app.post(f"{_BASE}{path}", response_model=gives, **about)(described)


def _add_domain(posts: _Described, domain: Domain, answering: Answering) -> None:
    """Add the routes of one domain; their schemas come from the domain's record."""
    row, slug, example = row_model(domain), domain.slug, routes.example(domain)
    by_name = inspect.Parameter.KEYWORD_ONLY
    wants = inspect.Parameter("reasons", by_name, default=False, annotation=bool)
    site = inspect.Parameter("site", by_name, default=domains.MAIN, annotation=routes.SITE)
    posts.post(
        f"/predict/{slug}",
        answering.one,
        Annotated[row, Body(examples=[example])],
        schemas.Answer,
        query=[wants, site],
        summary=domain.question,
        description=domain.target.label,
        tags=["predictions"],
        operation_id=f"predict_{domain.name}",
    )
    posts.post(
        f"/predict/batch/{slug}",
        answering.batch,
        Annotated[list[row], Body(examples=[[example]], min_length=1, max_length=MOST_ROWS)],  # type: ignore[valid-type]
        schemas.Batch,
        query=[site],
        summary=f"{domain.title}: up to {MOST_ROWS:,} rows",
        tags=["predictions"],
        operation_id=f"predict_batch_{domain.name}",
    )
    for forecast in domain.forecasts:
        posts.post(
            f"/forecast/{slug}/{forecast.name}",
            answering.ahead(forecast.name),
            history_model(domain),
            schemas.Outlook,
            query=[site],
            summary=f"{domain.target.label}: {forecast.title}",
            description="From recent readings, oldest first.",
            tags=["forecasts"],
            operation_id=f"forecast_{domain.name}_{forecast.name}",
        )
    for path in list(posts.handlers):  # underscores do as well
        posts.handlers.setdefault(path.replace(slug, domain.name), posts.handlers[path])


def _add_errors(app: FastAPI) -> None:
    """Give every error of the routes FastAPI answers the shape all errors have."""

    def reply(request: Request, error: Exception) -> Response:
        asked = request.scope.get("asked")
        said = failure(error, asked.request_id if asked else None)
        return Response(said.body, said.status, said.headers, media_type="application/json")

    @app.exception_handler(RequestValidationError)
    async def refuse(request: Request, error: RequestValidationError) -> Response:
        details = [
            {
                "field": str(each["loc"][-1]),
                "problem": each["msg"],
                "value": repr(each["input"])[:80],
            }
            for each in error.errors()
        ]
        told = "; ".join(f"{each['field']}: {each['problem']}" for each in details)
        return reply(
            request, RefusedError(422, f"The request cannot be used. {told}", details=details)
        )

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        known = f"{error.detail} ({request.method} {request.url.path[:200]}); see /api/docs"
        return reply(request, RefusedError(error.status_code, known, headers=error.headers))

    app.add_exception_handler(SmartCityError, reply)
    app.add_exception_handler(Exception, reply)


def _life(
    serving: Predictors, recorder: Recorder, is_started: threading.Event
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    """Give what happens at start and stop."""

    @asynccontextmanager
    async def running(_: FastAPI) -> AsyncIterator[None]:
        for name in domains.load_all():
            try:
                serving.get(name)
            except SmartCityError:
                continue  # /health says so; it may be published later
        # What lives as long as the process need not be looked through for garbage again and again:
        # that would hold up every answer meanwhile.
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 20, 20)
        is_started.set()
        stop = threading.Event()
        following = threading.Thread(
            target=serving.follow, args=(stop,), name="follow", daemon=True
        )
        following.start()
        yield
        stop.set()
        following.join()
        if recorder.spool:
            recorder.spool.close()

    return running


def _build(
    serving: Predictors, recorder: Recorder, is_started: threading.Event
) -> tuple[FastAPI, dict[str, Handler]]:
    """Put the routes together: all of them described, and what answers those with a body."""
    app = FastAPIOffline(
        title="SmartCity",
        version=__version__,
        description="Carbon monoxide, traffic level and energy use from a city's sensors.",
        docs_url="/api/docs",
        redoc_url="/api/redoc",
        static_url="/api/docs/static",  # no request leaves the city
        redirect_slashes=False,
        lifespan=_life(serving, recorder, is_started),
        responses={
            status: {"model": schemas.Failure, "description": about}
            for status, about in _REFUSALS.items()
        },
    )
    _add_errors(app)
    posts = _Described(app)
    for domain in domains.load_all().values():
        _add_domain(posts, domain, Answering(domain, serving, recorder))
    posts.post(
        "/feedback",
        routes.feedback,
        schemas.Observed,
        schemas.Noted,
        status_code=201,
        summary="What was observed where we had answered",
        tags=["records"],
        operation_id="feedback",
        responses={409: {"model": schemas.Failure, "description": "Another value is known"}},
    )
    app.include_router(routes.kept(), prefix=_BASE)
    app.include_router(routes.served(serving), prefix=_BASE)
    app.include_router(routes.probes(serving, recorder, is_started.is_set))
    app.include_router(routes.about())
    return app, posts.handlers


def create_app(predictors: Predictors | None = None) -> ASGIApp:
    """Build the application.

    Args:
        predictors: What answers; the published models by default.

    Returns:
        An ASGI application.

    Raises:
        UsageError: A setting does not fit.
    """
    known = settings.current()
    serving = predictors or Predictors(
        opened=lambda name, s: monitoring.LOADING.labels(name).set(s)
    )
    recorder = Recorder(Spool() if known.recording else None, known.metrics_share)
    is_started = threading.Event()
    app, handlers = _build(serving, recorder, is_started)
    door = Door(app, handlers, Guard(known), round(known.body_mb * 2**20))
    origins = known.cors_origins.split()
    return _with_cors(door, origins) if origins else door


class _Cors(CORSMiddleware):
    """Starlette's, with refusals in the shape all errors have."""

    def preflight_response(self, request_headers: Headers) -> Response:
        """Answer a browser that asks what it may send."""
        said = super().preflight_response(request_headers)
        if said.status_code < 400:
            return said
        own = {"content-length", "content-type"}
        kept = {name: value for name, value in said.headers.items() if name not in own}
        reply = failure(RefusedError(said.status_code, f"{bytes(said.body).decode()}."))
        return Response(reply.body, reply.status, kept, media_type="application/json")


def _with_cors(door: ASGIApp, origins: list[str]) -> ASGIApp:
    """Let pages of other origins call."""
    return _Cors(
        door,
        allow_origins=origins,
        allow_methods=["GET", "POST"],
        allow_headers=["Content-Type", "Authorization", "X-API-Key", "X-Request-ID"],
        expose_headers=["X-Request-ID", "Retry-After"],
    )


def describe() -> dict[str, Any]:
    """Give the OpenAPI description; ``docs/openapi.json`` is a copy of it."""
    built = _build(Predictors(), Recorder(None, 0.0), threading.Event())
    described: dict[str, Any] = built[0].openapi()
    return described
