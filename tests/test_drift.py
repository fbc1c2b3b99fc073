"""Sensors that stick, fall silent, jump, drift or change places; and sensors that do not."""

import json
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from smartcity import cli, data, domains
from smartcity.domains import Input
from smartcity.monitoring import drift

AIR = domains.load("air_quality")
NAMED = drift.sensors(AIR)
NAMES = [spec.name for spec in NAMED]
BEGIN = pd.Timestamp("2030-01-01")
ONSET = pd.Timestamp("2030-05-10")


def simulated(days: int = 220) -> pd.DataFrame:
    """Simulate a year's part of hourly readings: rush hours, a season, each sensor's own noise."""
    dice = np.random.default_rng(5)
    hours = np.arange(24 * days)
    weather = np.convolve(dice.normal(size=hours.size + 71), np.ones(72) / 8, "valid")
    busy = np.sin(2 * np.pi * hours / 24) + 0.4 * weather
    season = np.sin(2 * np.pi * hours / (24 * 365))
    columns = {}
    for n, name in enumerate(NAMES):
        own = 0.03 * dice.normal(size=hours.size)
        columns[name] = 100 * (n + 1) * np.exp((0.1 + 0.02 * n) * busy + 0.05 * season + own)
    columns["temperature"] = 15 + 5 * busy + 2 * season + 0.3 * dice.normal(size=hours.size)
    times = BEGIN + pd.to_timedelta(hours, "h")
    return pd.DataFrame({"recorded_at": times, **columns})


@pytest.fixture(scope="module")
def calm() -> pd.DataFrame:
    return simulated()


def stuck(values: pd.Series, late: pd.Series) -> pd.Series:
    return values.where(~late, values[~late].iloc[-1])


def bursts(values: pd.Series, late: pd.Series) -> pd.Series:
    return values.mask(late & (np.arange(len(values)) % 9 < 4), AIR.format.sentinel)


def silent(values: pd.Series, late: pd.Series) -> pd.Series:
    return values.mask(late, AIR.format.sentinel)


def step(values: pd.Series, late: pd.Series) -> pd.Series:
    return values.where(~late, values * 1.15)


def slow(values: pd.Series, late: pd.Series) -> pd.Series:
    return values * (1 + 0.02 * late.cumsum() / 168)


def test_readings_without_a_fault_raise_nothing(calm: pd.DataFrame) -> None:
    assert drift.watch(AIR, calm) == []


@pytest.mark.parametrize(
    ("fault", "kind", "hours"),
    [(stuck, "stuck", 6), (bursts, "bursts", 48), (silent, "silent", 26), (step, "step", 24)],
)
@pytest.mark.parametrize("name", ["PT08_S1_CO", "humidity"])
def test_a_fault_is_named_in_time(
    calm: pd.DataFrame, fault: Callable[..., pd.Series], kind: str, hours: int, name: str
) -> None:
    late = calm["recorded_at"] >= ONSET
    event = drift.watch(AIR, calm.assign(**{name: fault(calm[name], late)}))[0]

    assert (event.alarms[0].sensor, event.alarms[0].kind) == (name, kind)
    assert pd.Timedelta(0) <= event.since - ONSET <= pd.Timedelta(hours=hours)
    assert event.swapped is None
    label = next(spec.label for spec in drift.sensors(AIR) if spec.name == name)
    assert label in drift.advice(AIR, event)


def test_a_slow_drift_is_named_with_its_size(calm: pd.DataFrame) -> None:
    late = calm["recorded_at"] >= ONSET
    faulty = calm.assign(PT08_S4_NO2=slow(calm["PT08_S4_NO2"], late))

    alarm = drift.watch(AIR, faulty)[0].alarms[0]

    assert (alarm.sensor, alarm.kind) == ("PT08_S4_NO2", "drift")
    weeks = (alarm.since - ONSET) / pd.Timedelta(weeks=1)
    assert 4 < weeks < 12
    assert alarm.size is not None
    assert 0 < alarm.size < 0.02 * weeks


def test_a_step_is_told_in_the_unit_of_its_input(calm: pd.DataFrame) -> None:
    late = calm["recorded_at"] >= ONSET
    faulty = calm.assign(temperature=calm["temperature"] - 3 * late)

    event = drift.watch(AIR, faulty)[0]

    assert event.alarms[0].sensor == "temperature"
    assert event.alarms[0].amount == pytest.approx(-3, abs=1)
    assert drift.sentences(AIR, event)[0].startswith("Temperature reads ")
    assert "°C, below what the others say" in drift.sentences(AIR, event)[0]


