"""What a report says: only of what was known, by hand the same, and in tables people can read."""

import csv
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import DOMAINS, at_home

from smartcity import charts, data, domains
from smartcity.data import council
from smartcity.errors import DataError

AIR, TRAFFIC, ENERGY = (domains.load(name) for name in DOMAINS)
NONE = float("nan")


def hourly(domain: domains.Domain, values: list[float], start: str = "2026-03-02") -> pd.DataFrame:
    """Clean readings, one an hour from a Monday's midnight."""
    times = pd.date_range(start, periods=len(values), freq="h")
    return pd.DataFrame({"recorded_at": times, domain.target.name: values})


def held(readings: pd.DataFrame, *, since: str = "2026-03-02") -> dict[str, dict[str, Any]]:
    """Hold readings against the guidelines, by standard."""
    told = council.guidelines(AIR, readings, since=since, to="2026-12-31")
    return {table["standard"]: table for table in told["tables"]}


def test_a_day_means_its_end_and_a_moment_itself() -> None:
    readings = hourly(AIR, [1.0] * 48)

    assert len(data.until(readings, "")) == 48
    assert len(data.until(readings, "2026-03-02")) == 24
    assert len(data.until(readings, "2026-03-02T05:00")) == 6


def test_a_line_without_a_time_goes_with_the_line_before_it() -> None:
    readings = hourly(AIR, [1.0] * 48)
    readings.loc[[3, 30], "recorded_at"] = pd.NaT

    assert list(data.until(readings, "2026-03-02").index) == list(range(24))


def test_a_moment_before_the_first_reading_is_refused_with_both(city: Path) -> None:
    with pytest.raises(DataError, match="as_of is 1999-01-01, before .* 'energy', 2025-01-06"):
        data.read("energy").until("1999-01-01")


@pytest.mark.parametrize("name", DOMAINS)
def test_a_report_of_then_is_what_it_would_have_been_then(name: str, city: Path) -> None:
    """Readings that came later are cut out of the file, and of the report."""

    def report(as_of: str) -> dict[str, Any]:
        readings = data.read(name).until(as_of)
        findings = data.check(readings)
        clean = data.clean(readings, findings)
        facts = data.summarise(readings.domain, clean, days=3)
        facts["comparison"] = data.compare(
            readings.domain, *data.periods(readings.domain, clean, days=3)
        )
        facts |= data.account(readings.domain, clean, facts, tariff=0.2, grid_factor=0.4)
        return facts | data.quality(readings.domain, clean, findings, facts, as_of=last)

    whole = data.read(name)
    last = f"{whole.frame['recorded_at'].quantile(0.8):%Y-%m-%d}"
    kept = whole.until(last).frame
    then = report(last)
    for file, lines in whole.frame.groupby("file")["line"]:
        path = city / "datasets" / name / str(file)
        text = path.read_text(encoding="utf-8").splitlines(keepends=True)
        gone = set(lines) - set(kept.loc[kept["file"] == file, "line"])
        left = [line for number, line in enumerate(text, start=1) if number not in gone]
        path.write_text("".join(left), encoding="utf-8")

    assert len(kept) < len(whole.frame)
    assert report("") == then


def test_running_means_are_as_by_hand_and_belong_to_the_day_they_end_on() -> None:
    readings = hourly(AIR, [1.0] * 20 + [12.0] * 8 + [1.0] * 20)

    told = council.guidelines(AIR, readings, since="2026-03-02", to="2026-03-03T23:00")
    eu = next(table for table in told["tables"] if table["standard"] == "EU limit")

    # Until midnight four of eight are 12: (4 * 12 + 4 * 1) / 8.
    assert told["daily"]["8 h"] == {"2026-03-02": 6.5, "2026-03-03": 12.0}
    # 02:00 and 04:00 have seven: (7 * 12 + 1) / 8 = 10.625; 03:00 has all eight.
    assert (eu["means_above"], eu["days_above"], eu["days"]) == (3, 1, 2)
    assert (eu["highest"], eu["highest_at"]) == (12.0, "2026-03-03T03:00:00")
    assert (eu["edition"], eu["stated"], eu["limit"]) == ("2008/50/EC", "10 mg/m³", 10.0)


def test_an_hour_above_a_limit_is_no_exceedance() -> None:
    assert held(hourly(AIR, [1.0] * 12 + [30.0] + [1.0] * 11))["EU limit"]["means_above"] == 0


