"""Asking for a report on the page: checked as on the command line, noted, and nothing else."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from smartcity import parameters, runs, settings
from smartcity.dashboard.ask import Ask
from smartcity.dashboard.monitor import Monitor
from smartcity.dashboard.words import LANGUAGES, Words
from smartcity.predict import Predictors


def ask(form: Ask) -> str:
    """Press the button; give what is said then."""
    form._told(form, "ask", [])
    said: str = form.note
    return said


def wishes() -> list[Any]:
    return [json.loads(path.read_bytes()) for path in runs.asked()]


def test_every_parameter_a_person_may_set_is_asked_for_with_what_is_allowed(home: Path) -> None:
    form = Ask(Words())

    asked = {field["name"]: field for field in form.fields}

    assert list(asked)[:4] == ["domain", "site", "days", "as_of"]
    assert {"version", "previous"}.isdisjoint(asked)
    days = asked["days"]
    assert (days["kind"], days["low"], days["high"], days["unit"]) == ("number", 1, 366, "days")
    assert asked["as_of"]["kind"] == "date"
    assert ["traffic", "Traffic"] in asked["domain"]["choices"]
    assert all(field["label"] and (field["help"] or field["choices"]) for field in form.fields)


def test_the_command_shown_makes_the_same_report(home: Path) -> None:
    form = Ask(Words())
    form.values = form.values | {"domain": "traffic", "days": "14", "as_of": "2004-12-01"}

    command = "smartcity report run 05_report --domain traffic -p days 14 -p as_of 2004-12-01"
    assert form.command == command
    assert form.problems == {}


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"days": "500"}, "The nearest is 366"),
        ({"days": "many"}, "must be of type int"),
        ({"days": ""}, "must be of type int"),
        ({"as_of": "yesterday"}, "must be a day or a moment"),
        ({"domain": "trafic"}, "Did you mean 'traffic'"),
        ({"site": "../../etc"}, "Unknown site"),
        ({"days": {"a": 1}}, "must be of type int"),
    ],
)
def test_what_is_wrong_is_said_beside_its_field_and_reaches_no_file(
    values: dict[str, Any], says: str, home: Path
) -> None:
    form = Ask(Words())

    form.values = form.values | values

    [name] = values
    assert says in form.problems[name]
    assert form.command == ""
    assert says in ask(form)
    assert wishes() == []


def test_two_faults_are_said_at_once(home: Path) -> None:
    form = Ask(Words())
    form.values = form.values | {"days": "0", "as_of": "soon"}

    assert set(form.problems) == {"days", "as_of"}

    form.values = form.values | {"days": "1", "as_of": ""}
    assert form.problems == {}


def test_a_wish_is_noted_once_with_all_its_parameters_checked(home: Path) -> None:
    form = Ask(Words())
    hostile = {"version": "../1", "previous": "{}", "run_id": "x", "more": "y"}
    form.values = form.values | {"domain": "energy", "days": "3"} | hostile

    assert ask(form).startswith("It is made within a minute")
    assert ask(form).startswith("It is made within a minute")

    [wish] = wishes()
    notebook = parameters.find("05_report")
    given = {"domain": "energy", "days": 3}
    assert wish == {"notebook": "05_report", "parameters": parameters.check(notebook, given)}
    form.values = form.values | {"days": "4"}
    assert form.note == ""


def test_only_so_many_wishes_may_wait(home: Path) -> None:
    form = Ask(Words())
    for days in range(1, runs.MOST_ASKED + 2):
        form.values = form.values | {"days": str(days)}
        said = ask(form)

    assert said == "5 reports are waiting to be made; try again in some minutes."
    assert len(wishes()) == runs.MOST_ASKED


def test_where_wishes_are_not_taken_the_command_is_left(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMARTCITY_DASHBOARD_REQUESTS", "false")
    settings.current.cache_clear()
    form = Ask(Words())
    assert not form.may_ask
    form.may_ask = True  # as a browser might

    assert ask(form).startswith("Reports cannot be asked for here. The command")

    assert wishes() == []
    assert form.command.startswith("smartcity report run")


def test_a_folder_that_cannot_be_written_is_said(home: Path) -> None:
    (home / "reports").write_text("no folder")
    form = Ask(Words())

    assert ask(form).startswith("Reports cannot be asked for here. The command")


def test_without_the_notebook_the_page_says_so(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = Ask(Words()).layout
    monkeypatch.setenv("SMARTCITY_NOTEBOOKS", str(home))
    settings.current.cache_clear()

    monitor = Monitor(Predictors(), Words(), {"layout": layout})

    assert "There are no notebooks in" in monitor.children[-1].value


@pytest.mark.parametrize("language", [name for name in LANGUAGES if name != "en"])
def test_faults_and_notes_are_said_in_the_readers_language(language: str, home: Path) -> None:
    words = Words(language)
    form = Ask(words)
    for values in ({"days": "500"}, {"days": ""}, {"tariff": "?"}, {"as_of": "2004-13-01"}):
        form.values = form.values | values
    said = [*form.problems.values()]
    form.values = form.values | {"days": "1", "tariff": "0", "as_of": ""}
    for days in range(1, runs.MOST_ASKED + 2):
        form.values = form.values | {"days": str(days)}
        said.append(ask(form))

    assert len(said) == 3 + runs.MOST_ASKED + 1
    assert words.missing == set()
    assert not re.search("Parameter|must|waiting|minute ", " ".join(said))
