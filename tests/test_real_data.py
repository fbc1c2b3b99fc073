"""The real readings, where SMARTCITY_DATASETS names them: known traps and honest figures."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import DOMAINS, at_home

from smartcity import data, domains, modelling, registry
from smartcity.predict import Predictor

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def installed(real: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("real")
    with at_home(folder, SMARTCITY_DATASETS=str(real)):
        yield folder


@pytest.fixture(scope="module")
def cards(installed: Path) -> dict[str, registry.Card]:
    found = {}
    for name in DOMAINS:
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
    assert "is worse than the best naive guess" in energy.verdict


@pytest.mark.parametrize("name", DOMAINS)
def test_serving_gives_the_analysts_numbers_on_real_rows(
    name: str, cards: dict[str, registry.Card]
) -> None:
    dataset = modelling.prepare(name)
    predictor, fitted = Predictor.load(name), registry.load_estimator(name)
    rows = dataset.X[:: max(1, len(dataset.X) // 300)]
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
    np.testing.assert_allclose(served, fitted.predict(rows), rtol=1e-5, atol=1e-5)


def test_cards_say_which_files_are_the_published_ones(cards: dict[str, registry.Card]) -> None:
    for name in ("traffic", "energy"):
        assert all(file["published"] for file in cards[name].data["files"])
    assert not any(card.data["simulated"] for card in cards.values())