def test_a_mean_that_ends_in_the_period_may_begin_before_it() -> None:
    readings = hourly(AIR, [12.0] * 24 + [1.0] * 24)

    eu = held(readings, since="2026-03-03T00:00")["EU limit"]

    assert (eu["means"], eu["highest"]) == (24, pytest.approx((7 * 12 + 1) / 8))


def test_a_mean_and_a_day_need_three_quarters_of_their_readings() -> None:
    six = held(hourly(AIR, [9.0] * 6))["EU limit"]
    five = held(hourly(AIR, [9.0] * 5))["EU limit"]
    scarce = held(hourly(AIR, [NONE] * 7 + [11.0] * 17))["EU limit"]
    enough = held(hourly(AIR, [NONE] * 1 + [11.0] * 23))["EU limit"]
    whole_day = held(hourly(AIR, [NONE] * 6 + [2.0] * 18))["WHO guideline"]

    assert (six["means"], six["highest"], five["means"]) == (1, 9.0, 0)
    assert (five["highest"], five["highest_at"]) == (None, None)
    assert (scarce["means"], scarce["days"], scarce["means_above"]) == (12, 0, 12)
    assert (enough["days"], enough["days_above"]) == (1, 1)
    assert whole_day["means"] == 1


def test_hours_that_are_not_there_count_as_missing() -> None:
    readings = hourly(AIR, [2.0] * 24)

    assert held(readings[::2])["EU limit"]["means"] == 0


def test_the_american_index_cuts_off_what_it_does_not_state() -> None:
    just, over = (held(hourly(AIR, [ppm * 1.146] * 24))["US AQI"] for ppm in (4.49, 4.5))

    assert (just["days_above"], over["days_above"]) == (0, 1)
    assert just["stated"] == "4.4 ppm"


def test_what_has_no_guideline_is_not_mentioned() -> None:
    each = {
        domain.name: data.account(
            domain,
            hourly(domain, [1.0] * 24),
            {"from": "2026-03-02", "to": "2026-03-03"},
            tariff=0,
            grid_factor=0,
        )
        for domain in (AIR, TRAFFIC, ENERGY)
    }

    assert {name: list(told) for name, told in each.items()} == {
        "air_quality": ["guidelines"],
        "traffic": ["levels"],
        "energy": ["energy"],
    }


def test_time_at_each_level_and_the_busy_hours_of_the_week() -> None:
    monday = [0.0] * 8 + [3.0, 2.0] + [1.0] * 14
    told = council.levels(TRAFFIC, hourly(TRAFFIC, [*monday, *[0.0] * 23, NONE]))

    # 47 readings; each stands for the quarter of an hour its station counts.
    assert told["shares"]["low"] == pytest.approx(31 / 47)
    assert told["hours"] == {"low": 7.75, "medium": 3.5, "high": 0.25, "very high": 0.25}
    assert [(at["weekday"], at["hour"]) for at in told["busy"]] == [(0, 8), (0, 9)]
    assert told["hours_read"] == 47
    [table] = data.tables.account(TRAFFIC, {"levels": told})
    assert "in 2 of 47 hours of the week, most on Monday at 8:00" in table.caption


def test_energy_adds_up_and_states_what_it_assumes() -> None:
    readings = hourly(ENERGY, [0.5] * 144, start="2026-03-02")
    readings["recorded_at"] = pd.date_range("2026-03-02", periods=144, freq="20min")
    readings.loc[readings.index >= 72, ENERGY.target.name] = 1.0
    late = hourly(ENERGY, [9.0], start="2026-03-05")  # nothing was read on the 4th

    told = council.energy(ENERGY, pd.concat([readings, late]), tariff=0.25, grid_factor=0.4)

    assert told["by_day"] == {"2026-03-02": 36.0, "2026-03-03": 72.0, "2026-03-05": 9.0}
    assert (told["kwh"], told["cost"]) == (117.0, 29.25)
    assert told["co2e_kg"] == pytest.approx(46.8)
    assert (told["days"], told["per_day"]) == (2, 54.0)  # the third has one reading of 72
    assert told["cv"] == pytest.approx(18 * 2**0.5 / 54)
    [table] = data.tables.account(ENERGY, {"energy": told})
    assert table.columns == ("Day", "kWh", "Cost", "CO₂e, kg")
    assert table.rows[-1] == ("In all", "117.0", "29.25", "46.80")
    assert "Assumed: 0.25 per kWh. Assumed: 0.4 kg CO₂e per kWh." in table.caption