def test_two_sensors_that_change_places_are_named(calm: pd.DataFrame) -> None:
    pair = ["PT08_S1_CO", "PT08_S5_O3"]
    late = calm["recorded_at"] >= ONSET
    faulty = calm.copy()
    faulty.loc[late, pair] = faulty.loc[late, pair[::-1]].to_numpy()

    event = drift.watch(AIR, faulty)[0]

    assert set(event.swapped or ()) == set(pair)
    assert event.since - ONSET <= pd.Timedelta(hours=24)
    assert "changed places" in drift.advice(AIR, event)


def test_what_sticks_or_is_silent_goes_on(calm: pd.DataFrame) -> None:
    late = calm["recorded_at"] >= ONSET

    for fault in (stuck, silent):
        events = drift.watch(AIR, calm.assign(humidity=fault(calm["humidity"], late)))
        assert [event.until for event in events] == [None]


def test_an_alarm_ends_when_the_fault_does(calm: pd.DataFrame) -> None:
    late = calm["recorded_at"].between(ONSET, ONSET + pd.Timedelta(days=20))
    faulty = calm.assign(PT08_S2_NMHC=step(calm["PT08_S2_NMHC"], late))

    events = drift.watch(AIR, faulty)

    first = next(a for e in events for a in e.alarms if a.sensor == "PT08_S2_NMHC")
    assert first.until is not None
    assert pd.Timedelta(days=20) <= first.until - ONSET <= pd.Timedelta(days=80)


def test_the_watch_knows_only_the_past(calm: pd.DataFrame) -> None:
    late = calm["recorded_at"] >= ONSET
    faulty = calm.assign(PT08_S1_CO=step(calm["PT08_S1_CO"], late))
    faulty = faulty.assign(humidity=stuck(calm["humidity"], late & late.shift(24 * 40)))
    whole = told(drift.watch(AIR, faulty))

    for days in (1, 3, 30, 60):
        end = ONSET + pd.Timedelta(days=days)
        then = told(drift.watch(AIR, faulty[faulty["recorded_at"] < end]))

        assert then == {alarm for alarm in whole if alarm[2] < end}


def quiet(count: int, seed: int) -> tuple[list[Input], pd.DataFrame]:
    """Simulate sensors without faults that have nothing in common, each with its own noise."""
    dice, hours = np.random.default_rng(seed), 24 * 240
    specs = [NAMED[0].model_copy(update={"name": f"s{n}", "label": f"S{n}"}) for n in range(count)]
    own = {s.name: np.convolve(dice.normal(size=hours + 11), np.ones(12) / 12) for s in specs}
    columns = {name: 100 * np.exp(0.7 * values[11 : hours + 11]) for name, values in own.items()}
    return specs, pd.DataFrame(
        {"recorded_at": BEGIN + pd.to_timedelta(range(hours), "h")} | columns
    )


