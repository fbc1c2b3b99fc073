"""The model card as a page to read."""

import re
from pathlib import Path

import jinja2

from smartcity.domains import Domain
from smartcity.registry import NOW, Card, Part

_NAMES = {NOW: "From the inputs alone", "recent": "With the time and recent readings"}


def _models(part: Part) -> dict[str, dict[str, dict[str, float]]]:
    """Give the scores of what was chosen, of what was tried, and of the guesses."""
    models = {f"**{part.recipe}**": part.metrics}
    models |= {n: s for n, s in part.candidates.items() if n != part.recipe}
    return models | {f"guess: {n}": s for n, s in part.baselines.items()}


def as_markdown(domain: Domain, card: Card) -> str:
    """Write a card for people; ``{version}`` stays open for the registry to fill.

    Args:
        domain: The question the model answers.
        card: The card.

    Returns:
        Markdown.
    """
    environment = jinja2.Environment(  # noqa: S701  # what is written is not HTML
        trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    template = Path(__file__).with_name("card.md.j2").read_text(encoding="utf-8")
    titles = _NAMES | {forecast.name: forecast.title for forecast in domain.forecasts}
    text = environment.from_string(template).render(
        domain=domain, card=card, titles=titles, models=_models
    )
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"
