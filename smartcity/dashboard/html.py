"""The page's words and numbers as HTML; every value is escaped here and nowhere else."""

import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from typing import Any

from smartcity.dashboard.words import LANGUAGES, Words
from smartcity.domains import Domain
from smartcity.predict import Prediction, Predictor
from smartcity.registry import NOW
from smartcity.runs import Run

#: Colour and sign of what is low, usual and high, and signs of levels: they say the same.
_STANDINGS = {"low": (0, "▼"), "usual": (1, "●"), "high": (3, "▲")}
_LEVELS = ("▼", "●", "▲", "▲▲")
_TRENDS = {"rising": "↗", "falling": "↘", "steady": "→"}
_MOTTO = "What the city's sensors say, and what to expect."
_BUTTON = 'class="smartcity-button smartcity-primary"'
#: Days after which readings are called old.
_STALE_DAYS = 7


def text(words: Words, sentence: str) -> str:
    """Say a sentence, escaped."""
    return escape(words.say(sentence))


def number(words: Words, value: float, form: str = ",.2f") -> str:
    """Write a number as the reader's language does."""
    return words.number(format(value, form))


def moment(words: Words, at: str) -> str:
    """Write a UTC time; the page's script turns it into the reader's zone."""
    plain = at[:16].replace("T", " ")
    return f'<time datetime="{escape(at)}">{escape(plain)} {text(words, "UTC")}</time>'


def clock(words: Words, at: str) -> str:
    """Write a reading's time, which is what the station's clock showed."""
    return f"{escape(at[:16].replace('T', ' '))} {text(words, '(station clock)')}"


def head(words: Words, titles: Mapping[str, str], page: str, simulated: Sequence[str]) -> str:
    """Write the page's head: its name, its pages, what a reader can choose, what to mind.

    Args:
        words: The language.
        titles: Page -> its name.
        page: The page being shown.
        simulated: Names of the questions that are answered from the simulated city.
    """
    here = {page: ' aria-current="page"'}
    links = "".join(
        f'<a href="?page={name}" data-page="{name}"{here.get(name, "")}>{text(words, title)}</a>'
        for name, title in titles.items()
    )
    themes = {"system": "as the system", "light": "light", "dark": "dark"}
    choices = _choice(words, "theme", "Colours", {k: words.say(v) for k, v in themes.items()})
    choices += _choice(words, "language", "Language", LANGUAGES)
    button = '<button type="button" class="smartcity-button" data-do="{}">{}</button>'
    buttons = button.format("save", text(words, "Save as HTML"))
    buttons += button.format("print", text(words, "Print or PDF"))
    return (
        f'<header><div class="smartcity-head"><div><h1>SmartCity</h1>'
        f"<p>{text(words, _MOTTO)}</p></div>"
        f'<div class="smartcity-tools">{choices}{buttons}</div></div>'
        f'<nav class="smartcity-nav" aria-label="{text(words, "Pages")}">{links}</nav>'
        f"{banner(words, simulated)}</header>"
    )


def _choice(words: Words, name: str, label: str, options: Mapping[str, str]) -> str:
    chosen = {words.language: " selected"}
    said = "".join(
        f'<option value="{value}"{chosen.get(value, "")}>{escape(option)}</option>'
        for value, option in options.items()
    )
    named = f"<span>{text(words, label)}</span>"
    return f'<label>{named} <select data-choice="{name}">{said}</select></label>'


def banner(words: Words, simulated: Sequence[str]) -> str:
    """Say which questions are answered from the simulated city; nothing if none is."""
    if not simulated:
        return ""
    what = ", ".join(words.say(title) for title in simulated)
    said = words.say("trained on the simulated demo city, not on real sensors.")
    return (
        f'<p class="smartcity-banner" role="note"><strong>⚠ {text(words, "Simulated.")}</strong> '
        f"{escape(what)}: {escape(said)}</p>"
    )


def title(words: Words, predictor: Predictor) -> str:
    """Write the head of a domain's page."""
    source = text(words, f"Readings: {predictor.card.data['source']}")
    return (
        f'<h2 tabindex="-1">{text(words, predictor.domain.question)}</h2>'
        f'<p class="smartcity-soft">{source}</p>'
    )


def heading(words: Words, name: str, level: int = 2) -> str:
    """Write the head of a page."""
    return f'<h{level} tabindex="-1">{text(words, name)}</h{level}>'


