"""The page's texts in other languages: a catalogue from English sentences to theirs."""

import re
import tomllib
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

#: Language -> its own name. English is what the code says, and ``en.toml``; each other language has
#: a file of sentences.
LANGUAGES = {"en": "English", "de": "Deutsch"}
_NUMBER = re.compile(r"(?<![\w.-])[+-]?\d[\d,]*(?:\.\d+)?(?![\w.]*\d)")
_WORD = re.compile(r"[^\W\d_]{3}")
_PERCENT = re.compile(r"(?<=\d)%")
_PLACE = re.compile(r"\\\{\\\}")


def english(part: str) -> dict[str, str]:
    """Give what a part of the page says itself: the name it asks for -> English."""
    return dict(_catalogue("en")[part])


@cache
def _catalogue(language: str) -> dict[str, Any]:
    return tomllib.loads(Path(__file__).with_name(f"{language}.toml").read_text(encoding="utf-8"))


class Words:
    """Says English sentences in a language, numbers in them as the language writes them.

    A sentence is looked up as it stands, or as a pattern: ``"{} of {} readings"`` says every
    sentence of that shape, and what stands in the gaps is said too. What is not in the catalogue
    is said in English and noted in ``missing``.
    """

    def __init__(self, language: str = "en") -> None:
        """Read the catalogue of one of ``LANGUAGES``; English needs none."""
        self.language = language
        self.missing: set[str] = set()
        self.decimal, self.group, self.percent = ".", ",", "%"
        self._exact: dict[str, str] = {}
        self._patterns: list[tuple[re.Pattern[str], str]] = []
        if language != "en":
            self._read(_catalogue(language))
        self.say = lru_cache(4096)(self._say) if language != "en" else str

    def _read(self, known: dict[str, Any]) -> None:
        form = known["format"]
        self.decimal, self.group, self.percent = form["decimal"], form["group"], form["percent"]
        texts: dict[str, str] = known["texts"]
        self._exact = {english: said for english, said in texts.items() if "{}" not in english}
        # Those that leave least open come first.
        order = {text: (text.count("{}") - len(text), text) for text in texts}
        open_ended = sorted(texts.keys() - self._exact.keys(), key=order.__getitem__)
        for english in open_ended:
            pattern = _PLACE.sub("(.+?)", re.escape(english))
            self._patterns.append((re.compile(pattern, re.DOTALL), texts[english]))

    def texts(self, part: str) -> dict[str, str]:
        """Say what a part of the page says itself."""
        return {name: self.say(text) for name, text in english(part).items()}

    def number(self, text: str) -> str:
        """Write the numbers of a text, as Python formats them, as the language does."""
        swap = str.maketrans({".": self.decimal, ",": self.group})
        text = _NUMBER.sub(lambda found: found[0].translate(swap), text)
        return _PERCENT.sub(self.percent, text)

    def _say(self, text: str) -> str:
        plain = text.strip()
        if plain in self._exact:
            return text.replace(plain, self._exact[plain])
        if not _WORD.search(plain):
            return self.number(text)
        for pattern, said in self._patterns:
            if found := pattern.fullmatch(plain):
                parts = [self._say(part) for part in found.groups()]
                return text.replace(plain, said.format(*parts))
        self.missing.add(plain)
        return self.number(text)

    def figure(self, figure: dict[str, Any]) -> dict[str, Any]:
        """Say a plotly figure's texts, and let it write numbers the same way."""
        if self.language == "en":
            return figure
        said: dict[str, Any] = self._inside(figure)
        said["layout"]["separators"] = f"{self.decimal}{self.group}"
        return said

    def _inside(self, part: Any, key: str = "") -> Any:
        if isinstance(part, dict):
            # A chart's own name, beside its summary, is for finding it.
            return {
                k: v if (key, k) == ("meta", "name") else self._inside(v, self._named(k, key))
                for k, v in part.items()
            }
        if isinstance(part, list):
            return [self._inside(v, key) for v in part]
        return self.say(part) if isinstance(part, str) and key in _SAID else part

    @staticmethod
    def _named(key: str, above: str) -> str:
        return above if key == "text" and above == "title" else key


#: Where a figure holds texts for readers: titles, traces, summaries, categories.
_SAID = {"title", "name", "summary", "x", "y", "text", "hovertext", "hovertemplate"}
