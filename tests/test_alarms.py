"""Alarms: noticed once, seen or silenced by people, acted upon by the schedule, over by itself."""

import json
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, get_args

import pandas as pd
import pytest
from conftest import DOMAINS, notebook, simulate_into_datasets
from sqlalchemy import func, select
from test_accuracy import simulate
from test_deliver import ANNA, NOW, made
from test_due import CELL, World, plan, rows
from test_monitor_notebook import planted
from typer.testing import CliRunner

from smartcity import data, domains, monitoring, registry, reporting, runs, settings
from smartcity.cli import app
from smartcity.errors import ModelError, UsageError
from smartcity.monitoring import accuracy, drift, report
from smartcity.monitoring import alarms as worth
from smartcity.monitoring.drift import Event
from smartcity.reporting import deliver, schedule, watch
from smartcity.reporting.deliver import Deliver
from smartcity.store import alarms, tables
from smartcity.store import database as store
from smartcity.store.alarms import AGAIN, Alarm, Noticed

AT = datetime(2026, 3, 2, 12, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
STUCK = Noticed("humidity", "stuck", "2026-03-02T09:00", "It reads the same.", "Check it.")
JUMPED = Noticed("humidity", "step", "2026-03-02T10:00", "It reads 20 % above.", "Calibrate it.")
OLD = Noticed("1.0.0 now", "model", "2026-02-23", "Intervals do not hold.", "Retrain.")


def note(*found: Noticed, after: timedelta = timedelta(), **more: Any) -> list[str]:
    """Note what is wrong with the air's sensors some time later; say what is new of it."""
    return [a.kind for a in alarms.note("air_quality", "main", found, AT + after, **more)]


def state(after: timedelta = timedelta()) -> dict[str, str]:
    return {a.kind: a.state(AT + after) for a in alarms.listed(everything=True)}


def known(kind: str) -> Alarm:
    [found] = [a for a in alarms.listed(everything=True) if a.kind == kind]
    return found


@pytest.mark.usefixtures("database")
def test_an_alarm_is_new_once_and_over_when_it_is_no_more() -> None:
    assert note(STUCK, JUMPED) == ["stuck", "step"]
    assert note(STUCK, JUMPED, after=HOUR) == []
    assert note(JUMPED, after=2 * HOUR) == []

    assert state(2 * HOUR) == {"stuck": "over", "step": "new"}
    assert [a.kind for a in alarms.listed()] == ["step"]
    assert known("stuck").over_at == AT + 2 * HOUR
    assert known("step").noticed_at == AT


@pytest.mark.usefixtures("database")
def test_what_is_said_of_it_is_kept_up_to_date() -> None:
    note(JUMPED)
    note(replace(JUMPED, said="It reads 30 % above.", since="2026-03-02T08:00"), after=HOUR)

    assert known("step").said == "It reads 30 % above."
    assert known("step").since == "2026-03-02T08:00"


@pytest.mark.usefixtures("database")
def test_what_comes_back_within_a_day_was_never_over() -> None:
    note(STUCK)
    alarms.acknowledge(known("stuck").id, AT, "anna", "called them")
    note(after=HOUR)

    assert note(STUCK, after=HOUR + AGAIN - timedelta(seconds=1)) == []
    assert state(2 * DAY) == {"stuck": "acknowledged"}


@pytest.mark.usefixtures("database")
def test_what_comes_back_later_is_another() -> None:
    note(STUCK)
    alarms.acknowledge(known("stuck").id, AT, "anna", "")
    note(after=HOUR)

    assert note(STUCK, after=HOUR + AGAIN) == ["stuck"]
    assert [a.state(AT + 3 * DAY) for a in alarms.listed(everything=True)] == ["new", "over"]


@pytest.mark.usefixtures("database")
def test_of_what_nobody_can_tell_nothing_is_taken_back() -> None:
    note(OLD)
    note(after=HOUR, unsure={"1.0.0 now"})
    assert state() == {"model": "new"}

    note(after=2 * HOUR, unsure={"1.1.0 now"})  # another version is served by now
    assert state() == {"model": "over"}


@pytest.mark.usefixtures("database")
def test_sites_and_domains_have_their_own() -> None:
    note(STUCK)
    alarms.note("air_quality", "north", [STUCK], AT)
    alarms.note("traffic", "main", [], AT + HOUR)

    assert {(a.domain, a.site) for a in alarms.listed()} == {
        ("air_quality", "main"),
        ("air_quality", "north"),
    }


@pytest.mark.usefixtures("database")
def test_silence_holds_for_another_of_its_kind_and_ends_by_itself() -> None:
    note(STUCK, JUMPED)
    alarms.silence(known("stuck").id, AT + 10 * DAY)
    note(after=HOUR)

    assert note(STUCK, JUMPED, after=2 * DAY) == ["step"]
    [stuck] = [a for a in alarms.listed() if a.kind == "stuck"]
    assert stuck.state(AT + 9 * DAY) == "silenced"
    assert stuck.state(AT + 10 * DAY) == "new"


@pytest.mark.usefixtures("database")
def test_silence_can_be_ended() -> None:
    note(STUCK)
    alarms.silence(known("stuck").id, AT + DAY)
    assert state() == {"stuck": "silenced"}
    alarms.silence(known("stuck").id, None)

    assert state() == {"stuck": "new"}


@pytest.mark.usefixtures("database")
def test_two_that_notice_the_same_make_one_alarm() -> None:
    with ThreadPoolExecutor(4) as pool:
        told = list(pool.map(lambda n: note(STUCK, after=n * HOUR), range(4)))

    assert [*chain(*told)] == ["stuck"]
    with store.transaction() as connection:
        assert connection.scalar(select(func.count()).select_from(tables.alarms)) == 1


@pytest.mark.usefixtures("database")
def test_one_of_those_who_ask_looks_once_an_hour() -> None:
    assert alarms.looked_at() is None
    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(lambda _: alarms.turn(AT, HOUR), range(4))) == 1
    assert not alarms.turn(AT + HOUR - timedelta(seconds=1), HOUR)
    assert alarms.turn(AT + HOUR, HOUR)
    assert alarms.looked_at() == AT + HOUR


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize(
    "change",
    [
        lambda name: alarms.acknowledge(name, AT, "anna", ""),
        lambda name: alarms.silence(name, AT),
        alarms.get,
    ],
)
def test_an_alarm_that_is_none_is_named_with_those_there_are(change: Any) -> None:
    note(STUCK)

    with pytest.raises(UsageError, match=f"Unknown alarm 'nope'.*{known('stuck').id}"):
        change("nope")