def test_without_assumptions_there_is_neither_cost_nor_emission() -> None:
    told = council.energy(ENERGY, hourly(ENERGY, [1.0] * 24 * 40), tariff=0, grid_factor=0)
    [table] = data.tables.account(ENERGY, {"energy": told})

    assert (told["cost"], told["co2e_kg"]) == (None, None)
    assert "Assumed" not in table.caption
    assert table.columns == ("Month", "kWh")  # more days than a table should have
    assert table.rows == [("2026-03", "720.0"), ("2026-04", "240.0"), ("In all", "960.0")]


def test_a_period_stands_beside_the_one_before() -> None:
    now, before = data.periods(AIR, hourly(AIR, [1.0] * 24 + [NONE, 3.0] * 12), days=1)

    told = data.compare(AIR, now, before)
    table = data.tables.comparison(told)

    assert told["now"] == {"from": "2026-03-03T00:00:00", "to": "2026-03-03T23:00:00"}
    assert table.columns == ("Figure", "3 March 2026", "2 March 2026")
    assert table.rows == [
        ("Carbon monoxide, mean, mg/m³", "3.00", "1.00"),
        ("Carbon monoxide, highest, mg/m³", "3.00", "1.00"),
        ("Readings without a value", "50.0%", "0.0%"),
    ]


def test_nothing_before_is_said_and_not_made_up() -> None:
    now, before = data.periods(AIR, hourly(AIR, [1.0] * 24), days=7)

    table = data.tables.comparison(data.compare(AIR, now, before))

    assert table.caption == "There are no readings from before 2 March 2026 to compare with."
    assert {row[2] for row in table.rows} == {"–"}


@pytest.mark.parametrize(
    ("hours", "first", "last"),
    [
        (48, "2026-03-03T00:00", "2026-03-03T23:00"),  # the last of its day: a whole day
        (49, "2026-03-03T01:00", "2026-03-04T00:00"),  # the first of one: as many hours
        (41, "2026-03-02T17:00", "2026-03-03T16:00"),
    ],
)
def test_days_are_counted_back_from_the_newest_value(hours: int, first: str, last: str) -> None:
    now, before = data.periods(AIR, hourly(AIR, [1.0] * hours), days=1)

    assert list(now["recorded_at"].iloc[[0, -1]]) == [pd.Timestamp(first), pd.Timestamp(last)]
    assert len(now) == 24
    assert before["recorded_at"].max() < now["recorded_at"].min()


def test_a_reading_that_comes_a_little_late_still_ends_its_day() -> None:
    readings = hourly(ENERGY, [1.0] * 144)
    readings["recorded_at"] = pd.date_range("2026-03-02 00:08", periods=144, freq="1198s")

    now, _ = data.periods(ENERGY, readings, days=1)

    assert {f"{at:%Y-%m-%d}" for at in now["recorded_at"]} == {"2026-03-03"}


def test_a_target_never_read_is_refused() -> None:
    with pytest.raises(DataError, match="Carbon monoxide was not read once in 3 readings"):
        data.summarise(AIR, hourly(AIR, [NONE] * 3), days=1)


def trusted(readings: pd.DataFrame, as_of: str = "") -> dict[str, Any]:
    """Say how far readings can be trusted, nothing found wrong with them but a spike at 02:00."""
    facts = data.summarise(AIR, readings, days=1)
    spike = {"recorded_at": [pd.Timestamp("2026-03-02T02:00")], "reason": "spike"}
    findings = pd.DataFrame(spike | {"action": "noted"})
    return data.quality(AIR, readings, findings, facts, as_of=as_of)


def test_gaps_and_findings_of_the_period_are_told() -> None:
    readings = hourly(AIR, [1.0] * 24).drop(index=[5, 6, 7])

    told = trusted(readings)

    assert (told["gaps"], told["gap_hours"], told["age"]) == (1, 3.0, None)
    assert told["sentence"] == "Of 21 readings 0.0% lack a value; 1 gap of 3.0 hours in all."
    assert told["findings"] == [{"reason": "spike", "action": "noted", "in_period": 1, "in_all": 1}]
    later = trusted(hourly(AIR, [1.0] * 72))["findings"]
    assert (later[0]["in_period"], later[0]["in_all"]) == (0, 1)


