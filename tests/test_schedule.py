"""The schedule: all faults of the file at once, and the times it means, over clock changes too."""

import json
import shutil
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from conftest import DOMAINS
from hypothesis import given, settings
from hypothesis import strategies as st
from test_architecture import PACKAGE
from typer.testing import CliRunner

from smartcity import cli
from smartcity.errors import UsageError
from smartcity.reporting import schedule
from smartcity.reporting.schedule import Entry

ROME = ZoneInfo("Europe/Rome")
YEAR = (datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC))


def entry(cron: str, timezone: str = "Europe/Rome") -> Entry:
    return Entry(name="try", notebook="05_report", cron=cron, timezone=timezone)


def write(home: Path, text: str) -> None:
    (home / "reports").mkdir(exist_ok=True)
    (home / "reports" / "schedule.toml").write_text(text)


def walls(found: list[datetime]) -> list[str]:
    return [at.astimezone(ROME).strftime("%m-%d %H:%M %z") for at in found]


def around(month: int, day: int, cron: str) -> list[str]:
    start = datetime(2026, month, day, tzinfo=ROME).astimezone(UTC) - timedelta(seconds=1)
    return walls(schedule.slots(entry(cron), start, start + timedelta(hours=6)))


def test_the_shipped_schedule_is_in_order_and_for_all_domains(home: Path) -> None:
    (home / "reports").mkdir()
    shutil.copy(PACKAGE.parent / "reports" / "schedule.toml", home / "reports")

    entries = schedule.read()

    made = [(e.notebook, e.cron == schedule.ON_ALARM) for e in entries.values()]
    nightly = ("01_explore", "03_evaluate", "05_report")
    assert made == [*((name, False) for name in nightly), ("06_monitor", True)]
    assert {e.domains for e in entries.values()} == {DOMAINS}


def test_without_a_file_nothing_is_scheduled(home: Path) -> None:
    assert schedule.read() == {}


GOOD = 'notebook = "05_report"\ncron = "0 5 * * *"\n'


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('crom = "0 5 * * *"', r"\[city\] Unknown key 'crom'.*Did you mean 'cron'"),
        ("keep = { cont = 3 }", r"Unknown key 'cont'.*Did you mean 'count'"),
        ("keep = { count = 0 }", r"keep.count = 0: .*greater than or equal to 1"),
        ('deliver = { mial = ["a@b.org"] }', r"Unknown key 'mial'.*Did you mean 'mail'"),
        ('timezone = "Europe/Roma"', r"timezone = 'Europe/Roma': no such zone.*'Europe/Rome'"),
        ('timezone = "../etc/passwd"', "no such zone"),
        ('timezone = "Europe"', "no such zone"),
        ('missed = "last"', r"missed = 'last': .*'latest', 'all' or 'skip'"),
        ('overlap = "queue"', r"overlap = 'queue': .*'skip' or 'wait'"),
        ("attempts = 0", r"attempts = 0: "),
        ("timeout_minutes = -1", r"timeout_minutes = -1: "),
        ('sites = ["north"]', r"domains: Unknown site of energy 'north'"),
        ('sites = ["all"]\nparameters = { site = "main" }', "sites: parameters name a site too"),
        ('domains = ["trafic"]', r"domains: Unknown domain 'trafic'.*Did you mean 'traffic'"),
        ("parameters = { dayz = 7 }", r"parameters: Unknown parameter.*Did you mean 'days'"),
        ('parameters = { days = "many" }', r"Parameter 'days' is 'many'; it must be of type int"),
        ('parameters = { domain = "energy" }', r"'domain' is filled in by the schedule"),
        ('parameters = { site = "moon" }', r"Unknown site"),
        ('name = "other"', r"name is what stands in the brackets"),
    ],
)
def test_a_fault_is_named_with_entry_key_value_and_remedy(line: str, says: str, home: Path) -> None:
    write(home, f"[city]\n{GOOD}{line}\n")

    with pytest.raises(UsageError, match=says):
        schedule.read()


@pytest.mark.parametrize("cron", ["0 5 * *", "60 5 * * *", "0 0 30 2 *", "* * * * * *", "often"])
def test_a_cron_that_does_not_fit_or_never_comes_is_refused(cron: str, home: Path) -> None:
    write(home, f'[city]\nnotebook = "05_report"\ncron = "{cron}"\n')

    with pytest.raises(UsageError, match=r"\[city\] cron = .*'0 5 \* \* \*'"):
        schedule.read()


def test_all_faults_of_a_file_are_told_at_once(home: Path) -> None:
    write(
        home,
        'stray = 1\n["Big Name"]\n' + GOOD + "[none]\n[wrong]\n" + GOOD.replace("05_r", "05_x")
        + "[worse]\n" + GOOD + "parameters = { dayz = 1, days = true }\nattempts = 1\n",
    )  # fmt: skip

    with pytest.raises(UsageError) as refused:
        schedule.read()

    lines = str(refused.value).splitlines()[1:]
    assert [line.split()[0] for line in lines] == [
        "stray", "[Big", "[none]", "[none]", "[wrong]", "[worse]", "[worse]",
    ]  # fmt: skip
    assert "Did you mean '05_report'" in lines[4]