def test_every_kind_of_alarm_has_a_name_that_metrics_know() -> None:
    assert {*get_args(drift.Kind), worth.MODEL} == {*alarms.KINDS}
    assert {*alarms.STATES, "over"} == {*get_args(alarms.State)}
    assert {*alarms.KINDS} > worth.NO_READINGS


def test_only_what_goes_on_at_a_sensor_is_an_alarm() -> None:
    noon = pd.Timestamp("2030-05-10 12:00")
    gone = drift.Alarm("humidity", "stuck", noon, noon + pd.Timedelta("1h"))
    on = drift.Alarm("temperature", "step", noon, None, 0.2, 3.0, 2.0)

    found = worth.of_sensors(domains.load("air_quality"), [Event(noon, (on, gone))])

    assert [(a.subject, a.kind, a.since) for a in found] == [
        ("temperature", "step", "2030-05-10T12:00")
    ]
    assert found[0].said == "Temperature reads 3 °C, above what the others say, within days."
    assert found[0].advice == drift.advice(domains.load("air_quality"), Event(noon, (on,)))


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize(
    ("errors", "wrong", "unsure"), [([0.1] * 200, 0, 0), ([5.0] * 200, 1, 0), ([0.1] * 3, 0, 1)]
)
def test_a_served_model_that_is_not_as_good_as_promised_is_an_alarm(
    errors: Sequence[float], wrong: int, unsure: int, models: dict[str, registry.Card]
) -> None:
    simulate(models["energy"], errors)

    found, doubtful = worth.of_models(accuracy.look(domains.load("energy")))

    assert (len(found), len(doubtful)) == (wrong, unsure)
    for alarm in found:
        assert alarm.subject == f"{models['energy'].version} now"
        assert alarm.said.startswith("energy 1.0.0, now: In the window of")
        assert alarm.advice.startswith("See what has moved, then: smartcity run 02_train")


