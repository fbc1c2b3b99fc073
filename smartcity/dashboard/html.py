"""The page's words and numbers as HTML; every value is escaped here and nowhere else."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from smartcity.domains import Domain, Input
from smartcity.predict import Prediction, Predictor
from smartcity.registry import NOW, CardInput
from smartcity.runs import Run


def head(style: str, simulated: Sequence[str]) -> str:
    """Write the page's head: its style, its name, and whether the city is a simulated one."""
    banner = ""
    if simulated:
        what = escape(", ".join(simulated))
        banner = (
            f'<p class="smartcity-banner" role="note"><strong>Simulated.</strong> {what}: trained '
            f"on the simulated demo city, not on real sensors.</p>"
        )
    return (
        f"<style>{style}</style><header><h1>SmartCity</h1>"
        f"<p>What the city's sensors say, and what to expect.</p></header>{banner}"
    )


def title(predictor: Predictor) -> str:
    """Write the head of a domain's page."""
    return (
        f"<h2>{escape(predictor.domain.question)}</h2>"
        f'<p class="smartcity-soft">Readings: {escape(predictor.card.data["source"])}</p>'
    )


def section(name: str, text: str = "") -> str:
    """Write the head of a part of a page."""
    said = f'<p class="smartcity-soft">{escape(text)}</p>' if text else ""
    return f"<h3>{escape(name)}</h3>{said}"


def problem(name: str, text: str) -> str:
    """Write that something is not there, and what to do."""
    return f'<h3>{escape(name)}</h3><p class="smartcity-warning">{escape(text)}</p>'


def overview(domain: Domain, facts: Mapping[str, Any] | None) -> str:
    """Write one question's card: the last report's sentence, how fresh, how far to trust it."""
    name = f"<h3>{escape(domain.title)}</h3>"
    if facts is None:
        return f"{name}<p>No report yet. Make one: smartcity build --domain {domain.name}</p>"
    if domain.target.levels:
        number, unit = f"{facts['value']:.0%}", "high or above"
    else:
        number, unit = f"{facts['value']:.2f}", domain.target.unit
    said = facts.get("forecasts", {})
    comes = "".join(
        f"<li>{escape(forecast.title)}: {escape(said[forecast.name])}</li>"
        for forecast in domain.forecasts
        if forecast.name in said
    )
    return (
        f'{name}<p class="smartcity-number">{number} <span>{escape(unit)}</span></p>'
        f"<p>{escape(facts['sentence'])}</p>"
        + (f"<ul>{comes}</ul>" if comes else "")
        + f'<p class="smartcity-soft">Readings to {escape(facts["to"].replace("T", " ")[:16])}, '
        f"{1 - facts['missing_share']:.0%} complete. {escape(facts['verdict'])}</p>"
    )


def input_label(spec: Input, seen: CardInput) -> str:
    """Write an input's name, unit and training range."""
    span = f"{seen.low:g}" if seen.low == seen.high else f"{seen.low:g} to {seen.high:g}"
    return (
        f'<span class="smartcity-name">{escape(spec.label)}</span><br>'
        f'<span class="smartcity-soft">{escape(spec.unit)}, seen {span}</span>'
    )


def answer(predictor: Predictor, given: Prediction | None, problems: Sequence[str]) -> str:
    """Write an answer: the number or class, what it means, how sure, and what to mind."""
    target = predictor.domain.target
    name = f'<p class="smartcity-name">{escape(target.label)}</p>'
    if given is None:
        said = "".join(f"<li>{escape(text)}</li>" for text in problems)
        return f'<div role="status">{name}<p>No answer:</p><ul>{said}</ul></div>'
    if given.label is not None:
        number = f'<p class="smartcity-number">{escape(given.label)}</p>'
        sure = _probabilities(predictor, given)
    else:
        number = (
            f'<p class="smartcity-number">{given.prediction:.2f} '
            f"<span>{escape(given.unit)}</span></p>"
        )
        sure = _interval(predictor, given)
    guidance = "".join(f"<li>{escape(text)}</li>" for text in given.guidance)
    warnings = "".join(f"<li>⚠ {escape(text)}</li>" for text in given.warnings)
    return (
        f'<div role="status">{name}{number}<p>{escape(given.text)}</p>{sure}'
        + (f"<ul>{guidance}</ul>" if guidance else "")
        + _reasons(given)
        + (f'<ul class="smartcity-warning">{warnings}</ul>' if warnings else "")
        + f'<p class="smartcity-soft">Model {escape(given.model_version)}</p></div>'
    )


def _probabilities(predictor: Predictor, given: Prediction) -> str:
    rows = "".join(
        f'<dt>{escape(label)}</dt><dd><i style="width:{share:.1%}"></i>'
        f"<span>{share:.0%}</span></dd>"
        for label, share in (given.probabilities or {}).items()
    )
    part = predictor.card.parts[NOW]
    off = part.reliability["error"] if part.reliability else 0.0
    return (
        f'<dl class="smartcity-votes">{rows}</dl>'
        f'<p class="smartcity-soft">Calibrated probabilities; on later time they were off by '
        f"{off:.1%} on average.</p>"
    )


