"""The model card as a page to read."""

from smartcity.domains import Domain
from smartcity.registry import Card


def _rows(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _scores(card: Card) -> str:
    names = list(card.metrics["random"])
    models = {"this model": card.metrics, "specified forest": card.specified, **card.baselines}
    rows = [
        [model, split.replace("_", "-"), *(f"{scores[split][name]:.3f}" for name in names)]
        for split in card.splits
        for model, scores in models.items()
    ]
    return _rows(["model", "split", *names], rows)


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
        [i.label, i.unit, f"{i.low:g} to {i.high:g}", "may be missing" if i.optional else ""]
        for i in card.inputs
    ]
    files = [
        f"- `{f['name']}` sha256 `{f['sha256']}`"
        + ("" if f["published"] or data["simulated"] else " (not the published file)")
        for f in data["files"]
    ]
    left_out = [f"- {reason}: {rows} rows" for reason, rows in data["rows_left_out"].items()]
    splits = [f"- {name.replace('_', '-')}: {text}" for name, text in card.splits.items()]
    notes = []
    if card.coverage:
        notes.append(
            f"Of its {card.coverage['level']:.0%} intervals, {card.coverage['overall']:.1%} held "
            f"the truth on later time."
        )
    if card.averaging:
        notes.append(f"Precision, recall and F1 are {card.averaging} averages over the classes.")
    packages = ", ".join(f"{name} {v}" for name, v in card.environment["packages"].items())
    sections = [
        f"# {domain.title} {{version}}",
        f"**{domain.question}** {domain.target.label}, {card.unit or 'as a class'}.",
        f"Made from {data['source']}: {data['rows']} rows, site {data['site']}, {span}.",
        "## How good it is",
        "\n".join(splits),
        _scores(card),
        " ".join(notes),
        "## What it takes",
        _rows(["input", "unit", "seen in training", ""], inputs),
        "## What it learned from",
        "\n".join(files),
        f"Licence: {data['licence']}. Not used:",
        "\n".join(left_out),
        "## How it was made",
        f"{card.estimator}. Run `{card.run}`, commit `{card.git['commit']}`"
        + (" with uncommitted changes" if card.git["dirty"] else "")
        + f", Python {card.environment['python']}, {packages}.",
    ]
    return "\n\n".join(part for part in sections if part) + "\n"
