"""The page without a browser: set state, press buttons, read what it would show."""

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path

import ipywidgets as widgets
import pytest
from conftest import DOMAINS, at_home
from fastapi.testclient import TestClient

from smartcity import registry
from smartcity.api import create_app
from smartcity.dashboard import Dashboard, html, snapshot
from smartcity.dashboard.controls import Charts, Form
from smartcity.dashboard.page import STATE
from smartcity.dashboard.words import LANGUAGES, Words
from smartcity.errors import UsageError
from smartcity.predict import Predictor
from smartcity.predict.files import answer_file

PAGES = ["overview", "air_quality", "traffic", "energy", "reports"]


@pytest.fixture
def page(built: Path) -> Iterator[Dashboard]:
    with at_home(built):
        yield Dashboard()


def every(widget: widgets.Widget) -> Iterator[widgets.Widget]:
    yield widget
    for child in getattr(widget, "children", ()):
        yield from every(child)


def shown(page: Dashboard) -> widgets.Widget:
    """The page being looked at."""
    name = f"smartcity-page-{page.head.page}"
    return next(child for child in page.children[1:] if name in child._dom_classes)


def text(widget: widgets.Widget) -> str:
    parts = [part.value for part in every(widget) if isinstance(part, widgets.HTML)]
    parts += [part.answer[0] for part in every(widget) if isinstance(part, Form)]
    return " ".join(parts)


def form(page: Dashboard) -> Form:
    return next(part for part in every(shown(page)) if isinstance(part, Form))


def test_has_five_pages(page: Dashboard) -> None:
    assert list(page.titles.values()) == [
        "Overview",
        "Air quality",
        "Traffic",
        "Energy",
        "Reports & monitoring",
    ]
    assert re.findall(r'href="\?page=(\w+)"', page.head.html) == PAGES


def test_every_page_says_simulated(page: Dashboard) -> None:
    assert "simulated demo city" in page.head.html


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_overview_says_each_question_in_numbers_and_a_sentence(
    language: str, page: Dashboard
) -> None:
    page.head.language = language

    said = text(shown(page))
    assert len(re.findall(r'class="smartcity-number">\d', said)) == 3
    assert said.count('class="smartcity-band') == 3
    assert said.count('class="smartcity-trend"') == 3
    assert said.count("<svg") == 3
    if language == "en":
        for start in ("Carbon monoxide averaged", "Traffic level was", "Energy use averaged"):
            assert start in said
        assert said.count("What to do:") == 3
        assert said.count("Readings to") == 3


@pytest.mark.parametrize("name", DOMAINS)
def test_moving_inputs_changes_the_answer(name: str, page: Dashboard) -> None:
    page.head.page = name
    before = form(page).answer

    form(page).values = {f["name"]: f["max"] for f in form(page).fields if "seen" in f}

    question = page.questions[name]
    assert form(page).answer != before
    answer = Predictor.load(name).predict(question.inputs, reasons=True)
    assert question.answer == answer
    assert f'data-value="{answer.prediction!r}"' in form(page).answer[0]


@pytest.mark.parametrize("name", DOMAINS)
def test_page_api_and_command_line_agree_to_the_last_digit(
    name: str, page: Dashboard, tmp_path: Path
) -> None:
    page.head.page = name
    form(page).values = {f["name"]: round(f["max"], 1) for f in form(page).fields if "seen" in f}
    [shown_value] = re.findall(r'data-value="([^"]+)"', form(page).answer[0])
    row = {k: v for k, v in page.questions[name].inputs.items() if v is not None}

    with TestClient(create_app()) as client:
        over_http = client.post(f"/api/v1/predict/{name.replace('_', '-')}", json=row).json()
    rows, answers = tmp_path / "rows.csv", tmp_path / "answers.csv"
    with rows.open("w", newline="") as file:
        writer = csv.DictWriter(file, row)
        writer.writeheader()
        writer.writerow(row)
    answer_file(Predictor.load(name), rows, answers)
    with answers.open(newline="") as file:
        [by_command] = csv.DictReader(file)

    assert over_http["prediction"] == float(shown_value)
    assert float(by_command["prediction"]) == float(shown_value)


@pytest.mark.parametrize("name", DOMAINS)
def test_a_domain_page_shows_its_charts_once_it_is_looked_at(name: str, page: Dashboard) -> None:
    drawn = [part for child in page.children for part in every(child) if isinstance(part, Charts)]
    assert not any(charts.figures for charts in drawn)

    page.head.page = name

    charts = [part for part in every(shown(page)) if isinstance(part, Charts)]
    names = [figure["layout"]["meta"]["name"] for part in charts for figure in part.figures]
    sure = ["reliability"] if name == "traffic" else []
    assert names == ["recent", "pattern", "scores", "later", "coverage", *sure, "importance"]
    assert all(f["layout"]["meta"]["summary"] for part in charts for f in part.figures)
    assert "Model card" in text(shown(page))


