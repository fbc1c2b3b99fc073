"""Whether models are still right: truth that finds its answers, figures that add up, verdicts."""

import csv
import io
import json
import math
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import numpy as np
import pytest
from fastapi.testclient import TestClient
from numpy.typing import NDArray
from scipy import stats
from sqlalchemy import insert, select, update
from test_cli import assert_refused, smartcity
from test_faults import serving
from test_predict import after, history
from test_spool import prediction, spooled
from test_store import keep

from smartcity import data, domains, monitoring, registry
from smartcity.api import create_app
from smartcity.cli import monitor
from smartcity.errors import UsageError
from smartcity.monitoring import accuracy, observed
from smartcity.monitoring.accuracy import Yardstick
from smartcity.store import answers, importer, tables
from smartcity.store import database as store

Models = dict[str, registry.Card]
#: A Monday.
START = datetime(2026, 3, 2, tzinfo=UTC)
HOUR = timedelta(hours=1)


def asked(name: str, count: int) -> tuple[list[dict[str, Any]], list[float]]:
    """Give the last readings of the simulated city as the API takes them, and their truth."""
    domain, readings = domains.load(name), data.read(name)
    frame, _ = data.usable(domain, data.clean(readings, data.check(readings)))
    last = frame.drop_duplicates("recorded_at", keep=False).tail(count)
    rows = []
    for row in last.to_dict("records"):
        measured = [i.name for i in domain.inputs if i.column and not i.sum_of]
        given: dict[str, Any] = {n: None if math.isnan(row[n]) else row[n] for n in measured}
        rows.append(given | {"timestamp": row["recorded_at"].isoformat()})
    return rows, last[domain.target.name].tolist()


def ask(client: TestClient, name: str, rows: list[dict[str, Any]]) -> list[str]:
    """Have rows answered and the answers brought into the database; give their ids."""
    said = client.post(f"/api/v1/predict/batch/{domains.load(name).slug}", json=rows).json()
    assert said["failed"] == 0, said
    importer.import_waiting()
    return [each["id"] for each in said["predictions"]]


def written(path: Path, truths: Iterable[tuple[object, object]]) -> Path:
    path.write_text("id,observed\n" + "".join(f"{key},{value}\n" for key, value in truths))
    return path


def observations() -> dict[UUID, float]:
    with store.transaction() as connection:
        asked_for = select(tables.feedback.c.prediction_id, tables.feedback.c.observed)
        return dict(connection.execute(asked_for).all())


def spread_out(hours: int) -> None:
    """Let the answers kept have been given so many hours apart, from ``START`` on."""
    with store.transaction(write=True) as connection:
        keys = connection.scalars(select(tables.predictions.c.id).order_by("id")).all()
        for number, key in enumerate(keys):
            change = update(tables.predictions).where(tables.predictions.c.id == key)
            connection.execute(change.values(timestamp=START + number * hours * HOUR))


def simulate(
    card: registry.Card,
    errors: Sequence[float] | NDArray[np.float64],
    *,
    since: timedelta = timedelta(),
    apart: timedelta = HOUR,
    without_truth: int = 0,
) -> None:
    """Keep answers with wanted errors, from ``START`` on; intervals reach 1 to either side."""
    rows, truths = [], []
    for number, error in enumerate([*errors, *[0.0] * without_truth]):
        at, key = START + since + number * apart, uuid4()
        row = {"id": key, "model_name": card.domain, "model_version": card.version, "part": "now"}
        row |= {"input_data": {}, "prediction": 50.0, "low": 49.0, "high": 51.0, "confidence": 0.9}
        rows.append(row | {"timestamp": at})
        if number < len(errors):
            truth = {"prediction_id": key, "observed": 50.0 - float(error), "created_at": at}
            truths.append(truth)
    with store.transaction(write=True) as connection:
        connection.execute(insert(tables.predictions), rows)
        connection.execute(insert(tables.feedback), truths)


def exported(name: str) -> list[dict[str, str]]:
    done = smartcity("monitor", "export", name)
    assert done.returncode == 0, done.stderr
    return list(csv.DictReader(io.StringIO(done.stdout)))