def test_the_age_of_the_newest_value_is_told_when_it_is_more_than_a_day() -> None:
    fresh = trusted(hourly(AIR, [1.0] * 24), "2026-03-03")
    stale = trusted(hourly(AIR, [1.0] * 24), "2026-03-12T23:00")

    assert (fresh["age"], stale["age"]) == (25.0, 240.0)
    assert "newest value, of 2 March 2026, is 10 days older than 2026-03-12" in stale["sentence"]
    assert "older" not in trusted(hourly(AIR, [1.0] * 24), "2026-03-02")["sentence"]


def test_readings_that_come_without_a_value_are_no_readings() -> None:
    told = trusted(hourly(AIR, [1.0] * 24 + [NONE] * 30))

    assert told["silent_hours"] == 30.0
    assert "What came in the 30.0 hours after it has no value." in told["sentence"]


def test_a_model_that_knows_what_came_later_is_no_test() -> None:
    assert data.learned_later("2026-03-05T10:00", "") == ""
    assert data.learned_later("2026-03-05T10:00", "2026-03-05") == ""
    assert "readings to 5 March 2026, later than 2026-03-04" in data.learned_later(
        "2026-03-05T10:00", "2026-03-04"
    )


@pytest.mark.parametrize(
    ("first", "last", "said"),
    [
        ("2026-03-02", "2026-03-02T23:00", "2 March 2026"),
        ("2026-03-02", "2026-03-08", "2 to 8 March 2026"),
        ("2026-02-27", "2026-03-08", "27 February to 8 March 2026"),
        ("2025-03-02", "2026-03-08", "2 March 2025 to 8 March 2026"),
    ],
)
def test_days_are_written_as_people_do(first: str, last: str, said: str) -> None:
    assert council.stretch({"from": first, "to": last}) == said


FACTS = {
    "from": "2026-03-02T00:00:00",
    "to": "2026-03-02T23:00:00",
    "value": 2.1,
    "missing_share": 0.1,
    "model_version": "1.0.0",
    "verdict": "It is better.",
    "simulated": False,
}


def test_what_changed_since_the_last_report_is_told_in_words() -> None:
    last = FACTS | {
        "run": "20260301T000000Z-aaaaaa",
        "to": "2026-03-01T23:00:00",
        "simulated": True,
        "value": 1.8,
        "missing_share": 0.25,
        "model_version": "0.9.0",
        "verdict": "It is worse.",
    }

    told = data.changed(AIR, json.dumps(last), FACTS)

    assert told == {
        "since": "20260301T000000Z-aaaaaa",
        "sentences": [
            "The mean rose from 1.80 to 2.10 mg/m³.",
            "The share of missing values fell from 25.0% to 10.0%.",
            "Readings now reach to 2 March 2026, before to 1 March 2026.",
            "The readings are real now, before they were not.",
            "The model is now 1.0.0, before 0.9.0.",
            "How far the model can be trusted has changed; before: It is worse.",
        ],
    }


def test_no_last_report_and_one_that_says_the_same_are_told_apart() -> None:
    first = data.changed(TRAFFIC, "", FACTS)
    same = data.changed(TRAFFIC, json.dumps(FACTS | {"run": "r", "value": 2.1 + 1e-9}), FACTS)
    busier = data.changed(TRAFFIC, json.dumps(FACTS | {"value": 0.2}), FACTS | {"value": 0.3})

    assert first == {"since": None, "sentences": ["There is no earlier report to compare with."]}
    assert same == {"since": "r", "sentences": ["Nothing has changed."]}
    assert busier["sentences"] == [
        "The share of readings at high or very high rose from 20% to 30%."
    ]


def test_every_question_has_its_sentence_the_reports_own_first(city: Path) -> None:
    readings = data.read("energy")
    clean = data.clean(readings, data.check(readings))
    (city / "datasets" / "traffic" / "Traffic.csv").write_text("")  # no fault of this report

    facts = data.summarise(ENERGY, clean, days=2)
    told = data.glance(readings, facts, as_of="", days=2)

    assert [each["domain"] for each in told] == ["energy", "air_quality", "traffic"]
    assert told[0]["sentence"] == facts["sentence"]
    assert told[1]["sentence"].startswith("Carbon monoxide averaged")
    assert (told[2]["from"], told[2]["sentence"]) == (None, "There are no readings of these days.")
    own, air, traffic = data.listed(told).splitlines()
    assert own.startswith("- **Energy**, ")
    assert own.count("(simulated)") == air.count("(simulated)") == 1
    assert traffic == "- **Traffic**: There are no readings of these days."


