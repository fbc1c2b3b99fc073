"""The matrix: the same for a table and for a request, and nothing taken from later rows."""

import datetime as dt

import numpy as np
import pandas as pd
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