@pytest.mark.parametrize("name", ["air_quality", "traffic"])
def test_live_accuracy_is_what_the_exported_rows_add_up_to_by_the_last_digit(
    name: str, database: str, city: Path, models: Models
) -> None:
    """Truth comes all three ways; figures are recomputed offline, from the CSV alone."""
    rows, truths = asked(name, 150)
    with TestClient(create_app()) as client:
        keys = ask(client, name, rows)
        for key, truth in list(zip(keys, truths, strict=True))[:10]:
            said = client.post("/api/v1/feedback", json={"id": key, "observed": truth})
            assert said.status_code == 201
    by_file = written(city / "truth.csv", list(zip(keys, truths, strict=True))[5:40])
    assert "30 answers" in smartcity("monitor", "observe", str(by_file)).stdout
    done = smartcity("monitor", "observe", "--from-readings", name, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"noted": 110, "known": 0, "elsewhere": 0, "supposed": 0}
    assert observations() == {UUID(k): t for k, t in zip(keys, truths, strict=True)}
    spread_out(hours=5)

    table = exported(name)
    [group] = accuracy.look(domains.load(name)).groups

    number: dict[str, Any] = {
        n: np.array([float(row[n] or "nan") for row in table]) for n in accuracy._NUMBERS
    }
    error, truth = number["prediction"] - number["observed"], number["observed"]
    found = group.overall
    assert len(table) == found.answers == found.observed == 150
    assert found.bias
    assert found.error
    assert found.coverage
    assert found.bias.value == math.fsum(error) / 150
    if name == "traffic":
        assert found.error.value == np.count_nonzero(error) / 150
        assert found.coverage.value == np.count_nonzero(error == 0) / 150
    else:
        held = (number["low"] <= truth) & (truth <= number["high"])
        assert found.error.value == math.fsum(abs(error)) / 150
        assert found.rmse == math.sqrt(math.fsum(error * error) / 150)
        assert found.coverage.value == np.count_nonzero(held) / 150
    assert sum(each.observed for each in group.windows) == 150
    assert len(group.windows) == 5  # 150 * 5 hours are four weeks and three days


@pytest.mark.parametrize(("window", "days"), [("day", 1), ("week", 7)])
def test_a_drop_of_coverage_is_reported_within_one_window(
    window: accuracy.Window, days: int, home: Path, models: Models
) -> None:
    """Errors double from the first Monday of May on; until then nothing is said."""
    store.upgrade()
    card, domain, good = models["air_quality"], domains.load("air_quality"), 9 * 7 * 24
    errors = np.random.default_rng(7).normal(0, 0.6, good + days * 24)
    errors[good:] *= 2

    simulate(card, errors[:good])
    before = accuracy.look(domain, window)
    simulate(card, errors[good:], since=good * HOUR)
    after_it = accuracy.look(domain, window)

    assert [len(before.groups[0].windows), len(after_it.groups[0].windows)] == [
        63 // days,
        63 // days + 1,
    ]
    assert before.groups[0].verdict.intervals == "hold"
    verdict = after_it.groups[0].verdict
    assert verdict.since == date(2026, 5, 4)
    assert verdict.intervals == "do not hold"
    [wrong] = after_it.wrong
    assert "In the window of 2026-05-04" in wrong
    assert "where 90.0% was promised" in wrong
    assert wrong.endswith("smartcity run 02_train --domain air_quality")


def test_an_error_above_the_cards_is_told_with_how_much_and_only_beyond_chance(
    home: Path, models: Models
) -> None:
    store.upgrade()
    card, domain = models["energy"], domains.load("energy")
    yardstick = Yardstick.of(domain, card.version, "now")
    assert yardstick.later
    measured = yardstick.later.error
    assert measured
    assert measured.value == pytest.approx(
        card.parts["now"].metrics["time_ordered"]["mae"], rel=1e-3
    )
    same = np.random.default_rng(3).choice([-1.0, 1.0], 7 * 24) * measured.value

    simulate(card, same)
    assert accuracy.look(domain).groups[0].verdict.error == "as measured"
    simulate(card, 3 * same, since=timedelta(weeks=1))
    found = accuracy.look(domain)

    verdict = found.groups[0].verdict
    assert (verdict.error, verdict.before) == ("up", measured)
    assert verdict.increase == pytest.approx(2)
    assert "200% above" in found.wrong[0]


