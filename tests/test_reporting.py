"""Runs: strict parameters, a whole record each, failures kept and named, nothing done twice."""

import json
import re
from pathlib import Path

import pytest
from conftest import DOMAINS, at_home, notebook

from smartcity import parameters, registry, reporting, runs
from smartcity.errors import RunError, UsageError
from smartcity.reporting import runner

PARAMETERS = """domain: str = "energy"  # The question
days: int = 7  # How many
share: float = 0.5  # Of what
wanted: bool = False  # Whether
names: list[str] = ["a"]  # Which
code: str = ""  # Whose"""


def test_parameters_are_read_with_type_and_help(tmp_path: Path) -> None:
    found = parameters.read(notebook(tmp_path, PARAMETERS))

    assert found["days"] == parameters.Parameter("days", "int", 7, "How many")
    assert found["names"].default == ["a"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"days": "3"}, 3),
        ({"days": 3}, 3),
        ({"share": "1"}, 1.0),
        ({"wanted": "True"}, True),
        ({"names": '["b", "c"]'}, ["b", "c"]),
        ({"code": "007"}, "007"),
    ],
)
def test_text_is_read_as_the_annotated_type(
    given: dict[str, object], expected: object, tmp_path: Path
) -> None:
    values = parameters.check(notebook(tmp_path, PARAMETERS), given)

    assert values[next(iter(given))] == expected


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"dayz": 3}, "Unknown parameter of 09_try 'dayz'.*Did you mean 'days'"),
        ({"days": "x"}, "must be of type int, as in 7"),
        ({"days": 3.5}, "must be of type int"),
        ({"days": True}, "must be of type int"),
        ({"wanted": "perhaps"}, "must be of type bool"),
        ({"names": "[1]"}, "must be of type list"),
        ({"domain": 5}, "must be of type str"),
    ],
)
def test_wrong_parameters_are_refused(given: dict[str, object], says: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=says):
        parameters.check(notebook(tmp_path, PARAMETERS), given)


def test_wrong_parameters_start_nothing(city: Path) -> None:
    with pytest.raises(UsageError):
        reporting.run("01_explore", {"domain": "energy", "dayz": 3})
    with pytest.raises(UsageError, match="Did you mean '01_explore'"):
        reporting.run("01_explor", {"domain": "energy"})

    assert not (city / "reports").exists()


@pytest.mark.parametrize("name", DOMAINS)
def test_a_build_leaves_a_whole_record_of_every_run(name: str, built: Path) -> None:
    with at_home(built):
        for step in ("01_explore", "02_train", "03_evaluate", "05_report"):
            run = runs.latest(step, name)
            assert run is not None
            files = {path.name for path in run.folder.iterdir()}
            assert {"notebook.ipynb", "report.html", "manifest.json", "figures.json"} <= files
            assert run.simulated
            assert run.parameters["domain"] == name


def test_a_model_names_the_run_that_made_it(built: Path) -> None:
    with at_home(built):
        run = runs.latest("02_train", "traffic")
        card = registry.card("traffic")

        assert run is not None
        assert card.run == run.id
        assert run.model_version == card.version


def test_a_second_build_does_nothing(built: Path) -> None:
    with at_home(built):
        steps = reporting.build(DOMAINS, quick=True)

    assert {step.outcome for step in steps} == {"up to date"}


def test_other_readings_make_runs_stale(built: Path) -> None:
    with at_home(built):
        path = next((built / "datasets" / "traffic").glob("*.csv"))
        before = path.read_bytes()
        notebook_path = parameters.find("01_explore")
        values = parameters.check(notebook_path, {"domain": "traffic"})
        old = runner.fingerprint(notebook_path, values)
        path.write_bytes(before.replace(b"low", b"high", 1))
        new = runner.fingerprint(notebook_path, values)
        path.write_bytes(before)

    assert old != new


