"""The command line as a person meets it: exit codes, one clear sentence, never a traceback."""

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from test_predict import history
from test_registry import flip_a_byte

from smartcity import registry
from smartcity.predict import Predictor

Models = dict[str, registry.Card]


def smartcity(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command the way a person does, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "smartcity", *words],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "200", **variables},
        timeout=300,
        check=False,
    )


def assert_refused(done: subprocess.CompletedProcess[str], code: int, says: str) -> None:
    assert done.returncode == code, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_without_arguments_shows_help(home: Path) -> None:
    done = smartcity()

    assert "Usage:" in done.stdout + done.stderr
    assert "Commands" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["frobnicate"], 2, "No such command"),
        (["data", "check", "trafic"], 2, "Did you mean 'traffic'?"),
        (["data", "check", "traffic"], 1, "smartcity data fetch traffic"),
        (["data", "fetch", "traffic", "--from", "/nowhere"], 2, "does not exist"),
        (["models", "show", "energy"], 1, "smartcity build --domain energy"),
        (["models", "rollback", "energy"], 1, "No model of 'energy'"),
        (["run", "01_explore", "--domain", "energy", "-p", "days"], 2, "no value"),
        (["run", "01_explore", "--domain", "energy", "-p", "dayz", "3"], 2, "Did you mean 'days'?"),
        (["run", "01_explore", "--domain", "energy", "-p", "days", "x"], 2, "type int"),
        (["run", "02_train", "--domain", "energy"], 1, "No readings for 'energy'"),
        (["predict", "energy", "--input", "x.csv", "--output", "y.csv"], 1, "No model of 'energy'"),
    ],
)
def test_refuses_in_one_sentence(words: list[str], code: int, says: str, home: Path) -> None:
    assert_refused(smartcity(*words), code, says)


def test_a_setting_that_does_not_fit_is_named(home: Path) -> None:
    assert_refused(smartcity("doctor", SMARTCITY_API_PORT="high"), 2, "SMARTCITY_API_PORT='high'")


def test_a_relative_setting_means_the_same_everywhere(city: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "smartcity", "doctor", "--settings", "--json"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "SMARTCITY_MODELS": "here"},
        check=True,
    )

    settings = {row["setting"]: row for row in json.loads(done.stdout)}
    assert settings["SMARTCITY_MODELS"]["value"] == str(tmp_path / "here")
    assert settings["SMARTCITY_MODELS"]["from"] == "environment"
    assert settings["SMARTCITY_JOBS"]["from"] == "default"


def test_data_check_prints_json_with_every_finding(city: Path) -> None:
    [result] = json.loads(smartcity("data", "check", "traffic", "--json").stdout)

    assert result["simulated"] is True
    assert len(result["findings"]) == sum(result["counts"].values())
    assert set(result["findings"][0]) == {
        "file", "line", "recorded_at", "column", "reason", "value", "action",
    }  # fmt: skip


def test_models_show_prints_the_card(models: Models) -> None:
    card = json.loads(smartcity("models", "show", "air_quality", "--json").stdout)

    assert card["specified"].keys() == {"random", "rolling", "time_ordered"}
    assert all(
        scores.keys() == {"random", "rolling", "time_ordered"}
        for scores in card["baselines"].values()
    )


def test_models_verify_finds_a_flipped_byte(home: Path, models: Models) -> None:
    assert smartcity("models", "verify").returncode == 0
    flip_a_byte(home / "models" / "traffic" / "1.0.0" / "model.onnx")

    assert_refused(smartcity("models", "verify", "traffic"), 1, "not the file that was published")


def test_a_port_in_use_is_named_with_the_way_out(home: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for command, variable in (("serve", "API"), ("dashboard", "DASHBOARD")):
            done = smartcity(command, **{f"SMARTCITY_{variable}_PORT": port})
            assert_refused(done, 1, f"choose another port: SMARTCITY_{variable}_PORT=")


def test_up_serves_both_and_stops_both(built: Path, free_port: int) -> None:
    other = free_port + 1
    folders = ("datasets", "models", "reports", "logs", "state")
    variables = {n: value for n, value in os.environ.items() if "SMARTCITY" not in n}
    variables |= {f"SMARTCITY_{n.upper()}": str(built / n) for n in folders}
    variables |= {"SMARTCITY_API_PORT": str(free_port), "SMARTCITY_DASHBOARD_PORT": str(other)}
    with subprocess.Popen(
        [sys.executable, "-m", "smartcity", "up"], stdout=subprocess.PIPE, text=True, env=variables
    ) as server:
        assert server.stdout is not None
        said = server.stdout.readline() + server.stdout.readline()
        with urllib.request.urlopen(f"http://127.0.0.1:{free_port}/health", timeout=10) as answer:
            health = json.load(answer)
        with urllib.request.urlopen(f"http://127.0.0.1:{other}/", timeout=60) as answer:
            status = answer.status
        server.send_signal(signal.SIGTERM)
        server.wait(timeout=60)

    assert f"http://localhost:{other}" in said
    assert (health["status"], status) == ("healthy", 200)
    time.sleep(0.5)
    for port in (free_port, other):
        with pytest.raises(OSError, match="refused"):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5)


def as_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_forecast_reads_recent_readings_from_a_file(tmp_path: Path, models: Models) -> None:
    source = as_csv(tmp_path / "recent.csv", history("energy", 700))
    [question, *_] = Predictor.load("energy").forecasts

    done = smartcity(
        "forecast", "energy", "--input", str(source), "--question", question.name, "--json"
    )

    answers = json.loads(done.stdout)
    assert [answer["minutes"] for answer in answers] == list(question.minutes)
    assert "simulated" in done.stderr


def test_forecast_says_what_is_wrong_with_the_file(tmp_path: Path, models: Models) -> None:
    rows = [{**row, "consumption_kwh": "?"} for row in history("energy", 20)]
    source = as_csv(tmp_path / "recent.csv", rows)

    done = smartcity("forecast", "energy", "--input", str(source))

    assert done.returncode == 1
    assert "reading 0, consumption_kwh: must be a number" in done.stderr


def test_force_is_recorded_with_its_reason(models: Models) -> None:
    refused = smartcity("models", "promote", "energy", "1.0.0", "--force")
    done = smartcity("models", "promote", "energy", "1.0.0", "--force", "--why", "a new sensor")
    listed = json.loads(smartcity("models", "history", "energy", "--json").stdout)

    assert refused.returncode == 2
    assert "--force and --why" in refused.stderr
    assert done.returncode == 0
    assert (listed[-1]["action"], listed[-1]["why"]) == ("forced", "a new sensor")
