"""The page without a browser: set state, press buttons, read what it would show."""

from collections.abc import Iterator
from pathlib import Path

import ipywidgets as widgets
import pytest
from conftest import DOMAINS, at_home

from smartcity import registry
from smartcity.dashboard import Dashboard, html
from smartcity.dashboard.chart import Chart
from smartcity.dashboard.page import _Inputs
from smartcity.errors import UsageError
from smartcity.predict import Predictor


@pytest.fixture
def page(built: Path) -> Iterator[Dashboard]:
    with at_home(built):
        yield Dashboard()


def every(widget: widgets.Widget) -> Iterator[widgets.Widget]:
    yield widget
    for child in getattr(widget, "children", ()):
        yield from every(child)


def text(widget: widgets.Widget) -> str:
    return " ".join(part.value for part in every(widget) if isinstance(part, widgets.HTML))


def test_has_five_pages(page: Dashboard) -> None:
    assert [title for title, _ in page.nav.options] == [
        "Overview",
        "Air quality",
        "Traffic",
        "Energy",
        "Reports & monitoring",
    ]


def test_every_page_says_simulated(page: Dashboard) -> None:
    for _, name in page.nav.options:
        page.nav.value = name
        assert "simulated demo city" in text(page)


def test_the_overview_says_each_question_in_a_sentence(page: Dashboard) -> None:
    for start in ("Carbon monoxide averaged", "Traffic level was", "Energy use averaged"):
        assert start in text(page)


@pytest.mark.parametrize("name", DOMAINS)
def test_moving_an_input_changes_the_answer(name: str, page: Dashboard) -> None:
    page.nav.value = name
    inputs = next(part for part in every(page) if isinstance(part, _Inputs))
    before = page.questions[name].answer

    for slider in inputs.sliders.values():
        slider.value = slider.max

    after = page.questions[name].answer
    assert before is not None
    assert after is not None
    assert after != before
    assert Predictor.load(name).predict(page.questions[name].inputs, reasons=True) == after


@pytest.mark.parametrize("name", DOMAINS)
def test_a_domain_page_shows_its_charts_and_the_card(name: str, page: Dashboard) -> None:
    page.nav.value = name

    names = [p.figure["layout"]["meta"]["name"] for p in every(page) if isinstance(p, Chart)]
    sure = ["reliability"] if name == "traffic" else []
    assert names == ["recent", "pattern", "scores", "later", "coverage", *sure, "importance"]
    assert "Model card" in text(page)


def test_usual_values_come_back(page: Dashboard) -> None:
    page.nav.value = "air_quality"
    question = page.questions["air_quality"]
    before = question.inputs
    inputs = next(part for part in every(page) if isinstance(part, _Inputs))
    switch = next(part for part in every(inputs) if isinstance(part, widgets.Checkbox))
    switch.value = True
    inputs.sliders["humidity"].value = 10

    assert None in question.inputs.values()
    reset = next(p for p in every(page) if getattr(p, "description", "") == "Usual values")
    reset.click()

    assert question.inputs == pytest.approx(before, rel=0.05)


def test_the_answer_warns_outside_training(page: Dashboard) -> None:
    page.nav.value = "air_quality"

    page.questions["air_quality"].change("C6H6_GT", 299)

    assert "above anything the model has seen" in text(page)


def test_inputs_that_cannot_be_are_explained(page: Dashboard) -> None:
    page.nav.value = "energy"

    page.questions["energy"].inputs = {"day": 31, "month": 2, "hour": 1, "minute": 1}

    assert "month 2 has no day 31" in text(page)


def test_reports_list_runs_and_link_the_reports(page: Dashboard) -> None:
    page.nav.value = "reports"

    shown = text(page)
    assert shown.count("✓ succeeded") == 12
    assert shown.count("report.html") == 3
    assert all(registry.card(name).version in shown for name in DOMAINS)


def test_a_missing_model_leaves_the_rest_of_the_page(home: Path, publish: object) -> None:
    publish("energy")  # type: ignore[operator]
    page = Dashboard("traffic")

    assert "Traffic cannot answer now" in text(page)
    page.nav.value = "energy"
    assert page.questions["energy"].answer is not None
    assert "No charts yet" in text(page)


def test_an_unknown_first_page_is_refused(home: Path) -> None:
    with pytest.raises(UsageError, match="Did you mean 'traffic'"):
        Dashboard("trafic")


def test_what_others_wrote_is_escaped() -> None:
    assert "<b>" not in html.problem("<b>", "<b>")
