"""The ways to install agree, and none names a registry or a machine."""

import json
import re
import subprocess
import tomllib
from pathlib import Path

import yaml

HOME = Path(__file__).parents[1]
# Written so that the pattern does not find itself.
MACHINES = r"pypi[.]org|python[h]osted|registry[.]npmjs|index[-]url|/(home|root|work)/"
PROJECT = tomllib.loads((HOME / "pyproject.toml").read_text())["project"]


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[<>=!~; ]", line)[0].lower() for line in requirements}


def test_binder_has_the_same_environment() -> None:
    assert (HOME / "environment.yml").read_bytes() == (HOME / "binder/environment.yml").read_bytes()


def test_the_environment_file_installs_what_the_package_needs() -> None:
    environment = yaml.safe_load((HOME / "environment.yml").read_text())
    [pip] = [part["pip"] for part in environment["dependencies"] if isinstance(part, dict)]

    assert set(PROJECT["dependencies"]) == set(pip)
    assert any(str(part).startswith("python>=3.11") for part in environment["dependencies"])


def test_the_locks_pin_every_dependency_with_hashes() -> None:
    for lock, extras in (("requirements.lock", []), ("requirements-dev.lock", ["dev"])):
        text = (HOME / lock).read_text()
        wanted = names(PROJECT["dependencies"])
        for extra in extras:
            wanted |= names(PROJECT["optional-dependencies"][extra])
        assert wanted <= names(re.findall(r"^[A-Za-z0-9_.-]+==", text, flags=re.MULTILINE))
        assert len(re.findall(r"^\S+==", text, flags=re.MULTILINE)) == len(
            re.findall(r"==[^\\]*\\\n    --hash=sha256:", text)
        )


def test_no_file_names_a_registry_or_a_machine() -> None:
    # JupyterLab's own code, in the page's bundle, knows what homes look like.
    bundle = ":!smartcity/dashboard/share/voila/templates/smartcity/static/made"
    found = subprocess.run(
        ["git", "grep", "-nIE", MACHINES, "--", ".", bundle],
        cwd=HOME,
        capture_output=True,
        text=True,
        check=False,
    )

    assert found.stdout == ""


def test_no_readings_models_or_runs_are_in_git() -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "datasets", "models", "reports"],
        cwd=HOME,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()

    pages = ["datasets/README.md", "models/README.md", "reports/README.md"]
    assert sorted(tracked) == [*pages, "reports/schedule.toml"]


def test_the_design_cards_packages_are_there() -> None:
    card = "jupyterlab voila ipywidgets scikit-learn pandas numpy plotly papermill joblib"

    assert set(card.split()) <= names(PROJECT["dependencies"])
    assert "nbval" in names(PROJECT["optional-dependencies"]["dev"])
    assert set(PROJECT["optional-dependencies"]) == {"postgres", "scale", "dev"}


def test_binder_opens_the_dashboard_notebook() -> None:
    config = json.loads((HOME / "binder/jupyter_config.json").read_text())

    assert config["VoilaConfiguration"]["template"] == "smartcity"
    assert "jupyter_config.json" in (HOME / "binder/postBuild").read_text()
