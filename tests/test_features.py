"""The matrix: the same for a table and for a request, and nothing taken from later rows."""

import datetime as dt

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartcity import domains, features


@given(st.datetimes(dt.datetime(1980, 1, 1), dt.datetime(2100, 1, 1)))
def test_parts_of_time_are_those_on_the_clock(moment: dt.datetime) -> None:
    times = np.array([moment], dtype="datetime64[s]")

    parts = [features.time_part(times, part)[0] for part in ("month", "day", "hour", "minute")]

    assert parts == [moment.month, moment.day, moment.hour, moment.minute]


def test_a_sum_is_computed_whatever_was_given() -> None:
    columns = {"car_count": [3], "bike_count": [2], "bus_count": [1], "truck_count": [4]}

    rows = features.matrix(domains.load("traffic"), {**columns, "total": [999]})

    assert rows.tolist() == [[3, 2, 1, 4, 10]]


def test_a_table_and_a_request_give_the_same_row() -> None:
    energy = domains.load("energy")
    times = pd.Series(pd.to_datetime(["2022-01-31 16:55:52"])).to_numpy()

    from_table = features.matrix(energy, {}, recorded_at=times)
    from_request = features.matrix(
        energy, {"day": [31], "month": [1], "hour": [16], "minute": [55]}
    )

    assert from_table.tolist() == from_request.tolist()


def test_a_row_depends_on_no_other_row() -> None:
    rng = np.random.default_rng(0)
    air = domains.load("air_quality")
    columns = {name: rng.normal(size=50) for name in air.names}

    whole = features.matrix(air, columns)
    early = features.matrix(air, {name: values[:20] for name, values in columns.items()})

    np.testing.assert_array_equal(whole[:20], early)


def test_the_matrix_is_what_trees_compare() -> None:
    air = domains.load("air_quality")

    rows = features.matrix(air, {name: [0.1] for name in air.names})

    assert rows.dtype == np.float32


def _history(domain: domains.Domain, rows: int = 500) -> tuple[features.History, np.ndarray]:
    rng = np.random.default_rng(3)
    times = np.datetime64("2024-03-01T00:00") + np.arange(rows) * np.timedelta64(
        domain.format.step_minutes, "m"
    )
    names = [*domain.names, domain.target.name]
    top = len(domain.target.levels) or 50
    columns = {name: rng.integers(0, top, rows).astype(float) for name in names}
    columns[domain.target.name][::17] = np.nan
    return features.History.of(domain, columns, times), times


@given(st.sampled_from(["air_quality", "traffic", "energy"]), st.integers(200, 480))
def test_nothing_after_what_is_known_is_looked_at(name: str, known: int) -> None:
    domain = domains.load(name)
    follow = features.traced(domain)
    view = features.View(
        follow=follow, usual=follow, clock=True, elapsed=True, last=3, means=(60, 1440), days=(1, 2)
    )
    history, times = _history(domain)
    at = (times[[known]] + np.timedelta64(60, "m")).astype("datetime64[s]")
    cut = features.History(
        history.times[:known],
        history.readings[:known],
        history.sums[: known + 1],
        history.counts[: known + 1],
    )

    whole = features.seen(domain, view, {}, at=at, history=history, known=np.array([known]))
    alone = features.seen(domain, view, {}, at=at, history=cut, known=np.array([known]))

    np.testing.assert_array_equal(whole, alone)
    assert whole.shape == (1, len(view.names))


def test_a_view_says_what_is_in_each_column() -> None:
    air = domains.load("air_quality")
    history, times = _history(air)
    view = features.View(follow=("CO_GT",), last=2, means=(180,), elapsed=True)
    value = history.readings[:, features.traced(air).index("CO_GT")]

    row = features.seen(air, view, {}, at=times[[300]], history=history, known=np.array([300]))[0]

    said = dict(zip(view.names, row, strict=True))
    assert said["elapsed"] == 60
    assert said["CO_GT last 1"] == pytest.approx(value[299], nan_ok=True)
    assert said["CO_GT last 2"] == pytest.approx(value[298], nan_ok=True)
    assert said["CO_GT mean 180 min"] == pytest.approx(np.nanmean(value[297:300]))
    assert view.history == 180


def test_the_same_time_on_other_days_is_looked_up() -> None:
    air = domains.load("air_quality")
    history, times = _history(air)
    view = features.View(usual=("CO_GT",), days=(1, 2))
    value = history.readings[:, features.traced(air).index("CO_GT")]

    row = features.seen(air, view, {}, at=times[[400]], history=history, known=np.array([400]))[0]

    assert row[:2] == pytest.approx([value[376], value[352]], nan_ok=True)
    assert row[2] == pytest.approx(np.nanmean(value[[376, 352]]))


def test_a_meter_read_after_a_pause_is_brought_to_one_step() -> None:
    energy = domains.load("energy")
    times = np.array(["2022-01-01T00:00", "2022-01-01T00:20", "2022-01-01T01:00"], "datetime64[m]")

    history = features.History.of(energy, {"consumption_kwh": [1.0, 1.0, 2.0]}, times)

    rates = history.readings[:, features.traced(energy).index("consumption_kwh")]
    assert rates.tolist() == [1.0, 1.0, 1.0]


def test_the_clock_knows_weekdays() -> None:
    friday = np.array(["2024-03-01T06:00", "2024-03-02T18:30"], dtype="datetime64[m]")

    rows = features.seen(domains.load("air_quality"), features.View(clock=True), {}, at=friday)

    said = [dict(zip(features.CLOCK, row, strict=True)) for row in rows]
    assert [row["weekday"] for row in said] == [4, 5]
    assert [row["weekend"] for row in said] == [0, 1]
    assert [row["hour of day"] for row in said] == [6, 18.5]
    assert said[0]["sin day"] == pytest.approx(1)
