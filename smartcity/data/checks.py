"""Row by row, reason by reason: what is wrong with the readings, and what was done about it."""

from typing import Any

import pandas as pd
import pandera.pandas as pa

from smartcity.data.readings import Readings
from smartcity.domains import Domain

#: Reason -> what happens to the value or row; nothing happens without a finding that says so.
ACTIONS = {
    "unreadable": "value set missing",
    "sentinel": "value set missing",
    "out of range": "value set missing",
    "sum rule": "row left out",
    "duplicate time": "row left out",
    "unsorted": "row sorted into place",
    "gap": "noted",
    "flat line": "noted",
    "spike": "noted",
}


def check(readings: Readings) -> pd.DataFrame:
    """Check every reading.

    Args:
        readings: As read, faults included.

    Returns:
        One row per finding: ``row`` (of ``readings.frame``), ``file``, ``line``, ``recorded_at``,
        ``column``, ``reason``, ``value``, ``action``, sorted by row.
    """
    domain, frame = readings.domain, readings.frame
    in_file_order = pa.DataFrameSchema(
        {"recorded_at": pa.Column(checks=[_unsorted()], nullable=True)}
    )
    sensible = frame.mask(_sentinels(domain, frame))
    in_time = sensible.sort_values("recorded_at", kind="stable")
    found = pd.concat(
        [
            _failures(in_file_order, frame),
            _failures(_value_schema(domain), frame),
            _failures(_series_schema(domain), in_time),
            _sum_failures(domain, frame),
            readings.unreadable.assign(reason="unreadable"),
        ],
        ignore_index=True,
    ).drop_duplicates(["row", "column", "reason"])
    where = frame.loc[found["row"], ["file", "line", "recorded_at"]].reset_index(drop=True)
    found = pd.concat([found.reset_index(drop=True), where], axis="columns")
    found["action"] = found["reason"].map(ACTIONS)
    columns = ["row", "file", "line", "recorded_at", "column", "reason", "value", "action"]
    return found[columns].sort_values(["row", "column"], ignore_index=True)


def records(findings: pd.DataFrame) -> list[dict[str, Any]]:
    """Give findings as JSON knows them: times in ISO 8601, None where a time was unreadable."""
    times = [None if pd.isna(time) else time.isoformat() for time in findings["recorded_at"]]
    ready = findings.astype(object).assign(recorded_at=pd.Series(times, findings.index, object))
    return [dict(zip(map(str, ready), row, strict=True)) for row in ready.to_numpy().tolist()]


def clean(readings: Readings, findings: pd.DataFrame) -> pd.DataFrame:
    """Do what the findings say: missing values as NaN, faulty rows left out, time order.

    Returns:
        ``recorded_at``, the measured inputs and the target, one row per time.
    """
    frame: pd.DataFrame = readings.frame.drop(columns=["file", "line"])
    emptied = findings[findings["action"] == "value set missing"]
    for column, rows in emptied.groupby("column")["row"]:
        frame.loc[rows, column] = pd.NaT if column == "recorded_at" else float("nan")
    left_out = findings.loc[findings["action"] == "row left out", "row"]
    kept = frame[~frame.index.isin(left_out) & frame["recorded_at"].notna()]
    return kept.sort_values("recorded_at", kind="stable", ignore_index=True)


def usable(domain: Domain, readings: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, int]]:
    """Keep the rows a model can learn from.

    Args:
        domain: The question.
        readings: Clean readings.

    Returns:
        The rows with a target and every required input, and why others were left out:
        reason -> number of rows.
    """
    required = [i.name for i in domain.inputs if i.column and not i.optional]
    no_target = readings[domain.target.name].isna()
    no_input = readings[required].isna().any(axis="columns") & ~no_target
    reasons = {
        f"no {domain.target.name}": int(no_target.sum()),
        "a required input is missing": int(no_input.sum()),
    }
    return readings[~no_target & ~no_input].reset_index(drop=True), reasons


def _sentinels(domain: Domain, frame: pd.DataFrame) -> pd.DataFrame:
    chosen = pd.DataFrame(data=False, index=frame.index, columns=frame.columns)
    if domain.format.sentinel is not None:
        names = list(domain.columns.values())
        chosen[names] = frame[names] == domain.format.sentinel
    return chosen