def section(words: Words, name: str, about: str = "") -> str:
    """Write the head of a part of a page."""
    said = f'<p class="smartcity-soft">{text(words, about)}</p>' if about else ""
    return f"<h3>{text(words, name)}</h3>{said}"


def problem(words: Words, name: str, about: str) -> str:
    """Write that something is not there, and what to do."""
    return f'{section(words, name)}<p class="smartcity-warning">⚠ {text(words, about)}</p>'


def overview(
    words: Words,
    domain: Domain,
    facts: Mapping[str, Any] | None,
    run: Run | None,
    changes: Sequence[str] = (),
    now: datetime | None = None,
) -> str:
    """Write one question's card: the last report's figures, how sure, how fresh, what to do.

    Args:
        words: The language.
        domain: The question.
        facts: What its last report states.
        run: The run that made it.
        changes: What is new since the report before, as sentences.
        now: The time, UTC.
    """
    link = f'href="?page={domain.name}" data-page="{domain.name}"'
    name = f"<h3><a {link}>{text(words, domain.title)}</a></h3>"
    if facts is None or run is None:
        wanted = f"No report yet. Make one: smartcity build --domain {domain.name}"
        return f'<article class="smartcity-card">{name}<p>{text(words, wanted)}</p></article>'
    hidden = f'<span class="smartcity-hidden">{text(words, domain.title)}</span>'
    lines = [
        name,
        _band(words, domain, facts),
        _figure(words, domain, facts),
        f"<p>{text(words, facts['sentence'])}</p>",
        _advice(words, facts),
        _outlook(words, domain, facts),
        *_trust(words, facts, run, now or datetime.now(UTC)),
        _list(words, changes, "New since the report before"),
        f"<p><a {_BUTTON} {link}>{text(words, 'What if…')} {hidden}</a></p>",
    ]
    return f'<article class="smartcity-card smartcity-overview">{"".join(lines)}</article>'


def _band(words: Words, domain: Domain, facts: Mapping[str, Any]) -> str:
    """Say where the figure stands: a word, a sign and a colour that mean the same."""
    labels = [level.label for level in domain.target.levels]
    if facts.get("band") in labels:
        place, said = labels.index(facts["band"]), f"mostly {facts['band']}"
        sign = _LEVELS[min(place, len(_LEVELS) - 1)]
    elif facts.get("standing") in _STANDINGS:
        standing = facts["standing"]
        place, sign = _STANDINGS[standing]
        said = "as usual" if standing == "usual" else f"{standing} for this city"
    else:
        return ""
    return (
        f'<p class="smartcity-band smartcity-band-{min(place, 3)}">'
        f'<span aria-hidden="true">{sign}</span> {text(words, said)}</p>'
    )


def _figure(words: Words, domain: Domain, facts: Mapping[str, Any]) -> str:
    """Write the number, which way it goes, and its days as a line."""
    if domain.target.levels:
        shown, unit = number(words, facts["value"], ".0%"), "of readings high or above"
    else:
        shown, unit = number(words, facts["value"]), domain.target.unit
    trend = ""
    if facts.get("trend") in _TRENDS:
        said = text(words, f"{facts['trend']} beside the period before")
        sign = _TRENDS[facts["trend"]]
        trend = f'<p class="smartcity-trend"><span aria-hidden="true">{sign}</span> {said}</p>'
    line = _sparkline([day["value"] for day in facts.get("daily", ()) if day["value"] is not None])
    return (
        f'<div class="smartcity-figure"><p class="smartcity-number">{escape(shown)} '
        f"<span>{text(words, unit)}</span></p>{line}</div>{trend}"
    )


def _sparkline(values: Sequence[float]) -> str:
    """Draw days as a small line; the sentence beside it says the same."""
    known = [value for value in values if not math.isnan(value)]
    if len(known) < 2:
        return ""
    low, span = min(known), (max(known) - min(known)) or 1.0
    step = 96 / (len(known) - 1)
    points = [(2 + n * step, 34 - 30 * (v - low) / span) for n, v in enumerate(known)]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    x, y = points[-1]
    return (
        f'<svg class="smartcity-spark" viewBox="0 0 100 38" aria-hidden="true">'
        f'<polyline points="{line}"/><circle cx="{x:.1f}" cy="{y:.1f}" r="3"/></svg>'
    )