def test_too_few_truths_tell_nothing_however_bad_they_are(home: Path, models: Models) -> None:
    store.upgrade()
    simulate(models["energy"], [9.0] * (accuracy.ENOUGH - 1))

    found = accuracy.look(domains.load("energy"))

    assert found.wrong == ()
    assert found.groups[0].overall.observed == accuracy.ENOUGH - 1
    assert found.groups[0].verdict == accuracy.Verdict()


def test_a_version_that_is_served_no_more_is_told_of_and_is_no_alarm(
    home: Path, models: Models
) -> None:
    store.upgrade()
    gone = models["energy"].model_copy(update={"version": "0.0.9"})
    simulate(gone, [9.0] * 200)

    found = accuracy.look(domains.load("energy"))

    assert found.wrong == ()
    [group] = found.groups
    assert (group.version, group.served, group.verdict.intervals) == ("0.0.9", False, "do not hold")
    assert group.verdict.error == "nothing to compare with"


def test_without_truth_the_error_is_estimated_and_the_estimate_checked_when_truth_comes(
    home: Path, models: Models
) -> None:
    """By hand: intervals of 2, so a half of 1, times the card's ratio of error to half-width."""
    store.upgrade()
    card, domain = models["energy"], domains.load("energy")
    yardstick = Yardstick.of(domain, card.version, "now")
    assert yardstick.scale
    width = card.parts["now"].coverage["mean_width"]
    mae = card.parts["now"].metrics["time_ordered"]["mae"]
    assert yardstick.scale == pytest.approx(mae / (width / 2), rel=1e-3)
    simulate(card, [0.5] * 30, without_truth=10)

    found = accuracy.look(domain).groups[0].overall

    assert (found.answers, found.observed) == (40, 30)
    assert found.estimate == found.foretold == pytest.approx(yardstick.scale)
    assert found.ratio == pytest.approx(0.5 / yardstick.scale)


def test_the_error_of_classes_is_estimated_from_their_probabilities(
    home: Path, models: Models
) -> None:
    store.upgrade()
    for number in range(8):
        at = START + number * HOUR
        row = {"model_name": "traffic", "prediction": 1.0, "confidence": 0.75, "timestamp": at}
        key = keep(**row, low=None, high=None, part="now")
        if number < 4:
            assert answers.observe({key: float(number > 0)}) == (1, {})

    found = accuracy.look(domains.load("traffic")).groups[0].overall

    assert (found.estimate, found.foretold, found.promised) == (0.25, 0.25, 0.75)
    assert found.bias
    assert found.error
    assert found.coverage
    assert (found.error.value, found.coverage.value, found.ratio) == (0.25, 0.75, 1.0)
    assert found.bias.value == 0.25
    assert found.rmse is None


@pytest.mark.parametrize(("hits", "count"), [(0, 1), (1, 1), (3, 24), (160, 168), (168, 168)])
def test_the_range_of_a_share_is_wilsons(hits: int, count: int) -> None:
    theirs = stats.binomtest(hits, count).proportion_ci(method="wilson")

    ours = accuracy.share(hits, count)

    assert ours
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_the_range_of_a_mean_draws_whole_days() -> None:
    """Alike within a day: the range is that of the days' means, not that of the many answers."""
    rng = np.random.default_rng(1)
    by_day = rng.normal(0, 1, 60)
    values = np.repeat(by_day, 24)
    days = np.repeat(np.arange(60).astype("M8[D]"), 24)

    found = accuracy.mean(values, days)

    assert found
    theirs = stats.bootstrap((by_day,), np.mean, method="percentile", rng=2).confidence_interval
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=0.05)
    assert found == accuracy.mean(values, days)
    few = accuracy.mean(values[: 24 * 4], days[: 24 * 4])
    assert few
    assert (few.low, few.high) == (None, None)


