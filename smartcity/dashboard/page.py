"""Five pages in one kernel: overview, the three questions, reports."""

import os
from collections.abc import Mapping
from typing import Any

import ipywidgets as widgets
from ipywidgets.embed import dependency_state

from smartcity import domains, runs
from smartcity.dashboard import html, kernels, snapshot
from smartcity.dashboard.controls import Charts, Form, Head
from smartcity.dashboard.monitor import Monitor
from smartcity.dashboard.state import Question
from smartcity.dashboard.upload_panel import UploadPanel
from smartcity.dashboard.words import LANGUAGES, Words
from smartcity.domains import Domain
from smartcity.errors import SmartCityError, unknown
from smartcity.predict import Predictors

#: What our Voila template starts from: all widgets, ready before the kernel answers.
STATE = "application/vnd.smartcity.page+json"


class Dashboard(widgets.VBox):
    """The whole page: a widget, so the same notebook works in JupyterLab and under Voila.

    Attributes:
        head: Which page is shown, in which language.
        questions: Domain -> its state, where it can be answered.
    """

    children: tuple[widgets.Widget, ...]

    def __init__(self, page: str = "overview") -> None:
        """Show a page.

        Args:
            page: ``overview``, a domain's name, or ``reports``.

        Raises:
            UsageError: There is no such page.
        """
        self._predictors = kernels.warm() or Predictors()
        self.titles = snapshot.titles()
        if page not in self.titles:
            raise unknown("page", page, self.titles)
        self.questions: dict[str, Question] = {}
        self._words = Words()
        self._charts: dict[str, list[tuple[Charts, str, list[str]]]] = {}
        self.head = Head(page=page)
        # One layout and one style for all: CSS dresses the page, and there are fewer to wake.
        self._bare = {"layout": self.head.layout}
        super().__init__(**self._bare)
        self.add_class("smartcity")
        self._style = widgets.HTML(**self._bare).style
        self._write()
        self.head.observe(self._turn, "page")
        self.head.observe(self._restore, "query")
        self.head.observe(self._translate, "language")

    def _write(self) -> None:
        """Write every page, in the language chosen."""
        words = self._words
        self.head.html = html.head(words, self.titles, self.head.page, snapshot.simulated())
        self.head.texts = words.texts("head")
        self._charts = {}
        self._monitor = Monitor(self._predictors, words, self._plain())
        pages = [self._page("overview", self._html(snapshot.overview(words)))]
        pages += [self._question(domain) for domain in domains.load_all().values()]
        pages.append(self._page("reports", *self._monitor.children))
        before = self.children[1:]
        self.children = (self.head, *pages)
        for old in before:
            old.close()
        self._turn()

    def _turn(self, _: object = None) -> None:
        """Bring what a page shows only once it is looked at."""
        for charts, notebook, names in self._charts.pop(self.head.page, ()):
            run = runs.latest(notebook, self.head.page)
            figures = runs.figures(run) if run else {}
            charts.show([figures[name] for name in names if name in figures])
        if self.head.page == "reports":
            self._monitor.look()

    def _restore(self, change: Mapping[str, Any]) -> None:
        if question := self.questions.get(self.head.page):
            question.restore(change["new"])

    def _translate(self, change: Mapping[str, Any]) -> None:
        self._words = Words(change["new"] if change["new"] in LANGUAGES else "en")
        self._write()

    def _question(self, domain: Domain) -> widgets.Widget:
        words = self._words
        try:
            predictor = self._predictors.get(domain.name)
        except SmartCityError as error:
            said = html.problem(words, f"{domain.title} cannot answer now", str(error))
            return self._page(domain.name, self._card(said))
        if domain.name not in self.questions:
            self.questions[domain.name] = Question(predictor)
        comes = [forecast.name for forecast in domain.forecasts]
        tried = ["scores", "later", "coverage", "reliability", "importance"]
        tried += [f"{name}_{what}" for name in comes for what in ("skill", "reliability")]
        section = html.section
        return self._page(
            domain.name,
            self._html(html.title(words, predictor)),
            Form(self.questions[domain.name], words, **self._bare),
            self._html(section(words, "What the sensors said")),
            *self._drawn(domain, "01_explore", ["recent", "pattern"]),
            self._html(section(words, "What comes next")),
            *self._drawn(domain, "05_report", comes),
            self._html(section(words, "How far to trust it", predictor.card.verdict)),
            *self._drawn(domain, "03_evaluate", tried),
            self._card(html.model(words, predictor)),
            self._html(section(words, "Bring your own readings")),
            UploadPanel(predictor, words.say),
        )

    def _drawn(self, domain: Domain, notebook: str, names: list[str]) -> list[widgets.Widget]:
        """Make room for the charts of a notebook's last good run, and say which run."""
        run = runs.latest(notebook, domain.name)
        if not run:
            wanted = f"Make them: smartcity build --domain {domain.name}"
            return [self._card(html.problem(self._words, "No charts yet", wanted))]
        charts = Charts(self._words, **self._bare)
        self._charts.setdefault(domain.name, []).append((charts, notebook, names))
        return [charts, self._html(html.made_by(self._words, run))]

    def _html(self, value: str) -> widgets.Widget:
        return widgets.HTML(value, **self._plain())

    def _plain(self) -> dict[str, Any]:
        return self._bare | {"style": self._style}

    def _card(self, value: str) -> widgets.Widget:
        return self._html(value).add_class("smartcity-card")

    def _page(self, name: str, *children: widgets.Widget) -> widgets.Widget:
        page = widgets.VBox(children, **self._bare)
        return page.add_class("smartcity-page").add_class(f"smartcity-page-{name}")

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        """Add, under Voila, what is shown before the kernel answers, and every widget's state."""
        data: dict[str, Any] = super()._repr_mimebundle_(**kwargs)
        if "VOILA_BASE_URL" in os.environ:
            data["text/html"] = snapshot.first(self._words, self.head.html)
            states = dependency_state(self, drop_defaults=False)
            for state in states.values():  # each module once, as a file the browser keeps
                if module := snapshot.module(state["state"].get("_esm")):
                    state["state"]["_esm"] = module
            data[STATE] = {"model": self.model_id, "states": states}
        return data