def test_a_link_restores_inputs(page: Dashboard) -> None:
    page.head.page = "air_quality"

    page.head.query = {"C6H6_GT": "30.5", "NOx_GT": "", "humidity": "wet", "nonsense": "1"}

    inputs = page.questions["air_quality"].inputs
    assert inputs["C6H6_GT"] == 30.5
    assert inputs["NOx_GT"] is None
    assert inputs["humidity"] == page.questions["air_quality"].usual()["humidity"]
    assert "nonsense" not in inputs
    assert form(page).values == inputs


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e999"])
def test_a_link_brings_no_endless_number(value: str, page: Dashboard) -> None:
    page.head.page = "traffic"

    page.head.query = {"car_count": value}

    assert page.questions["traffic"].inputs == page.questions["traffic"].usual()


def test_options_say_what_an_answer_means(page: Dashboard) -> None:
    page.head.page = "energy"

    form(page).values = form(page).values | {"tariff": 0.3}

    assert "At 0.3 per kWh" in form(page).answer[0]


def test_the_answer_warns_outside_training(page: Dashboard) -> None:
    page.head.page = "air_quality"

    form(page).values = form(page).values | {"C6H6_GT": 299}

    assert "above anything the model has seen" in form(page).answer[0]
    assert "Outside what the model has seen." in form(page).answer[1]


def test_inputs_that_cannot_be_are_explained(page: Dashboard) -> None:
    page.head.page = "energy"

    form(page).values = {"day": 31, "month": 2, "hour": 1, "minute": 1}

    assert "month 2 has no day 31" in form(page).answer[0]


def test_another_language_keeps_what_was_set(page: Dashboard) -> None:
    page.head.page = "traffic"
    form(page).values = form(page).values | {"car_count": 61}
    before = page.questions["traffic"].answer

    page.head.language = "de"

    assert form(page).values["car_count"] == 61
    assert page.questions["traffic"].answer == before
    assert page.head.page == "traffic"
    assert "Traffic is" not in form(page).answer[0]


def test_reports_list_runs_models_and_what_is_not_known(page: Dashboard) -> None:
    page.head.page = "reports"

    said = text(shown(page))
    assert said.count("✓ succeeded") == 3
    assert all(registry.card(name).version in said for name in DOMAINS)
    assert "cannot be reached" in said
    assert "Have the readings moved?" in said


def test_checking_again_asks_again(page: Dashboard) -> None:
    page.head.page = "reports"
    before = text(shown(page))

    next(part for part in every(shown(page)) if isinstance(part, widgets.Button)).click()

    assert text(shown(page)) != before


def test_a_missing_model_leaves_the_rest_of_the_page(home: Path, publish: object) -> None:
    publish("energy")  # type: ignore[operator]
    page = Dashboard("traffic")

    assert "Traffic cannot answer now" in text(shown(page))
    page.head.page = "energy"
    assert page.questions["energy"].answer is not None
    assert "No charts yet" in text(shown(page))


def test_an_unknown_first_page_is_refused(home: Path) -> None:
    with pytest.raises(UsageError, match="Did you mean 'traffic'"):
        Dashboard("trafic")


def test_what_others_wrote_is_escaped() -> None:
    assert "<b>" not in html.problem(Words(), "<b>", "<b>")


def test_elsewhere_the_widget_alone_is_shown(page: Dashboard) -> None:
    assert {"text/html", STATE}.isdisjoint(page._repr_mimebundle_())


def test_under_voila_the_page_comes_with_figures_and_every_widget(
    page: Dashboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VOILA_BASE_URL", "/")

    data = page._repr_mimebundle_()

    assert len(re.findall(r'class="smartcity-number">\d', data["text/html"])) == 3
    assert page.model_id in data[STATE]["states"]
    assert json.dumps(data[STATE])
    assert len(data[STATE]["states"]) < 70


def test_the_busy_page_shows_figures_and_asks_again(built: Path) -> None:
    with at_home(built):
        said = snapshot.busy_page("fr-FR, de;q=0.8, en;q=0.7")

    assert len(re.findall(r'class="smartcity-number">\d', said)) == 3
    assert 'http-equiv="refresh"' in said
    assert 'lang="de"' in said
    assert said.count('role="note"') == 1  # that it is simulated
    assert "<script" not in said


def test_nothing_on_the_page_is_left_in_english(built: Path) -> None:
    """All the page says in its second language comes from the catalogue."""
    with at_home(built):
        page = Dashboard()
        page.head.language = "de"
        for name in PAGES:
            page.head.page = name
        page.head.page = "air_quality"
        form(page).values = form(page).values | {"C6H6_GT": 299, "NOx_GT": None}
        page.head.page = "energy"
        form(page).values = form(page).values | {"tariff": 0.3, "grid_factor": 0.4, "month": 13}
        page.head.page = "traffic"
        form(page).values = form(page).values | {"lanes": 2, "capacity": 1800, "car_count": 900}

        assert page._words.missing == set()
