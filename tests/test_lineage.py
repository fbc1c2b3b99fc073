"""What a run leaves behind: whole, without secrets, with its lineage, the same when run again."""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest
from conftest import DOMAINS, at_home, notebook
from rocrate.rocrate import ROCrate

from smartcity import atomic, registry, reporting, runs, settings
from smartcity.errors import ModelError, RunError, UsageError
from smartcity.reporting import index, reproduce, tidy
from smartcity.reporting.schedule import Keep
from smartcity.reporting.ticket import Ticket

DOMAIN = 'domain: str = "energy"  # The question'
PLANTED = "hunter2-and-a-half"
NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


def until(done: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def gone(noted: Path) -> bool:
    """Tell whether the process whose number a kernel noted has ended."""
    try:
        return psutil.Process(int(noted.read_text())).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def everything_in(folder: Path) -> bytes:
    return b"\n".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def planted(city: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installation whose process knows secrets."""
    monkeypatch.setenv("SMARTCITY_DATABASE_URL", f"postgresql://u:{PLANTED}@127.0.0.1/none")
    monkeypatch.setenv("SMARTCITY_WEBHOOK_SECRET", PLANTED + "-hook")
    monkeypatch.setenv("CITY_API_TOKEN", PLANTED + "-token")
    monkeypatch.setenv("SMARTCITY_NOTEBOOKS", str(city / "notebooks"))
    settings.current.cache_clear()
    return city


def test_no_planted_secret_and_no_machine_path_reaches_any_output(planted: Path) -> None:
    told = planted / "told.txt"
    told.write_text(f"{PLANTED} {PLANTED}-token {PLANTED}-hook")
    notebook(
        planted / "notebooks",
        DOMAIN,
        "import os, sys\nprint(dict(os.environ))",
        # whatever a notebook finds elsewhere
        f"text = open({str(told)!r}).read()\nprint(text, sys.prefix, os.getcwd())",
        "from IPython.display import HTML, JSON, display\ndisplay(HTML(f'<p>{text}</p>'))",
        "JSON({'found': text, 'where': os.path.expanduser('~/x')})",
        name="08_good",
    )
    notebook(
        planted / "notebooks",
        DOMAIN,
        f"text = open({str(told)!r}).read()",
        "raise ValueError(f'no access with {text}')",
    )

    good = reporting.run("good", {"domain": "energy"})
    with pytest.raises(RunError) as failure:
        reporting.run("try", {"domain": "energy"})

    bad = runs.find(failure.value.run_id)
    assert "no access with *** ***" in str(bad.error)
    for run in (good, bad):
        held = everything_in(run.folder)
        assert b"***" in held
        assert PLANTED.encode() not in held
        for path in (sys.prefix, str(Path.cwd()), str(Path.home())):
            assert path.encode() not in held, path
    assert PLANTED not in str(failure.value)


def test_kernels_are_not_given_secrets_in_the_first_place(planted: Path) -> None:
    notebook(
        planted / "notebooks",
        DOMAIN,
        "import os\n"
        "known = [n for n in os.environ if 'DATABASE_URL' in n or 'SECRET' in n or 'TOKEN' in n]\n"
        "assert not known, known\n"
        "assert os.environ['SMARTCITY_REPORTS']",
    )

    assert reporting.run("try", {"domain": "energy"}).status == "succeeded"


def test_a_run_that_takes_too_long_is_ended_with_its_kernel(
    city: Path, own_notebooks: Path
) -> None:
    seen = city / "pid"
    notebook(
        own_notebooks,
        DOMAIN,
        f"import os, time\nopen({str(seen)!r}, 'w').write(str(os.getpid()))",
        "time.sleep(1)",
        "time.sleep(3600)",
    )

    with pytest.raises(RunError, match="cell 5: Timeout: not done after 3 s"):
        reporting.run("try", {"domain": "energy"}, ticket=Ticket(seconds=3))

    [run] = runs.listed("09_try", "energy")
    assert run.error is not None
    assert run.error["error"] == "Timeout"
    assert run.seconds > 3
    until(lambda: gone(seen))


SCRIPT = """
import pathlib, sys
from smartcity import reporting
with open({count!r}, "a") as file:
    file.write("once ")
reporting.run("try", {{"domain": "energy"}})
"""


@pytest.fixture
def script(city: Path, own_notebooks: Path) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    """Start a plain script, without a guard around what it does, that runs the notebook."""
    path = city / "script.py"
    path.write_text(SCRIPT.format(count=str(city / "count")))
    started = []

    def start() -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen([sys.executable, str(path)], env=os.environ))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_a_script_that_runs_a_notebook_is_not_run_again_by_its_kernel(
    city: Path, own_notebooks: Path, script: Callable[[], subprocess.Popen[bytes]]
) -> None:
    notebook(own_notebooks, DOMAIN, "1 + 1")

    assert script().wait(60) == 0

    assert (city / "count").read_text() == "once "
    assert len(list(runs.listed("09_try", "energy"))) == 1


def test_a_killed_run_takes_its_kernel_along_and_the_next_one_cleans_up(
    city: Path, own_notebooks: Path, script: Callable[[], subprocess.Popen[bytes]]
) -> None:
    seen = city / "pid"
    notebook(
        own_notebooks,
        DOMAIN,
        f"import os, time\nopen({str(seen)!r}, 'w').write(str(os.getpid()))\ntime.sleep(3600)",
    )
    running = script()
    until(lambda: seen.exists() and bool(seen.read_text()), 60)

    running.send_signal(signal.SIGKILL)
    running.wait()

    until(lambda: gone(seen))
    reports = city / "reports"
    assert len(list(reports.glob(".running-*"))) == 1
    assert list(runs.listed("09_try", "energy")) == []
    notebook(own_notebooks, DOMAIN, "1 + 1")
    reporting.run("try", {"domain": "energy"})
    assert list(reports.glob(".running-*")) == []


def test_a_sweep_leaves_alone_what_somebody_works_in(tmp_path: Path) -> None:
    with atomic.scratch(".running-", tmp_path) as mine:
        left = tmp_path / ".running-left"
        left.mkdir()

        assert atomic.sweep(tmp_path, ".running-*") == [left]
        assert mine.exists()
    assert list(tmp_path.iterdir()) == []


def test_a_ticket_names_the_run_and_a_lost_claim_publishes_nothing(
    city: Path, own_notebooks: Path
) -> None:
    notebook(own_notebooks, DOMAIN, "1 + 1")

    def lost() -> None:
        raise RunError("another has it")

    with pytest.raises(RunError, match="another has it"):
        reporting.run("try", {"domain": "energy"}, ticket=Ticket(id="x", confirm=lost))
    assert list(runs.listed("09_try", "energy")) == []

    ticket = Ticket(id="20260101T000000Z-abcdef-2", report="nightly", attempt=2)
    run = reporting.run("try", {"domain": "energy"}, ticket=ticket)
    assert (run.id, run.report, run.attempt) == (ticket.id, "nightly", 2)
    assert run.folder.name == ticket.id
    assert list((city / "reports").glob(".running-*")) == []


def test_the_newest_run_is_the_one_that_speaks_for_the_newest_day(
    city: Path, own_notebooks: Path
) -> None:
    notebook(own_notebooks, DOMAIN + '\nas_of: str = ""  # Until when [date]', "1 + 1")

    of = {
        day: reporting.run("try", {"domain": "energy", "as_of": day})
        for day in ("2022-02-01", "2022-01-31", "2022-02-01T05:00")
    }

    assert [run.parameters["as_of"] for run in runs.listed("09_try", "energy")] == [
        "2022-02-01",
        "2022-02-01T05:00",
        "2022-01-31",
    ]
    assert of["2022-01-31"].id.startswith("20220131T235959Z-")


def test_a_record_names_all_it_was_made_by(built: Path) -> None:
    with at_home(built):
        run = runs.latest("05_report", "traffic")
        assert run is not None

        assert len(run.git["commit"] if run.git else "") == 40
        assert all(len(str(digest)) == 64 for digest in run.code.values())
        assert set(run.code) == {"notebook", "model", "lock"}
        assert run.machine["packages"]["numpy"]
        assert run.started_at <= run.ended_at
        assert {"report.html", "notebook.ipynb", "metrics.json", "figures.json"} <= set(run.outputs)
        for name in run.outputs:
            assert (run.folder / name).is_file()


def test_a_run_is_an_ro_crate_that_names_inputs_tool_and_results(built: Path) -> None:
    with at_home(built):
        run = runs.latest("05_report", "energy")
        assert run is not None
        crate = ROCrate(run.folder)

    action = crate.dereference(f"#{run.id}")
    assert action.type == "CreateAction"
    assert {entity.id for entity in action["result"]} == set(run.outputs)
    assert {source["name"] for source in run.inputs} <= {e.get("name") for e in action["object"]}
    assert action["instrument"]["name"].endswith("05_report")
    assert crate.root_dataset["mentions"] == action


def test_every_report_made_comes_out_the_same_again(built: Path) -> None:
    with at_home(built):
        names = ("01_explore", "03_evaluate", "05_report")
        kept = [runs.latest(name, domain) for name in names for domain in DOMAINS]
        for run in kept:
            assert run is not None
            again = reproduce.reproduce(run.id)

            assert again.differences == [], run.id
            assert again.compared > 50
        assert not list((built / "reports").glob(".running-*"))


def test_one_changed_byte_of_the_readings_is_told_with_the_figures_it_moves(
    built: Path, tmp_path: Path
) -> None:
    shutil.copytree(built, tmp_path / "city")
    with at_home(tmp_path / "city"):
        run = runs.latest("05_report", "energy")
        assert run is not None
        path = tmp_path / "city" / "datasets" / "energy" / run.inputs[0]["name"]
        lines = path.read_text().splitlines()
        lines[-5] = lines[-5][:-1] + ("1" if lines[-5][-1] != "1" else "2")
        path.write_text("\n".join(lines) + "\n")

        again = reproduce.reproduce(run.id)

    assert again.differences[0].where == f"input {path.name}, sha256"
    assert again.differences[0].kept == run.inputs[0]["sha256"]
    assert any(d.where.startswith(("metrics.json", "figures.json")) for d in again.differences)


def test_a_kept_figure_that_was_touched_is_named(built: Path, tmp_path: Path) -> None:
    shutil.copytree(built, tmp_path / "city")
    with at_home(tmp_path / "city"):
        run = runs.latest("05_report", "traffic")
        assert run is not None
        facts = runs.facts(run)
        assert facts is not None
        told = facts["value"]
        (run.folder / "metrics.json").write_text(json.dumps(facts | {"value": told * 1.001}))

        [difference] = reproduce.reproduce(run.id).differences

    assert difference == ("metrics.json.value", told * 1.001, told)


def test_what_cannot_be_run_again_says_why(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(built, tmp_path / "city")
    with at_home(tmp_path / "city"):
        run = runs.latest("05_report", "traffic")
        assert run is not None
        with pytest.raises(UsageError, match=r"Unknown run 'x'.*Known: '2"):
            reproduce.reproduce("x")
        shutil.rmtree(tmp_path / "city" / "models" / "traffic")
        with pytest.raises(ModelError):
            reproduce.reproduce(run.id)
        monkeypatch.setattr(run, "status", "failed")
        (run.folder / "manifest.json").write_text(run.model_dump_json())
        with pytest.raises(UsageError, match="failed when it was made"):
            reproduce.reproduce(run.id)


def kept(
    home: Path, days_ago: int, *, status: str = "succeeded", report: str = "", site: str = "main"
) -> runs.Run:
    """Keep a record of a run that ended some days before now."""
    at = NOW - timedelta(days=days_ago)
    run = runs.Run(
        id=f"{at:%Y%m%dT%H%M%SZ}-aaaaaa{report}",
        notebook="05_report",
        domain="energy",
        parameters={"domain": "energy", "site": site},
        status=status,
        started_at=at.isoformat(),
        seconds=1.0,
        fingerprint="",
        inputs=[],
        simulated=False,
        model_version="1.0.0",
        smartcity="0.1.0",
        report=report,
    )
    contents = home / "contents"
    contents.mkdir(exist_ok=True)
    (contents / "report.html").write_text("<html>")
    runs.keep(run, contents)
    return run


@pytest.mark.parametrize(
    ("keep", "going"),
    [
        (Keep(), []),
        (Keep(count=2), [3, 5]),
        (Keep(days=2), [3, 5]),
        (Keep(count=1), [1, 3, 5]),
        (Keep(days=4), [5]),
    ],
)
def test_what_is_kept_is_counted_by_number_and_by_days(
    keep: Keep, going: list[int], home: Path
) -> None:
    at = {days: kept(home, days) for days in (0, 1, 3, 5)}

    planned = tidy.plan(index.everything(), {}, keep, NOW)

    assert [goes.run for goes in planned] == [at[days] for days in going]


def test_the_last_good_report_stays_however_old(home: Path) -> None:
    old, older = kept(home, 400), kept(home, 500)
    new = kept(home, 0, status="failed")

    planned = tidy.plan(index.everything(), {}, Keep(count=1, days=30), NOW)
    assert [goes.run for goes in planned] == [older]
    assert planned[0].why == "1 newer ones are kept"

    tidy.remove(planned)
    assert index.everything() == [new, old]
    assert list(older.folder.parent.glob(".*")) == []


def test_each_report_keeps_what_its_entry_says(home: Path) -> None:
    mine, other = kept(home, 1, report="nightly"), kept(home, 1)
    kept(home, 0, report="nightly")
    kept(home, 0)

    planned = tidy.plan(index.everything(), {"nightly": Keep(count=1)}, Keep(), NOW)

    assert [goes.run for goes in planned] == [mine]
    assert other in index.everything()


def test_each_site_keeps_its_own(home: Path) -> None:
    old = kept(home, 2, site="north")
    kept(home, 1, site="north")
    kept(home, 3)

    planned = tidy.plan(index.everything(), {}, Keep(count=1), NOW)
    assert [goes.run for goes in planned] == [old]

    tidy.remove(planned)
    assert not old.folder.exists()
    assert len(index.everything()) == 2


def test_the_run_that_made_a_model_stays_while_the_model_does(
    home: Path, publish: Callable[..., registry.Card]
) -> None:
    made, _ = kept(home, 90), kept(home, 1)
    publish("energy", run=made.id)

    assert tidy.plan(index.everything(), {}, Keep(count=1), NOW) == []


MAKE = """
import sys
from datetime import UTC, datetime, timedelta
from smartcity.reporting.due import Maker
from smartcity.store import database

database.upgrade()
skipped = timedelta(seconds=float(sys.argv[1]))
Maker(now=lambda: datetime.now(UTC) + skipped).due()
"""
HOURLY = """
[hourly]
notebook = "09_try"
cron = "0 * * * *"
missed = "all"
attempts = 20
"""


def begun(reports: Path, left: set[Path]) -> bool:
    """Tell whether a run is under way that was not there before."""
    return bool(set(reports.glob(".running-*")) - left)


def whole_runs() -> list[runs.Run]:
    """Give all runs that are shown; each must have exactly the files its manifest names."""
    found = index.everything()
    for run in found:
        there = {path.name for path in run.folder.iterdir()}
        assert there == {*run.outputs, "manifest.json", "ro-crate-metadata.json"}
        for name, digest in run.outputs.items():
            assert hashlib.sha256((run.folder / name).read_bytes()).hexdigest() == digest
    shown = {path.parent.name for path in (settings.current().reports / "runs").glob("*/*/[!.]*/*")}
    assert shown == {run.id for run in found}
    return found


def test_real_runs_killed_at_twenty_points_are_made_once_and_whole(
    city: Path, own_notebooks: Path
) -> None:
    notebook(
        own_notebooks,
        DOMAIN + '\nas_of: str = ""  # Until when [date]',
        "from IPython.display import JSON\nJSON({'domain': domain, 'as_of': as_of})",
    )
    reports = city / "reports"
    reports.mkdir()
    (reports / "schedule.toml").write_text(HOURLY)
    now = datetime.now(UTC)
    to_full_hour = 3600 - (now - now.replace(minute=0, second=0)).seconds  # none strikes meanwhile

    def command(hours: int) -> list[str]:
        return [sys.executable, "-c", MAKE, str(to_full_hour + 3600 * hours)]

    subprocess.run(command(0), check=True, env=os.environ)  # from now on
    dice, good, killed, hours = random.Random(11), set[str](), 0, 14  # noqa: S311

    while killed < 20:
        left = set(reports.glob(".running-*"))
        process = subprocess.Popen(command(hours), env=os.environ)
        # Where the last one was killed right at its end, this one finds nothing to do.
        until(lambda: begun(reports, left) or process.poll() is not None, 60)  # noqa: B023
        time.sleep(dice.uniform(0, 4))  # a first run takes about three seconds
        process.kill()
        if process.wait() == -signal.SIGKILL:
            killed += 1
        else:  # a quick machine made them all: give it more to be killed in
            hours += 6
        there = {run.id for run in whole_runs()}
        assert good <= there
        good = there
    subprocess.run(command(hours), check=True, env=os.environ)

    made = whole_runs()
    assert good <= {run.id for run in made}
    asked = Counter((run.domain, run.parameters["as_of"]) for run in made)
    assert set(asked.values()) == {1}
    assert len(asked) == hours * len(DOMAINS)
    assert {run.status for run in made} == {"succeeded"}
    assert max(run.attempt for run in made) > 1
    assert [*reports.glob(".running-*"), *reports.rglob(".tmp-*")] == []
