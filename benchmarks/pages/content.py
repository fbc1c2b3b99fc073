"""What every page says, as plain values: the same reports, charts and model as our own page."""

from dataclasses import dataclass
from functools import cache
from typing import Any

from smartcity import domains, runs
from smartcity.domains import Domain
from smartcity.predict import Predictor
from smartcity.registry import NOW

DOMAINS = tuple(domains.load_all())
#: Page -> its title; the page is named in the address, as in ``?page=energy``.
PAGES = {
    "overview": "Overview",
    **{name: domains.load(name).title for name in DOMAINS},
    "reports": "Reports & monitoring",
}
#: The notebooks whose charts are shown: heading, notebook, names of the charts.
SHOWN = (
    ("What the sensors said", "01_explore", ("recent", "pattern")),
    ("What comes next", "05_report", ("next_hour", "next_day")),
    (
        "How far to trust it",
        "03_evaluate",
        ("scores", "later", "coverage", "reliability", "importance"),
    ),
)


@dataclass(frozen=True)
class Card:
    """One question on the overview."""

    domain: str
    title: str
    number: str
    unit: str
    sentence: str
    comes: list[str]
    note: str


@dataclass(frozen=True)
class Slider:
    """One input of a question."""

    name: str
    label: str
    hint: str
    low: float
    high: float
    step: float
    usual: float


@dataclass(frozen=True)
class Answer:
    """What the model says to the inputs."""

    label: str
    number: str
    unit: str
    text: str
    sure: str
    guidance: list[str]
    why: list[str]
    warnings: list[str]
    note: str


@dataclass(frozen=True)
class Section:
    """Charts of one notebook's last good run, as plotly's JSON data."""

    title: str
    figures: list[dict[str, Any]]
    note: str


def overview() -> list[Card]:
    """Read the last reports' facts."""
    return [_card(domains.load(name)) for name in DOMAINS]


def _card(domain: Domain) -> Card:
    run = runs.latest("05_report", domain.name)
    facts = runs.facts(run) if run else None
    if facts is None:
        raise SystemExit(f"No report of {domain.name} yet. Make one: smartcity build")
    levels = bool(domain.target.levels)
    return Card(
        domain.name,
        domain.title,
        f"{facts['value']:.0%}" if levels else f"{facts['value']:.2f}",
        "high or above" if levels else domain.target.unit,
        facts["sentence"],
        [
            f"{forecast.title}: {facts['forecasts'][forecast.name]}"
            for forecast in domain.forecasts
            if forecast.name in facts.get("forecasts", {})
        ],
        f"Readings to {facts['to'].replace('T', ' ')[:16]}, {1 - facts['missing_share']:.0%} "
        f"complete. {facts['verdict']}",
    )


@cache
def predictor(domain: str) -> Predictor:
    """Open a model, once a process."""
    return Predictor.load(domain)


def question(domain: str) -> str:
    """Give what a page asks."""
    return domains.load(domain).question


@cache
def sliders(domain: str) -> list[Slider]:
    """Give the inputs a person can state, a little wider than what the model has seen."""
    model = predictor(domain)
    seen = {i.name: i for i in model.card.inputs}
    found = []
    for spec in model.domain.inputs:
        if spec.sum_of:
            continue
        own = seen[spec.name]
        margin = (own.high - own.low) * 0.15
        low, high = max(spec.low, own.low - margin), min(spec.high, own.high + margin)
        if low == high:
            low, high = spec.low, spec.high
        # Whole numbers are ints: Panel and Streamlit have sliders of their own for them.
        decimals = 0 if spec.whole else len(f"{spec.step:g}".partition(".")[2])
        low, high, step, usual = (
            round(value, decimals or None) for value in (low, high, spec.step, own.typical)
        )
        hint = f"{spec.unit}, seen {own.low:g} to {own.high:g}"
        found.append(Slider(spec.name, spec.label, hint, low, high, step, usual))
    return found


def answer(domain: str, values: dict[str, float]) -> Answer:
    """Ask the model."""
    model = predictor(domain)
    given = model.predict(values, reasons=True)
    part = model.card.parts[NOW]
    if given.probabilities is not None:
        sure = ", ".join(f"{label} {share:.0%}" for label, share in given.probabilities.items())
    elif given.interval is not None:
        sure = (
            f"Likely between {given.interval.low:.2f} and {given.interval.high:.2f} {given.unit}. "
            f"Meant to hold in {given.interval.level:.0%} of cases; on later time it held in "
            f"{part.coverage['overall']:.0%}."
        )
    else:
        sure = ""
    reasons = given.reasons.contributions if given.reasons else []
    return Answer(
        model.domain.target.label,
        given.label or f"{given.prediction:.2f}",
        "" if given.label else given.unit,
        given.text,
        sure,
        given.guidance,
        [reason.text for reason in reasons if abs(reason.contribution) >= 0.005][:3],
        given.warnings,
        f"Model {given.model_version}",
    )


def sections(domain: str) -> list[Section]:
    """Read the charts of the last good runs."""
    found = []
    for title, notebook, names in SHOWN:
        run = runs.latest(notebook, domain)
        figures = runs.figures(run) if run else {}
        note = f"Drawn by {notebook}, run {run.id}." if run else "No charts yet: smartcity build"
        found.append(Section(title, [figures[name] for name in names if name in figures], note))
    return found


def model_card(domain: str) -> tuple[dict[str, str], list[dict[str, str]]]:
    """Give what the model is, and how it was tested: a row per model and split."""
    card = predictor(domain).card
    facts = {
        "Version": card.version,
        "Made": card.created_at.replace("T", " "),
        "Learned from": f"{card.data['rows']:,} readings, {card.data['from'][:10]} to "
        f"{card.data['to'][:10]}",
        "Files": ", ".join(file["name"] for file in card.data["files"]),
        "Licence": card.data["licence"],
        "Method": card.estimator,
        "Run": card.run,
    }
    models = {"with recent readings": card.metrics} if card.champion != NOW else {}
    models |= {"from the inputs alone": card.parts[NOW].metrics, "specified forest": card.specified}
    scores = [
        {"Model": model, "Tested on": said}
        | {name: f"{value:.3f}" for name, value in scored[split].items()}
        for split, said in (("time_ordered", "later time"), ("random", "random rows"))
        for model, scored in (models | card.baselines).items()
    ]
    return facts, scores


def served() -> list[dict[str, str]]:
    """Say which models answer."""
    return [
        {"Question": model.domain.title, "Version": model.card.version, "On later time": said}
        for model in map(predictor, DOMAINS)
        for said in [model.card.verdict]
    ]


def reports() -> list[dict[str, str]]:
    """List the last run of each notebook."""
    return [
        {
            "Question": domains.load(name).title,
            "Notebook": notebook,
            "Status": run.status,
            "Started (UTC)": run.started_at.replace("T", " ")[:16],
            "Took": f"{run.seconds:.0f} s",
        }
        for name in DOMAINS
        for notebook in ("01_explore", "02_train", "03_evaluate", "05_report")
        for run in [next(runs.listed(notebook, name), None)]
        if run
    ]
