"""The page's words and numbers as HTML; every value is escaped in ``html.j2`` and nowhere else."""

import math
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

import jinja2

from smartcity.dashboard.words import LANGUAGES, Words
from smartcity.domains import Domain
from smartcity.predict import Prediction, Predictor
from smartcity.registry import NOW
from smartcity.runs import Run

#: Colour and sign of what is low, usual and high, and signs of levels: they say the same.
_STANDINGS = {"low": (0, "▼"), "usual": (1, "●"), "high": (3, "▲")}
_LEVELS = ("▼", "●", "▲", "▲▲")
_TRENDS = {"rising": "↗", "falling": "↘", "steady": "→"}
#: Days after which readings are called old.
_STALE_DAYS = 7


def _sentences(text: str) -> list[str]:
    """Part a text into its sentences, each with a full stop."""
    parts = text.replace(". ", ".\n").split("\n")
    return [f"{part.removesuffix('.')}." for part in parts if part]


def _spoken(said: str, words: Words) -> str:
    return " ".join(map(words.say, _sentences(said)))


def _macros() -> Any:
    """Read the template; its line breaks are for who reads it, not for the page."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters |= {"say": lambda text, words: words.say(text), "spoken": _spoken}
    text = Path(__file__).with_name("html.j2").read_text(encoding="utf-8")
    return environment.from_string(re.sub(r"\n\s*", "", text)).module


#: Read here, once, so that kernels forked from a warm parent have it.
_MACROS = _macros()


def written(name: str, words: Words | None, *values: Any) -> str:
    """Fill one of the template's macros.

    Args:
        name: Which.
        words: The language; None for what is said in English only.
        values: What the macro takes beside it.
    """
    return str(getattr(_MACROS, name)(words, *values))


def text(words: Words, sentence: str) -> str:
    """Say a sentence, escaped."""
    return escape(words.say(sentence))


def number(words: Words, value: float, form: str = ",.2f") -> str:
    """Write a number as the reader's language does."""
    return words.number(format(value, form))


def moment(words: Words, at: str) -> str:
    """Write a UTC time; the page's script turns it into the reader's zone."""
    return written("moment", words, at)


def head(words: Words, titles: Mapping[str, str], page: str, simulated: Sequence[str]) -> str:
    """Write the page's head: its name, its pages, what a reader can choose, what to mind.

    Args:
        words: The language.
        titles: Page -> its name.
        page: The page being shown.
        simulated: Names of the questions that are answered from the simulated city.
    """
    return written("head", words, titles, page, simulated, LANGUAGES)


def title(words: Words, predictor: Predictor) -> str:
    """Write the head of a domain's page."""
    return written("title", words, predictor.domain.question, predictor.card.data["source"])


def heading(words: Words, name: str) -> str:
    """Write the head of a page."""
    return written("heading", words, name, 2)


def section(words: Words, name: str, about: str = "") -> str:
    """Write the head of a part of a page."""
    return written("section", words, name, about)


def problem(words: Words, name: str, about: str) -> str:
    """Write that something is not there, and what to do."""
    return written("problem", words, name, about)


def overview(
    words: Words,
    domain: Domain,
    facts: Mapping[str, Any] | None,
    run: Run | None,
    changes: Sequence[str] = (),
) -> str:
    """Write one question's card: the last report's figures, how sure, how fresh, what to do.

    Args:
        words: The language.
        domain: The question.
        facts: What its last report states.
        run: The run that made it.
        changes: What is new since the report before, as sentences.
    """
    if facts is None or run is None:
        return written("overview", words, domain, *[None] * 7)
    days = [day["value"] for day in facts.get("daily", ()) if day["value"] is not None]
    age = datetime.now(UTC).replace(tzinfo=None) - datetime.fromisoformat(facts["to"])
    old = "more than a year" if age.days > 365 else f"{age.days} days"
    drawn = _band(domain, facts), _TRENDS.get(facts.get("trend", "")), _sparkline(days)
    known = {"trend": None, "advice": "", "forecasts": {}, "reliability": None, **facts}
    stale = old if age.days > _STALE_DAYS else ""
    return written("overview", words, domain, known, run, changes, *drawn, stale)


