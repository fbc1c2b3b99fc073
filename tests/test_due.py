"""Making what is due: each time once, whatever is killed, raced, late, paused or failing."""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from conftest import eventually, notebook
from sqlalchemy import update

from smartcity import atomic, data, runs, settings, stack
from smartcity.errors import DataError, RunError, UsageError
from smartcity.reporting import due, schedule
from smartcity.reporting.ticket import Ticket
from smartcity.runs import Run
from smartcity.store import claims
from smartcity.store import database as store
from smartcity.store.claims import Due, Only
from smartcity.store.tables import due_runs

ROME = ZoneInfo("Europe/Rome")
MONDAY = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
EVER = (datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC))
CELL = """domain: str = "energy"  # The question
as_of: str = ""  # Readings up to this moment [date]
days: int = 7  # How many [1 to 366 days]
run_id: str = ""  # Whose figures these are [by the runner]"""


class World:
    """A clock that moves only when told, and a runner that keeps records and no notebook."""

    def __init__(self) -> None:
        """Begin on a Monday, at noon."""
        self.at = MONDAY
        self.made: list[tuple[str, dict[str, Any], Ticket]] = []
        self.settled: list[tuple[str, str, datetime | None]] = []
        self.slept: list[float] = []
        self.fails: Callable[[Ticket], Exception | None] = lambda ticket: None
        self.keeps = True
        self.maker = due.Maker(
            now=lambda: self.at, sleep=self.sleep, run=self.run, settled=self.settle
        )

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.slept.append(seconds)
        self.at += timedelta(seconds=seconds)

    def settle(self, run: Run, _: schedule.Entry, again: datetime | None) -> None:
        """Note what is told."""
        self.settled.append((run.id, run.status, again))

    def run(self, name: str, given: dict[str, Any], *, ticket: Ticket, **_: Any) -> Run:
        """Keep a record, or fail as told."""
        self.made.append((name, given, ticket))
        error = self.fails(ticket)
        made = record(name, given, ticket, error)
        if self.keeps and not isinstance(error, DataError | UsageError):
            ticket.confirm()
            keep(made)
        if error:
            raise error
        return made

    def due(self, **later: float) -> list[due.Outcome]:
        """Make what is due some time later."""
        self.at += timedelta(**later)
        return self.maker.due()


def record(name: str, given: dict[str, Any], ticket: Ticket, error: Exception | None = None) -> Run:
    return Run(
        id=ticket.id,
        notebook=name,
        domain=given["domain"],
        parameters=given,
        status="failed" if error else "succeeded",
        started_at="",
        seconds=0,
        fingerprint="",
        inputs=[],
        simulated=False,
        model_version=None,
        smartcity="",
        report=ticket.report,
        attempt=ticket.attempt,
    )


def keep(run: Run) -> None:
    contents = settings.current().state / "contents"
    contents.mkdir(parents=True, exist_ok=True)
    runs.keep(run, contents)


