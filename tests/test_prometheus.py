"""Prometheus's rules and Grafana's dashboard: what they ask for is there, and what to do too."""

import json
import re
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest
import yaml
from conftest import DOMAINS, eventually, usual
from test_accuracy import HOUR, START, simulate
from test_faults import Server, serving
from test_predict import COUNTS

from smartcity import registry
from smartcity.store import alarms
from smartcity.store import database as store

HOME = Path(__file__).parents[1]
DEPLOY = HOME / "deploy"
CONFIG = DEPLOY / "prometheus" / "prometheus.yml"
RULES = DEPLOY / "prometheus" / "rules" / "smartcity.yml"
CASES = DEPLOY / "prometheus" / "tests" / "smartcity.yml"
GROUPS = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
ALL = [rule for group in GROUPS for rule in group["rules"]]
ALERTS = {rule["alert"]: rule for rule in ALL if "alert" in rule}
DASHBOARD = json.loads((DEPLOY / "grafana/dashboards/smartcity.json").read_text(encoding="utf-8"))
PANELS: list[dict[str, Any]] = [each for each in DASHBOARD["panels"] if each["type"] != "row"]
QUERIES = [target["expr"] for panel in PANELS for target in panel["targets"]]
PROMETHEUS, PROMTOOL = shutil.which("prometheus"), shutil.which("promtool")
real = pytest.mark.skipif(
    not (PROMETHEUS and PROMTOOL),
    reason="no prometheus; install it, as in: sudo apt-get install prometheus",
)
#: What has nothing to say in a city that is well.
IN_TROUBLE = {'ALERTS{alertname=~"SmartCity.*"}'}
#: What Prometheus's client adds to a name.
ENDING = "_(total|sum|count|bucket|created)$"
#: A selector of ours in an expression.
SELECTOR = re.compile(r"(?:\b[a-z]+:smartcity_\w+:\w+|\bsmartcity_\w+|\bup\b)(?:\{[^}]*\})?")


def anchors(page: str) -> set[str]:
    """Give the names by which links find a page's headings."""
    text = (HOME / page).read_text(encoding="utf-8")
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", each).lower().replace(" ", "-") for each in headings}


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_says_how_bad_it_is_and_leads_to_what_to_do(name: str) -> None:
    told = ALERTS[name]["annotations"]
    page, _, heading = told["runbook"].partition("#")

    assert ALERTS[name]["labels"]["severity"] in {"critical", "warning"}
    assert set(told) == {"summary", "description", "runbook"}
    assert heading in anchors(page)


def test_only_an_answer_that_is_lost_is_told_at_once() -> None:
    assert [name for name in ALERTS if "for" not in ALERTS[name]] == ["SmartCityAnswersRefused"]


def test_every_alert_is_tried_out_and_explained() -> None:
    tried = re.findall(r'\{alertname="(\w+)"\}', CASES.read_text(encoding="utf-8"))
    guide = (HOME / "docs" / "monitoring.md").read_text(encoding="utf-8")

    assert set(tried) == set(ALERTS)
    assert re.findall(r"^\| `(SmartCity\w+)` \|", guide, flags=re.MULTILINE) == list(ALERTS)


def test_panels_say_what_they_show_in_which_unit_and_from_the_source_there_is() -> None:
    provisioned = DEPLOY / "grafana" / "provisioning" / "datasources" / "prometheus.yml"
    [source] = yaml.safe_load(provisioned.read_text())["datasources"]
    mine = {"type": source["type"], "uid": source["uid"]}

    assert DASHBOARD["uid"] == "smartcity"
    for panel in PANELS:
        assert panel["description"], panel["title"]
        assert panel["type"] == "table" or panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert [each["datasource"] for each in (panel, *panel["targets"])] == [
            mine for _ in range(1 + len(panel["targets"]))
        ]


def test_panels_have_names_of_their_own_lie_beside_each_other_and_suit_light_and_dark() -> None:
    panels = DASHBOARD["panels"]
    for one, other in combinations(panels, 2):
        assert one["id"] != other["id"]
        assert one["title"] != other["title"]
        a, b = one["gridPos"], other["gridPos"]
        assert (
            a["x"] + a["w"] <= b["x"]
            or b["x"] + b["w"] <= a["x"]
            or a["y"] + a["h"] <= b["y"]
            or b["y"] + b["h"] <= a["y"]
        ), (one["title"], other["title"])
    assert all(each["gridPos"]["x"] + each["gridPos"]["w"] <= 24 for each in panels)
    # Colours by name are Grafana's own, which differ in light and dark.
    assert not re.search(r"#[0-9a-fA-F]{3,8}\"|rgba?\(", json.dumps(panels))


