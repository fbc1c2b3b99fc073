"""The page's own widgets: its head, the what-if form, and charts with their tables."""

from collections.abc import Mapping, Sequence
from typing import Any

import anywidget
import traitlets

from smartcity.dashboard import html, snapshot
from smartcity.dashboard.state import Question
from smartcity.dashboard.words import Words
from smartcity.domains import Input, Option
from smartcity.registry import CardInput

_STATIC = snapshot.STATIC


class Head(anywidget.AnyWidget):
    """The page's head: which page is shown, as a link has it; language, theme, saving.

    Attributes:
        html: The head as HTML, made by ``html.head``.
        page: The page being shown.
        query: What the link says beside the page, as the browser read it.
        language: The reader's language.
        texts: What the script says itself.
    """

    _esm = _STATIC / "head.js"
    _css = _STATIC / "page.css"
    html = traitlets.Unicode().tag(sync=True)
    page = traitlets.Unicode().tag(sync=True)
    query = traitlets.Dict().tag(sync=True)
    language = traitlets.Unicode("en").tag(sync=True)
    texts = traitlets.Dict().tag(sync=True)


class Form(anywidget.AnyWidget):
    """One question's inputs and options beside their answer.

    Attributes:
        page: The page it stands on.
        fields: How each input is asked for.
        values: Input or option -> number, None where there is no reading.
        answer: The answer as HTML, and in one breath for who listens.
        texts: What the script says itself.
    """

    _esm = _STATIC / "form.js"
    page = traitlets.Unicode().tag(sync=True)
    fields: Any = traitlets.List().tag(sync=True)
    values = traitlets.Dict().tag(sync=True)
    answer: Any = traitlets.List().tag(sync=True)
    texts = traitlets.Dict().tag(sync=True)

    def __init__(self, question: Question, words: Words, **traits: Any) -> None:
        """Ask for the inputs of a question.

        Args:
            question: Holds the inputs and answers them.
            words: The language.
            traits: Those of any widget.
        """
        self._question, self._words = question, words
        predictor = question.predictor
        seen = {i.name: i for i in predictor.card.inputs}
        fields = [_field(words, i, seen[i.name]) for i in predictor.domain.inputs if not i.sum_of]
        fields += [_option(words, option) for option in predictor.domain.options]
        super().__init__(
            page=predictor.domain.name,
            fields=fields,
            texts=words.texts("form"),
            values=dict(question.inputs),
            answer=self._answered(),
            **traits,
        )
        self.observe(self._changed, "values")
        question.observe(self._follow, "inputs")

    def _answered(self) -> list[str]:
        question, words = self._question, self._words
        told = (question.answer, question.problems)
        return [html.answer(words, question.predictor, *told), html.spoken(words, *told)]

    def _changed(self, change: Mapping[str, Any]) -> None:
        self._question.inputs = change["new"]

    def _follow(self, _: object) -> None:
        """Show what was asked, whoever asked."""
        with self.hold_trait_notifications():
            self.values = dict(self._question.inputs)
            self.answer = self._answered()


class Charts(anywidget.AnyWidget):
    """Charts made elsewhere, each with its summary, its table and a file of its numbers.

    Attributes:
        figures: Plotly figures as JSON data, with ``meta`` as ``charts`` gives it.
        texts: What the script says itself.
    """

    _esm = _STATIC / "charts.js"
    figures: Any = traitlets.List().tag(sync=True)
    texts = traitlets.Dict().tag(sync=True)

    def __init__(self, words: Words, **traits: Any) -> None:
        """Wait for figures."""
        super().__init__(texts=words.texts("charts"), **traits)
        self._words = words
        self.on_msg(self._send_plotly)

    def show(self, figures: Sequence[dict[str, Any]]) -> None:
        """Draw figures in the language."""
        self.figures = [self._words.figure(figure) for figure in figures]

    def _send_plotly(self, _: object, content: object, __: object) -> None:
        # Under JupyterLab or Voila's own template no page of ours brings plotly.js: hand it over.
        if content == "plotly":
            from plotly.offline import get_plotlyjs

            self.send("plotly", buffers=[get_plotlyjs().encode()])


def _field(words: Words, spec: Input, seen: CardInput) -> dict[str, Any]:
    """Say how an input is asked for: a slider a little wider than what the model has seen."""
    margin = (seen.high - seen.low) * 0.15
    low, high = max(spec.low, seen.low - margin), min(spec.high, seen.high + margin)
    if low == high:
        low, high = spec.low, spec.high
    decimals = 0 if spec.whole else max(0, len(f"{spec.step:g}".partition(".")[2]))
    return {
        **spec.model_dump(include={"name", "low", "high", "step", "optional"}),
        "label": words.say(spec.label),
        "unit": words.say(spec.unit),
        "min": round(low, decimals),
        "max": round(high, decimals),
        "decimals": decimals,
        "seen": [seen.low, seen.high],
        "usual": seen.typical,
    }


def _option(words: Words, option: Option) -> dict[str, Any]:
    """Say how a number is asked for that changes only what an answer means."""
    said = {"label": words.say(option.label), "unit": words.say(option.unit)}
    return option.model_dump(include={"name", "low", "high"}) | said