@pytest.fixture
def world(home: Path, monkeypatch: pytest.MonkeyPatch, database: str) -> World:
    monkeypatch.setenv("SMARTCITY_NOTEBOOKS", str(home / "notebooks"))
    settings.current.cache_clear()
    cell = CELL + '\nsite: str = "main"  # Which site'
    notebook(home / "notebooks", cell, "days", name="06_monitor")
    return World()


def alarmed(world: World, **alarm: str) -> None:
    """Let the next look notice something at once."""

    def look(now: datetime) -> None:
        alarms.note(alarm.get("domain", "energy"), alarm.get("site", "main"), [STUCK], now)

    world.maker = replace(world.maker, look=look)


ON_ALARM = {"notebook": "06_monitor", "cron": schedule.ON_ALARM, "domains": ["energy", "traffic"]}


def test_an_alarm_has_its_report_made_once_for_its_own_domain(world: World) -> None:
    plan(alarms=ON_ALARM)
    alarmed(world)

    for _ in range(5):
        world.due(hours=2)

    [(name, given, ticket)] = world.made
    assert (name, given) == ("06_monitor", {"domain": "energy"})
    assert ticket.report == "alarms"
    assert [row.state for row in rows("alarms")] == ["succeeded"]


def test_a_site_s_alarm_has_the_report_of_that_site_made(world: World) -> None:
    plan(alarms=ON_ALARM)
    alarmed(world, domain="traffic", site="north")

    world.due()

    [(_, given, _)] = world.made
    assert (given["domain"], given["site"]) == ("traffic", "north")
    assert runs.listed("06_monitor", "traffic", "north")


def test_a_report_that_failed_is_tried_again(world: World) -> None:
    plan(alarms=ON_ALARM)
    alarmed(world)
    world.fails = lambda ticket: ModelError("no") if ticket.attempt == 1 else None

    world.due()

    assert [ticket.attempt for _, _, ticket in world.made] == [1, 2]
    assert [row.state for row in rows("alarms")] == ["succeeded"]


@pytest.mark.parametrize("how", ["acknowledged", "silenced", "other domain", "paused"])
def test_what_somebody_takes_care_of_has_no_report_made(how: str, world: World) -> None:
    entry: dict[str, Any] = dict(ON_ALARM)
    if how == "other domain":
        entry["domains"] = ["traffic"]
    plan(alarms=entry | {"paused": how == "paused"})
    alarms.note("energy", "main", [STUCK], world.at)
    [alarm] = alarms.listed()
    if how == "acknowledged":
        alarms.acknowledge(alarm.id, world.at, "anna", "")
    if how == "silenced":
        alarms.silence(alarm.id, world.at + 2 * DAY)
    world.maker = replace(world.maker, look=lambda now: None)

    world.due()
    assert world.made == []

    world.due(days=2, hours=1)  # the silence is over, the alarm is not
    assert len(world.made) == (how == "silenced")
    world.due(hours=1)
    assert len(world.made) == (how == "silenced")


def test_alarms_are_looked_for_once_an_hour_where_the_schedule_asks_for_it(world: World) -> None:
    looks: list[datetime] = []
    world.maker = replace(world.maker, look=looks.append)
    plan(nightly={"notebook": "06_monitor"})
    world.due(hours=2)
    assert looks == []

    plan(alarms=ON_ALARM)
    for _ in range(9):
        world.due(minutes=20)

    assert [later - one for one, later in pairwise(looks)] == [HOUR, HOUR]