def test_weeks_begin_on_monday_and_months_on_their_first(home: Path, models: Models) -> None:
    store.upgrade()
    simulate(models["energy"], [0.1] * 40, apart=timedelta(days=1))

    def firsts(window: accuracy.Window) -> list[date | None]:
        [group] = accuracy.look(domains.load("energy"), window).groups
        return [each.since for each in group.windows]

    weeks = [date(2026, 3, 2) + timedelta(weeks=n) for n in range(6)]
    assert firsts("week") == weeks
    assert firsts("month") == [date(2026, 3, 1), date(2026, 4, 1)]
    assert firsts("day") == [START.date() + timedelta(days=n) for n in range(40)]


def test_a_file_of_truths_is_noted_whole_or_not_at_all_and_each_bad_line_is_named(
    database: str, home: Path
) -> None:
    good, other, said = keep(), keep(), keep(model_name="traffic")
    answers.observe({said: 2.0})
    lines = [(good, 1.5), ("nonsense", 1), (other, "x"), (uuid4(), 1), (other, -7), (said, 3)]

    with pytest.raises(UsageError) as first:
        observed.from_file(written(home / "a.csv", lines))
    with pytest.raises(UsageError) as second:
        observed.from_file(written(home / "b.csv", [*lines[:1], *lines[3:]]))

    for number in (3, 4):
        assert f"line {number}: " in str(first.value)
    for fault in (
        "line 3: 1: no answer of this id is kept",
        "line 4: -7: must be from",
        "line 5: 3: another value was observed already; it stays",
    ):
        assert fault in str(second.value)
    assert "line 2:" not in str(first.value) + str(second.value)
    assert observations() == {said: 2.0}

    whole = written(home / "c.csv", [(good, 1.5), (good, 1.5), (said, 2)])
    assert observed.from_file(whole) == observed.Joined(noted=1, known=1)
    assert observed.from_file(whole) == observed.Joined(noted=0, known=2)
    assert observations() == {said: 2.0, good: 1.5}


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"", "must begin"), (b"key,value\n", "must begin"), (b"id,observed\n\xff", "Cannot read")],
)
def test_a_file_that_is_no_table_of_truths_is_refused(
    content: bytes, says: str, home: Path
) -> None:
    (home / "x.csv").write_bytes(content)

    with pytest.raises(UsageError, match=says):
        observed.from_file(home / "x.csv")


def test_readings_join_only_what_was_asked_of_their_time_and_inputs(
    database: str, city: Path, models: Models
) -> None:
    """Twice the same time, a what-if, a time nobody read, and no time at all."""
    [row], [truth] = asked("air_quality", 1)
    elsewhere = row | {"timestamp": "2199-01-01T00:00"}
    timeless = {name: value for name, value in row.items() if name != "timestamp"}
    name = next(i.name for i in domains.load("air_quality").inputs if row[i.name] is not None)
    what_if = row | {name: row[name] * 1.01 + 0.01}
    with TestClient(create_app()) as client:
        keys = ask(client, "air_quality", [row, row, what_if, elsewhere, timeless])

    done = smartcity("monitor", "observe", "--from-readings", "air_quality", "--json")

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"noted": 2, "known": 0, "elsewhere": 1, "supposed": 1}
    assert observations() == {UUID(keys[0]): truth, UUID(keys[1]): truth}


