"""The Dockerfile and the compose file, read as Docker will: what each container may do and reach.

That they do run is shown by `make container-check`.
"""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic_settings import SettingsConfigDict

from smartcity.settings import Settings

HOME = Path(__file__).parents[1]
DEPLOY = HOME / "deploy"
BIN = Path(sys.prefix) / "bin"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
#: Settings that are secrets, and what else is one.
SECRETS = {name for name, field in Settings.model_fields.items() if "Secret" in str(field)}
each_service = pytest.mark.parametrize("name", SERVICES)


def mounts(name: str) -> dict[str, tuple[str, str]]:
    """Give a service's mounts: target -> what is mounted, and how."""
    found = {}
    for mount in SERVICES[name].get("volumes", []):
        # A default may hold the colon of ${NAME:-value}.
        source, target, *how = re.sub(r"\$\{\w+:-(\w+)\}", r"\1", mount).split(":")
        found[target] = (source, how[0] if how else "rw")
    return found


def run(*words: str | Path) -> tuple[int, str]:
    done = subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


def test_hadolint_finds_nothing_in_the_dockerfile_and_something_in_a_worse_one(
    tmp_path: Path,
) -> None:
    worse = tmp_path / "Dockerfile"
    worse.write_text("FROM python\nRUN cd /tmp && sudo ls\n")

    assert run(BIN / "hadolint", DEPLOY / "Dockerfile") == (0, "")
    assert run(BIN / "hadolint", worse)[0] == 1


