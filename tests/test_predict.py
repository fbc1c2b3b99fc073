"""The one prediction path: what it refuses, what it says, and how it follows the registry."""

import contextlib
import datetime as dt
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import DOMAINS, usual
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_registry import flip_a_byte

from smartcity import domains, registry
from smartcity.errors import InputError, ModelError, UsageError
from smartcity.predict import Predictor, Predictors, row_model
from smartcity.predict.limits import Limits
from smartcity.predict.reasons import contributions

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
        ({"timestamp": "2022-01-31T08:20", "day": 3}, "not both"),
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
    assert prediction.confidence == prediction.probabilities[prediction.label]
    assert prediction.prediction_set is not None
    assert prediction.label in prediction.prediction_set


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


def air_history(rows: int = 240) -> list[dict[str, Any]]:
    """Recent readings of the simulated city, a reading a step."""
    return history("air_quality", rows)


def history(name: str, rows: int) -> list[dict[str, Any]]:
    domain = domains.load(name)
    rng = np.random.default_rng(5)
    times = np.datetime64("2024-03-01T00:00") + np.arange(rows) * np.timedelta64(
        domain.format.step_minutes, "m"
    )
    made = [i for i in domain.inputs if not i.from_time and not i.sum_of]
    found = []
    for time in times.astype("datetime64[s]").tolist():
        row: dict[str, Any] = {"timestamp": time.isoformat()}
        for spec in made:
            assert spec.simulated is not None
            value = spec.simulated.base + abs(spec.simulated.swing) * rng.uniform(0, 0.5)
            row[spec.name] = round(value) if spec.whole else value
        row[domain.target.name] = 1 if domain.target.levels else float(rng.uniform(1, 4))
        found.append(row)
    return found


def after(recent: list[dict[str, Any]], minutes: int) -> str:
    return (
        dt.datetime.fromisoformat(recent[-1]["timestamp"]) + dt.timedelta(minutes=minutes)
    ).isoformat()


def test_recent_readings_are_used_where_that_is_better(publish: Callable[..., Any]) -> None:
    card = publish("energy")
    assert card.champion == "recent"
    predictor, recent = Predictor.load("energy"), history("energy", 120)

    said = predictor.predict({"timestamp": after(recent, 20), "recent": recent})
    alone = predictor.predict({"timestamp": after(recent, 20)})

    assert said.based_on == "inputs, time and recent readings"
    assert alone.based_on == "inputs"
    assert said.prediction != alone.prediction
    assert said.interval is not None
    assert alone.interval is not None
    assert (said.interval.high - said.interval.low) < (alone.interval.high - alone.interval.low)


@pytest.mark.parametrize(
    ("rows", "minutes", "problem"),
    [
        (120, -20, "end in the day before"),
        (120, 3000, "end in the day before"),
        (9, 20, "24 hours"),
    ],
)
def test_recent_readings_that_do_not_fit_are_left_aside(
    rows: int, minutes: int, problem: str, publish: Callable[..., Any]
) -> None:
    publish("energy")
    predictor, recent = Predictor.load("energy"), history("energy", rows)

    said = predictor.predict({"timestamp": after(recent, minutes), "recent": recent})

    assert said.based_on == "inputs"
    assert any(problem in warning for warning in said.warnings)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"consumption_kwh": "much"}, "must be a number"),
        ({"consumption_kwh": 9999}, "must lie in"),
        ({"timestamp": "yesterday"}, "must be a time"),
        ({"timestamp": "2024-03-01T00:00:00+01:00"}, "leave the zone out"),
    ],
)
def test_a_faulty_recent_reading_is_named(
    change: dict[str, Any], problem: str, publish: Callable[..., Any]
) -> None:
    publish("energy")
    recent = history("energy", 120)
    recent[7] |= change

    with pytest.raises(InputError, match=f"reading 7.*{problem}"):
        Predictor.load("energy").predict({"timestamp": "2024-03-09T00:00", "recent": recent})


