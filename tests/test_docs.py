"""The documents tell what is there: rooms, settings, commands, and links that lead somewhere."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import at_home
from fastapi.testclient import TestClient
from test_architecture import PACKAGE, ROOMS
from typer.main import get_command

from smartcity import cli
from smartcity.api import create_app
from smartcity.settings import Settings

HOME = PACKAGE.parent
README = (HOME / "README.md").read_text(encoding="utf-8")
PAGES = [HOME / "README.md", HOME / "CONTRIBUTING.md", *sorted((HOME / "docs").rglob("*.md"))]


@pytest.mark.parametrize("room", ROOMS)
def test_the_readme_says_each_rooms_job_in_the_rooms_own_words(room: str) -> None:
    file = PACKAGE / f"{room}.py"
    path = file if file.exists() else PACKAGE / room / "__init__.py"
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))

    assert docstring is not None
    assert f"| `{room}` | {docstring.splitlines()[0]} |" in README


def test_the_readme_lists_every_setting() -> None:
    for name, field in Settings.model_fields.items():
        assert f"| `SMARTCITY_{name.upper()}` | {field.description} |" in README


def test_the_readme_starts_with_the_two_commands() -> None:
    first = [line.strip() for line in README.splitlines() if line.startswith("    ")][:2]

    assert [line.split("#")[0].strip() for line in first] == ["make demo", "make test"]


def test_every_command_named_in_a_page_exists() -> None:
    root = get_command(cli.app)
    groups = {name: getattr(group, "commands", {}) for name, group in root.commands.items()}  # type: ignore[attr-defined]
    for page in PAGES:
        for words in re.findall(r"smartcity ((?:[a-z]+ ?)+)", page.read_text(encoding="utf-8")):
            first, *rest = words.split()
            if first in groups and groups[first] and rest:
                assert rest[0] in groups[first], (page.name, words)
            elif f"smartcity {first}" in README:
                assert first in groups, (page.name, words)


def test_every_make_target_named_in_a_page_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (HOME / "Makefile").read_text(), flags=re.MULTILINE))
    for page in PAGES:
        named = set(re.findall(r"`make ([a-z-]+)", page.read_text(encoding="utf-8")))
        assert named <= targets, page.name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def test_every_command_and_option_explains_itself() -> None:
    root = get_command(cli.app)
    commands = [*root.commands.values()]  # type: ignore[attr-defined]
    for command in commands:
        commands += getattr(command, "commands", {}).values()
        assert command.help, command.name
        for option in command.params:
            assert getattr(option, "help", None), (command.name, option.name)


def test_the_readmes_commands_run(built: Path, tmp_path: Path) -> None:
    """Run the day-by-day block, but for what serves or needs a second or a thorough model."""
    block = README.split("## Day by day")[1].split("##")[0]
    lines = [line.split("#")[0].split() for line in block.splitlines() if "    smartcity " in line]
    (tmp_path / "counts.csv").write_text("car_count,bike_count,bus_count,truck_count\n60,10,8,5\n")

    shutil.copyfile(HOME / "reports" / "schedule.toml", built / "reports" / "schedule.toml")

    ran = []
    with at_home(built):
        for _, *words in lines:
            if words[0] in {"up", "forecast"} or "rollback" in words:
                continue
            # The search itself runs where 02_train is tested; here it would take minutes.
            quickly = ["--quick"] if words[0] == "build" else []
            done = subprocess.run(
                [sys.executable, "-m", "smartcity", *words, *quickly],
                capture_output=True,
                text=True,
                cwd=tmp_path,
                env=os.environ.copy(),
                check=False,
            )
            assert done.returncode == 0, (words, done.stderr)
            ran.append(words[0])

    assert ran == [
        *("data", "build", "run", "models", "predict"),
        *("report", "report", "report", "users", "db"),
    ]
    assert "medium" in (tmp_path / "answers.csv").read_text()


def test_the_readmes_request_is_answered(built: Path) -> None:
    [path] = re.findall(r"localhost:8000(/api/v1/\S+)", README)
    [body] = re.findall(r"-d '(\{.*\})'", README)

    with at_home(built), TestClient(create_app()) as client:
        answer = client.post(path, json=json.loads(body))

    assert answer.status_code == 200