def test_a_secret_address_is_not_repeated(home: Path) -> None:
    address = "https://hooks.example.org/T0Abcdefghij123456789xyz"
    write(home, f'[city]\n{GOOD}deliver = {{ webhook = ["{address}"] }}\n')

    with pytest.raises(UsageError) as refused:
        schedule.read()

    assert "T0Abcdefghij" not in str(refused.value)


def test_a_fixed_time_in_the_hour_that_is_left_out_runs_once_right_after() -> None:
    assert around(3, 29, "30 2 * * *") == ["03-29 03:00 +0200"]
    assert around(3, 29, "0,30 2 * * *") == ["03-29 03:00 +0200"]
    assert around(3, 29, "30 2,3 * * *") == ["03-29 03:00 +0200", "03-29 03:30 +0200"]


def test_a_fixed_time_in_the_hour_that_comes_twice_runs_once() -> None:
    assert around(10, 25, "30 2 * * *") == ["10-25 02:30 +0200"]


def test_an_hourly_report_runs_every_real_hour() -> None:
    assert len(around(3, 29, "0 * * * *")) == 6
    assert [w[6:8] for w in around(3, 29, "0 * * * *")] == ["00", "01", "03", "04", "05", "06"]
    assert [w[6:8] for w in around(10, 25, "0 * * * *")] == ["00", "01", "02", "02", "03", "04"]


@pytest.mark.parametrize(
    ("cron", "expected"), [("0 * * * *", 8760), ("30 2 * * *", 365), ("15 2 * * SUN", 52)]
)
def test_a_year_has_each_time_once(cron: str, expected: int) -> None:
    found = schedule.slots(entry(cron), *YEAR)

    assert len(found) == expected
    assert all(a < b for a, b in pairwise(found))


def test_the_moment_is_told_as_the_clock_there_shows_it() -> None:
    assert schedule.wall(entry("0 5 * * *"), datetime(2026, 7, 1, 3, tzinfo=UTC)) == (
        "2026-07-01T05:00"
    )


@settings(deadline=None)
@given(
    start=st.datetimes(datetime(2025, 1, 1), datetime(2027, 1, 1)),
    hours=st.integers(1, 24 * 40),
    cut=st.floats(0, 1),
    cron=st.sampled_from(["*/20 * * * *", "30 2 * * *", "0,45 1,2,3 * * *", "5 0 1 * *"]),
    zone=st.sampled_from(["UTC", "Europe/Rome", "Australia/Lord_Howe", "America/Havana"]),
)
def test_looked_at_in_two_parts_no_time_is_lost_or_double(
    start: datetime, hours: int, cut: float, cron: str, zone: str
) -> None:
    """However often the schedule is asked, it means the same times."""
    report, begin = entry(cron, zone), start.replace(tzinfo=UTC)
    end = begin + timedelta(hours=hours)
    middle = begin + (end - begin) * cut

    whole = schedule.slots(report, begin, end)

    assert whole == sorted(set(whole))
    assert all(begin < at <= end for at in whole)
    assert schedule.slots(report, begin, middle) + schedule.slots(report, middle, end) == whole
    coming = schedule.next_slot(report, begin)
    assert coming is not None
    assert coming == whole[0] if whole else coming > end


def command(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(cli.app, ["report", *words], catch_exceptions=True)
    told = f"{done.output}{done.exception or ''}"
    return done.exit_code, told


def test_the_command_checks_the_file_and_shows_what_comes_next(home: Path) -> None:
    assert "No report is on the schedule" in command("schedule")[1]
    write(home, f'[city]\n{GOOD}timezone = "Europe/Rome"\ndomains = ["energy"]\n')

    assert command("schedule", "--check")[0] == 0
    [row] = json.loads(command("schedule", "--json")[1])

    at = datetime.fromisoformat(row["next"]).astimezone(ROME)
    assert (at.hour, at.minute) == (5, 0)
    assert (row["report"], row["paused"], row["runs"]) == ("city", False, [])


def test_a_report_is_paused_and_resumed_by_name(home: Path) -> None:
    write(home, f"[city]\n{GOOD}")

    assert "Did you mean 'city'" in command("pause", "citi")[1]
    assert command("pause", "city")[0] == 0
    assert json.loads(command("schedule", "--json")[1])[0]["paused"] is True
    assert command("resume", "city")[0] == 0
    assert json.loads(command("schedule", "--json")[1])[0]["paused"] is False


def test_the_parameters_of_a_notebook_are_shown_with_what_is_allowed() -> None:
    rows = {r["name"]: r for r in json.loads(command("parameters", "05_report", "--json")[1])}

    assert rows["domain"]["choices"] == list(DOMAINS)
    assert rows["days"]["type"] == "int"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nightly"], "Unknown report or notebook 'nightly'"),
        (["05_report", "--from", "2026-01-01"], "Give both days"),
        (["05_report", "-p", "dayz=3"], "Did you mean 'days'"),
        (["05_report", "-p", "domain=energy"], "--domain"),
        (["05_report", "--domain", "trafic"], "Did you mean 'traffic'"),
    ],
)
def test_a_wrong_wish_gets_a_useful_answer(words: list[str], says: str, home: Path) -> None:
    code, told = command("run", *words)

    assert code != 0
    assert says in told