def _advice(words: Words, facts: Mapping[str, Any]) -> str:
    if not facts.get("advice"):
        return ""
    return f"<p><strong>{text(words, 'What to do:')}</strong> {text(words, facts['advice'])}</p>"


def _outlook(words: Words, domain: Domain, facts: Mapping[str, Any]) -> str:
    said = facts.get("forecasts", {})
    comes = [
        f"{text(words, forecast.title)}: {text(words, said[forecast.name])}"
        for forecast in domain.forecasts
        if forecast.name in said
    ]
    return f"<ul>{''.join(f'<li>{line}</li>' for line in comes)}</ul>" if comes else ""


def _trust(words: Words, facts: Mapping[str, Any], run: Run, now: datetime) -> Iterator[str]:
    """Say how sure and how fresh the figures are: shortly, and the rest for who asks."""
    share = number(words, 1 - facts["missing_share"], ".0%")
    fresh = f"{text(words, 'Readings to')} {clock(words, facts['to'])}"
    age = now.replace(tzinfo=None) - datetime.fromisoformat(facts["to"])
    old = "more than a year" if age.days > 365 else f"{age.days} days"
    if held := facts.get("reliability"):
        level, found = f"{held['level']:.0%}", f"{held['held']:.1%}"
        sure = text(
            words, f"What it calls likely is meant to hold in {level} of cases; it held in {found}."
        )
        yield f'<p class="smartcity-soft">{sure}</p>'
    yield f'<p class="smartcity-soft">{fresh}, {escape(share)} {text(words, "complete")}.'
    if age.days > _STALE_DAYS:
        yield f" <strong>⚠ {text(words, f'The last reading is {old} old.')}</strong>"
    made = f"{text(words, 'Report made')} {moment(words, run.started_at)}."
    yield f"</p><details><summary>{text(words, 'More on this')}</summary>"
    yield f"<p>{_spoken(words, facts['verdict'])}</p><p>{made}</p></details>"


def _sentences(text: str) -> list[str]:
    """Part a text into its sentences, without their full stops."""
    return [part.removesuffix(".") for part in text.replace(". ", ".\n").split("\n") if part]


def _list(words: Words, items: Sequence[str], name: str = "") -> str:
    if not items:
        return ""
    said = "".join(f"<li>{text(words, item)}</li>" for item in items)
    named = f'<p class="smartcity-name">{text(words, name)}</p>' if name else ""
    return f"{named}<ul>{said}</ul>"


def answer(
    words: Words, predictor: Predictor, given: Prediction | None, problems: Sequence[str]
) -> str:
    """Write an answer: the number or class, what it means, how sure, and what to mind."""
    target = predictor.domain.target
    name = f'<h3 class="smartcity-name">{text(words, target.label)}</h3>'
    if given is None:
        said = "".join(f"<li>{escape(_named(words, problem))}</li>" for problem in problems)
        return f"{name}<p>⚠ {text(words, 'No answer:')}</p><ul>{said}</ul>"
    if given.label is not None:
        shown, sure = text(words, given.label), _probabilities(words, predictor, given)
    else:
        unit = f" <span>{escape(given.unit)}</span>"
        shown = number(words, given.prediction) + unit
        sure = _interval(words, predictor, given)
    warnings = [f"⚠ {words.say(warning)}" for warning in given.warnings]
    minded = "".join(f"<li>{escape(warning)}</li>" for warning in warnings)
    return (
        f'{name}<p class="smartcity-number" data-value="{given.prediction!r}">{shown}</p>'
        f"<p>{_spoken(words, given.text)}</p>{sure}"
        f"{_list(words, given.guidance)}{_reasons(words, given)}"
        + (f'<ul class="smartcity-warning">{minded}</ul>' if minded else "")
        + f'<p class="smartcity-soft">{text(words, f"Model {given.model_version}")}</p>'
    )


def _named(words: Words, problem: str) -> str:
    """Say a problem with an input, which is named before it."""
    name, _, what = problem.partition(": ")
    return words.say(what) if name == "row" else f"{words.say(name)}: {words.say(what)}"


def _spoken(words: Words, said: str) -> str:
    return " ".join(text(words, f"{sentence}.") for sentence in _sentences(said))


def spoken(words: Words, given: Prediction | None, problems: Sequence[str]) -> str:
    """Say an answer in one breath, for who listens to the page."""
    if given is None:
        return " ".join(_named(words, problem) for problem in problems)
    said = " ".join(words.say(f"{sentence}.") for sentence in _sentences(given.text))
    if given.inputs_outside_training:
        said += " " + words.say("Outside what the model has seen.")
    return said


