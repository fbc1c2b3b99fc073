"""Domains are data: three are shipped, a fourth needs a TOML file and no code."""

import re
from pathlib import Path

import pytest
from conftest import at_home, usual
from fastapi.testclient import TestClient

from smartcity import data, domains, modelling, registry
from smartcity.api import create_app
from smartcity.errors import UsageError
from smartcity.predict import Predictor

NOISE = """
name = "noise"
title = "Noise"
question = "How loud is the street?"
answer = "It is about {value} {unit} loud"
task = "regression"
licence = "CC0"
source = "made up for a test"

[target]
name = "level_db"
column = "dB"
label = "Sound level"
unit = "dB(A)"
low = 0
high = 150
advice = { low = "Enjoy it.", usual = "Nothing to do.", high = "Slow the traffic down." }
simulated = { base = 40, swing = 35, noise = 2 }

[[inputs]]
name = "vehicles"
column = "Vehicles"
label = "Vehicles"
unit = "per hour"
low = 0
high = 10000
whole = true
simulated = { base = 20, swing = 900, noise = 30, decimals = 0 }

[[inputs]]
name = "hour"
label = "Hour"
unit = "h"
low = 0
high = 23
whole = true
from_time = "hour"

[format]
header = ["Day", "Clock", "Vehicles", "dB"]
time_columns = ["Day", "Clock"]
time_format = "%Y-%m-%d %H:%M"
step_minutes = 60
gap_minutes = 60
flat_line_rows = 6

[[files]]
name = "noise.csv"
sha256 = "0"
archive = "http://127.0.0.1/noise.zip"

[forest]
n_estimators = 10
max_depth = 6
min_samples_split = 5
random_state = 42
n_jobs = 1
"""
TRAFFIC = Path(domains.__file__).with_name("traffic.toml").read_text(encoding="utf-8")


def test_a_new_domain_is_a_toml_file(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "noise.toml").write_text(NOISE)
    with at_home(
        tmp_path,
        SMARTCITY_DOMAINS=str(tmp_path / "more"),
        SMARTCITY_DEMO=str(tmp_path / "datasets"),
    ):
        data.simulate(domains.load("noise"), rows=600)
        trained = modelling.train(modelling.prepare("noise"))
        card = modelling.publish(trained, modelling.draft(trained, run="test"))
        registry.promote("noise", card.version)
        prediction = Predictor.load("noise").predict(usual(card))
        with TestClient(create_app()) as client:
            answer = client.post("/api/v1/predict/noise", json=usual(card)).json()

    assert list(card.metrics) == ["random", "rolling", "time_ordered"]
    assert prediction.unit == "dB(A)"
    assert answer["prediction"] == prediction.prediction


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda text: text.replace('task = "regression"', 'task = "guess"'), "task"),
        (lambda text: text.replace('"Vehicles", "dB"]', '"dB"]'), "not in format.header"),
        (lambda text: text + "\nsurprise = 1", "surprise"),
        (lambda text: re.sub("advice = .*", "", text), "target.advice .* belongs to a regression"),
        (lambda text: text.replace('usual = "Nothing to do.",', ""), "target.advice.usual"),
        (
            lambda _: TRAFFIC.replace(
                "[target]", '[target]\nadvice = { low = "", usual = "", high = "" }'
            ),
            "target.advice .* only there",
        ),
        (lambda text: text.replace("[target]", "[target"), "Cannot read"),
    ],
)
def test_a_faulty_file_is_named(spoil: object, says: str, tmp_path: Path) -> None:
    (tmp_path / "noise.toml").write_text(spoil(NOISE))  # type: ignore[operator]
    with (
        at_home(tmp_path, SMARTCITY_DOMAINS=str(tmp_path)),
        pytest.raises(UsageError, match=says) as refused,
    ):
        domains.load_all()

    assert "noise.toml" in str(refused.value)


def test_the_specified_forests_are_the_specifications() -> None:
    depths = {name: d.forest.max_depth for name, d in domains.load_all().items()}
    others = {
        d.forest.model_copy(update={"max_depth": 0}).model_dump_json()
        for d in domains.load_all().values()
    }

    assert depths == {"air_quality": 15, "traffic": 10, "energy": 15}
    assert others == {
        '{"n_estimators":100,"max_depth":0,"min_samples_split":5,"random_state":42,"n_jobs":-1}'
    }


def test_the_inputs_are_the_specifications() -> None:
    counts = {name: len(d.inputs) for name, d in domains.load_all().items()}

    assert counts == {"air_quality": 12, "traffic": 5, "energy": 4}
    assert [level.label for level in domains.load("traffic").target.levels] == [
        "low",
        "medium",
        "high",
        "very high",
    ]


@pytest.mark.parametrize("name", ["air-quality", "air_quality"])
def test_hyphens_and_underscores_are_the_same(name: str) -> None:
    assert domains.load(name).slug == "air-quality"


@pytest.mark.parametrize(
    ("standard", "value", "label"),
    [
        ("India NAQI", 1.0, "good"),
        ("India NAQI", 1.01, "satisfactory"),
        ("India NAQI", 34.0, "very poor"),
        ("India NAQI", 34.1, "severe"),
        ("WHO guideline", 4.0, "within the guideline of 4 mg/m³"),
        ("WHO guideline", 7.1, "above the interim target of 7 mg/m³"),
        ("EU limit", 10.0, "within the limit of 10 mg/m³"),
        ("EU limit", 10.1, "above the limit of 10 mg/m³"),
        ("US AQI", 4.4 * 1.146, "good"),
        ("US AQI", 4.49 * 1.146, "good"),  # EPA cuts off after the first decimal
        ("US AQI", 4.5 * 1.146, "moderate"),
        ("US AQI", 60.0, "hazardous"),
    ],
)
def test_every_edge_of_the_tables_belongs_to_one_band(
    standard: str, value: float, label: str
) -> None:
    [table] = [t for t in domains.tables("CO") if t.standard == standard]

    assert table.band(value) == label


@pytest.mark.parametrize("pollutant", ["CO", "volume over capacity"])
def test_each_band_ends_with_its_edge_and_the_next_begins_above(pollutant: str) -> None:
    tables = domains.tables(pollutant)
    assert tables
    for table in tables:
        labels = [label for _, label in table.bands] + [table.above]
        above = 0.0001 if table.decimals is None else 10**-table.decimals
        for (edge, label), following in zip(table.bands, labels[1:], strict=True):
            assert table.band(edge * table.scale) == label
            assert table.band((edge + above) * table.scale) == following
        assert table.band(0) == labels[0]
        assert table.source
        assert table.edition