def test_a_simulated_city_says_nothing_of_a_model_of_a_real_one(
    city: Path, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = models["energy"].model_copy(update={"data": {"simulated": False}})
    monkeypatch.setattr(registry, "card", lambda name: real)

    with pytest.raises(UsageError, match="are simulated, the model served was trained on real"):
        monitor._readings(domains.load("energy"), "main")


def test_each_answer_is_kept_with_the_part_that_gave_it(database: str, models: Models) -> None:
    """And lines that were waiting in the spool from before are taken in without."""
    name = next(n for n, card in models.items() if card.parts[card.champion].view.history)
    recent = history(name, 500)
    row = {k: v for k, v in recent[-1].items() if k != domains.load(name).target.name}
    later = row | {"timestamp": after(recent, domains.load(name).format.step_minutes)}
    with TestClient(create_app()) as client:
        keys = ask(client, name, [later | {"recent": recent}, row])
    spooled(prediction())
    importer.import_waiting()

    parts = {str(row[0]): row[2] for row in answers.told(name)}

    assert parts[keys[0]] == models[name].champion != "now"
    assert parts[keys[1]] == "now"
    assert list(parts.values()).count(None) + (name != "air_quality") == 1


def test_the_command_says_what_is_wrong_and_exits_with_1(home: Path, models: Models) -> None:
    store.upgrade()
    nothing = smartcity("monitor", "accuracy")
    assert nothing.returncode == 0, nothing.stderr
    assert "Nothing observed yet" in nothing.stdout
    simulate(models["energy"], [0.1] * 200)
    well = smartcity("monitor", "accuracy", "energy", "--window", "day")
    assert well.returncode == 0, well.stderr
    assert "energy 1.0.0, now, served: intervals hold" in well.stdout
    simulate(models["traffic"], [0.0] * 200)
    simulate(models["energy"], [9.0] * 200, since=timedelta(weeks=2))

    told = smartcity("monitor", "accuracy", "--json")

    assert_refused(told, 1, "smartcity run 02_train --domain energy")
    by_name = {each["domain"]: each for each in json.loads(told.stdout)}
    assert len(by_name["energy"]["wrong"]) == 1
    assert by_name["traffic"]["wrong"] == by_name["air_quality"]["wrong"] == []
    assert by_name["energy"]["groups"][0]["windows"][-1]["error"]["value"] == 9
    assert_refused(smartcity("monitor", "accuracy", "--window", "year"), 2, "year")
    assert_refused(smartcity("monitor", "observe"), 2, "--from-readings")


def test_metrics_tell_the_last_days_by_version_and_part(home: Path, models: Models) -> None:
    store.upgrade()
    simulate(models["energy"], [0.5] * 240, since=datetime.now(UTC) - START - 240 * HOUR)
    simulate(models["traffic"], [0.0] * 30)

    [total, recent, *_] = monitoring.metrics._accuracy()

    mine = {"domain": "energy", "version": "1.0.0", "part": "now"}
    found = {
        s.labels["measure"]: s.value for s in recent.samples if mine.items() <= s.labels.items()
    }
    assert {s.labels["domain"] for s in recent.samples} == {"energy"}
    assert {s.labels["domain"] for s in total.samples} == {"energy", "traffic"}
    assert found["observed"] == 240
    for name in ("error", "bias"):
        assert (found[name], found[f"{name}_low"], found[f"{name}_high"]) == (0.5, 0.5, 0.5)
    assert found["coverage"] == found["coverage_high"] == 1
    assert 0.9 < found["coverage_low"] < 1
    assert found["promised"] == pytest.approx(0.9)


def test_the_running_services_metrics_are_a_table(
    home: Path, models: Models, free_port: int
) -> None:
    assert_refused(smartcity("monitor", "metrics", SMARTCITY_API_PORT="9"), 1, "smartcity up")
    with serving(home, free_port):
        done = smartcity("monitor", "metrics", "--json", SMARTCITY_API_PORT=str(free_port))

    assert done.returncode == 0, done.stderr
    assert {"Live accuracy", "Request count"} <= {row["name"] for row in json.loads(done.stdout)}


def test_the_guide_and_the_decision_name_the_limits_that_hold() -> None:
    assert (accuracy.ENOUGH, accuracy.DAYS, monitoring.metrics._DAYS) == (20, 5, 30)
    assert accuracy._ROW.itemsize == 52


@pytest.mark.parametrize("count", [24, 168, 720])
def test_by_chance_about_one_window_in_thirty_breaks_a_promise_that_is_kept(count: int) -> None:
    """Exactly, where answers are independent: no draw."""
    ends = [accuracy.share(kept, count) for kept in range(count + 1)]
    broken = [kept for kept, end in enumerate(ends) if end and (end.high or 0) < 0.9]

    assert stats.binom.pmf(broken, count, 0.9).sum() == pytest.approx(1 / 30, abs=0.01)
