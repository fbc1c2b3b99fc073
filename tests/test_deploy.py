"""What is shipped for running SmartCity elsewhere, checked by the tools that will read it."""

import ast
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from smartcity import settings
from smartcity.cli import app

DEPLOY = Path(__file__).parents[1] / "deploy"
UNITS = sorted((DEPLOY / "systemd").iterdir())


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
def test_systemd_finds_nothing_wrong_with_the_units(tmp_path: Path) -> None:
    for unit in UNITS:
        # The command is not installed where the tests run; everything else stays as it is.
        text = unit.read_text().replace("/opt/smartcity/.venv/bin/smartcity ", "/bin/true ")
        (tmp_path / unit.name).write_text(text)

    found = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *map(str, tmp_path.iterdir())],
        capture_output=True,
        text=True,
        check=False,
    )

    assert (found.returncode, found.stderr) == (0, "")


def commands() -> list[list[str]]:
    """The smartcity commands the units and the DAG call."""
    lines = [line for unit in UNITS for line in unit.read_text().splitlines()]
    called = [line.removeprefix("ExecStart=") for line in lines if line.startswith("ExecStart=")]
    dag = ast.walk(ast.parse((DEPLOY / "airflow" / "smartcity_reports.py").read_text()))
    words = [node for node in dag if isinstance(node, ast.keyword) and node.arg == "bash_command"]
    called += [ast.literal_eval(node.value) for node in words]
    return [shlex.split(line)[1:] for line in called]


def test_what_is_called_are_commands_of_ours() -> None:
    assert len(commands()) >= 2
    for words in commands():
        answer = CliRunner().invoke(app, [*words, "--help"])
        assert answer.exit_code == 0, words
        assert words in [["report", "due"], ["backup", "create"], ["backup", "drill"]]


def test_the_dashboards_unit_is_given_no_secret_but_its_own() -> None:
    unit = (DEPLOY / "nginx" / "smartcity-dashboard.service").read_text()
    secrets = {
        f"SMARTCITY_{name.upper()}"
        for name, field in settings.Settings.model_fields.items()
        if "SecretStr" in str(field.annotation)
    }

    unset = {
        name
        for line in unit.splitlines()
        if line.startswith("UnsetEnvironment=")
        for name in line.partition("=")[2].split()
    }

    assert unset == secrets - {"SMARTCITY_DASHBOARD_TOKEN"}
