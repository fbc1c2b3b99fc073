"""The monitoring report: it names what is wrong, says whether it matters, and the page shows it."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from axe_playwright_python.sync_playwright import Axe
from conftest import DOMAINS, at_home
from playwright.sync_api import expect
from test_accuracy import simulate
from test_browser import Reader, serving

from smartcity import data, domains, features, registry, reporting, runs
from smartcity.dashboard import monitor
from smartcity.dashboard.ask import Ask
from smartcity.dashboard.words import LANGUAGES, Words
from smartcity.domains import Domain, Input
from smartcity.monitoring import drift, report
from smartcity.monitoring.drift import Alarm, Event
from smartcity.predict import Predictor, Predictors
from smartcity.reporting import reproduce
from smartcity.store import database as store

AIR = domains.load("air_quality")
NOON = pd.Timestamp("2030-05-10 12:00")
DAYS = 40


def planted(domain: Domain) -> Input:
    """Let a domain's last sensor read the same to the end of its file; give the sensor."""
    spec, shape = drift.sensors(domain)[-1], domain.format
    path = data.locate(domain)[-1].path
    header, *lines = path.read_text().splitlines()
    place = header.split(shape.delimiter).index(str(spec.column))
    cells = [line.split(shape.delimiter) for line in lines]
    for row in cells[-3 * shape.flat_line_rows :]:
        row[place] = cells[-3 * shape.flat_line_rows][place]
    path.write_text("\n".join([header, *map(shape.delimiter.join, cells), ""]))
    return spec


