"""What can be shown without a kernel: the last reports' figures, as plain HTML."""

from collections.abc import Callable, Mapping
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from smartcity import domains, registry, runs
from smartcity.dashboard import html
from smartcity.dashboard.words import LANGUAGES, Words
from smartcity.domains import Domain
from smartcity.errors import ModelError

#: The template's own files: the page's look and its widgets' modules; ``made`` holds the bundle.
STATIC = Path(__file__).parent / "share" / "voila" / "templates" / "smartcity" / "static"
_STYLE = STATIC / "page.css"
_BUSY = (
    "No seat is free just now. These are the figures of the last reports; this page asks again "
    "by itself."
)
#: Seconds after which a busy page asks again.
RETRY_SECONDS = 20


def module(text: object) -> str | None:
    """Name the template's file that holds a widget's module, as the page's script asks for it.

    Args:
        text: The module.
    """
    return _modules().get(text)


@cache
def _modules() -> dict[object, str]:
    texts = {path.name: path.read_text(encoding="utf-8") for path in STATIC.glob("*.js")}
    return {t: f"{n}?v={sha256(t.encode()).hexdigest()[:12]}" for n, t in texts.items()}


def titles() -> dict[str, str]:
    """Name the pages, in their order."""
    named = {name: domain.title for name, domain in domains.load_all().items()}
    return {"overview": "Overview", **named, "reports": "Reports & monitoring"}


def simulated() -> list[str]:
    """Name the questions whose served model was trained on the simulated city."""
    found = []
    for domain in domains.load_all().values():
        try:
            data = registry.card(domain.name).data
        except ModelError:
            continue
        found += [domain.title] if data["simulated"] else []
    return found


def overview(words: Words) -> str:
    """Write every question's card side by side."""
    cards = []
    for domain in domains.load_all().values():
        run = runs.latest("05_report", domain.name)
        facts = runs.facts(run) if run else None
        cards.append(html.overview(words, domain, facts, run, _news(domain)))
    head = html.heading(words, "The city in three answers")
    return f'{head}<div class="smartcity-cards">{"".join(cards)}</div>'


def _news(domain: Domain) -> list[str]:
    """Say what is new in a question's last report beside the one before."""
    told = []
    for kind, before, after in runs.changes(domain.name):
        if kind in _TOLD and before is not None and after is not None:
            form = ".0%" if domain.target.levels else ".2f"
            values = [f"{v:{form}}" if kind == "value" else v for v in (before, after)]
            told.append(_TOLD[kind](*values))
    return told


def first(words: Words, head: str) -> str:
    """Write what a page shows before its widgets are awake.

    Args:
        words: The language.
        head: The page's head as HTML.
    """
    style = _STYLE.read_text(encoding="utf-8")
    waking = html.text(words, "Waking up the models…")
    bones = '<div class="smartcity-bones" aria-hidden="true"><i></i><i></i><i></i></div>'
    waits = f'<p role="status">{waking}</p>{bones}'
    return (
        f'<style>{style}</style><div class="smartcity smartcity-first">{head}'
        f'<main class="smartcity-page smartcity-page-overview">{overview(words)}</main>'
        f'<div class="smartcity-waits">{waits}</div></div>'
    )


def busy_page(accepted: str = "") -> str:
    """Write the page for when all seats are taken: the same figures, and when to ask again.

    Args:
        accepted: The reader's languages, as a browser's ``Accept-Language`` lists them.
    """
    wanted = (part.strip()[:2] for part in accepted.split(","))
    words = Words(next((language for language in wanted if language in LANGUAGES), "en"))
    head = (
        f'<!DOCTYPE html><html lang="{words.language}"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="refresh" content="{RETRY_SECONDS}"><title>SmartCity</title>'
        f'<link rel="icon" href="data:,"><style>{_STYLE.read_text(encoding="utf-8")}</style></head>'
    )
    again = f'<a href="">{html.text(words, "Try again now")}</a>'
    busy = f'<p class="smartcity-banner" role="status">{html.text(words, _BUSY)} {again}</p>'
    said = busy + html.banner(words, simulated())
    page = f'<main class="smartcity"><h1>SmartCity</h1>{said}{overview(words)}</main>'
    return f'{head}<body class="smartcity-body">{page}</body></html>'


#: How a change since the report before is told; kind -> words for before and after.
_TOLD: Mapping[str, Callable[[Any, Any], str]] = {
    "value": lambda before, after: f"The figure went from {before} to {after}.",
    "to": lambda before, after: f"Readings now reach to {_day(after)}, before to {_day(before)}.",
    "model_version": lambda before, after: f"The model is now {after}, before {before}.",
    "missing_share": lambda before, after: (
        f"Readings are {1 - after:.0%} complete, before {1 - before:.0%}."
    ),
    "days": lambda before, after: f"The period is now {after} days, before {before}.",
    "verdict": lambda *_: "How far the model can be trusted has changed.",
    "simulated": lambda _, after: (
        "The readings are simulated now." if after else "The readings are real now."
    ),
    "site": lambda before, after: f"The site is now {after}, before {before}.",
}


def _day(at: str) -> str:
    return at[:16].replace("T", " ")