def _reasons(given: Prediction) -> str:
    """Write what moved the answer most, in words."""
    if given.reasons is None:
        return ""
    moved = [r for r in given.reasons.contributions if abs(r.contribution) >= 0.005][:3]
    said = "".join(f"<li>{escape(reason.text)}</li>" for reason in moved)
    usual = "Everything is as usual." if not moved else "Beside what is usual:"
    return f'<p class="smartcity-name">Why</p><p>{usual}</p><ul>{said}</ul>'


def _interval(predictor: Predictor, given: Prediction) -> str:
    if given.interval is None:
        return ""
    low, high, level = given.interval.low, given.interval.high, given.interval.level
    top = max(high, predictor.card.answers["p90"] * 1.5)
    left, width, dot = (f"{100 * v / top:.1f}%" for v in (low, high - low, given.prediction))
    held = predictor.card.parts[NOW].coverage["overall"]
    return (
        f'<div class="smartcity-range" aria-hidden="true">'
        f'<i style="left:{left};width:{width}"></i><b style="left:{dot}"></b></div>'
        f"<p>Likely between <strong>{low:.2f}</strong> and <strong>{high:.2f}</strong> "
        f'{escape(given.unit)}.</p><p class="smartcity-soft">Meant to hold in {level:.0%} of '
        f"cases; on later time it held in {held:.0%}.</p>"
    )


def model(predictor: Predictor) -> str:
    """Write the model card: what it is, what it learned from, how it was tested."""
    card = predictor.card
    data = card.data
    files = ", ".join(
        f["name"] + ("" if f["published"] or data["simulated"] else " (not the published file)")
        for f in data["files"]
    )
    rows = {
        "Version": card.version,
        "Made": card.created_at.replace("T", " "),
        "Learned from": f"{data['rows']:,} readings, {data['from'][:10]} to {data['to'][:10]}",
        "Files": files,
        "Licence": data["licence"],
        "Method": card.estimator,
        "Run": card.run,
    }
    names = list(card.metrics["random"])
    models = {"with recent readings": card.metrics} if card.champion != NOW else {}
    models |= {"from the inputs alone": card.parts[NOW].metrics, "specified forest": card.specified}
    models |= card.baselines
    scores = [
        [model, "later time" if split == "time_ordered" else "random rows"]
        + [f"{scored[split][name]:.3f}" for name in names]
        for split in ("time_ordered", "random")
        for model, scored in models.items()
    ]
    header = ["", "tested on", *names]
    return (
        "<h3>Model card</h3><dl>"
        + "".join(f"<dt>{escape(k)}</dt><dd>{escape(str(v))}</dd>" for k, v in rows.items())
        + f"</dl>{_table(header, scores)}"
    )


def made_by(run: Run) -> str:
    """Say which run drew a chart."""
    return (
        f'<p class="smartcity-soft">Drawn by {escape(run.notebook)}, '
        f"{escape(run.started_at.replace('T', ' ')[:16])} UTC, run {escape(run.id)}.</p>"
    )


def models(served: Mapping[str, Predictor], errors: Mapping[str, str]) -> str:
    """Write which model of each domain is being served, and what is wrong."""
    rows = [
        [p.domain.title, p.card.version, p.card.created_at.replace("T", " ")[:16], p.card.verdict]
        for p in served.values()
    ]
    wrong = "".join(f"<li>⚠ {escape(text)}</li>" for text in errors.values())
    return (
        "<h3>Models being served</h3>"
        + _table(["Question", "Version", "Made (UTC)", "On later time"], rows)
        + (f'<ul class="smartcity-warning">{wrong}</ul>' if wrong else "")
    )


def runs(rows: Sequence[tuple[Domain, Run]]) -> str:
    """Write the last run of each notebook, with a link where it is a report to read."""
    cells = []
    for domain, run in rows:
        mark = "✓ succeeded" if run.status == "succeeded" else "✗ failed"
        link = ""
        if run.notebook == "05_report" and run.status == "succeeded":
            path = f"smartcity/reports/{run.domain}/{run.id}/report.html"
            link = f'<a href="{path}" target="_blank">Open</a>'
        when = run.started_at.replace("T", " ")[:16]
        plain = [domain.title, run.notebook, mark, when, f"{run.seconds:.0f} s"]
        cells.append([*map(escape, plain), link])
    header = ["Question", "Notebook", "Status", "Started (UTC)", "Took", "Report"]
    return "<h3>Last runs</h3>" + _raw_table(header, cells)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return _raw_table(header, [list(map(escape, row)) for row in rows])


def _raw_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{c}</td>" for c in row) + "</tr>" for row in rows)
    return f'<div class="smartcity-wide"><table><tr>{head}</tr>{body}</table></div>'