@pytest.fixture(scope="module")
def ill(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """A city with models, no database, and a stuck sensor in each domain; its reports by domain."""
    folder = tmp_path_factory.mktemp("ill")
    shutil.copytree(built / "models", folder / "models")
    with at_home(folder, SMARTCITY_DEMO=str(folder / "datasets")):
        for domain in domains.load_all().values():
            data.simulate(domain, rows=DAYS * 24 * 60 // domain.format.step_minutes)
            planted(domain)
        yield {name: reporting.run("06_monitor", {"domain": name}) for name in DOMAINS}


def shift(name: str, size: float, amount: float) -> Event:
    alarm = Alarm(name, "step", NOON, None, size, amount, 2.0)
    return Event(NOON, (alarm,))


def facts(run: runs.Run) -> dict[str, Any]:
    found = runs.facts(run)
    assert found is not None
    return found


@pytest.mark.parametrize("name", DOMAINS)
def test_a_stuck_sensor_is_named_and_what_to_do(name: str, ill: dict[str, Any]) -> None:
    told, spec = facts(ill[name]), drift.sensors(domains.load(name))[-1]

    on = [event for event in told["events"] if event["until"] is None]
    assert told["open"] == len(on) >= 1
    assert f"{spec.label} has read the same for hours" in [s for e in on for s in e["said"]]
    advice = f"{spec.label}: its readings are none; check the sensor and its line."
    assert advice in told["todo"]
    assert told["sentence"].startswith("Sensors that need a look: 1 of")
    assert {"alarms", "recent"} <= set(runs.figures(ill[name]))


@pytest.mark.parametrize("name", DOMAINS)
def test_without_a_database_it_says_that_nobody_knows(name: str, ill: dict[str, Any]) -> None:
    told = facts(ill[name])

    assert told["accuracy"]["models"] == []
    assert "is not known, as the database cannot be read" in told["sentence"]


def test_the_page_says_what_goes_on_and_links_the_report(
    ill: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMARTCITY_PAGE", "/city/")
    page = monitor.Monitor(Predictors(), Words(), {"layout": Ask(Words()).layout})

    page.look()

    said = " ".join(getattr(child, "value", "") for child in page.children)
    for name, run in ill.items():
        spec = drift.sensors(domains.load(name))[-1]
        assert f"<li>⚠ {spec.label} has read the same for hours. {spec.label}: its" in said
        assert f'href="/city/smartcity/reports/06_monitor/{name}/{run.id}/report.html"' in said


def test_a_page_without_a_monitoring_report_says_nothing_of_it(built: Path) -> None:
    with at_home(built, SMARTCITY_PAGE="/"):
        page = monitor.Monitor(Predictors(), Words(), {"layout": Ask(Words()).layout})
        page.look()

    said = " ".join(getattr(child, "value", "") for child in page.children)
    assert "smartcity/reports/traffic/" in said
    assert "06_monitor" not in said


def test_a_day_of_readings_is_too_few_and_enough_to_run(ill: dict[str, Any]) -> None:
    first = str(facts(ill["energy"])["from"])[:10]

    told = facts(reporting.run("06_monitor", {"domain": "energy", "as_of": first}))

    assert told["readings"] < DAYS * 24
    assert (told["open"], told["todo"]) == (0, ["Nothing."])
    assert told["sentence"].startswith("Too few readings to watch the sensors yet; ")


def test_the_runner_hands_over_what_a_kernel_may_not_ask(
    ill: dict[str, Any], tmp_path: Path
) -> None:
    """The database's address is a secret, so no kernel is told; made again, it says the same."""
    home = ill["energy"].folder.parents[3]
    with at_home(home.parent, SMARTCITY_DATABASE_URL=f"sqlite:///{tmp_path / 'elsewhere.db'}"):
        store.upgrade()
        simulate(registry.card("energy"), [9.0] * 200)
        run = reporting.run("06_monitor", {"domain": "energy"})
        simulate(registry.card("energy"), [0.0] * 50)
        again = reproduce.reproduce(run.id)
        store.close()

    told = facts(run)
    [model] = told["accuracy"]["models"]
    assert model["overall"]["observed"] == 200
    assert model["verdict"]["intervals"] == "do not hold"
    assert "the model's answers are not as good as promised" in told["sentence"]
    assert told["todo"][-1] == (
        "Once the sensors are right, retrain: `smartcity run 02_train --domain energy`"
    )
    assert again.differences == []
    page = (run.folder / "report.html").read_text()
    assert "In the window of" in page
    assert "&#34;models&#34;" not in page


def test_a_model_that_is_right_needs_nothing(ill: dict[str, Any], tmp_path: Path) -> None:
    home = ill["energy"].folder.parents[4]
    energy = domains.load("energy")
    with at_home(home, SMARTCITY_DATABASE_URL=f"sqlite:///{tmp_path / 'well.db'}"):
        store.upgrade()
        nothing = report.answers(energy)
        simulate(registry.card("energy"), [0.1] * 200)
        well = report.answers(energy)
        store.close()

    said = report.sentence(energy, DAYS, [], nothing)
    assert said.endswith("; nothing was observed yet to judge the model by.")
    said = report.sentence(energy, DAYS, [], well)
    assert said == ("No sensor does anything unusual; the model's answers are as good as promised.")
    assert report.todo(energy, [], well) == ["Nothing."]


@pytest.mark.parametrize(
    ("name", "sensor", "size", "amount"),
    [
        ("air_quality", "PT08_S2_NMHC", 0.5, 400.0),
        ("air_quality", "temperature", -0.4, -3.0),
        ("traffic", "car_count", 1.0, 30.0),
    ],
)
def test_what_a_shift_changes_is_the_answers_without_it(
    name: str, sensor: str, size: float, amount: float, ill: dict[str, Any]
) -> None:
    """Readings are shifted here; what is told must be the difference to those that were not."""
    domain, readings = domains.load(name), data.read(name)
    right = data.latest(data.clean(readings, data.check(readings)), days=3).dropna()
    is_share = next(i for i in domain.inputs if i.name == sensor).low >= 0
    moved = right[sensor] * (1 + size) if is_share else right[sensor] + amount
    wrong = right.assign(**{sensor: moved})

    [told] = report.effects(domain, "", wrong, [shift(sensor, size, amount)])

    predictor = Predictor.load(name)
    at = right["recorded_at"].to_numpy("datetime64[s]")
    answers, shifted = (
        predictor.score(
            features.matrix(
                domain, {i: frame[i] for i in domain.names if i in frame}, recorded_at=at
            ),
            at,
        )
        for frame in (right, wrong)
    )
    expected = np.abs(answers.values - shifted.values)  # noqa: PD011
    assert told["moved"] == pytest.approx(expected.mean(), abs=1e-3)
    if domain.target.levels:
        assert told["half"] is None
        assert "would be another class" in told["sentence"]
    else:
        assert told["half"] > 0
        assert f"reach {told['half']:.3g} {domain.target.unit} to either side" in told["sentence"]


def test_a_shift_of_what_is_no_input_or_of_no_whole_row_changes_nothing(
    ill: dict[str, Any],
) -> None:
    day = data.read("energy").frame.tail(72)
    assert report.effects(domains.load("energy"), "", day, [shift("consumption_kwh", 1, 2)]) == []
    empty = data.read("air_quality").frame.head(0)
    assert report.effects(AIR, "", empty, [shift("temperature", 1, 2)]) == []


@pytest.mark.parametrize("language", [name for name in LANGUAGES if name != "en"])
@pytest.mark.parametrize("name", DOMAINS)
def test_all_that_can_go_on_is_said_in_the_readers_language(name: str, language: str) -> None:
    domain, words = domains.load(name), Words(language)
    kinds: list[Any] = list(drift.QUIET)
    events = [
        Event(NOON, (Alarm(spec.name, kind, NOON, None, *sizes),))
        for spec in drift.sensors(domain)
        for kind in kinds
        for sizes in ([(0.15, 12.5), (-0.15, -12.5)] if kind in {"step", "drift"} else [()])
    ]
    names = [spec.name for spec in drift.sensors(domain)]
    events.append(Event(NOON, events[0].alarms, (names[0], names[-1])))

    for event in report.events(domain, events, NOON):
        for said in (*(f"{each}." for each in event["said"]), event["advice"]):
            assert words.say(said) != said
    for found in ([], events[:1]):
        for days in (1, DAYS):
            answered = report.answers(domain, '{"said": "the database cannot be read"}')
            for said in (
                "the model's answers are as good as promised",
                "the model's answers are not as good as promised",
                "too few answers were observed to judge the model",
                "nothing was observed yet to judge the model by",
                "how the model's answers turned out is not known, as the database cannot be read",
            ):
                words.say(report.sentence(domain, days, found, answered | {"said": said}))
    assert words.missing == set()


@pytest.mark.browser
def test_report_and_page_are_for_every_eye_on_a_phone(ill: dict[str, Any], browser: Any) -> None:
    home = ill["traffic"].folder.parents[4]
    with serving(home, "smartcity", "dashboard") as (address, _):
        one = Reader(browser, address, width=360)
        page = one.open("?page=reports")
        label = drift.sensors(domains.load("traffic"))[-1].label
        warning = page.get_by_text(f"{label} has read the same for hours.")
        expect(warning).to_be_visible(timeout=30_000)
        assert Axe().run(page).response["violations"] == []
        link = page.locator('a[href*="06_monitor/traffic"]')
        with one.context.expect_page() as opened:
            link.click()
        shown = opened.value
        expect(shown.locator("h1")).to_contain_text("Monitoring report", timeout=30_000)
        shown.locator(".chart .main-svg").first.wait_for()
        wide = shown.evaluate("document.documentElement.scrollWidth")
        assert wide <= 360
        assert Axe().run(shown).response["violations"] == []
        assert one.outside == one.wrong == []
        one.context.close()