def promtool(*words: str | Path) -> tuple[int, str]:
    done = subprocess.run(
        [str(PROMTOOL), *map(str, words)], capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


@real
def test_promtool_finds_nothing_wrong_with_the_configuration_and_its_rules() -> None:
    code, said = promtool("check", "config", "--lint-fatal", CONFIG)

    assert code == 0, said
    assert f"{len(ALL)} rules found" in said


@real
def test_each_alert_fires_in_trouble_and_is_quiet_near_it(tmp_path: Path) -> None:
    worse = tmp_path / "rules" / "smartcity.yml"
    worse.parent.mkdir()
    worse.write_text(RULES.read_text().replace("ratio15m > 0.05", "ratio15m > 0.04"))
    cases = tmp_path / "tests" / "smartcity.yml"
    cases.parent.mkdir()
    shutil.copyfile(CASES, cases)

    code, said = promtool("test", "rules", CASES)
    assert code == 0, said
    code, said = promtool("test", "rules", cases)
    assert code == 1
    assert "SmartCityErrors" in said


def quiet_port() -> int:
    """Give a port nothing listens on, below those the system gives to clients."""
    while True:
        with suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", number := 20_000 + secrets.randbelow(12_000)))
            return number


class Prometheus:
    """A real Prometheus with our configuration that asks one API, more often than usual."""

    def __init__(self, folder: Path, api: int) -> None:
        """Start it, its data in a folder."""
        port = quiet_port()
        url = f"http://127.0.0.1:{port}"
        self.client = httpx2.Client(base_url=url, timeout=60, trust_env=False)
        known = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
        known["global"] = {"scrape_interval": "4s", "evaluation_interval": "1s"}
        known["rule_files"] = [str(CONFIG.parent / each) for each in known["rule_files"]]
        for job, number in zip(known["scrape_configs"], (api, port), strict=True):
            job.pop("dns_sd_configs", None)
            job["static_configs"] = [{"targets": [f"127.0.0.1:{number}"]}]
        folder.mkdir()
        (folder / "prometheus.yml").write_text(yaml.safe_dump(known))
        where = [f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
        self.output = folder / "output"
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [str(PROMETHEUS), *where, f"--web.listen-address=127.0.0.1:{port}"],
                stdout=output,
                stderr=output,
            )

    def ask(self, path: str, **query: str) -> Any:
        """Give what it answers."""
        said = self.client.get(f"/api/v1/{path}", params=query)
        assert said.status_code == 200, said.text
        return said.json()["data"]

    def is_up(self) -> bool:
        """Tell whether it is ready; it must not have ended."""
        assert self.process.poll() is None, self.output.read_text()[-2000:]
        with suppress(httpx2.TransportError):
            return self.client.get("/-/ready").status_code == 200
        return False

    def knows(self, query: str) -> bool:
        """Tell whether a query gives any data."""
        return bool(self.ask("query", query=query)["result"])


@contextmanager
def watching(folder: Path, api: int) -> Iterator[Prometheus]:
    """Have a Prometheus for a while."""
    prometheus = Prometheus(folder, api)
    try:
        eventually(prometheus.is_up, seconds=60)
        yield prometheus
    finally:
        prometheus.client.close()
        prometheus.process.kill()
        prometheus.process.wait()


def asking(server: Server, cards: dict[str, registry.Card]) -> Callable[[], str]:
    """Give what has every kind of request answered once more; it says the id of an answer."""

    def ask() -> str:
        for name, card in cards.items():
            row, slug = orjson.dumps(usual(card)), name.replace("_", "-")
            assert server.ask("POST", f"/api/v1/predict/{slug}", row)[0] == 200
        assert server.ask("POST", "/api/v1/predict/traffic", b"{}")[0] == 422
        said = server.ask("POST", "/api/v1/predict/traffic", orjson.dumps(COUNTS))[1]
        return str(said["id"])

    return ask


def filled_in(query: str) -> str:
    """Fill in the dashboard's variables as Grafana does, where all questions are chosen."""
    query = query.replace("$domain", f"({'|'.join(DOMAINS)})").replace("$__range", "1h")
    assert "$" not in query
    return query


@real
@pytest.mark.parametrize("workers", [1, 2])
def test_a_real_prometheus_finds_all_that_rules_and_dashboard_ask_for(
    workers: int, home: Path, models: dict[str, registry.Card]
) -> None:
    store.upgrade()
    simulate(models["energy"], [0.1] * 240, since=datetime.now(UTC) - START - 240 * HOUR)
    assert alarms.turn(datetime.now(UTC), HOUR)
    store.close()
    port = quiet_port()
    with serving(home, port, workers=workers) as server, watching(home / "watch", port) as watch:
        ask = asking(server, models)
        seen = orjson.dumps({"id": ask(), "observed": 2})
        eventually(lambda: server.ask("POST", "/api/v1/feedback", seen)[0] == 201, seconds=60)

        wanted = {filled_in(query) for query in QUERIES} - IN_TROUBLE
        wanted |= {rule["record"] for rule in ALL if "record" in rule}
        # An alert's expression speaks in trouble alone, so it is asked for what it looks at.
        looked_at = {s for rule in ALL for s in SELECTOR.findall(rule["expr"])}
        wanted |= {each for each in looked_at if "5.." not in each}
        unknown = set(wanted)

        patience = time.monotonic() + 120
        while unknown and time.monotonic() < patience:
            ask()  # a rate needs a counter that moves
            unknown = {each for each in unknown if not watch.knows(each)}
        assert unknown == set()
        assert len(looked_at) > len(ALERTS)

        def rules() -> list[dict[str, Any]]:
            return [rule for group in watch.ask("rules")["groups"] for rule in group["rules"]]

        eventually(lambda: all(rule["health"] != "unknown" for rule in rules()), seconds=60)
        assert {rule["name"]: rule.get("lastError") for rule in rules()} == dict.fromkeys(
            rule.get("alert") or rule["record"] for rule in ALL
        )
        told = {re.sub(ENDING, "", name) for name in watch.ask("label/__name__/values")}
        shown = " ".join([*QUERIES, *(rule["expr"] for rule in ALL if "record" in rule)])
        assert {
            name for name in told if name.startswith("smartcity_") and name not in shown
        } == set()

        [variable] = DASHBOARD["templating"]["list"]
        metric = re.fullmatch(r"label_values\((\w+), domain\)", variable["definition"])
        assert metric
        found = watch.ask("label/domain/values", **{"match[]": metric[1]})
        assert set(found) == set(DOMAINS)