def _failures(schema: pa.DataFrameSchema, frame: pd.DataFrame) -> pd.DataFrame:
    """Run a schema and give its failures as ``row``, ``column``, ``reason``, ``value``."""
    try:
        schema.validate(frame, lazy=True)
    except pa.errors.SchemaErrors as error:
        cases = error.failure_cases
        return pd.DataFrame(
            {
                "row": cases["index"].astype(int),
                "column": cases["column"],
                "reason": cases["check"],
                "value": cases["failure_case"].astype(str),
            }
        )
    return pd.DataFrame({"row": [], "column": [], "reason": [], "value": []}).astype({"row": int})


def _value_schema(domain: Domain) -> pa.DataFrameSchema:
    """Each value by itself: is it a sentinel, is it physically possible?"""
    sentinel = domain.format.sentinel
    limits = {i.name: (i.low, i.high) for i in domain.inputs if i.column}
    if not domain.target.levels:
        limits[domain.target.name] = (domain.target.low, domain.target.high)
    columns = {
        name: pa.Column(
            float,
            [
                pa.Check(lambda s: s != sentinel, name="sentinel"),
                pa.Check(
                    lambda s, low=low, high=high: s.between(low, high) | (s == sentinel),
                    name="out of range",
                ),
            ],
            nullable=True,
        )
        for name, (low, high) in limits.items()
    }
    return pa.DataFrameSchema(columns)


def _sum_failures(domain: Domain, frame: pd.DataFrame) -> pd.DataFrame:
    """Compare published sums with the sum of their parts; the value is the difference."""
    sums = [spec for spec in domain.inputs if spec.sum_of and spec.column]
    rule = pa.Column(checks=[pa.Check(lambda d: d == 0, name="sum rule")], nullable=True)
    difference = pd.DataFrame(
        {s.name: frame[s.name] - frame[list(s.sum_of)].sum(axis="columns") for s in sums},
        index=frame.index,
    )
    return _failures(pa.DataFrameSchema({s.name: rule for s in sums}), difference)


def _series_schema(domain: Domain) -> pa.DataFrameSchema:
    """Each value beside its neighbours in time."""
    shape = domain.format
    gap = pd.Timedelta(minutes=shape.gap_minutes)
    times = pa.Column(
        checks=[
            pa.Check(lambda t: ~t.duplicated() | t.isna(), name="duplicate time"),
            pa.Check(lambda t: ~(t.diff() > gap), name="gap"),
        ],
        nullable=True,
    )
    measured = [*(i.name for i in domain.inputs if i.column)]
    if not domain.target.levels:
        measured.append(domain.target.name)
    series = [
        pa.Check(lambda s: ~_is_flat(s, shape.flat_line_rows), name="flat line"),
        pa.Check(lambda s: ~_is_spike(s, shape.spike_share), name="spike"),
    ]
    return pa.DataFrameSchema(
        {"recorded_at": times} | {n: pa.Column(checks=series, nullable=True) for n in measured}
    )


def _unsorted() -> Any:
    return pa.Check(lambda t: ~(t.diff() < pd.Timedelta(0)), name="unsorted")


def _is_flat(values: pd.Series, rows: int) -> pd.Series:
    """Mark values that stay exactly the same for at least ``rows`` readings."""
    stretch = (values != values.shift()).cumsum()
    return values.notna() & (values.groupby(stretch).transform("size") >= rows)


def _is_spike(values: pd.Series, share: float) -> pd.Series:
    """Mark lone values: away from both neighbours, the same way, by a share of the usual span.

    The span runs from the 1st to the 99th percentile of the series, so a rush hour or a machine
    that switches on is none: what stays away for two readings is not a spike.
    """
    span = values.quantile(0.99) - values.quantile(0.01)
    before, after = values - values.shift(), values - values.shift(-1)
    nearest = pd.concat([before.abs(), after.abs()], axis="columns").min(axis="columns")
    return (before * after > 0) & (nearest > share * span) & before.notna() & after.notna()
