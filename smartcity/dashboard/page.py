"""Five pages in one kernel: overview, the three questions, reports; drawn when first looked at."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import ipywidgets as widgets

from smartcity import domains, runs
from smartcity.dashboard import html
from smartcity.dashboard.chart import Chart
from smartcity.dashboard.state import Question
from smartcity.domains import Domain, Input
from smartcity.errors import SmartCityError, unknown
from smartcity.predict import Predictor, Predictors
from smartcity.registry import CardInput

_STYLE = Path(__file__).with_name("page.css").read_text(encoding="utf-8")


class Dashboard(widgets.VBox):
    """The whole page: a widget, so the same notebook works in JupyterLab and under Voila.

    Attributes:
        nav: The buttons that choose a page.
        questions: Domain -> its state, once its page was looked at.
    """

    def __init__(self, page: str = "overview", *, predictors: Predictors | None = None) -> None:
        """Show a page.

        Args:
            page: ``overview``, a domain's name, or ``reports``.
            predictors: What answers; the published models by default.

        Raises:
            UsageError: There is no such page.
        """
        self._predictors = predictors or Predictors()
        self.questions: dict[str, Question] = {}
        self._pages: dict[str, widgets.Widget] = {}
        known = domains.load_all()
        titles = {"overview": "Overview"} | {name: d.title for name, d in known.items()}
        titles["reports"] = "Reports & monitoring"
        if page not in titles:
            raise unknown("page", page, titles)
        self.nav = widgets.ToggleButtons(
            options=[(title, name) for name, title in titles.items()], value=page
        )
        self.nav.add_class("smartcity-nav")
        self.nav.observe(self._turn, "value")
        self._body = widgets.Box()
        self._body.add_class("smartcity-body")
        super().__init__([widgets.HTML(html.head(_STYLE, self._simulated())), self.nav, self._body])
        self.add_class("smartcity")
        self._turn()

    def _simulated(self) -> list[str]:
        """Name the domains whose model was trained on the simulated city."""
        found = []
        for domain in domains.load_all().values():
            try:
                simulated = self._predictors.get(domain.name).simulated
            except SmartCityError:
                continue
            found += [domain.title] if simulated else []
        return found

    def _turn(self, _: object = None) -> None:
        name = self.nav.value
        if name not in self._pages:
            makers = {"overview": self._overview, "reports": self._reports}
            self._pages[name] = makers.get(name, lambda: self._question(domains.load(name)))()
        self._body.children = [self._pages[name]]

    def _overview(self) -> widgets.Widget:
        cards = [self._overview_card(domain) for domain in domains.load_all().values()]
        return _grid(*cards, kind="smartcity-cards")

    def _overview_card(self, domain: Domain) -> widgets.Widget:
        run = runs.latest("05_report", domain.name)
        facts = runs.facts(run) if run else None
        button = widgets.Button(description="Ask the model")
        button.add_class("smartcity-go")
        button.on_click(lambda _: setattr(self.nav, "value", domain.name))
        return _card(widgets.HTML(html.overview(domain, facts)), button)

    def _question(self, domain: Domain) -> widgets.Widget:
        try:
            predictor = self._predictors.get(domain.name)
        except SmartCityError as error:
            return _card(
                widgets.HTML(html.problem(f"{domain.title} cannot answer now", str(error)))
            )
        question = self.questions[domain.name] = Question(predictor)
        answer = widgets.HTML()

        def show(_: object = None) -> None:
            answer.value = html.answer(predictor, question.answer, question.problems)

        question.observe(show, ["answer", "problems"])
        show()
        reset = widgets.Button(description="Usual values")
        inputs = _Inputs(question, predictor)
        reset.on_click(lambda _: inputs.reset())
        asked = _card(
            widgets.HTML(html.section("What if…", "Move an input; the answer follows.")),
            inputs,
            reset,
        )
        answered = _card(answer)
        answered.add_class("smartcity-answer")
        explored = _charts(domain, "01_explore", ["recent", "pattern"])
        comes = _charts(domain, "05_report", [forecast.name for forecast in domain.forecasts])
        shown = ["scores", "later", "coverage", "reliability", "importance"]
        shown += [f"{f.name}_{what}" for f in domain.forecasts for what in ("skill", "reliability")]
        evaluated = _charts(domain, "03_evaluate", shown)
        about = widgets.HTML(html.model(predictor))
        return widgets.VBox(
            [
                widgets.HTML(html.title(predictor)),
                _grid(answered, asked, kind="smartcity-pair"),
                widgets.HTML(html.section("What the sensors said")),
                explored,
                widgets.HTML(html.section("What comes next")),
                comes,
                widgets.HTML(html.section("How far to trust it", predictor.card.verdict)),
                evaluated,
                _card(about),
            ]
        )

    def _reports(self) -> widgets.Widget:
        rows = []
        for domain in domains.load_all().values():
            for notebook in ("01_explore", "02_train", "03_evaluate", "05_report"):
                run = next(runs.listed(notebook, domain.name), None)
                if run:
                    rows.append((domain, run))
        served = {}
        for name in domains.load_all():
            with suppress(SmartCityError):  # listed below, as the predictors' own errors
                served[name] = self._predictors.get(name)
        return widgets.VBox(
            [
                _card(widgets.HTML(html.models(served, self._predictors.errors))),
                _card(widgets.HTML(html.runs(rows))),
            ]
        )


class _Inputs(widgets.Box):
    """One slider per input that a person can state, with its unit and what the model has seen."""

    def __init__(self, question: Question, predictor: Predictor) -> None:
        self._question = question
        self.sliders: dict[str, widgets.Widget] = {}
        seen = {i.name: i for i in predictor.card.inputs}
        rows = [
            self._row(spec, seen[spec.name]) for spec in predictor.domain.inputs if not spec.sum_of
        ]
        super().__init__(rows)
        self.add_class("smartcity-inputs")

    def _row(self, spec: Input, seen: CardInput) -> widgets.Widget:
        slider = self.sliders[spec.name] = _slider(spec, seen)
        slider.observe(lambda change: self._question.change(spec.name, change["new"]), "value")
        row = [widgets.HTML(html.input_label(spec, seen)), slider]
        if spec.optional:
            off = widgets.Checkbox(description="no reading", indent=False)

            def switch(change: Any) -> None:
                slider.disabled = change["new"]
                self._question.change(spec.name, None if change["new"] else slider.value)

            off.observe(switch, "value")
            row.append(off)
        box = widgets.VBox(row)
        box.add_class("smartcity-input")
        return box

    def reset(self) -> None:
        """Put every input back to its usual value."""
        usual = self._question.usual()
        for box in self.children:
            for part in box.children:
                if isinstance(part, widgets.Checkbox):
                    part.value = False
        for name, slider in self.sliders.items():
            slider.value = usual[name]


def _slider(spec: Input, seen: CardInput) -> widgets.Widget:
    """Make a slider a little wider than what the model has seen, within what is possible."""
    margin = (seen.high - seen.low) * 0.15
    low, high = max(spec.low, seen.low - margin), min(spec.high, seen.high + margin)
    if low == high:
        low, high = spec.low, spec.high
    if spec.whole:
        return widgets.IntSlider(
            value=int(seen.typical), min=int(low), max=int(high), description=spec.label
        )
    decimals = max(0, len(f"{spec.step:g}".partition(".")[2]))
    return widgets.FloatSlider(
        value=seen.typical,
        min=round(low, decimals),
        max=round(high, decimals),
        step=spec.step,
        readout_format=f".{decimals}f",
        description=spec.label,
    )


def _charts(domain: Domain, notebook: str, names: list[str]) -> widgets.Widget:
    """Show charts of a notebook's last good run, and say which run."""
    run = runs.latest(notebook, domain.name)
    figures = runs.figures(run) if run else {}
    cards = [_card(Chart(figures[name])) for name in names if name in figures]
    if not run or not cards:
        say = html.problem("No charts yet", f"Make them: smartcity build --domain {domain.name}")
        return _card(widgets.HTML(say))
    return widgets.VBox([_grid(*cards, kind="smartcity-pair"), widgets.HTML(html.made_by(run))])


def _card(*children: widgets.Widget) -> widgets.Widget:
    card = widgets.VBox(children)
    card.add_class("smartcity-card")
    return card


def _grid(*children: widgets.Widget, kind: str) -> widgets.Widget:
    grid = widgets.Box(children)
    grid.add_class(kind)
    return grid