def test_recent_readings_out_of_order_are_refused(publish: Callable[..., Any]) -> None:
    publish("energy")
    recent = history("energy", 120)

    with pytest.raises(InputError, match="in time order"):
        Predictor.load("energy").forecast("next_day", recent[::-1])


@pytest.mark.parametrize("name", DOMAINS)
def test_forecasts_answer_each_distance(name: str, models: Models) -> None:
    predictor = Predictor.load(name)
    days = 9 * 1440 // domains.load(name).format.step_minutes

    outlook = predictor.outlook(history(name, days))

    assert list(outlook) == [f.name for f in predictor.forecasts] != []
    for forecast in predictor.forecasts:
        answers = outlook[forecast.name]
        assert [a.minutes for a in answers] == list(forecast.minutes)
        for said in answers:
            if said.label:
                assert said.prediction_set is not None
                assert said.label in said.prediction_set
                assert 0.25 <= said.confidence <= 1
            else:
                assert said.interval is not None
                assert said.interval.low <= said.prediction <= said.interval.high


def test_a_forecast_says_how_far_readings_must_reach_back(models: Models) -> None:
    predictor = Predictor.load("air_quality")
    [first, *_] = predictor.forecasts

    with pytest.raises(InputError, match="reach back 4.0 hours"):
        predictor.forecast(first.name, air_history(5))


def test_an_unknown_forecast_is_refused(models: Models) -> None:
    with pytest.raises(UsageError, match="forecast of 'air_quality'"):
        Predictor.load("air_quality").forecast("next_century", air_history())


def test_what_a_version_does_without_is_said(home: Path, publish: Callable[..., Any]) -> None:
    card = publish("energy")
    missing = [f.name for f in domains.load("energy").forecasts if f.name not in card.parts]

    for name in missing:
        with pytest.raises(ModelError, match="does not forecast"):
            Predictor.load("energy").forecast(name, history("energy", 700))