def test_the_compose_file_is_one_and_a_misspelt_one_is_not(tmp_path: Path) -> None:
    check = (BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec")
    worse = tmp_path / "compose.yaml"
    worse.write_text((DEPLOY / "compose.yaml").read_text().replace("    ports:", "    portz:"))

    code, said = run(*check, DEPLOY / "compose.yaml")
    assert code == 0, said
    code, said = run(*check, worse)
    assert (code, "portz" in said) == (1, True)


def test_nginx_alone_publishes_ports_and_is_open_to_the_world() -> None:
    assert [name for name in SERVICES if "ports" in SERVICES[name]] == ["nginx"]
    assert [n for n in SERVICES if "edge" in SERVICES[n].get("networks", [])] == ["nginx"]
    assert not any("expose" in service for service in SERVICES.values())
    assert all(outside == inside for outside, inside in map(_ports, SERVICES["nginx"]["ports"]))


def _ports(mapping: str) -> tuple[str, str]:
    half = len(mapping) // 2
    return mapping[:half], mapping[half + 1 :]


@each_service
def test_every_container_is_guarded(name: str) -> None:
    service = SERVICES[name]

    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert int(service["user"].split(":")[0]) > 0
    assert service["mem_limit"]
    assert service["pids_limit"]
    assert set(service["logging"]["options"]) == {"max-size", "max-file"}
    assert not {"privileged", "cap_add", "pid", "ipc", "devices"} & set(service)
    assert "docker.sock" not in str(service)


@each_service
def test_every_server_comes_back_and_says_how_it_is(name: str) -> None:
    service = SERVICES[name]

    if service.get("profiles") == ["tools"]:
        assert service["restart"] == "no"
        assert service["healthcheck"] == {"disable": True}
    else:
        assert service["restart"] == "unless-stopped"
        assert service["healthcheck"]["test"][0] in {"CMD", "CMD-SHELL"}


def test_the_dashboard_has_no_way_to_the_database_and_no_secret() -> None:
    dashboard, postgres = SERVICES["dashboard"], SERVICES["postgres"]

    assert "secrets" not in dashboard
    assert not any("DATABASE" in variable for variable in dashboard["environment"])
    assert postgres["network_mode"] == "none"
    assert "listen_addresses=" in postgres["command"]
    its = {source for source, _ in mounts("postgres").values()}
    assert its == {"database", "socket"}
    assert not its & {source for source, _ in mounts("dashboard").values()}
    assert its & {source for source, _ in mounts("api").values()} == {"socket"}


def test_what_answers_writes_neither_models_nor_reports() -> None:
    for name in ("nginx", "api", "dashboard"):
        for target in ("models", "reports"):
            assert mounts(name).get(f"/opt/smartcity/{target}", ("", "ro"))[1] == "ro", name
    assert mounts("scheduler")["/opt/smartcity/datasets/raw"] == ("datasets", "ro")


def test_the_networks_of_what_answers_lead_nowhere_else() -> None:
    for name in ("api", "dashboard", "redis", "prometheus", "grafana"):
        for network in SERVICES[name]["networks"]:
            assert COMPOSE["networks"][network] == {"internal": True}, (name, network)


@each_service
def test_every_setting_named_is_one(name: str) -> None:
    for variable in SERVICES[name].get("environment", {}):
        if variable.startswith("SMARTCITY_"):
            assert variable.removeprefix("SMARTCITY_").lower() in Settings.model_fields, variable


def test_secrets_are_files_named_after_settings_and_stand_nowhere_else() -> None:
    for name, secret in COMPOSE["secrets"].items():
        assert secret == {"file": f"./secrets/{name}"}
        if name.startswith("smartcity_"):
            assert name.removeprefix("smartcity_") in SECRETS
    used = {secret for service in SERVICES.values() for secret in service.get("secrets", [])}
    assert used == set(COMPOSE["secrets"])
    for name, service in SERVICES.items():
        for variable, value in service.get("environment", {}).items():
            is_secret = re.search(r"PASSWORD|SECRET|TOKEN|_URL$|_REPOSITORY$", variable)
            known = value.startswith(("/run/secrets/", "${", "http://api:"))
            assert not is_secret or known, (name, variable)
    assert {"deploy/secrets", "deploy/certificates"} <= set(_kept_out_of_git())


def _kept_out_of_git() -> list[str]:
    asked = [f"deploy/{name}/x" for name in ("secrets", "certificates")] + ["deploy/.env"]
    found = subprocess.run(
        ["git", "check-ignore", *asked], cwd=HOME, capture_output=True, text=True, check=False
    )
    return [line.removesuffix("/x") for line in found.stdout.splitlines()]


def test_a_setting_may_be_a_file_among_the_secrets(tmp_path: Path) -> None:
    class Contained(Settings):
        model_config = SettingsConfigDict(secrets_dir=tmp_path)

    (tmp_path / "smartcity_database_url").write_text("postgresql://me:hunter2@/city\n")
    (tmp_path / "postgres_password").write_text("hunter2")

    known = Contained()

    assert known.database_url is not None
    assert known.database_url.get_secret_value() == "postgresql://me:hunter2@/city"
    assert "hunter2" not in repr(known)


def test_the_image_gets_what_it_copies_and_no_readings_or_models() -> None:
    kept_out = (HOME / ".dockerignore").read_text(encoding="utf-8").splitlines()
    let_in = {line[1:] for line in kept_out if line.startswith("!")}
    dockerfile = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    copied = [
        source
        for line in re.findall(r"^COPY (?!--from)(.+)$", dockerfile, flags=re.MULTILINE)
        for source in line.split()[:-1]
        if not source.startswith("--")
    ]

    assert "*" in kept_out
    assert all((HOME / path).exists() for path in let_in)
    for source in copied:
        assert any(path == source or path.startswith(f"{source}/") for path in let_in) or any(
            source.startswith(f"{path}/") for path in let_in
        ), source
    assert not {"models", "datasets", "logs", "state", "reports", "deploy"} & let_in


def test_images_are_named_by_an_exact_version() -> None:
    dockerfile = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    stages = re.findall(r"^FROM \S+ AS (\w+)$", dockerfile, flags=re.MULTILINE)
    bases = set(re.findall(r"^FROM (\S+)", dockerfile, flags=re.MULTILINE)) - set(stages)
    images = {s["image"] for s in SERVICES.values()} - {"${SMARTCITY_IMAGE:-smartcity}"}

    assert len(bases) == 1
    for image in bases | images:
        assert re.search(r":v?\d+[\w.-]*(@sha256:[0-9a-f]{64})?$", image), image


def test_the_programs_fit_the_servers_database() -> None:
    [wanted] = re.findall(r"postgresql-client-(\d+)", (DEPLOY / "Dockerfile").read_text())

    assert f"postgres:{wanted}" in SERVICES["postgres"]["image"]


def test_prometheus_asks_every_api_and_grafana_asks_prometheus() -> None:
    prometheus = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    jobs = {job["job_name"]: job for job in prometheus["scrape_configs"]}
    provisioning = DEPLOY / "grafana" / "provisioning"
    [source] = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())[
        "datasources"
    ]

    [found] = jobs["api"]["dns_sd_configs"]
    assert (found["names"], found["type"], found["port"]) == (["api"], "A", 8000)
    assert source["url"] == "http://prometheus:9090"
    for one, other in (("prometheus", "api"), ("grafana", "prometheus"), ("nginx", "dashboard")):
        assert set(SERVICES[one]["networks"]) & set(SERVICES[other]["networks"])