def test_a_table_has_headed_columns_and_rows_and_trusts_no_text() -> None:
    html = data.tables.Table("A <b> & c.", ("Day", "kWh"), [("1 <i>", "2")])._repr_html_()

    assert html == (
        '<table><caption>A &lt;b&gt; &amp; c.</caption><thead><tr><th scope="col">Day</th>'
        '<th scope="col">kWh</th></tr></thead><tbody><tr><th scope="row">1 &lt;i&gt;</th>'
        "<td>2</td></tr></tbody></table>"
    )
    assert data.tables.Table("None.", ("Day",), [])._repr_html_() == "<p>None.</p>"


def test_charts_of_what_a_period_amounts_to_say_their_highest() -> None:
    facts = {"from": "2026-03-02", "to": "2026-03-03T23:00"}
    readings = hourly(AIR, [1.0] * 20 + [12.0] * 8 + [1.0] * 20)
    told = data.account(AIR, readings, facts, tariff=0, grid_factor=0)
    few = data.account(AIR, readings[:3], facts, tariff=0, grid_factor=0)

    eight, day = charts.account(AIR, told)

    assert (eight.layout.meta["name"], day.layout.meta["name"]) == (
        "guidelines_8h",
        "guidelines_24h",
    )
    assert eight.layout.meta["summary"] == "Highest: 12.00 mg/m³ on 2026-03-03."
    lines = {line.name: line.y[0] for line in eight.data[1:]}
    assert lines == {
        "India NAQI: 1 mg/m³": 1.0,
        "EU limit: 10 mg/m³": 10.0,
        "US AQI: 4.4 ppm": pytest.approx(5.0424),
    }
    assert charts.account(AIR, few)[0].layout.meta["summary"] == "No day has readings enough."


def test_hours_are_drawn_apart_for_working_days_and_weekends() -> None:
    monday = hourly(AIR, [float(hour) for hour in range(24)])
    both = pd.concat([monday, hourly(AIR, [5.0] + [1.0] * 23, start="2026-03-07")])

    table = data.by_hour(both, "CO_GT")
    chart = charts.hours(table, label="CO", unit="mg/m³")
    alone = charts.hours(data.by_hour(monday, "CO_GT"), label="CO", unit="mg/m³")

    assert table["Monday to Friday"] == list(range(24))
    assert table["Saturday and Sunday"][:2] == [5.0, 1.0]
    assert chart.layout.meta["summary"] == (
        "CO: usually highest Monday to Friday at 23:00 (23 mg/m³); "
        "Saturday and Sunday at 0:00 (5 mg/m³)."
    )
    assert "Saturday" not in alone.layout.meta["summary"]


@pytest.mark.real
def test_figures_of_real_readings_are_what_the_files_add_up_to(real: Path, tmp_path: Path) -> None:
    """Read by the csv module and added up by hand: a month of air, a day of energy."""

    def lines(name: str, delimiter: str) -> list[dict[str, str]]:
        files = sorted((real / name).glob("[!.]*.csv"))
        return [
            row
            for file in files
            for row in csv.DictReader(file.read_text("utf-8-sig").splitlines(), delimiter=delimiter)
        ]

    june = [
        float(row["CO(GT)"].replace(",", "."))
        for row in lines("air_quality", ";")
        if row["Date"].endswith("/06/2004") and not row["CO(GT)"].startswith("-200")
    ]
    twentieth = {
        row["TxnTime"]: float(row["Consumption"])
        for row in lines("energy", ",")
        if row["TxnDate"] == "20 Jan 2022"
    }

    def report(name: str, as_of: str, days: int) -> dict[str, Any]:
        readings = data.read(name).until(as_of)
        clean = data.clean(readings, data.check(readings))
        facts = data.summarise(readings.domain, clean, days=days)
        return facts | data.account(readings.domain, clean, facts, tariff=0.5, grid_factor=0)

    with at_home(tmp_path, SMARTCITY_DATASETS=str(real)):
        air, energy = report("air_quality", "2004-06-30", 30), report("energy", "2022-01-20", 1)

    assert air["value"] == pytest.approx(sum(june) / len(june))
    assert energy["energy"]["kwh"] == pytest.approx(sum(twentieth.values()))
    assert energy["energy"]["cost"] == pytest.approx(sum(twentieth.values()) / 2)