def _band(domain: Domain, facts: Mapping[str, Any]) -> tuple[int, str, str] | None:
    """Say where the figure stands: a colour, a sign and a word that mean the same."""
    labels = [level.label for level in domain.target.levels]
    if facts.get("band") in labels:
        place = labels.index(facts["band"])
        return min(place, 3), _LEVELS[min(place, len(_LEVELS) - 1)], f"mostly {facts['band']}"
    standing = facts.get("standing")
    if standing not in _STANDINGS:
        return None
    return *_STANDINGS[standing], "as usual" if standing == "usual" else f"{standing} for this city"


def _sparkline(values: Sequence[float]) -> list[tuple[float, float]]:
    """Lay days out as the points of a small line; the sentence beside it says the same."""
    known = [value for value in values if not math.isnan(value)]
    if len(known) < 2:
        return []
    low, span = min(known), (max(known) - min(known)) or 1.0
    step = 96 / (len(known) - 1)
    return [(2 + n * step, 34 - 30 * (value - low) / span) for n, value in enumerate(known)]


def answer(
    words: Words, predictor: Predictor, given: Prediction | None, problems: Sequence[str]
) -> str:
    """Write an answer: the number or class, what it means, how sure, and what to mind."""
    bar, sure = None, ""
    part = predictor.card.parts[NOW]
    if given and given.probabilities:
        off = part.reliability["error"] if part.reliability else 0.0
        sure = f"Calibrated probabilities; on later time they were off by {off:.1%} on average."
    elif given and given.interval:
        low, high, level = given.interval.low, given.interval.high, given.interval.level
        top = max(high, predictor.card.answers["p90"] * 1.5)
        bar = [f"{100 * v / top:.1f}%" for v in (low, high - low, given.prediction)]
        held = part.coverage["overall"]
        sure = f"Meant to hold in {level:.0%} of cases; on later time it held in {held:.0%}."
    reasons = given.reasons.contributions if given and given.reasons else []
    moved = [reason.text for reason in reasons if abs(reason.contribution) >= 0.005][:3]
    said = [_named(words, problem) for problem in problems]
    return written("answer", words, predictor.domain.target, given, said, bar, sure, moved)


def _named(words: Words, problem: str) -> str:
    """Say a problem with an input, which is named before it."""
    name, _, what = problem.partition(": ")
    return words.say(what) if name == "row" else f"{words.say(name)}: {words.say(what)}"


def spoken(words: Words, given: Prediction | None, problems: Sequence[str]) -> str:
    """Say an answer in one breath, for who listens to the page."""
    if given is None:
        return " ".join(_named(words, problem) for problem in problems)
    outside = ["Outside what the model has seen."] if given.inputs_outside_training else []
    return " ".join(map(words.say, [*_sentences(given.text), *outside]))


def model(words: Words, predictor: Predictor) -> str:
    """Write the model card: what it is, what it learned from, how it was tested."""
    card = predictor.card
    other = words.say("(not the published file)")
    files = ", ".join(
        f["name"] if f["published"] or card.data["simulated"] else f"{f['name']} {other}"
        for f in card.data["files"]
    )
    models = {"with recent readings": card.metrics} if card.champion != NOW else {}
    models |= {"from the inputs alone": card.parts[NOW].metrics, "specified forest": card.specified}
    models |= card.baselines
    scores = [
        [text(words, model), text(words, "later time" if split == "time_ordered" else "random")]
        + [number(words, scored[split][name], ".3f") for name in card.metrics["random"]]
        for split in ("time_ordered", "random")
        for model, scored in models.items()
    ]
    return written("model", words, card, files, scores)


def made_by(words: Words, run: Run) -> str:
    """Say which run drew a chart."""
    return written("made_by", words, run)


def table(words: Words, caption: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a table; its cells are HTML already."""
    return written("table", words, caption, header, rows)