def test_a_look_that_fails_holds_up_no_report(world: World) -> None:
    def look(now: datetime) -> None:
        raise OSError("the disk is away")

    world.maker = replace(world.maker, look=look)
    plan(alarms=ON_ALARM, nightly={"notebook": "06_monitor"})
    world.due()
    world.due(days=1)

    assert [ticket.report for _, _, ticket in world.made] == ["nightly"]


@pytest.mark.parametrize(
    ("on", "told"), [(["alarm"], "alarm"), (["success"], "success"), (["failure"], None)]
)
def test_who_wants_alarms_is_told_of_them_as_such(
    on: list[Any], told: str | None, home: Path, database: str
) -> None:
    event = {"until": None, "said": ["Humidity has read the same for hours"]}
    over = {"until": "2026-03-02", "said": ["That is over"]}
    run = made(home, events=[event, over], todo=["Humidity: check its line."])
    to = Deliver(mail=ANNA.mail, on=on)

    deliver.queue(run, "alarms", to, [], NOW, alarm=True)
    deliver.send(lambda: NOW)

    listed = [row["kind"] for row in deliver.deliveries()]
    assert listed == ([told] if told else [])
    for letter in (home / "reports" / "outbox").glob("*.eml"):
        text = letter.read_text()
        assert ("Subject: Alarm: Energy, alarms" in text) == (told == "alarm")
        assert "What goes on:" in text
        assert "- Humidity has read the same for hours" in text
        assert "- Humidity: check its line." in text
        assert "That is over" not in text
    run = made(home, 2)
    deliver.queue(run, "nightly", Deliver(mail=ANNA.mail, on=["alarm"]), [], NOW)
    assert len(deliver.deliveries()) == len(listed)