def test_pages_need_nothing_from_elsewhere(built: Path) -> None:
    with at_home(built):
        run = runs.latest("05_report", "air_quality")
        assert run is not None
        text = (run.folder / "report.html").read_text(encoding="utf-8")

    assert not re.findall(r'<(?:script|link|img|iframe)[^>]*(?:src|href)="https?:', text)
    assert "Plotly" in text
    assert "Simulated." in text


def test_reports_for_the_council_show_no_code(built: Path) -> None:
    with at_home(built):
        report, exploration = (
            runs.latest("05_report", "traffic"),
            runs.latest("01_explore", "traffic"),
        )
        assert report is not None
        assert exploration is not None

        assert "<summary>Code</summary>" not in (report.folder / "report.html").read_text()
        assert "<summary>Code</summary>" in (exploration.folder / "report.html").read_text()


def test_a_report_states_its_facts(built: Path) -> None:
    with at_home(built):
        run = runs.latest("05_report", "air_quality")
        assert run is not None
        facts = runs.facts(run)

    assert facts is not None
    assert facts["model_version"] == "1.0.0"
    assert facts["sentence"].startswith("Carbon monoxide averaged")
    assert 0 < len(facts["daily"]) <= 14
    assert facts["band"] == facts["standing"]
    assert facts["advice"].endswith(".")
    assert facts["reliability"]["level"] == 0.9
    assert len(facts["drift"]["inputs"]) == 12
    assert [each["domain"] for each in facts["glance"]] == list(DOMAINS)
    assert facts["comparison"]["now"] == {"from": facts["from"], "to": facts["to"]}
    assert [table["standard"] for table in facts["guidelines"]["tables"]] == [
        *("India NAQI", "WHO guideline", "EU limit", "US AQI")
    ]
    assert facts["quality"]["readings"] == facts["readings"]
    assert (facts["as_of"], facts["quality"]["age"], facts["changes"]["since"]) == ("", None, None)


def reported(
    home: Path, at: int, *, status: str = "succeeded", days: int = 7, **told: object
) -> runs.Run:
    """Keep a record of a report, with what it states."""
    facts = {"value": 2.0, "to": "2026-03-07", "missing_share": 0.0, "model_version": "1.0.0"}
    run = runs.Run(
        id=f"20260307T0000{at:02}Z-aaaaaa",
        notebook="05_report",
        domain="energy",
        parameters={"domain": "energy", "site": "main", "days": days},
        status=status,
        started_at=f"2026-03-07T00:00:{at:02}+00:00",
        seconds=1.0,
        fingerprint="",
        inputs=[],
        simulated=False,
        model_version="1.0.0",
        smartcity="0.1.0",
    )
    contents = home / f"contents-{at}"
    contents.mkdir()
    (contents / "report.html").write_text("<html>")
    (contents / "metrics.json").write_text(json.dumps(facts | {"verdict": "Better."} | told))
    runs.keep(run, contents)
    return run


def test_reports_of_all_domains_are_listed_the_newest_first(built: Path) -> None:
    with at_home(built):
        listed = runs.reports(100)
        files = runs.files(listed[0])

        assert {run.domain for run in listed} == set(DOMAINS)
        assert {run.notebook for run in listed} == {"05_report"}
        assert [run.id for run in listed] == sorted((run.id for run in listed), reverse=True)
        assert runs.reports(2) == listed[:2]
        made = {"report.html", "notebook.ipynb", "metrics.json"}
        assert set(files) - {"report.pdf"} == made  # where no browser is there is no PDF
        assert files["metrics.json"] == (listed[0].folder / "metrics.json").stat().st_size


def test_failed_reports_are_listed_too_with_the_files_they_have(home: Path) -> None:
    good, bad = reported(home, 1), reported(home, 2, status="failed")

    assert runs.reports(10) == [bad, good]
    assert set(runs.files(bad)) == {"report.html", "metrics.json"}


