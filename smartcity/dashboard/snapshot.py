"""What can be shown without a kernel: the last reports' figures, as plain HTML."""

from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from smartcity import domains, registry, runs
from smartcity.dashboard import html
from smartcity.dashboard.words import LANGUAGES, Words, english
from smartcity.domains import Domain
from smartcity.errors import ModelError

#: The template's own files: the page's look and its widgets' modules; ``made`` holds the bundle.
STATIC = Path(__file__).parent / "share" / "voila" / "templates" / "smartcity" / "static"
_STYLE = STATIC / "page.css"
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
    form = ".0%" if domain.target.levels else ".2f"
    shown: dict[str, Any] = {
        "value": lambda value: format(value, form),
        "to": lambda at: at[:16].replace("T", " "),
        "missing_share": lambda share: f"{1 - share:.0%}",
        "simulated": lambda is_so: "simulated" if is_so else "real",
    }
    texts, told = english("news"), []
    for kind, *both in runs.changes(domain.name):
        if kind in texts and None not in both:
            before, after = map(shown.get(kind, str), both)
            told.append(texts[kind].format(before=before, after=after))
    return told


def first(words: Words, head: str) -> str:
    """Write what a page shows before its widgets are awake.

    Args:
        words: The language.
        head: The page's head as HTML.
    """
    style = _STYLE.read_text(encoding="utf-8")
    return html.written("first", words, style, head, overview(words))


def busy_page(accepted: str = "") -> str:
    """Write the page for when all seats are taken: the same figures, and when to ask again.

    Args:
        accepted: The reader's languages, as a browser's ``Accept-Language`` lists them.
    """
    wanted = (part.strip()[:2] for part in accepted.split(","))
    words = Words(next((language for language in wanted if language in LANGUAGES), "en"))
    style = _STYLE.read_text(encoding="utf-8")
    return html.written("busy", words, style, simulated(), overview(words), RETRY_SECONDS)
