"""What the API says, as it documents it."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from smartcity.api.replies import now
from smartcity.predict import Ahead, Prediction

_When = Annotated[str, Field(description="When it was made, ISO 8601, UTC")]


class Success(BaseModel):
    """Every success says so, and when."""

    success: Literal[True] = True
    timestamp: _When = Field(default_factory=now)


class Failure(BaseModel):
    """Every error, of any route: what went wrong, in words."""

    model_config = ConfigDict(json_schema_extra={"additionalProperties": False})

    success: Literal[False] = False
    error: str
    timestamp: _When
    details: list[dict[str, Any]] | None = Field(
        None, description="One entry per fault: `field`, `problem`, `value`"
    )
    request_id: str | None = Field(None, description="As in `X-Request-ID` and in our log")


class Answer(Prediction, Success):
    """A prediction that was made and kept."""

    id: str = Field(description="Under which it is kept; `/feedback` takes it")


class Outlook(Success):
    """A forecast: one answer per time asked about, the nearest first."""

    forecasts: list[Ahead]


class BatchFault(BaseModel):
    """Why a row of a batch was not answered, in its place."""

    success: Literal[False] = False
    error: str
    details: list[dict[str, Any]]


class BatchAnswer(Prediction):
    """The answer to one row of a batch."""

    success: Literal[True] = True
    id: str


class Batch(Success):
    """Answers to many rows, in their order; a bad row is an error in its place."""

    predictions: list[BatchAnswer | BatchFault]
    count: int = Field(description="Rows answered")
    failed: int = Field(description="Rows not answered")


class Observed(BaseModel):
    """What was observed where we had answered."""

    model_config = ConfigDict(extra="forbid")

    id: str = Field(
        pattern=r"^[0-9a-fA-F]{8}(-?[0-9a-fA-F]{4}){3}-?[0-9a-fA-F]{12}$",
        description="The answer's `id`",
        examples=["0b7d1c8e-5a52-4f6e-9a35-6f2f9b1c4f10"],
    )
    observed: float = Field(
        strict=True,
        allow_inf_nan=False,
        description="The truth, in the answer's unit",
        examples=[2],
    )


class Noted(Success):
    """Feedback that has joined its prediction."""

    id: str
    prediction: float
    observed: float


class Health(BaseModel):
    """Whether the service can answer, domain by domain."""

    success: bool
    status: Literal["healthy", "partial", "unhealthy"]
    models_loaded: bool = Field(description="Every domain's current model is loaded")
    models: dict[str, str] = Field(description="Domain -> version served, or what is wrong")
    recording: Literal["on", "off", "full"] = Field(description="Whether answers can be kept")
    timestamp: _When = Field(default_factory=now)
    error: str | None = None


class Probe(Success):
    """A probe's short answer."""

    status: str


class Service(Success):
    """Name and version."""

    message: str
    version: str


class InputField(BaseModel):
    """One input: what it means, what is allowed, what the model has seen."""

    name: str
    label: str
    unit: str
    low: float = Field(description="Lowest value that is taken")
    high: float = Field(description="Highest value that is taken")
    seen_low: float = Field(description="Lowest value in training")
    seen_high: float = Field(description="Highest value in training")
    optional: bool = Field(description="May be null")
    computed: bool = Field(description="May be left out: the sum of others")


class Served(BaseModel):
    """The version of a question's model that answers now."""

    model_config = ConfigDict(protected_namespaces=())

    domain: str
    site: str
    question: str
    model_version: str = Field(description="`all@` before one of all sites")
    created_at: str
    simulated: bool
    verdict: str = Field(description="Whether it beats the best baseline on later time")
    versions: list[str] = Field(description="All published, oldest first")
    forecasts: list[str]


class Models(Success):
    """What is served."""

    models: list[Served]


class Described(Success, Served):
    """One model: its card, and what it takes."""

    inputs: list[InputField]
    example: dict[str, Any] = Field(description="A row it answers")
    request_schema: dict[str, Any] = Field(description="JSON Schema of a row")
    card: dict[str, Any]


class Kept(BaseModel):
    """An answer as it was kept."""

    model_config = ConfigDict(protected_namespaces=())

    id: str
    domain: str
    site: str
    model_version: str | None
    inputs: dict[str, Any]
    prediction: float
    confidence: float | None
    low: float | None
    high: float | None
    made_at: str
    observed: float | None = None


class Page(Success):
    """One's own answers, the latest first."""

    predictions: list[Kept]
    next: str | None = Field(description="Pass as `before` for the page after; null at the end")
