"""What GitHub runs for us: well formed, with few rights, made of what is here; and `make check`."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import yaml

HOME = Path(__file__).parents[1]
WORKFLOWS = {path.stem: path for path in sorted((HOME / ".github/workflows").glob("*.yml"))}
ACTION = HOME / ".github/actions/deploy/action.yml"
DIGESTS = [f"registry/city@sha256:{letter * 64}" for letter in "abc"]


def read(path: Path) -> dict[str, Any]:
    """Read a workflow or an action; YAML takes the key `on` for a truth value."""
    return dict(yaml.safe_load(path.read_text()))


def jobs(name: str) -> dict[str, Any]:
    """Give a workflow's jobs."""
    return dict(read(WORKFLOWS[name])["jobs"])


def steps() -> Iterator[dict[str, Any]]:
    """Yield every step of every workflow and of our action."""
    for name in WORKFLOWS:
        yield from chain.from_iterable(job["steps"] for job in jobs(name).values())
    yield from read(ACTION)["runs"]["steps"]


def would_run(target: str) -> list[str]:
    """Give the commands of a make target, with the tools of the Python that runs the tests."""
    said = subprocess.run(
        ["make", "--dry-run", target, f"VENV={sys.prefix}"],
        cwd=HOME,
        capture_output=True,
        text=True,
        check=True,
    )
    return said.stdout.splitlines()