@pytest.mark.parametrize("name", DOMAINS)
def test_reasons_add_up_to_the_answer(name: str, models: Models) -> None:
    predictor = Predictor.load(name)
    row = usual(models[name])
    for number, key in enumerate(row):
        value = row[key] or 0.0
        row[key] = value if number % 2 else max(1.0, value // 2)

    said = predictor.predict(row, reasons=True)

    assert said.reasons is not None
    added = said.reasons.usual + sum(r.contribution for r in said.reasons.contributions)
    expected = said.confidence if said.label else said.prediction
    assert added == pytest.approx(expected, abs=2e-4)
    sizes = [abs(r.contribution) for r in said.reasons.contributions]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > 0


def test_reasons_of_recent_readings_add_up_too(publish: Callable[..., Any]) -> None:
    publish("energy")
    recent = history("energy", 120)

    said = Predictor.load("energy").predict(
        {"timestamp": after(recent, 20), "recent": recent}, reasons=True
    )

    assert said.reasons is not None
    assert {r.name for r in said.reasons.contributions} == {"time", "recent readings"}
    added = said.reasons.usual + sum(r.contribution for r in said.reasons.contributions)
    assert added == pytest.approx(said.prediction, abs=1e-4)


def test_usual_inputs_move_nothing(models: Models) -> None:
    said = Predictor.load("traffic").predict(usual(models["traffic"]), reasons=True)

    assert said.reasons is not None
    assert all(r.contribution == pytest.approx(0) for r in said.reasons.contributions)


@given(st.lists(st.floats(-5, 5), min_size=6, max_size=6), st.integers(0, 3))
def test_contributions_are_exact_where_inputs_do_not_interact(row: list[float], split: int) -> None:
    weights = np.array([1.0, -2.0, 0.5, 3.0, 0.0, 1.5])
    groups = [[0, 1], [2, 3], [4, 5]] if split else [[n] for n in range(6)]
    x, usual_row = np.array(row, dtype=np.float32), np.ones(6, dtype=np.float32)

    base, moved = contributions(lambda rows: rows @ weights, x, usual_row, groups)

    expected = [float(((x - usual_row) * weights)[group].sum()) for group in groups]
    assert base == pytest.approx(weights.sum())
    np.testing.assert_allclose(moved, expected, atol=1e-4)


def test_an_input_at_the_edge_is_named(models: Models) -> None:
    card = models["air_quality"]
    benzene = next(i for i in card.inputs if i.name == "C6H6_GT")
    at_edge = (benzene.edges[1] + benzene.high) / 2

    said = Predictor.load("air_quality").predict(air(models, C6H6_GT=at_edge))

    assert said.inputs_at_edge == ["C6H6_GT"]
    assert said.inputs_outside_training == []


def test_inputs_that_do_not_go_together_are_noticed(models: Models) -> None:
    """Each input stays within its range; their combination was never seen."""
    card = models["air_quality"]
    ranges = {i.name: i for i in card.inputs}
    odd = {"C6H6_GT": ranges["C6H6_GT"].edges[0], "PT08_S2_NMHC": ranges["PT08_S2_NMHC"].edges[1]}

    usual_given = Predictor.load("air_quality").predict(air(models))
    odd_given = Predictor.load("air_quality").predict(air(models, **odd))

    assert not usual_given.unusual_combination
    assert odd_given.unusual_combination
    assert any("do not go together" in warning for warning in odd_given.warnings)


def test_few_training_rows_are_called_unusual(trained: Any, models: Models) -> None:
    dataset = trained["air_quality"].dataset
    limits = Limits(models["air_quality"], dataset.domain.names)

    unusual = np.mean([standing.unusual for standing in limits.of(dataset.inputs)])

    assert unusual < 0.02


def test_running_means_replace_the_single_hour(models: Models) -> None:
    recent = air_history(30)
    for reading in recent:
        reading["CO_GT"] = 12.0

    said = Predictor.load("air_quality").predict(
        air(models, timestamp=after(recent, 60), recent=recent)
    )

    assert any("8 h running mean" in text for text in said.guidance)
    assert any("above the limit of 10" in text for text in said.guidance)
    assert not any("Indicative" in text for text in said.guidance)


def test_a_mean_needs_three_quarters_of_its_hours(models: Models) -> None:
    recent = air_history(30)
    for reading in recent[-7:]:
        reading["CO_GT"] = None

    said = Predictor.load("air_quality").predict(
        air(models, timestamp=after(recent, 60), recent=recent)
    )

    assert not any("8 h running mean" in text for text in said.guidance)
    assert any("Indicative" in text for text in said.guidance)


def test_a_street_has_a_level_of_service_only_with_lanes_and_capacity(models: Models) -> None:
    predictor = Predictor.load("traffic")
    counts = {"car_count": 100, "bike_count": 50, "bus_count": 10, "truck_count": 20}

    plain = predictor.predict(counts).guidance
    full = predictor.predict({**counts, "lanes": 2, "capacity": 400}).guidance

    assert any("680 passenger car units an hour" in text for text in plain)  # 4 (100+10+20+40)
    assert not any("level of service" in text for text in plain)
    assert any("0.85, level of service like D" in text for text in full)


def test_energy_has_a_price_and_emissions_where_they_are_known(models: Models) -> None:
    predictor = Predictor.load("energy")
    row = {"day": 3, "month": 1, "hour": 9, "minute": 0}

    said = predictor.predict({**row, "tariff": 0.3, "grid_factor": 0.5})

    assert said.guidance == [
        f"At 0.3 per kWh: {said.prediction * 0.3:.2f}.",
        f"At 0.5 kg CO₂e per kWh: {said.prediction * 0.5:.2f} kg CO₂e.",
    ]
    assert predictor.predict(row).guidance == []
    with pytest.raises(InputError, match="tariff"):
        predictor.predict({**row, "tariff": -1})


def test_in_flight_answers_finish_on_the_model_they_began_with(
    serving: Predictors, publish: Callable[..., Any]
) -> None:
    publish("traffic")
    held = serving.get("traffic")
    publish("traffic")

    assert serving.get("traffic").card.version == "1.0.1"
    assert held.predict(COUNTS).model_version == "1.0.0"
