"""The real readings, where SMARTCITY_DATASETS names them: known traps and honest figures."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import DOMAINS, at_home

from smartcity import data, domains, modelling, registry
from smartcity.modelling import candidates
from smartcity.predict import Predictor

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def installed(real: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("real")
    with at_home(folder, SMARTCITY_DATASETS=str(real)):
        yield folder


@pytest.fixture(scope="module")
def cards(installed: Path) -> dict[str, registry.Card]:
    """Each domain searched among the families that came out ahead of the whole search."""
    quantity = {"inputs": ("ridge", "SVR"), "calendar": (), "week": ("ridge", "gradient boosting")}
    quantity |= {"recent": ("ridge", "SVR", "gradient boosting")}
    level = {"inputs": ("gradient boosting",), "calendar": (), "recent": ()}
    level |= {"week": ("extra trees",)}
    found = {}
    for name in DOMAINS:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(candidates, "_REGRESSION", quantity)
            patch.setattr(candidates, "_CLASSIFICATION", level)
            trained = modelling.train(modelling.prepare(name))
        card = modelling.publish(trained, modelling.draft(trained, run="real"))
        found[name] = registry.promote(name, card.version)
    return found


def test_air_is_read_as_published(installed: Path) -> None:
    readings = data.read("air_quality")
    known = readings.frame.mask(readings.frame == -200)

    assert readings.blank == 114
    assert known["NMHC_GT"].count() == 914
    assert readings.frame["recorded_at"].iloc[0].isoformat() == "2004-03-10T18:00:00"
    assert known["CO_GT"].max() == pytest.approx(11.9)


def test_a_sentinel_left_in_would_ruin_the_model(installed: Path) -> None:
    readings = data.read("air_quality")
    clean = data.clean(readings, data.check(readings))
    usable, _ = data.usable(readings.domain, clean)

    assert (readings.frame["CO_GT"] == -200).sum() > 1000
    assert not (clean.drop(columns="recorded_at") == -200).any().any()
    assert usable["CO_GT"].between(0, 12).all()


def test_traffic_totals_add_up_and_days_are_in_order(installed: Path) -> None:
    readings = data.read("traffic")
    reasons = set(data.check(readings)["reason"])

    assert len(readings.frame) == 2976
    assert not reasons & {"sum rule", "duplicate time", "gap", "unsorted", "unreadable"}
    days = readings.frame["recorded_at"].dt.day_name()
    assert days.iloc[0] == "Tuesday"
    assert days.iloc[-1] == "Thursday"


def test_energy_is_sorted_and_its_duplicates_found(installed: Path) -> None:
    findings = data.check(data.read("energy"))
    counts = findings["reason"].value_counts()

    assert counts["duplicate time"] == 7
    assert counts["unsorted"] > 500
    assert {source.published for source in data.locate(domains.load("energy"))} == {True}


def test_the_specified_forest_reaches_what_was_measured_before(
    cards: dict[str, registry.Card],
) -> None:
    air, traffic = cards["air_quality"].specified, cards["traffic"].specified

    assert air["random"]["rmse"] <= 0.45
    assert air["random"]["rmse"] < air["time_ordered"]["rmse"]
    assert traffic["random"]["accuracy"] >= 0.99
    assert traffic["time_ordered"]["accuracy"] >= 0.99


def test_energy_is_honest_about_later_time(cards: dict[str, registry.Card]) -> None:
    energy = cards["energy"]

    assert energy.specified["random"]["r2"] > 0.5
    assert energy.specified["time_ordered"]["r2"] < 0.3
    assert "is worse than the best baseline" in energy.judged("now")
    assert energy.parts["recent"].skill["time_ordered"] >= 0.35


def test_air_holds_up_on_later_time(cards: dict[str, registry.Card]) -> None:
    air = cards["air_quality"]
    own, forest = air.metrics["time_ordered"], air.specified["time_ordered"]

    assert own["rmse"] <= 0.85 * forest["rmse"]
    assert own["r2"] >= 0.9
    assert 0.87 <= air.coverage["overall"] <= 0.93
    assert air.coverage["mean_width"] < _width_of_the_forest(air)


def _width_of_the_forest(card: registry.Card) -> float:
    assert card.specified_coverage is not None
    width: float = card.specified_coverage["mean_width"]
    return width


def test_traffic_is_right_and_knows_the_next_hour(cards: dict[str, registry.Card]) -> None:
    traffic = cards["traffic"]
    ahead = traffic.parts["next_hour"]

    assert traffic.metrics["time_ordered"]["accuracy"] >= 0.998
    assert ahead.metrics["time_ordered"]["accuracy"] >= 0.77
    assert ahead.reliability is not None
    assert ahead.reliability["error"] < 0.05


@pytest.mark.parametrize("name", DOMAINS)
def test_recent_readings_are_used_alike_in_training_and_serving(
    name: str, cards: dict[str, registry.Card]
) -> None:
    """Requests made of the readings before a row get what the training matrix gives."""
    card = cards[name]
    for part in card.parts:
        if part in {"now", "recent"} and part != card.champion:
            continue
        _compare(name, card, part)


def _compare(name: str, card: registry.Card, part: str) -> None:
    dataset = modelling.prepare(name)
    question = card.parts[part].question
    problem = modelling.problems(dataset)[question]
    fitted = registry.load_estimator(name, part=part)
    predictor = Predictor.load(name)
    X = problem.matrix(card.parts[part].view)
    everything = data.requests(dataset.clean)
    for row in np.linspace(len(problem.y) * 0.6, len(problem.y) - 1, 7).astype(int):
        known = int(problem.known[row])
        recent = everything[max(0, known - 800) : known]
        if question == "now":
            asked = {k: v for k, v in everything[known].items() if k != card.target}
            answer: Any = predictor.predict({**asked, "recent": recent}, reasons=False)
        else:
            minutes = int(problem.ahead[row])
            answers = predictor.forecast(question, recent)
            answer = next(a for a in answers if a.minutes == minutes)
        expected = float(fitted.predict(X[[row]])[0])
        assert answer.prediction == pytest.approx(max(expected, 0), rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("name", DOMAINS)
def test_serving_gives_the_analysts_numbers_on_real_rows(
    name: str, cards: dict[str, registry.Card]
) -> None:
    dataset = modelling.prepare(name)
    predictor, fitted = Predictor.load(name), registry.load_estimator(name)
    rows = dataset.inputs[:: max(1, len(dataset.inputs) // 300)]
    looked_at = [dataset.domain.names.index(n) for n in cards[name].parts["now"].view.names]
    sums = {i.name for i in dataset.domain.inputs if i.sum_of}

    asked = [
        {
            key: None if np.isnan(value) else float(value)
            for key, value in zip(dataset.domain.names, row, strict=True)
            if key not in sums
        }
        for row in rows
    ]

    served = [answer.prediction for answer in predictor.answer(asked)]
    expected = np.maximum(fitted.predict(rows[:, looked_at]), 0)
    np.testing.assert_allclose(served, expected, rtol=1e-4, atol=1e-4)


def test_cards_say_which_files_are_the_published_ones(cards: dict[str, registry.Card]) -> None:
    for name in ("traffic", "energy"):
        assert all(file["published"] for file in cards[name].data["files"])
    assert not any(card.data["simulated"] for card in cards.values())