@pytest.fixture
def ill(built: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installation with models, an hourly look for alarms, and a stuck sensor for energy."""
    shutil.copytree(built / "models", home / "models")
    monkeypatch.setenv("SMARTCITY_DEMO", str(home / "datasets"))
    settings.current.cache_clear()
    for domain in domains.load_all().values():
        data.simulate(domain, rows=40 * 24 * 60 // domain.format.step_minutes)
    planted(domains.load("energy"))
    store.upgrade()
    plan(alarms=ON_ALARM)
    with schedule.path().open("a", encoding="utf-8") as entry:
        entry.write('\ndeliver = { mail = ["anna@example.org"], on = ["alarm", "failure"] }\n')
    return home


def run(*words: str) -> Any:
    return CliRunner().invoke(app, [*words])


def test_from_a_stuck_sensor_to_a_report_a_mail_and_back_to_quiet(ill: Path) -> None:
    done = run("report", "due", "--json")
    assert done.exit_code == 0, done.output
    [row] = json.loads(done.stdout)
    assert (row["domain"], row["state"]) == ("energy", "succeeded")

    # Report: what goes on, and what to do.
    [kept] = runs.listed("06_monitor", "energy")
    told = runs.facts(kept)
    assert told is not None
    assert told["open"] == 1
    [letter] = (ill / "reports" / "outbox").glob("*.eml")
    assert "Subject: Alarm: Energy, alarms (simulated)" in letter.read_text()
    # Index, with who has seen it; metrics.
    index, [alarm] = ill / "reports" / "index.html", alarms.listed()
    assert "nobody has seen it yet" in index.read_text()
    assert alarm.said in index.read_text()
    counted = 'smartcity_alarms{domain="energy",kind="stuck",state="%s"} %s'
    assert counted % ("new", "1.0") in monitoring.exposition().decode()

    listed = run("monitor", "watch", "energy", "--json")
    assert isinstance(listed.exception, Exception)
    assert alarm.id in str(listed.exception)
    seen = run("monitor", "acknowledge", alarm.id, "--by", "anna", "--note", "<b>called</b>")
    assert seen.exit_code == 0, seen.output
    assert "✓ seen by anna: &lt;b&gt;called&lt;/b&gt;" in index.read_text()
    assert run("monitor", "watch", "energy").exit_code == 0
    [row] = json.loads(run("monitor", "alarms", "--json").stdout)
    assert (row["state"], row["acknowledged_by"]) == ("acknowledged", "anna")
    assert row["noticed_at"] == alarm.noticed_at.isoformat()

    assert run("monitor", "silence", alarm.id, "--days", "2").exit_code == 0
    assert [a.state(datetime.now(UTC)) for a in alarms.listed()] == ["silenced"]
    assert "silenced until" in index.read_text()
    assert run("monitor", "silence", alarm.id, "--days", "0").exit_code == 0
    # The sensor is mended: its file comes anew.
    data.simulate(domains.load("energy"), rows=40 * 72)
    assert run("monitor", "watch").exit_code == 0
    assert alarms.listed() == []
    assert "Alarms</h2>" not in index.read_text()
    assert "over" in run("monitor", "alarms", "--all").stdout
    assert run("monitor", "alarms").stdout == "No alarm goes on.\n"


def test_readings_that_are_not_there_end_no_alarm(ill: Path) -> None:
    watch.look(AT)
    path = data.locate(domains.load("energy"))[-1].path
    for source in data.locate(domains.load("energy")):
        source.path.unlink()
    assert not path.exists()

    watch.look(AT + DAY)

    assert [a.kind for a in alarms.listed()] == ["stuck"]


def test_what_a_shift_changes_is_told_as_unknown_without_a_model(home: Path) -> None:
    air = domains.load("air_quality")
    [spec, *_] = drift.sensors(air)
    simulate_into_datasets(home)
    day = data.read("air_quality").frame.tail(24)
    jumped = drift.Alarm(spec.name, "step", day["recorded_at"].iloc[0], None, 0.2, 3.0, 2.0)
    event = Event(jumped.since, (jumped,))

    told = report.effects(air, "", day, [event])

    assert [each["moved"] for each in told] == [None]
    assert told[0]["sentence"].endswith("is not known, as no model is served.")


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Stand in for the notebook, which other tests run: what was asked of it."""
    asked: list[Any] = []

    def train(name: str, given: dict[str, Any]) -> runs.Run:
        asked.append((name, given))
        refused = ["It is worse."] if len(asked) > 1 else []
        told: dict[str, Any] = {"id": "r1", "model_version": "2.0.0", "refused": refused}
        return runs.Run.model_construct(**told)

    monkeypatch.setattr(reporting, "run", train, raising=False)
    return asked


@pytest.mark.usefixtures("database")
def test_only_what_passes_its_gate_is_served_and_the_alarm_says_so(training: list[Any]) -> None:
    note(JUMPED)
    name = known("step").id

    done = run("monitor", "retrain", name)
    assert done.exit_code == 0, done.output
    assert training == [("02_train", {"domain": "air_quality", "site": "main"})]
    assert known("step").note == "Retrained: 2.0.0 is served."

    again = run("monitor", "retrain", name, "--json")
    assert json.loads(again.stdout)["refused"] == ["It is worse."]
    assert known("step").note == "Retrained: 2.0.0 is not served."


@pytest.mark.usefixtures("database")
def test_a_fault_is_not_learned_unless_asked_for(training: list[Any]) -> None:
    note(STUCK)
    name = known("stuck").id

    refused = run("monitor", "retrain", name)
    assert isinstance(refused.exception, UsageError)
    assert "--anyway" in str(refused.exception)
    assert training == []
    assert run("monitor", "retrain", name, "--anyway").exit_code == 0
    assert len(training) == 1


def test_words_that_are_too_long_are_refused(home: Path) -> None:
    for words in (["--by", "a" * 101], ["--note", "a" * 501]):
        done = run("monitor", "acknowledge", "x", *words)
        assert isinstance(done.exception, UsageError)
        assert words[0] in str(done.exception)
    assert not (home / "state" / "smartcity.db").exists()


def test_a_database_that_is_not_there_is_not_made_by_looking(home: Path) -> None:
    with pytest.raises(store.DatabaseError, match="smartcity db upgrade"):
        alarms.listed()
    assert not (home / "state" / "smartcity.db").exists()
    assert len(DOMAINS) == 3