@pytest.fixture
def own(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installation with one small notebook and no schedule yet."""
    monkeypatch.setenv("SMARTCITY_NOTEBOOKS", str(home / "notebooks"))
    settings.current.cache_clear()
    notebook(home / "notebooks", CELL, "days", name="05_report")
    return home


@pytest.fixture
def world(own: Path, database: str) -> World:
    return World()


def plan(**entries: dict[str, Any]) -> None:
    """Write a schedule; what is not said of an entry is daily at noon, for energy."""
    usual = {"notebook": "05_report", "cron": "0 12 * * *", "domains": ["energy"]}
    lines = [
        f"[{name}]\n" + "\n".join(f"{k} = {json.dumps(v)}" for k, v in (usual | entry).items())
        for name, entry in entries.items()
    ]
    schedule.path().parent.mkdir(exist_ok=True)
    schedule.path().write_text("\n".join(lines))


def rows(report: str) -> list[Due]:
    return claims.of(Only(report, *EVER))


def states(report: str) -> dict[str, str]:
    return {f"{row.as_of:%d %H:%M}": row.state for row in rows(report)}


def test_a_year_of_reports_has_each_time_once_over_both_clock_changes(world: World) -> None:
    rome = {"timezone": "Europe/Rome"}
    plan(
        hourly={"cron": "0 * * * *"} | rome,
        daily={"cron": "30 2 * * *"} | rome,
        weekly={"cron": "15 2 * * SUN"} | rome,
    )
    world.keeps = False
    world.at = begin = datetime(2026, 1, 1, tzinfo=ROME).astimezone(UTC) - timedelta(seconds=30)
    world.due()
    while world.at < begin + timedelta(days=365):
        world.due(days=1)

    found = {name: rows(name) for name in ("hourly", "daily", "weekly")}
    assert [len(each) for each in found.values()] == [8760, 365, 52]
    hours = [row.as_of for row in found["hourly"]]
    assert hours == [begin + timedelta(hours=n, seconds=30) for n in range(8760)]
    at = Counter(row.as_of.astimezone(ROME).strftime("%H:%M") for row in found["daily"])
    assert at == {"02:30": 364, "03:00": 1}  # the night of the 29th of March has no 02:30
    assert {row.state for row in found["daily"] + found["weekly"]} == {"succeeded"}
    assert Counter(row.state for row in found["hourly"]) == {"missed": 8395, "succeeded": 365}
    assert len({ticket.id for _, _, ticket in world.made}) == len(world.made) == 365 + 365 + 52


@pytest.mark.parametrize(("month", "day", "hours"), [(3, 29, 23), (10, 25, 25)])
def test_on_a_day_of_clock_change_every_real_hour_is_made_and_told_its_own_time(
    month: int, day: int, hours: int, world: World
) -> None:
    plan(city={"cron": "0 * * * *", "timezone": "Europe/Rome"})
    midnight = datetime(2026, month, day, tzinfo=ROME).astimezone(UTC)
    world.at = midnight - timedelta(minutes=30)
    world.due()
    for _ in range(hours):
        world.due(hours=1)

    local = [(midnight + timedelta(hours=n)).astimezone(ROME) for n in range(hours)]
    assert [given["as_of"] for _, given, _ in world.made] == [
        f"{at:%Y-%m-%dT%H:%M}" for at in local
    ]
    assert [ticket.id[:16] for _, _, ticket in world.made] == [
        f"{midnight + timedelta(hours=n):%Y%m%dT%H%M%SZ}" for n in range(hours)
    ]


@pytest.mark.parametrize(
    ("missed", "expected"),
    [
        ("latest", ["missed", "missed", "missed", "succeeded"]),
        ("skip", ["missed"] * 4),
        ("all", ["missed", "succeeded", "succeeded", "succeeded"]),
    ],
)
def test_after_three_days_without_a_scheduler_the_policy_says_what_is_made(
    missed: str, expected: list[str], world: World
) -> None:
    plan(city={"missed": missed, "cron": "0 6 * * *"})
    world.at = MONDAY
    world.due()

    world.due(days=3, hours=23)  # Friday 11:00; Tuesday's is older than 72 hours

    assert [row.state for row in rows("city")] == expected
    assert all(row.reason for row in rows("city") if row.state == "missed")
    world.due(days=1)
    assert [row.state for row in rows("city")][4:] == [
        "missed" if missed == "skip" else "succeeded"
    ]


def test_what_is_noticed_in_time_is_made_under_every_policy(world: World) -> None:
    plan(a={"missed": "latest"}, b={"missed": "skip"}, c={"missed": "all"})
    world.at -= timedelta(minutes=1)
    world.due()

    outcomes = world.due(minutes=2)

    assert {(o.due.report, o.state) for o in outcomes} == {(n, "succeeded") for n in "abc"}
    assert world.due(minutes=2) == []


def test_a_report_new_on_the_schedule_is_not_made_for_the_time_before(world: World) -> None:
    plan(city={"missed": "all"})

    world.due(hours=10)

    assert rows("city") == []


def test_a_failure_is_tried_again_after_longer_and_longer_waits(world: World) -> None:
    plan(city={"attempts": 4, "backoff_minutes": 3, "timeout_minutes": 7})
    world.due()
    world.fails = lambda ticket: RunError("cell 3", ticket.id) if ticket.attempt < 4 else None

    outcomes = world.due(days=1)

    tickets = [ticket for _, _, ticket in world.made]
    assert [o.state for o in outcomes] == ["waiting"] * 3 + ["succeeded"]
    assert 21 * 60 <= sum(world.slept) < 22 * 60  # 3, 6 and 12 minutes
    assert [t.id.removeprefix(tickets[0].id) for t in tickets] == ["", "-2", "-3", "-4"]
    assert {t.seconds for t in tickets} == {420}
    assert {t.report for t in tickets} == {"city"}
    assert [run.status for run in runs.listed("05_report", "energy")].count("failed") == 3
    assert [again is not None for _, _, again in world.settled] == [True, True, True, False]
    assert rows("city")[0].run_id == tickets[-1].id


@pytest.mark.parametrize(
    ("error", "tries"),
    [
        (RunError("cell 3"), 3),
        (DataError("gone"), 3),
        (ValueError("a bug"), 3),
        (UsageError(""), 1),
    ],
)
def test_what_fails_to_the_end_is_failed_and_the_last_good_report_stays(
    error: Exception, tries: int, world: World
) -> None:
    plan(city={})
    world.due()
    [good] = world.due(days=1)
    world.fails = lambda ticket: error

    outcomes = world.due(days=1)

    assert [o.state for o in outcomes] == ["waiting"] * (tries - 1) + ["failed"]
    assert rows("city")[1].reason == str(error)
    last = runs.latest("05_report", "energy")
    assert last is not None
    assert last.id == good.run_id
    assert world.due(hours=1) == []


def test_what_follows_a_run_cannot_spoil_it(world: World) -> None:
    def settle(run: Run, entry: schedule.Entry, again: datetime | None) -> None:
        raise OSError("the disk of the index is full")

    plan(city={})
    world.due()
    world.at += timedelta(days=1)

    [outcome] = due.Maker(now=lambda: world.at, run=world.run, settled=settle).due()

    assert outcome.state == "succeeded"


def test_what_falls_due_while_a_report_is_paused_is_not_made_later(world: World) -> None:
    plan(city={"missed": "all"}, other={"paused": True})
    entry = schedule.read()["city"]
    world.due()

    world.maker.rest(entry, paused=True)
    assert world.due(days=1) == []
    world.at += timedelta(days=1)
    world.maker.rest(entry, paused=False)
    [made] = world.due(days=1)

    assert made.due.as_of == MONDAY + timedelta(days=3)
    assert [row.state for row in rows("city")] == ["missed", "missed", "succeeded"]
    assert {row.reason for row in rows("city")[:2]} == {"The report was paused."}
    assert {row.state for row in rows("other")} == {"missed"}


@pytest.mark.parametrize(
    ("overlap", "expected"), [("skip", ["succeeded", "skipped"]), ("wait", ["succeeded"] * 2)]
)
def test_what_falls_due_while_the_run_before_goes_on_waits_or_is_left_out(
    overlap: str, expected: list[str], world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(due, "BEAT_SECONDS", 0.02)
    plan(city={"cron": "0 * * * *", "overlap": overlap})
    world.due()
    under_way = 0

    def run(name: str, given: dict[str, Any], *, ticket: Ticket, progress: Any) -> Run:
        nonlocal under_way
        under_way += 1
        assert under_way == 1
        if len(rows("city")) == 1:
            world.at += timedelta(hours=1)
            eventually(lambda: len(rows("city")) == 2)
        made = world.run(name, given, ticket=ticket, progress=progress)
        under_way -= 1
        return made

    world.at += timedelta(hours=1)
    due.Maker(now=lambda: world.at, sleep=world.sleep, run=run).due()

    assert [row.state for row in rows("city")] == expected


def taken(world: World, **entry: Any) -> Due:
    """Put a report's first time into somebody's hands."""
    plan(city=entry)
    world.due()
    world.at += timedelta(days=1)
    world.maker._note(schedule.read()["city"])
    claim = claims.take(world.at, 2)
    assert claim is not None
    return claim


def give_to(owner: str) -> None:
    """Let all claims be somebody else's."""
    with store.transaction(write=True) as connection:
        connection.execute(update(due_runs).values(owner=owner))


def ended_process() -> str:
    """Name an owner on this machine that has ended."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return f"{claims._host()}:{child.pid}:1"


def test_who_lives_keeps_its_claim_until_nothing_is_heard_of_it(world: World) -> None:
    taken(world)
    with subprocess.Popen(["sleep", "60"]) as other:
        give_to(f"{claims._host()}:{other.pid}:{claims._started(other.pid)}")

        assert world.due(seconds=59) == []
        assert [o.state for o in world.due(seconds=2)] == ["succeeded"]
        other.kill()


def test_a_leap_of_the_clock_takes_nobodys_own_claim(world: World) -> None:
    claim = taken(world)
    world.at += timedelta(hours=2)

    assert claims.take(world.at, 2) is None
    claims.confirm(claim, world.at)


def test_a_claim_of_another_machine_is_taken_over_when_its_lease_is_up(world: World) -> None:
    taken(world)
    give_to("elsewhere:1:1")

    assert world.due(seconds=59) == []
    [outcome] = world.due(seconds=2)
    assert (outcome.state, outcome.due.attempts) == ("succeeded", 2)


def test_a_claim_that_is_renewed_is_not_taken_over(world: World) -> None:
    claim = taken(world)
    world.at += timedelta(seconds=50)
    claims.renew([claim], world.at)
    give_to("elsewhere:1:1")

    assert world.due(seconds=50) == []


def test_a_process_that_ended_here_is_seen_at_once(world: World) -> None:
    taken(world)
    give_to(ended_process())

    [outcome] = world.due()

    assert (outcome.state, outcome.run_id) == ("succeeded", world.made[-1][2].id)
    assert world.made[-1][2].id.endswith("-2")


def test_what_was_kept_but_not_noted_is_not_made_again(world: World) -> None:
    claim = taken(world)
    entry = schedule.read()["city"]
    ticket = Ticket(id=due._run_id(entry, claim, 1), report="city")
    keep(record("05_report", {"domain": "energy"}, ticket))
    give_to(ended_process())

    [outcome] = world.due()

    assert (outcome.state, outcome.run_id) == ("succeeded", ticket.id)
    assert world.made == []
    assert world.settled == [(ticket.id, "succeeded", None)]


def test_what_ends_its_process_every_time_is_given_up(world: World) -> None:
    taken(world)
    for _ in range(2):
        give_to(ended_process())
        assert claims.take(world.at, 2)
    give_to(ended_process())

    [outcome] = world.due()

    assert outcome.state == "failed"
    assert "ended without a word" in str(rows("city")[0].reason)
    assert world.made == []


def test_a_lost_claim_publishes_nothing(world: World) -> None:
    plan(city={})
    world.due()

    def lose(ticket: Ticket) -> None:
        give_to("elsewhere:1:1")

    world.fails = lose

    [outcome] = world.due(days=1)

    assert outcome.state == "lost"
    assert list(runs.listed("05_report", "energy")) == []
    assert rows("city")[0].state == "running"  # by the other


def test_as_many_run_at_once_as_the_setting_says_over_all_processes(world: World) -> None:
    plan(city={"domains": ["energy", "traffic", "air_quality"]})
    world.due()
    world.at += timedelta(days=1)
    world.maker._note(schedule.read()["city"])

    held = [claims.take(world.at, 2), claims.take(world.at, 2)]

    assert all(held)
    assert claims.take(world.at, 2) is None
    assert world.due() == []


def test_a_report_taken_off_the_schedule_is_not_made(world: World) -> None:
    taken(world)
    give_to(ended_process())
    plan(another={})

    world.due()

    assert [(row.state, row.reason) for row in rows("city")] == [
        ("missed", "It is not on the schedule any more.")
    ]
    assert world.made == []


def wishes() -> list[str]:
    return [path.name for path in runs.asked()]


def test_what_people_ask_for_is_made_once_and_its_note_goes(world: World) -> None:
    runs.ask("05_report", {"domain": "traffic", "as_of": "2004-12-31", "days": 30, "run_id": ""})

    [outcome] = world.due()
    again = world.due(hours=1)

    [(name, given, ticket)] = world.made
    assert given == {"domain": "traffic", "as_of": "2004-12-31", "days": 30}
    assert (name, ticket.report) == ("05_report", "on request")
    assert ticket.id.startswith("20041231T235959Z-")
    assert (outcome.state, again, wishes()) == ("succeeded", [], [])


def test_a_wish_that_does_not_fit_is_dropped(world: World) -> None:
    runs.ask("05_report", {"domain": "traffic", "dayz": 30})
    runs.ask("no_such", {"domain": "traffic"})
    (settings.current().reports / "requests" / "torn.json").write_text("{")

    assert world.due() == []

    assert (wishes(), world.made) == ([], [])


def made_for(world: World, name: str, first: str, last: str, **more: Any) -> list[Due]:
    entry, _ = schedule.named(name, {}, "energy")
    days = [datetime.fromisoformat(day).date() for day in (first, last)]
    return world.maker.make(entry, due.between(entry, days[0], days[1], world.at), **more)


def test_the_past_is_made_once_and_anew_only_when_asked(world: World) -> None:
    plan(city={"timezone": "Europe/Rome"})

    first = made_for(world, "city", "2026-01-01", "2026-01-03")
    second = made_for(world, "city", "2026-01-02", "2026-01-04")
    anew = made_for(world, "city", "2026-01-04", "2026-01-04", again=True)

    assert [row.state for row in first + second + anew] == ["succeeded"] * 7
    assert [given["as_of"] for _, given, _ in world.made] == [
        f"2026-01-0{day}T12:00" for day in (1, 2, 3, 4, 4)
    ]
    assert world.made[4][2].id == world.made[3][2].id + "-2"
    assert len(list(runs.listed("05_report", "energy"))) == 5


def test_the_past_of_a_notebook_is_one_report_a_day(world: World) -> None:
    made = made_for(world, "report", "2026-02-27", "2026-03-05")

    assert [given["as_of"] for _, given, _ in world.made] == [
        "2026-02-27", "2026-02-28", "2026-03-01", "2026-03-02",
    ]  # fmt: skip
    assert str(made[0].run_id).startswith("20260227T235959Z-")


def test_the_past_waits_as_long_as_what_is_due_now(world: World) -> None:
    """How old its time is makes a backfill that was interrupted no staler."""
    plan(city={})
    entry, _ = schedule.named("city", {}, "energy")
    day = MONDAY.date() - timedelta(days=300)
    claims.add(list(due._rows(entry, due.between(entry, day, day, world.at))), world.at)

    [outcome] = world.due(hours=71)

    assert outcome.state == "succeeded"


def test_what_was_missed_or_failed_can_be_made_later(world: World) -> None:
    plan(city={"missed": "skip", "attempts": 1})
    world.due()
    world.due(days=2, hours=1)
    world.fails = lambda ticket: RunError("cell 3")
    assert {r.state for r in made_for(world, "city", "2026-03-03", "2026-03-04")} == {"failed"}
    world.fails = lambda ticket: None

    made = made_for(world, "city", "2026-03-03", "2026-03-04")

    assert [(row.state, row.attempts) for row in made] == [("succeeded", 2)] * 2


def test_days_to_come_and_times_never_due_are_refused(world: World) -> None:
    plan(city={"cron": "0 12 1 * *"})

    with pytest.raises(UsageError, match="never due from 2026-02-02 to 2026-02-20"):
        made_for(world, "city", "2026-02-02", "2026-02-20")
    with pytest.raises(UsageError, match="never due"):
        made_for(world, "report", "2027-01-01", "2027-01-02")


def slow(folder: Path, seconds: float) -> Callable[..., Run]:
    """Give a runner that works in a folder of its own as the real one, and says that it began."""

    def run(name: str, given: dict[str, Any], *, ticket: Ticket, progress: Any) -> Run:
        with (folder / "begun").open("a") as file:
            file.write(f"{ticket.id} {given['domain']} {given['as_of']}\n")
        with atomic.scratch(".running-", settings.current().reports) as home:
            made = record(name, given, ticket)
            for part in range(10):
                time.sleep(seconds / 10)
                (home / f"part-{part}").write_text("whole" * 1000)
            ticket.confirm()
            runs.keep(made, home)
        return made

    return run


def in_a_process(folder: Path, at: datetime, seconds: float) -> multiprocessing.Process:
    """Begin to make what is due, in a process of its own."""
    maker = due.Maker(now=lambda: at, run=slow(folder, seconds))
    child = multiprocessing.get_context("fork").Process(target=maker.due)
    child.start()
    return child  # type: ignore[return-value]


def whole(home: Path) -> list[Run]:
    """Read all records; each must have all its parts."""
    found = []
    for path in (home / "reports" / "runs").glob("*/*/[!.]*"):
        found.append(Run.model_validate_json((path / "manifest.json").read_bytes()))
        assert {(path / f"part-{n}").stat().st_size for n in range(10)} == {5000}
    return found


def test_killed_at_twenty_points_nothing_is_double_missing_half_or_left_over(
    world: World, own: Path
) -> None:
    domains = ["energy", "traffic", "air_quality"]
    plan(city={"domains": domains, "cron": "0 */4 * * *", "missed": "all", "attempts": 20})
    world.due()
    world.at += timedelta(days=3)
    slots = [MONDAY + timedelta(hours=4 * n) for n in range(1, 19)]
    dice, good = random.Random(6), set[str]()  # noqa: S311

    for _ in range(20):
        (own / "begun").unlink(missing_ok=True)
        child = in_a_process(own, world.at, 0.2)
        eventually((own / "begun").exists)
        time.sleep(dice.uniform(0, 0.3))
        assert child.pid
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        there = {run.id for run in whole(own)}
        assert good <= there
        good = there
    due.Maker(now=lambda: world.at, run=slow(own, 0)).due()

    assert [row.state for row in rows("city")] == ["succeeded"] * 54
    made = Counter((run.domain, run.id[:16]) for run in whole(own))
    assert made == {(d, f"{at:%Y%m%dT%H%M%SZ}"): 1 for d in domains for at in slots}
    assert {row.run_id for row in rows("city")} == {run.id for run in whole(own)}
    assert [*(own / "reports").glob(".*"), *(own / "reports").rglob(".tmp-*")] == []


def test_two_replicas_make_each_report_once(world: World, own: Path) -> None:
    plan(city={"domains": ["energy", "traffic"], "cron": "0 */6 * * *", "missed": "all"})
    world.due()
    world.at += timedelta(days=3)

    replicas = [in_a_process(own, world.at, 0.01) for _ in range(2)]
    for replica in replicas:
        replica.join()

    assert [replica.exitcode for replica in replicas] == [0, 0]
    assert [row.state for row in rows("city")] == ["succeeded"] * 24
    begun = (own / "begun").read_text().splitlines()
    assert len(begun) == len(set(begun)) == len(whole(own)) == 24


def test_a_round_beside_the_servers_makes_what_is_due_and_the_next_comes_later(
    world: World, own: Path
) -> None:
    plan(city={})
    servers: dict[str, subprocess.Popen[bytes]] = {}

    assert stack._make_reports(servers, 0) == 0
    [name] = servers
    assert servers[name].wait(60) == 0
    at = stack._make_reports(servers, 0)
    assert stack._make_reports(servers, at) == at

    assert servers == {}
    assert at > time.monotonic() + stack.ROUND_SECONDS - 5
    assert (own / "logs" / "report.log").read_text() == ""


def test_a_report_of_many_sites_is_a_run_of_each_and_those_do_not_wait_for_each_other(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = CELL + '\nsite: str = "main"  # Which site'
    notebook(settings.current().notebooks, cell, "days", name="05_report")
    monkeypatch.setattr(data, "present", lambda domain: ["main", "north", "south"])
    plan(city={"sites": ["all"]})
    world.due()
    world.due(days=1)

    found = rows("city")
    assert sorted(row.given.get("site", "main") for row in found) == ["main", "north", "south"]
    assert {row.state for row in found} == {"succeeded"}
    assert len({row.parameters for row in found}) == len({row.run_id for row in found}) == 3
    claims.add(found, world.at, ["succeeded"])
    going = [claims.take(world.at, 4) for _ in range(4)]
    taken = [claim.given.get("site", "main") for claim in going if claim]
    assert sorted(taken) == ["main", "north", "south"]
