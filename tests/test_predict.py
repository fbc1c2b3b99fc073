"""The one prediction path: what it refuses, what it says, and how it follows the registry."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import usual
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_registry import flip_a_byte

from smartcity import domains, registry
from smartcity.errors import InputError, ModelError
from smartcity.predict import Predictor, Predictors, row_model

Models = dict[str, registry.Card]
COUNTS = {"car_count": 60, "bike_count": 10, "bus_count": 10, "truck_count": 10}


def air(models: Models, **changed: object) -> dict[str, Any]:
    return {**usual(models["air_quality"]), **changed}


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"C6H6_GT": None}, "cannot do without"),
        ({"C6H6_GT": -200}, "-200 stands for a missing reading: the model cannot do without"),
        ({"NOx_GT": -200}, "-200 stands for a missing reading: send null"),
        ({"humidity": 100.5}, "must lie in 0 to 100 %"),
        ({"C6H6_GT": -1}, "must lie in 0 to 300 µg/m³"),
        ({"humidity": float("nan")}, "must be a finite number"),
        ({"humidity": float("inf")}, "must be a finite number"),
        ({"humidity": 10**400}, "must be a finite number"),
        ({"humidity": "50"}, "must be a number"),
        ({"humidity": True}, "must be a number"),
        ({"humidity": [50]}, "must be a number"),
        ({"humidty": 50}, "is not an input"),
    ],
)
def test_refuses_a_row_and_says_why(
    changed: dict[str, object], problem: str, models: Models
) -> None:
    with pytest.raises(InputError, match=problem) as refused:
        Predictor.load("air_quality").predict(air(models, **changed))

    [fault] = refused.value.details
    assert fault["field"] == next(iter(changed))


def test_names_every_fault_of_a_row(models: Models) -> None:
    with pytest.raises(InputError) as refused:
        Predictor.load("traffic").predict({"car_count": -1, "bike_count": 1.5, "truck_count": 3})

    assert [fault["field"] for fault in refused.value.details] == [
        "car_count",
        "bike_count",
        "bus_count",
    ]


def test_a_total_is_computed_and_a_wrong_one_refused(models: Models) -> None:
    predictor = Predictor.load("traffic")

    assert predictor.predict({**COUNTS, "total": 90}) == predictor.predict(COUNTS)
    with pytest.raises(InputError, match="total is 91, but .* is 90"):
        predictor.predict({**COUNTS, "total": 91})


def test_a_timestamp_stands_for_its_parts(models: Models) -> None:
    predictor = Predictor.load("energy")

    by_parts = predictor.predict({"day": 31, "month": 1, "hour": 8, "minute": 20})

    assert predictor.predict({"timestamp": "2025-01-31T08:20"}) == by_parts


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"timestamp": "soon"}, "must be a time"),
        ({"timestamp": 5}, "must be a time"),
        ({"timestamp": "2022-01-31", "day": 3}, "not both"),
        ({"day": 30, "month": 2, "hour": 0, "minute": 0}, "month 2 has no day 30"),
    ],
)
def test_refuses_a_time_that_cannot_be(
    row: dict[str, object], problem: str, models: Models
) -> None:
    with pytest.raises(InputError, match=problem):
        Predictor.load("energy").predict(row)


def test_published_column_names_are_accepted(models: Models) -> None:
    domain = domains.load("air_quality")
    ours = air(models)
    theirs = {spec.column: ours[spec.name] for spec in domain.inputs if spec.column}

    predictor = Predictor.load("air_quality")

    assert predictor.predict(theirs) == predictor.predict(ours)


def test_a_missing_optional_input_is_answered_with_a_warning(models: Models) -> None:
    prediction = Predictor.load("air_quality").predict(air(models, NO2_GT=None))

    assert "Nitrogen dioxide is missing" in prediction.warnings[0]


def test_inputs_beyond_training_are_named(models: Models) -> None:
    prediction = Predictor.load("air_quality").predict(air(models, C6H6_GT=299))

    assert prediction.inputs_outside_training == ["C6H6_GT"]
    assert "above anything the model has seen" in prediction.warnings[0]


def test_answers_from_simulated_readings_say_so(models: Models) -> None:
    prediction = Predictor.load("traffic").predict(COUNTS)

    assert prediction.simulated
    assert "simulated" in prediction.warnings[-1]


def test_a_class_comes_with_its_probabilities(models: Models) -> None:
    prediction = Predictor.load("traffic").predict(COUNTS)

    assert prediction.probabilities is not None
    assert sum(prediction.probabilities.values()) == pytest.approx(1, abs=0.001)
    levels = [level.label for level in domains.load("traffic").target.levels]
    assert prediction.label == levels[int(prediction.prediction)]
    assert prediction.confidence is None


def test_a_quantity_comes_with_its_interval(models: Models) -> None:
    prediction = Predictor.load("air_quality").predict(air(models))

    assert prediction.interval is not None
    assert prediction.interval.low <= prediction.prediction <= prediction.interval.high
    assert prediction.confidence == prediction.interval.level == 0.9


def test_many_rows_at_once_give_the_same_as_one_by_one(models: Models) -> None:
    predictor = Predictor.load("traffic")
    rows = [predictor.check({**COUNTS, "car_count": cars}) for cars in range(0, 100, 7)]

    assert predictor.answer(rows) == [predictor.predict(row) for row in rows]
    assert predictor.answer([]) == []


def test_the_schema_keeps_limits_and_nulls() -> None:
    schema = row_model(domains.load("air_quality")).model_json_schema()

    assert schema["properties"]["humidity"]["maximum"] == 100
    assert {"type": "null"} in schema["properties"]["NOx_GT"]["anyOf"]
    assert len(schema["required"]) == 12


VALUES = st.one_of(
    st.none(), st.booleans(), st.floats(), st.integers(), st.text(), st.lists(st.integers())
)


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(row=st.dictionaries(st.sampled_from([*COUNTS, "total", "x"]), VALUES))
def test_any_row_is_answered_or_refused_by_name(row: dict[str, object], models: Models) -> None:
    predictor = Predictor.load("traffic")
    is_whole = {*COUNTS} <= set(row)
    if not is_whole:
        with pytest.raises(InputError) as refused:
            predictor.predict(row)
        assert {*COUNTS} - set(row) <= {fault["field"] for fault in refused.value.details}
        return
    with contextlib.suppress(InputError):  # any other error fails the test
        assert 0 <= predictor.predict(row).prediction <= 3


@pytest.fixture
def serving(publish: Callable[..., registry.Card]) -> Iterator[Predictors]:
    publish("energy")
    yield Predictors()


def test_a_published_version_is_picked_up(
    serving: Predictors, publish: Callable[..., registry.Card]
) -> None:
    before = serving.get("energy").card.version
    publish("energy")

    assert (before, serving.get("energy").card.version) == ("1.0.0", "1.0.1")


def test_a_damaged_new_version_leaves_the_old_one_served(
    serving: Predictors, home: Path, publish: Callable[..., registry.Card]
) -> None:
    serving.get("energy")
    publish("energy")
    flip_a_byte(home / "models" / "energy" / "1.0.1" / "model.onnx")

    assert serving.get("energy").card.version == "1.0.0"
    assert "not the file that was published" in serving.errors["energy"]


def test_a_cold_start_on_a_damaged_version_serves_the_one_before(
    home: Path, publish: Callable[..., registry.Card]
) -> None:
    publish("energy")
    publish("energy")
    flip_a_byte(home / "models" / "energy" / "1.0.1" / "model.onnx")
    serving = Predictors()

    assert serving.get("energy").card.version == "1.0.0"
    assert "1.0.1" in serving.errors["energy"]


def test_a_passing_fault_passes(home: Path, publish: Callable[..., registry.Card]) -> None:
    publish("energy")
    serving = Predictors()
    serving.get("energy")
    (home / "models").rename(home / "gone")
    assert serving.get("energy").card.version == "1.0.0"
    assert "energy" in serving.errors

    (home / "gone").rename(home / "models")

    assert serving.get("energy").card.version == "1.0.0"
    assert serving.errors == {}


def test_a_version_rolled_back_from_is_no_fallback(
    home: Path, publish: Callable[..., registry.Card]
) -> None:
    publish("energy")
    publish("energy")
    registry.rollback("energy")
    flip_a_byte(home / "models" / "energy" / "1.0.0" / "model.onnx")

    with pytest.raises(ModelError, match="not the file that was published"):
        Predictors().get("energy")


def test_one_missing_model_does_not_touch_the_others(serving: Predictors) -> None:
    with pytest.raises(ModelError, match="No model of 'traffic'"):
        serving.get("traffic")

    assert serving.get("energy").card.version == "1.0.0"