def checked(tool: str, copy: Path) -> list[subprocess.CompletedProcess[str]]:
    """Run the lines of `make check` that call a tool, on a copy."""
    lines = [line for line in would_run("check") if f"/{tool} " in line]
    assert lines, tool
    bash = ["bash", "-o", "pipefail", "-c"]
    return [
        subprocess.run([*bash, line], cwd=copy, capture_output=True, text=True, check=False)
        for line in lines
    ]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A repository with the files the security tools look at, and one plain module."""
    for folder in (".github", ".ci"):
        shutil.copytree(HOME / folder, tmp_path / folder)
    for name in ("pyproject.toml", "deploy/smoke"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(HOME / name, tmp_path / name)
    (tmp_path / "smartcity").mkdir()
    (tmp_path / "smartcity/plain.py").write_text("x = 1\n")
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    return tmp_path


JOB = "on: push\npermissions: {}\njobs:\n  a:\n    runs-on: ubuntu-latest\n    steps:\n"
FAULTS = {
    "bandit": ("smartcity/bad.py", "import pickle\n\npickle.loads(b'')\n"),
    "zizmor": (
        ".github/workflows/bad.yml",
        JOB + "      - run: echo ${{ github.event.head_commit.message }}\n",
    ),
    "check-jsonschema": (".github/workflows/bad.yml", JOB + "      - runs: true\n"),
    # Put together here, so that this file holds none.
    "detect-secrets-hook": ("notes.md", "The token is ghp_" + "a1B2" * 9 + "\n"),
}


@pytest.mark.parametrize("tool", FAULTS)
def test_make_check_passes_what_is_there_and_finds_a_planted_fault(tool: str, copy: Path) -> None:
    for line in checked(tool, copy):
        assert line.returncode == 0, line.stdout + line.stderr
    name, text = FAULTS[tool]
    (copy / name).write_text(text)

    assert any(line.returncode != 0 for line in checked(tool, copy))


@pytest.mark.parametrize("path", [".github/dependabot.yml", ".github/actions/deploy/action.yml"])
def test_make_check_reads_more_than_workflows(path: str, copy: Path) -> None:
    (copy / path).write_text("version: 7\n")

    assert any(line.returncode != 0 for line in checked("check-jsonschema", copy))


def test_known_vulnerabilities_are_asked_for_where_the_answer_can_be_trusted_only() -> None:
    # A registry that knows of none says "none found": `make check` runs beside any registry.
    assert not any("pip-audit" in line for line in would_run("check"))
    [asked] = [line for line in would_run("audit") if "pip-audit" in line]
    assert "--strict" in asked
    for lock in HOME.glob("requirements*.lock"):
        assert f"-r {lock.name}" in asked


def test_every_action_is_pinned_to_a_commit_or_is_our_own() -> None:
    lines = [
        line.split("uses:", 1)[1].strip()
        for path in (*WORKFLOWS.values(), ACTION)
        for line in path.read_text().splitlines()
        if "uses:" in line
    ]

    assert lines
    for used in lines:
        if used.startswith("$/"):
            assert (HOME / used[2:] / "action.yml").is_file(), used
        else:
            assert re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", used), used


def test_what_is_run_exists() -> None:
    targets = re.findall(r"^([a-z-]+):", (HOME / "Makefile").read_text(), flags=re.MULTILINE)
    commands = [step["run"] for step in steps() if "run" in step]
    made = re.findall(r"\bmake ([a-z-]+)", "\n".join(commands))
    files = re.findall(r"(?<![\w/.-])((?:\.ci|deploy|tests)/[\w-]+)(?=\s|$)", "\n".join(commands))

    assert set(made) <= set(targets)
    assert {"dist", "audit", "test-with"} <= set(made)
    assert {".ci/run", ".ci/compose", ".ci/release", "deploy/smoke", "tests/setup"} <= set(files)
    for name in {*files} - {"deploy/Dockerfile"}:
        assert (HOME / name).stat().st_mode & 0o111, f"{name} cannot be run"
    assert (HOME / "deploy/Dockerfile").is_file()


def test_rights_are_few_and_jobs_end() -> None:
    writers = {
        ("ci", "publish"): {"packages"},
        ("ci", "deploy"): {"actions"},
        ("release", "publish"): {"attestations", "contents", "id-token", "packages"},
    }
    for name, path in WORKFLOWS.items():
        assert read(path)["permissions"] == {"contents": "read"}
        assert "concurrency" in read(path)
        for job, told in jobs(name).items():
            assert told["timeout-minutes"] <= 90
            writes = {right for right, how in told.get("permissions", {}).items() if how == "write"}
            assert writes == writers.get((name, job), set())
    for step in steps():
        if "actions/checkout" in step.get("uses", ""):
            assert step["with"]["persist-credentials"] is False


def test_dependencies_are_tried_pinned_oldest_and_newest() -> None:
    told = jobs("ci")

    assert told["test"]["strategy"]["matrix"]["python"] == ["3.11", "3.13"]
    assert told["oldest"]["steps"][-1]["run"] == "make test-with RESOLUTION=lowest-direct"
    assert told["newest"]["steps"][-1]["run"] == "make test-with RESOLUTION=highest"
    assert "schedule" in told["newest"]["if"]


def test_production_waits_for_staging_and_staging_for_everything() -> None:
    ci, deploy = jobs("ci"), jobs("deploy")

    assert set(ci["publish"]["needs"]) == set(ci) - {"publish", "deploy", "newest"}
    assert ci["deploy"]["needs"] == "publish"
    assert deploy["production"]["needs"] == "staging"
    assert "if" not in deploy["production"]  # it would be skipped no more when staging fails
    for name in ("staging", "production"):
        assert deploy[name]["environment"]["name"] == name
        assert deploy[name]["steps"][-1]["uses"] == "$/.github/actions/deploy"


def test_a_failed_smoke_test_brings_the_image_before_back() -> None:
    told = {step["name"]: step for step in read(ACTION)["runs"]["steps"]}
    names = list(told)

    assert names.index("Roll out") < names.index("Smoke test") < names.index("Roll back")
    assert told["Smoke test"]["run"] == 'deploy/smoke "$CITY_URL"'
    assert told["Roll back"]["if"].startswith("failure()")
    assert '"back $IMAGE"' in told["Roll back"]["run"]


def test_secrets_reach_no_command_line() -> None:
    for step in steps():
        assert "${{" not in step.get("run", ""), step


def released(folder: Path, tag: str, version: str, changelog: str) -> tuple[int, str, str]:
    """Ask for a release's notes: exit code, what was printed, and what was complained of."""
    (folder / "pyproject.toml").write_text(f'[project]\nversion = "{version}"\n')
    (folder / "CHANGELOG.md").write_text(changelog)
    said = subprocess.run(
        [sys.executable, HOME / ".ci/release", tag],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    return said.returncode, said.stdout, said.stderr


NEWS = "# Changelog\n\nAs noticed.\n\n## 1.2.0 - 2026-12-01\n\n### Added\n\n- A door.\n\n"
OLD = "## 1.1.0 - 2026-11-01\n\n- A house.\n"


def test_a_release_tells_its_section_of_the_changelog(tmp_path: Path) -> None:
    assert released(tmp_path, "v1.2.0", "1.2.0", NEWS + OLD) == (0, "### Added\n\n- A door.\n", "")


@pytest.mark.parametrize(
    ("tag", "version", "changelog"),
    [
        ("v1.3.0", "1.2.0", NEWS + OLD),
        ("v1.2.0", "1.1.0", NEWS + OLD),
        ("v1.2.0", "1.2.0", OLD),
        ("v1.2.0", "1.2.0", NEWS.replace("## 1.2.0 - 2026-12-01", "## Unreleased")),
        ("1.2.0", "1.2.0", NEWS),
        ("v1.1.0", "1.1.0", "# Changelog\n\n## 1.1.0\n\n## 1.0.0\n\n- First.\n"),
        ("v1.1.0", "1.1.0", "# Changelog\n"),
    ],
    ids=["tag", "package", "old", "unreleased", "no v", "nothing told", "empty"],
)
def test_nothing_is_released_that_does_not_agree(
    tag: str, version: str, changelog: str, tmp_path: Path
) -> None:
    code, notes, said = released(tmp_path, tag, version, changelog)

    assert (code, notes) == (1, "")
    assert said.startswith("Not released: ")


class Host:
    """A host's checkout, and in Docker's place a script that notes what it is asked to do."""

    def __init__(self, folder: Path) -> None:
        """Make a repository with a commit per image, and a clone of it at the first."""
        self.origin, self.clone, self.bin = folder / "origin", folder / "clone", folder / "bin"
        for made in (self.origin / "deploy", self.bin):
            made.mkdir(parents=True)
        self.git(self.origin, "init", "--quiet", "--initial-branch=main")
        shutil.copy(HOME / "deploy/roll", self.origin / "deploy/roll")
        revisions = []
        for number, _ in enumerate(DIGESTS):
            (self.origin / "deploy/compose.yaml").write_text(f"# {number}\n")
            self.git(self.origin, "add", "--all")
            self.git(self.origin, "commit", "--quiet", "--message", str(number))
            revisions.append(self.git(self.origin, "rev-parse", "HEAD"))
        self.git(folder, "clone", "--quiet", str(self.origin), str(self.clone))
        cases = "".join(f"*{i}) echo {r};; " for i, r in zip(DIGESTS, revisions, strict=True))
        docker = self.bin / "docker"
        docker.write_text(
            f'#!/bin/sh\necho "$@" >>{folder}/asked\n'
            f'case "$*" in "image inspect "*) case "$*" in {cases}esac;; esac\n'
        )
        docker.chmod(0o755)
        self.asked = folder / "asked"

    @staticmethod
    def git(where: Path, *words: str) -> str:
        """Call git as somebody."""
        who = ["-c", "user.name=A", "-c", "user.email=a@city.example"]
        return subprocess.run(
            ["git", *who, *words], cwd=where, capture_output=True, text=True, check=True
        ).stdout.strip()

    def roll(self, asked: str) -> subprocess.CompletedProcess[str]:
        """Ask as the pipeline does, through SSH's forced command."""
        path = f"{self.bin}:/usr/bin:/bin"
        return subprocess.run(
            [str(self.clone / "deploy/roll")],
            env={"PATH": path, "HOME": str(self.clone), "SSH_ORIGINAL_COMMAND": asked},
            capture_output=True,
            text=True,
            check=False,
        )

    def runs(self) -> tuple[str, str]:
        """Tell what is in service: the image, and the number in its compose file."""
        noted = dict(
            line.split("=", 1) for line in (self.clone / "deploy/.env").read_text().splitlines()
        )
        compose = (self.clone / "deploy/compose.yaml").read_text().strip("# \n")
        return noted["SMARTCITY_IMAGE"], compose


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_an_image_brings_its_own_compose_file_and_back_brings_both_back(host: Host) -> None:
    (host.clone / "deploy/.env").write_text("SMARTCITY_PUBLIC_URL=https://a.city\n")
    for number, image in enumerate(DIGESTS):
        said = host.roll(image)
        assert said.returncode == 0, said.stderr
        assert host.runs() == (image, str(number))
    assert host.asked.read_text().splitlines()[-1].startswith("compose up --detach --wait")

    assert host.roll(f"back {DIGESTS[2]}").returncode == 0

    assert host.runs() == (DIGESTS[1], "1")
    assert "SMARTCITY_PUBLIC_URL=https://a.city" in (host.clone / "deploy/.env").read_text()


def test_going_back_from_an_image_that_never_came_into_service_does_nothing(host: Host) -> None:
    host.roll(DIGESTS[0])
    host.roll(DIGESTS[1])
    before = host.asked.read_text()

    said = host.roll(f"back {DIGESTS[2]}")

    assert (said.returncode, host.asked.read_text()) == (0, before)
    assert host.runs() == (DIGESTS[1], "1")


def test_the_pipelines_key_can_do_nothing_else(host: Host) -> None:
    for asked in ("", "sh", "registry/city:latest", f"{DIGESTS[0]}; id", f"{DIGESTS[0]}\nid"):
        said = host.roll(asked)

        assert said.returncode == 2
        assert "Neither an image by its digest" in said.stderr
    assert host.roll("back").returncode == 1
    assert not host.asked.exists()