def test_changes_are_told_beside_the_newest_report_that_states_something_else(home: Path) -> None:
    reported(home, 1, value=9.0)
    old = reported(home, 2, missing_share=0.1, to="2026-03-06")
    reported(home, 3)
    reported(home, 4, status="failed", value=8.0)
    (reported(home, 5).folder / "metrics.json").write_text("[1]")
    new = reported(home, 6, sentence="What is not compared may differ.")

    assert runs.changes("energy") == [
        runs.Change("started_at", old.started_at, new.started_at),
        runs.Change("to", "2026-03-06", "2026-03-07"),
        runs.Change("missing_share", 0.1, 0.0),
    ]


def test_another_length_of_the_period_is_a_change_of_its_own(home: Path) -> None:
    reported(home, 1, days=14, value=3.0)
    reported(home, 2, model_version="1.1.0", verdict=None)

    changes = {change.kind: (change.before, change.after) for change in runs.changes("energy")}

    assert changes.pop("started_at")
    assert changes == {
        "days": (14, 7),
        "value": (3.0, 2.0),
        "model_version": ("1.0.0", "1.1.0"),
        "verdict": ("Better.", None),
    }


def test_one_report_or_none_or_equal_ones_tell_no_change(home: Path) -> None:
    assert runs.changes("energy") == []
    reported(home, 1)
    assert runs.changes("energy") == []
    reported(home, 2)
    assert runs.changes("energy") == []


def test_a_failed_run_is_kept_names_its_cell_and_publishes_nothing(
    city: Path, own_notebooks: Path
) -> None:
    notebook(
        own_notebooks,
        'domain: str = "energy"  # The question\nrun_id: str = ""  # The run',
        "first = 1",
        'raise ValueError("the sensor fell off")',
        "from smartcity import registry",
    )

    with pytest.raises(RunError, match="failed in cell 4: ValueError: the sensor fell off"):
        reporting.run("try", {"domain": "energy"})

    [run] = runs.listed("09_try", "energy")
    assert run.status == "failed"
    assert run.error is not None
    assert run.error["cell"] == 4
    assert "the sensor fell off" in (run.folder / "report.html").read_text()
    assert "ValueError" in (run.folder / "notebook.ipynb").read_text()
    assert registry.versions("energy") == []
    assert not list((city / "reports").glob(".running-*"))


def test_a_run_that_fails_after_publishing_publishes_nothing(
    city: Path, own_notebooks: Path
) -> None:
    notebook(
        own_notebooks,
        'domain: str = "energy"  # The question\nrun_id: str = ""  # The run',
        "from smartcity import modelling\n\ndataset = modelling.prepare(domain)",
        "trained = modelling.train(dataset, thorough=False)",
        "modelling.publish(trained, modelling.draft(trained, run=run_id))",
        'raise ValueError("too late")',
    )

    with pytest.raises(RunError, match="too late. Nothing was published"):
        reporting.run("try", {"domain": "energy"})

    assert registry.versions("energy") == []


def test_our_own_errors_come_through_in_plain_words(city: Path) -> None:
    with pytest.raises(RunError, match=r"No model of 'energy' is published.*smartcity build"):
        reporting.run("03_evaluate", {"domain": "energy"})


def test_a_failing_domain_does_not_stop_the_others(city: Path) -> None:
    for path in (city / "datasets" / "energy").glob("*.csv"):
        path.write_text("")

    steps = reporting.build(["energy"])

    assert [step.outcome for step in steps] == [
        "failed",
        "not started",
        "not started",
        "not started",
    ]
    assert "is empty" in str(steps[0].error)


def test_an_unreadable_record_is_passed_over(built: Path) -> None:
    with at_home(built):
        run = runs.latest("05_report", "energy")
        assert run is not None
        broken = run.folder.with_name("99991231T000000Z-broken")
        broken.mkdir()
        (broken / "manifest.json").write_text("{")

        assert runs.latest("05_report", "energy") == run

        (broken / "manifest.json").unlink()
        broken.rmdir()


def test_manifests_hold_no_values_of_the_environment(
    built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with at_home(built):
        for path in (built / "reports").rglob("manifest.json"):
            assert set(json.loads(path.read_bytes())) == set(runs.Run.model_fields)