def test_a_city_of_many_sensors_has_as_many_false_alarms_as_one_of_few(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At one multiple for all, forty sensors would raise what eight times five do."""
    monkeypatch.setattr(drift, "FALSE_A_YEAR", 30.0)

    def alarms(count: int, seed: int) -> int:
        specs, readings = quiet(count, seed)
        monkeypatch.setattr(drift, "sensors", lambda _: specs)
        return sum(len(event.alarms) for event in drift.watch(AIR, readings))

    many, few = alarms(40, 0), [alarms(5, seed) for seed in range(1, 9)]

    assert 0 < many < 30
    assert 0 < sum(few) / 8 < 30
    assert many < sum(few) / 2


def test_a_drift_that_comes_every_year_is_told_once_and_another_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    few = [spec for spec in NAMED if spec.name in {"PT08_S1_CO", "PT08_S4_NO2", "PT08_S5_O3"}]
    monkeypatch.setattr(drift, "sensors", lambda _: few)
    calm = simulated(912)
    day = (calm["recorded_at"] - BEGIN) / pd.Timedelta(days=1)
    wave = 1 + 0.2 * np.sin(2 * np.pi * (day - 200) / 365)
    yearly = calm.assign(PT08_S5_O3=calm["PT08_S5_O3"] * wave)
    drifting = yearly.assign(PT08_S4_NO2=slow(yearly["PT08_S4_NO2"], day >= 600))
    known, until = BEGIN + pd.Timedelta(days=365 + 126), BEGIN + pd.Timedelta(days=700)

    whole = told(drift.watch(AIR, drifting))
    then = told(drift.watch(AIR, drifting[drifting["recorded_at"] < until]))

    drifts = sorted((at, name) for name, kind, at in whole if kind == "drift")
    assert {name for at, name in drifts if at < known} == {"PT08_S5_O3"}
    at, name = next(pair for pair in drifts if pair[0] >= known)
    assert name == "PT08_S4_NO2"
    assert 600 < (at - BEGIN).days < 600 + 7 * 12
    assert then == {alarm for alarm in whole if alarm[2] < until}


def test_a_silent_station_is_one_event_of_one_sentence(calm: pd.DataFrame) -> None:
    late = calm["recorded_at"] >= ONSET
    nothing = calm.assign(**{name: silent(calm[name], late) for name in NAMES})

    (event,) = drift.watch(AIR, nothing)

    assert drift.sentences(AIR, event) == ["The station sends nothing"]
    assert drift.advice(AIR, event).startswith("The station: ")
    assert event.since - ONSET <= pd.Timedelta(hours=26)
    assert event.until is None
    (alarm,) = event.alarms
    assert {alarm.sensor, *alarm.others} == set(NAMES)


def test_a_silent_part_of_the_station_is_one_sentence_until_all_read_again(
    calm: pd.DataFrame,
) -> None:
    until = ONSET + pd.Timedelta(days=3)
    late = calm["recorded_at"].between(ONSET, until)
    part = calm.assign(**{name: silent(calm[name], late) for name in NAMES[:5]})

    (event,) = drift.watch(AIR, part)

    assert drift.sentences(AIR, event) == [
        "CO sensor (S1) and 4 more have read nothing for longer than they used to"
    ]
    assert event.until == until


def test_a_sensor_that_was_silent_before_stays_so_while_the_station_is(calm: pd.DataFrame) -> None:
    late, later = (calm["recorded_at"] >= ONSET + pd.Timedelta(days=n) for n in (0, 10))
    back = calm["recorded_at"] >= ONSET + pd.Timedelta(days=15)
    gone = {name: silent(calm[name], later & ~back) for name in NAMES}

    events = drift.watch(AIR, calm.assign(**gone | {"humidity": silent(calm["humidity"], late)}))

    kinds = [(event.alarms[0].sensor, event.alarms[0].kind) for event in events]
    assert kinds == [("humidity", "silent"), (NAMES[0], "outage")]
    assert [event.until is None for event in events] == [True, False]


def told(events: list[drift.Event]) -> set[tuple[str, str, pd.Timestamp]]:
    return {(a.sensor, a.kind, a.since) for event in events for a in event.alarms}


@pytest.mark.parametrize("days", [0, 1, 20])
def test_little_is_no_reason_for_an_alarm(calm: pd.DataFrame, days: int) -> None:
    assert drift.watch(AIR, calm[: 24 * days]) == []


@pytest.mark.parametrize("name", ["traffic", "energy"])
def test_other_questions_are_watched_too(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SMARTCITY_DATASETS", raising=False)
    domain = domains.load(name)
    spec = drift.sensors(domain)[0]
    step_ = pd.Timedelta(minutes=domain.format.step_minutes)
    times = BEGIN + step_ * np.arange(int(pd.Timedelta(days=90) / step_))
    dice = np.random.default_rng(3)
    columns = {s.name: 50 + 20 * dice.random(len(times)) for s in drift.sensors(domain)}
    frame = pd.DataFrame({"recorded_at": times, **columns})
    late = frame["recorded_at"] >= BEGIN + pd.Timedelta(days=80)

    assert drift.watch(domain, frame) == []
    event = drift.watch(domain, frame.assign(**{spec.name: stuck(frame[spec.name], late)}))[0]
    assert (event.alarms[0].sensor, event.alarms[0].kind) == (spec.name, "stuck")


def test_the_command_says_what_goes_on_and_what_to_do(
    calm: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = calm["recorded_at"] >= ONSET
    faulty = calm.assign(PT08_S1_CO=step(calm["PT08_S1_CO"], late))
    faulty = faulty[faulty["recorded_at"] < ONSET + pd.Timedelta(days=3)]
    run = CliRunner().invoke

    monkeypatch.setattr(data, "read", lambda *_: SimpleNamespace(frame=calm))
    well = run(cli.app, ["monitor", "drift", "air_quality", "--json"])
    monkeypatch.setattr(data, "read", lambda *_: SimpleNamespace(frame=faulty))
    ill = run(cli.app, ["monitor", "drift", "air_quality"])
    as_json = run(cli.app, ["monitor", "drift", "air_quality", "--json"])

    assert (well.exit_code, json.loads(well.stdout)) == (0, [])
    assert ill.exit_code != 0
    assert "CO sensor (S1) reads" in " ".join(ill.stdout.split())
    assert json.loads(as_json.stdout)[0]["alarms"][0]["sensor"] == "PT08_S1_CO"
