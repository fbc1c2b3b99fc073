"""The model card as a page to read."""

from smartcity.domains import Domain
from smartcity.registry import NOW, Card, Part

_NAMES = {NOW: "From the inputs alone", "recent": "With the time and recent readings"}

_USE = (
    "To judge conditions at this site, with these sensors, by a person who sees the interval and "
    "the warnings. Not for other sites without their own readings, not for enforcement, not for "
    "alarms that act on their own."
)
_LIMITS = (
    "Sensors drift: expect errors to grow with the months since training. Beyond the ranges above, "
    "or where inputs do not go together as they did in training, the answer warns."
)


def _rows(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _scores(card: Card, part: Part) -> str:
    names = list(part.metrics["random"])
    models = {f"**{part.recipe}**": part.metrics}
    models |= {n: s for n, s in part.candidates.items() if n != part.recipe}
    models |= {f"guess: {n}": s for n, s in part.baselines.items()}
    rows = [
        [model, split.replace("_", "-"), *(f"{scores[split][name]:.3f}" for name in names)]
        for split in card.splits
        for model, scores in models.items()
        if split in scores
    ]
    return _rows(["model", "split", *names], rows)


def _sure(card: Card, part: Part) -> list[str]:
    level, held = part.coverage["level"], part.coverage["overall"]
    kind = "intervals" if part.intervals else "prediction sets"
    months = ", ".join(f"{m}: {share:.1%}" for m, share in part.coverage["by_month"].items())
    width = f"{part.coverage['mean_width']:.2f} {card.unit or 'classes'}"
    held_in = f"{held:.1%} held the truth on later time ({months})"
    said = [f"Of its {level:.0%} {kind}, {held_in}; on average they are {width} wide."]
    if part.reliability:
        said.append(
            f"Brier score {part.reliability['brier']:.3f}; stated probabilities are off by "
            f"{part.reliability['error']:.1%} on average."
        )
    if part.guidelines:
        cv, bias = part.guidelines["cv_rmse"], part.guidelines["nmbe"]
        said.append(f"CV(RMSE) {cv:.1%}, NMBE {bias:+.1%} on later time.")
    low, high = part.spread
    said.append(f"Drawing days anew, the first figure lies in {low:.3f} to {high:.3f} (90 %).")
    return said


def _ahead(card: Card, part: Part) -> str:
    if len(part.by_ahead) < 2:
        return ""
    metric = next(iter(card.metrics["random"]))
    rows = [
        [f"{int(m) // 60} h {int(m) % 60:02} min", f"{s[metric]:.3f}", f"{s['skill']:+.0%}"]
        for m, s in part.by_ahead.items()
    ]
    return _rows(["ahead", metric, "skill over the best guess at that distance"], rows)


def _part(domain: Domain, card: Card, name: str) -> list[str]:
    part = card.parts[name]
    titles = _NAMES | {forecast.name: forecast.title for forecast in domain.forecasts}
    mark = ", the champion" if name == card.champion else ""
    return [
        f"### {titles[name]}{mark}",
        card.judged(name),
        _scores(card, part),
        " ".join(_sure(card, part)),
        _ahead(card, part),
    ]


def as_markdown(domain: Domain, card: Card) -> str:
    """Write a card for people; ``{version}`` stays open for the registry to fill.

    Args:
        domain: The question the model answers.
        card: The card.

    Returns:
        Markdown.
    """
    data = card.data
    span = f"{data['from']} to {data['to']}"
    inputs = [
        [
            i.label,
            i.unit,
            f"{i.low:g} to {i.high:g}",
            f"{i.edges[0]:g} to {i.edges[1]:g}",
            "may be missing: its median stands in" if i.optional else "",
        ]
        for i in card.inputs
    ]
    files = [
        f"- `{f['name']}` sha256 `{f['sha256']}`"
        + ("" if f["published"] or data["simulated"] else " (not the published file)")
        for f in data["files"]
    ]
    left_out = [f"- {reason}: {rows} rows" for reason, rows in data["rows_left_out"].items()]
    splits = [f"- {name.replace('_', '-')}: {text}" for name, text in card.splits.items()]
    averaged = f"Precision, recall and F1 are {card.averaging} averages." if card.averaging else ""
    missing = [f"- {name}: left out, {why}" for name, why in card.left_out.items()]
    packages = ", ".join(f"{name} {v}" for name, v in card.environment["packages"].items())
    gate = "passed" if card.gate.passed else "refused: " + " ".join(card.gate.reasons)
    commit = f"commit `{card.git['commit']}`" + (" with changes" if card.git["dirty"] else "")
    again = f"`smartcity run 02_train --domain {domain.name} -p site {data['site']}`"
    made = (
        f"Run `{card.run}`, {commit}, Python {card.environment['python']}, {packages}. With the "
        f"same files: {again}."
    )
    sections = [
        f"# {domain.title} {{version}}",
        f"**{domain.question}** {domain.target.label}, {card.unit or 'as a class'}.",
        f"Made from {data['source']}: {data['rows']} rows, site {data['site']}, {span}.",
        f"Gate: {gate}.",
        "## Intended use",
        _USE,
        "## How good it is, and how sure",
        "\n".join(splits),
        averaged,
        *(text for name in card.parts for text in _part(domain, card, name)),
        "\n".join(missing),
        "## What it takes",
        _rows(["input", "unit", "seen in training", "all but the outer 2 %", ""], inputs),
        "## Limits",
        _LIMITS,
        "## What it learned from",
        "\n".join(files),
        f"Licence: {data['licence']}. Not used:",
        "\n".join(left_out),
        "## How it was made, and how to make it again",
        made,
    ]
    return "\n\n".join(part for part in sections if part) + "\n"
