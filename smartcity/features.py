"""Readings or a request -> the model's matrix; one code for training and serving."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from smartcity.domains import Domain, TimePart

Matrix = NDArray[np.float32]
Times = NDArray[np.datetime64]


def time_part(times: Times, part: TimePart) -> NDArray[np.int64]:
    """Take one part of each time, as counted on a clock or calendar.

    Args:
        times: Times of shape (rows,), without zone.
        part: ``day`` (1-31), ``month`` (1-12), ``hour`` (0-23) or ``minute`` (0-59).

    Returns:
        Whole numbers of shape (rows,).

    >>> time_part(np.array(["2022-01-31T16:55"], dtype="datetime64[m]"), "hour")
    array([16])
    """
    months = times.astype("datetime64[M]")
    days = times.astype("datetime64[D]")
    hours = times.astype("datetime64[h]")
    parts: dict[TimePart, NDArray[Any]] = {
        "day": (days - months).astype(np.int64) + 1,
        "month": months.astype(np.int64) % 12 + 1,
        "hour": (hours - days).astype(np.int64),
        "minute": (times.astype("datetime64[m]") - hours).astype(np.int64),
    }
    return parts[part]


def matrix(
    domain: Domain, columns: Mapping[str, ArrayLike], *, recorded_at: Times | None = None
) -> Matrix:
    """Build the model's matrix, inputs in the domain's order.

    Sums are always computed, never taken; parts of time are computed when the times are given.

    Args:
        domain: The question asked.
        columns: Input name -> values of shape (rows,), NaN where a sensor gave nothing.
        recorded_at: When each row was read, shape (rows,); needed only where ``columns`` lacks
            the parts of time.

    Returns:
        Array of shape (rows, inputs). float32, as scikit-learn's trees compare: doubles fed to an
        exported tree fall on the other side of a threshold now and then.
    """
    ready: dict[str, NDArray[np.float64]] = {}
    for spec in domain.inputs:
        if spec.sum_of:
            ready[spec.name] = np.sum([ready[part] for part in spec.sum_of], axis=0)
        elif spec.from_time and recorded_at is not None:
            ready[spec.name] = time_part(recorded_at, spec.from_time).astype(np.float64)
        else:
            ready[spec.name] = np.asarray(columns[spec.name], dtype=np.float64)
    return np.column_stack([ready[name] for name in domain.names]).astype(np.float32)