def _probabilities(words: Words, predictor: Predictor, given: Prediction) -> str:
    rows = "".join(
        f'<dt>{text(words, label)}</dt><dd><i style="width:{share:.1%}"></i>'
        f"<span>{number(words, share, '.0%')}</span></dd>"
        for label, share in (given.probabilities or {}).items()
    )
    part = predictor.card.parts[NOW]
    off = part.reliability["error"] if part.reliability else 0.0
    said = f"Calibrated probabilities; on later time they were off by {off:.1%} on average."
    return (
        f'<dl class="smartcity-votes">{rows}</dl><p class="smartcity-soft">{text(words, said)}</p>'
    )


def _reasons(words: Words, given: Prediction) -> str:
    """Write what moved the answer most, in words."""
    if given.reasons is None:
        return ""
    moved = [r.text for r in given.reasons.contributions if abs(r.contribution) >= 0.005][:3]
    usual = "Beside what is usual:" if moved else "Everything is as usual."
    return (
        f'<p class="smartcity-name">{text(words, "Why")}</p><p>{text(words, usual)}</p>'
        f"{_list(words, moved)}"
    )


def _interval(words: Words, predictor: Predictor, given: Prediction) -> str:
    if given.interval is None:
        return ""
    low, high, level = given.interval.low, given.interval.high, given.interval.level
    top = max(high, predictor.card.answers["p90"] * 1.5)
    left, width, dot = (f"{100 * v / top:.1f}%" for v in (low, high - low, given.prediction))
    held = predictor.card.parts[NOW].coverage["overall"]
    between = text(words, f"Likely between {low:.2f} and {high:.2f} {given.unit}.")
    sure = f"Meant to hold in {level:.0%} of cases; on later time it held in {held:.0%}."
    return (
        f'<div class="smartcity-range" aria-hidden="true">'
        f'<i style="left:{left};width:{width}"></i><b style="left:{dot}"></b></div>'
        f'<p><strong>{between}</strong></p><p class="smartcity-soft">{text(words, sure)}</p>'
    )


def model(words: Words, predictor: Predictor) -> str:
    """Write the model card: what it is, what it learned from, how it was tested."""
    card = predictor.card
    data = card.data
    other = words.say("(not the published file)")
    files = ", ".join(
        f["name"] if f["published"] or data["simulated"] else f"{f['name']} {other}"
        for f in data["files"]
    )
    learned = f"{data['rows']:,} readings, {data['from'][:10]} to {data['to'][:10]}"
    rows = {
        "Version": escape(card.version),
        "Made": moment(words, card.created_at),
        "Learned from": text(words, learned),
        "Files": escape(files),
        "Licence": text(words, data["licence"]),
        "Method": escape(card.estimator),
        "Run": escape(card.run),
    }
    names = list(card.metrics["random"])
    models = {"with recent readings": card.metrics} if card.champion != NOW else {}
    models |= {"from the inputs alone": card.parts[NOW].metrics, "specified forest": card.specified}
    models |= card.baselines
    scores = [
        [text(words, model), text(words, "later time" if split == "time_ordered" else "random")]
        + [number(words, scored[split][name], ".3f") for name in names]
        for split in ("time_ordered", "random")
        for model, scored in models.items()
    ]
    header = ["Model", "tested on", *names]
    facts = "".join(f"<dt>{text(words, k)}</dt><dd>{v}</dd>" for k, v in rows.items())
    return (
        f"<details><summary><h3>{text(words, 'Model card')}</h3></summary><dl>{facts}</dl>"
        f"{table(words, 'Scores of model and baselines', header, scores)}</details>"
    )


def made_by(words: Words, run: Run) -> str:
    """Say which run drew a chart."""
    said = f"{text(words, 'Drawn by')} {escape(run.notebook)}, {moment(words, run.started_at)}, "
    return f'<p class="smartcity-soft">{said}{text(words, "run")} {escape(run.id)}.</p>'


def table(words: Words, caption: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a table; its cells are HTML already."""
    head = "".join(f'<th scope="col">{text(words, cell)}</th>' for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{c}</td>" for c in row) + "</tr>" for row in rows)
    return (
        f'<div class="smartcity-wide" tabindex="0" role="group" '
        f'aria-label="{text(words, caption)}"><table>'
        f"<caption>{text(words, caption)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )
