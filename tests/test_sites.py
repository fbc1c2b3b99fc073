"""Many sites: their readings, models, answers, runs; one site stays as it was."""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.dataset  # type: ignore[import-untyped]
import pytest
from conftest import at_home, usual
from distributed import LocalCluster
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from smartcity import data, domains, modelling, parameters, registry, reporting, runs, settings
from smartcity.api import create_app
from smartcity.cli import app
from smartcity.domains import ALL, MAIN
from smartcity.errors import DataError, ModelError, UsageError
from smartcity.modelling import candidates, evaluation, training
from smartcity.modelling import dataset as datasets
from smartcity.predict import Prediction, Predictor, Predictors, serving

ENERGY = domains.load("energy")
ROWS = 900


def simulate(home: Path, *, sites: int = 2, rows: int = ROWS) -> None:
    """Put readings of energy's main site, and of more, where the settings look for them."""
    data.simulate(ENERGY, rows=rows)
    assert len([*data.simulate_sites(ENERGY, sites, rows=rows)]) == sites


def demo(home: Path) -> dict[str, str]:
    """Let simulated readings lie where published ones are looked for."""
    return {"SMARTCITY_DEMO": str(home / "datasets")}


@pytest.fixture
def sites(tmp_path: Path) -> Iterator[Path]:
    """An installation with readings of three sites of energy."""
    with at_home(tmp_path, **demo(tmp_path)):
        simulate(tmp_path)
        yield tmp_path


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with models: the main one, that of all sites, and each site's own."""
    home = tmp_path_factory.mktemp("town")
    with at_home(home, **demo(home)):
        simulate(home)
        steps = reporting.build(
            ["energy"],
            sites={"energy": [ALL, MAIN, "s0001", "s0002"]},
            quick=True,
            notebooks=("02_train",),
        )
        assert [step.outcome for step in steps] == ["made"] * 4, [step.error for step in steps]
        for name in ("energy", "energy@all"):
            registry.promote(name, "1.0.0", force="for tests")
    return home


@pytest.fixture
def models(town: Path) -> Iterator[Path]:
    """The town, its sites answered by the model of all sites until a test promotes theirs."""
    with at_home(town, **demo(town)):
        for site in ("s0001", "s0002"):
            (town / "models" / f"energy@{site}" / "CURRENT").unlink(missing_ok=True)
        yield town


def serve(site: str) -> None:
    registry.promote(domains.at("energy", site), "1.0.0", force="for tests")


# Readings


def test_sites_are_one_partitioned_dataset(sites: Path) -> None:
    home = sites / "datasets" / "energy" / "sites"

    table = pyarrow.dataset.dataset(home, partitioning="hive").to_table().to_pandas()

    assert list(table) == ["recorded_at", "consumption_kwh", "site"]
    assert set(table["site"]) == {"s0001", "s0002"}
    assert domains.sites(ENERGY) == (MAIN, "s0001", "s0002")
    assert data.present(ENERGY) == [MAIN, "s0001", "s0002"]


def test_a_simulated_site_is_read_checked_and_labelled_like_any(sites: Path) -> None:
    readings = data.read("energy", "s0001")

    assert readings.simulated
    assert list(readings.frame)[:3] == ["file", "line", "recorded_at"]
    assert {"gap", "duplicate time", "out of range"} <= set(data.check(readings)["reason"])
    assert (
        data.locate(ENERGY, "s0001")[0].sha256
        == hashlib.sha256(
            (sites / "datasets/energy/sites/site=s0001/simulated.parquet").read_bytes()
        ).hexdigest()
    )


def test_a_seed_makes_the_same_site_whatever_the_count(sites: Path) -> None:
    before = [source.sha256 for source in data.simulate_sites(ENERGY, 2, rows=ROWS)]
    after = [source.sha256 for source in data.simulate_sites(ENERGY, 3, rows=ROWS)]
    other = [source.sha256 for source in data.simulate_sites(ENERGY, 2, 7, rows=ROWS)]

    assert after[:2] == before
    assert len({*after, *other}) == 5


def test_sites_differ_in_level(sites: Path) -> None:
    frames = [data.read("energy", site).frame for site in domains.sites(ENERGY)]

    assert len({round(frame["consumption_kwh"].median(), 2) for frame in frames}) == 3


@pytest.mark.parametrize(
    "name", ["../up", "a b", "", "ä", "x" * 44, "main", "all", "-a", "a/b", "a@b", "a=b"]
)
def test_a_name_no_site_can_have_is_refused(name: str, sites: Path) -> None:
    file = data.locate(ENERGY)[0].path

    with pytest.raises(UsageError, match="cannot name a site of 'energy'"):
        data.add(ENERGY, file, name)


def test_a_site_that_is_not_there_is_named_with_the_nearest(sites: Path) -> None:
    with pytest.raises(UsageError, match="Did you mean 's0001'"):
        data.read("energy", "s001")
    with pytest.raises(UsageError, match="Unknown site of energy"):
        data.read("energy", "../main")
    for _ in data.simulate_sites(ENERGY, 30, rows=400):
        pass
    with pytest.raises(UsageError, match="Unknown site of energy") as told:
        data.read("energy", "s0029x")
    assert "'s0029'" in str(told.value)
    assert str(told.value).count("s00") < 8


def written(home: Path, rows: slice = slice(None), name: str = "own.csv") -> Path:
    """Write some lines of the simulated city as a file of one's own."""
    lines = data.locate(ENERGY)[0].path.read_text().splitlines(keepends=True)
    path = home / name
    path.write_text(lines[0] + "".join(lines[1:][rows]))
    return path


def test_an_added_file_is_read_as_the_same_file_published(sites: Path) -> None:
    file = data.locate(ENERGY)[0].path
    published = data.read("energy").frame

    added = data.add(ENERGY, file, "north")

    kept = data.read("energy", "north").frame
    names = ["recorded_at", "consumption_kwh"]
    assert added.rows == len(kept) == (published["file"] == file.name).sum()
    pd.testing.assert_frame_equal(kept[names], published[names].iloc[: len(kept)])
    assert not data.read("energy", "north").simulated


def test_the_same_file_twice_changes_nothing(sites: Path) -> None:
    file = data.locate(ENERGY)[0].path
    data.add(ENERGY, file, "north")
    before = [source.record() for source in data.locate(ENERGY, "north")]

    added = data.add(ENERGY, file, "north")

    assert (added.rows, added.path) == (0, None)
    assert [source.record() for source in data.locate(ENERGY, "north")] == before


def test_a_later_file_adds_the_rows_that_are_new(sites: Path) -> None:
    data.add(ENERGY, written(sites, slice(0, 100)), "north")

    added = data.add(ENERGY, written(sites, slice(60, 180)), "north")

    assert added.rows == 80
    assert len(data.read("energy", "north").frame) == 180
    assert len(data.locate(ENERGY, "north")) == 2


def test_nothing_is_added_to_a_simulated_site(sites: Path) -> None:
    with pytest.raises(DataError, match="are simulated. Choose another name"):
        data.add(ENERGY, data.locate(ENERGY)[0].path, "s0001")


def test_days_of_the_month_begin_where_one_says(tmp_path: Path) -> None:
    with at_home(tmp_path, **demo(tmp_path)):
        traffic = domains.load("traffic")
        file = data.simulate(traffic, rows=400)[0].path

        data.add(traffic, file, "bridge", first_day=pd.Timestamp("2024-03-10").date())

        times = data.read("traffic", "bridge").frame["recorded_at"]
        assert times.min() == pd.Timestamp("2024-03-10")


@pytest.mark.parametrize(
    "frame",
    [
        pd.DataFrame({"recorded_at": pd.date_range("2025-01-01", periods=3)}),
        pd.DataFrame({"recorded_at": ["x"], "consumption_kwh": [1.0]}),
        pd.DataFrame(
            {"recorded_at": pd.date_range("2025-01-01", periods=2), "consumption_kwh": ["a", "b"]}
        ),
    ],
)
def test_a_parquet_file_of_something_else_is_refused(frame: pd.DataFrame, sites: Path) -> None:
    place = domains.partition(sites / "datasets" / "energy", "north")
    place.mkdir(parents=True)
    frame.to_parquet(place / "a.parquet")

    with pytest.raises(DataError, match="cannot be read as readings of 'energy'"):
        data.read("energy", "north")


def test_an_empty_site_says_how_to_fill_it(sites: Path) -> None:
    domains.partition(sites / "datasets" / "energy", "north").mkdir(parents=True)

    with pytest.raises(DataError, match="smartcity data add energy FILE --site north"):
        data.read("energy", "north")
    assert "north" not in data.present(ENERGY)


# Names


def test_a_site_is_a_parameter_beside_the_domain(sites: Path) -> None:
    train, report = (parameters.find(name) for name in ("02_train", "05_report"))

    assert parameters.check(report, {"domain": "energy", "site": "s0001"})["site"] == "s0001"
    assert parameters.check(train, {"domain": "energy", "site": ALL})["site"] == ALL
    for site in (ALL, "s9"):
        with pytest.raises(UsageError, match="Unknown site of energy"):
            parameters.check(report, {"domain": "energy", "site": site})


def test_the_longest_name_fits_the_database() -> None:
    site = "x" * (50 - len("energy@"))

    domains.require_name(ENERGY, site)

    assert len(domains.at("energy", site)) == 50
    assert domains.apart(domains.at("energy", site)) == ("energy", site)
    assert domains.apart("energy") == ("energy", MAIN)


# Models


def test_no_row_of_any_site_is_learned_before_its_time(sites: Path) -> None:
    for problem in modelling.problems(modelling.prepare("energy", ALL)).values():
        assert isinstance(problem, datasets.Pool)
        assert (np.diff(problem.when.astype(np.int64)) >= 0).all()
        for split, (train, test) in evaluation.splits(problem).items():
            if split != "random":
                assert problem.when[train].max() <= problem.when[test].min()


def test_rows_of_all_sites_look_back_at_their_own(sites: Path) -> None:
    pooled = modelling.problems(modelling.prepare("energy", ALL))["now"]
    own = modelling.problems(modelling.prepare("energy", "s0002"))["now"]
    view = next(c.view for c in candidates.candidates(pooled) if c.view.history)
    rows = {float(y): x for x, y in zip(own.matrix(view), own.y, strict=True)}

    matrix = pooled.matrix(view)

    assert len(pooled.y) == sum(
        len(modelling.prepare("energy", site).rows) for site in domains.sites(ENERGY)
    )
    matched = [
        np.array_equal(x, rows[y], equal_nan=True)
        for x, y in zip(matrix, pooled.y, strict=True)
        if y in rows
    ]
    assert sum(matched) >= len(own.y) * 0.9  # some quantities come up at two sites


def test_a_sample_is_seeded_bounded_and_takes_from_every_site(
    sites: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "MOST_POOLED", 300)

    first, again = (modelling.problems(modelling.prepare("energy", ALL))["now"] for _ in "ab")

    assert len(first.y) == 300
    assert isinstance(first, datasets.Pool)
    assert [len(member.y) for member in first.members] == [100] * 3
    assert np.array_equal(first.y, again.y)
    assert np.array_equal(first.y, first.dataset.y)


def test_of_very_many_sites_some_are_drawn(sites: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "MOST_POOLED", 200)

    assert len(modelling.prepare("energy", ALL).members) == 2


def test_a_site_without_readings_to_learn_from_does_not_stop_the_others(sites: Path) -> None:
    data.add(ENERGY, written(sites, slice(0, 30)), "north")

    made = modelling.prepare("energy", ALL)

    assert [member.readings.site for member in made.members] == [MAIN, "s0001", "s0002"]


@pytest.fixture(scope="module")
def tried(town: Path) -> Iterator[tuple[Any, registry.Card]]:
    """What was tried on a site, and the card of the model of all sites."""
    with at_home(town, **demo(town)):
        trained = modelling.train(modelling.prepare("energy", "s0001"), thorough=False)
        yield trained.chosen[trained.champion], registry.card("energy@all")


def test_a_site_must_do_better_than_the_model_of_all_sites(
    models: Path, tried: tuple[Any, registry.Card]
) -> None:
    own, pooled = tried
    right = {
        split: own.problem.y[rows] for split, (_, rows) in evaluation.splits(own.problem).items()
    }
    wrong = {split: answers * 0 + 99.0 for split, answers in right.items()}

    assert training._against_pool(replace(own, answers=right), pooled) == []
    said = training._against_pool(replace(own, answers=wrong), pooled)
    assert re.search(r"model of all sites \(1.0.0, .*\) errs less .*against 9\d", said[0])


def test_it_is_compared_with_models_older_than_what_they_answer(
    models: Path, tried: tuple[Any, registry.Card]
) -> None:
    own, pooled = tried
    wrong = replace(own, answers={split: a * 0 + 99.0 for split, a in own.answers.items()})
    asked: list[str] = []

    def ask(self: Any, rows: Any, part: str = "now") -> Any:
        asked.append(part)
        return np.zeros(len(rows))

    late = pooled.model_copy(deep=True)
    late.data["origins"] = dict.fromkeys(pooled.data["origins"], "2999-01-01T00:00:00")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry.Model, "scores", ask)
        assert training._against_pool(wrong, late) == []
        assert asked == []
        training._against_pool(wrong, pooled)

    cuts = evaluation.splits(own.problem)
    for number, name in zip(range(-len(asked), 0), asked, strict=True):
        start = own.problem.when[cuts[f"origin {number + 5}"][1][0]]
        assert np.datetime64(pooled.data["origins"][name]) < start
    assert asked


def test_the_loser_is_published_and_not_served(models: Path) -> None:
    for site in ("s0001", "s0002"):
        card = registry.card(domains.at("energy", site), "1.0.0")

        lost = [reason for reason in card.gate.reasons if "model of all sites" in reason]
        served = registry.history(card.name)
        assert card.site == site
        assert card.gate.passed == (not card.gate.reasons)
        assert any(each["action"] == "promoted" for each in served) == card.gate.passed
        assert len(lost) <= 1


def test_the_main_site_is_judged_and_named_as_ever(models: Path) -> None:
    card = registry.card("energy")

    assert (card.name, card.site) == ("energy", MAIN)
    assert modelling.rival("energy", MAIN) is modelling.rival("energy", ALL) is None
    assert not any("all sites" in reason for reason in card.gate.reasons)


# Answers


def test_a_site_is_answered_by_its_own_model_else_by_that_of_all(models: Path) -> None:
    row = usual(registry.card("energy"))

    pooled = Predictor.load("energy", site="s0001").predict(row)
    serve("s0001")
    own = Predictor.load("energy", site="s0001").predict(row)

    assert (pooled.site, pooled.model, pooled.model_version) == ("s0001", "pooled", "all@1.0.0")
    assert (own.site, own.model, own.model_version) == ("s0001", "site", "1.0.0")
    assert own.prediction != pooled.prediction
    named = Predictor.load("energy", "all@1.0.0", site="s0001").predict(row)
    assert named == pooled


def test_without_a_site_an_answer_is_as_it_was(models: Path) -> None:
    predictor = Predictor.load("energy")

    (said,) = predictor.tell([predictor.check(usual(predictor.card))])

    assert not {"site", "model"} & set(said)
    assert said["model_version"] == "1.0.0"
    assert set(said) == set(Prediction.model_fields) - {"site", "model"}


def test_a_site_that_nothing_answers_says_what_to_run(sites: Path) -> None:
    with pytest.raises(ModelError, match="smartcity build --domain energy --site s0001"):
        Predictor.load("energy", site="s0001")
    with pytest.raises(UsageError, match="Unknown site"):
        Predictor.load("energy", site="s9")


def test_few_sites_are_kept_open_and_share_what_they_share(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = Predictors()
    first, second = known.of_site("energy", "s0001"), known.of_site("energy", "s0002")
    assert first.opened is second.opened
    assert known.of_site("energy", "s0001") is first
    monkeypatch.setattr(serving, "MOST_SITES", 1)

    assert known.of_site("energy", "s0001") is first

    assert [*known._sites] == [("energy", "s0001")]


def test_a_site_follows_what_is_served_and_keeps_what_opens(models: Path) -> None:
    known = Predictors()
    assert known.of_site("energy", "s0001").version == "all@1.0.0"
    serve("s0001")
    own = known.of_site("energy", "s0001")
    assert own.version == "1.0.0"

    (models / "models" / "energy@s0001" / "CURRENT").write_text("7.7.7\n")

    assert known.of_site("energy", "s0001") is own
    assert known.errors == {}


@pytest.fixture
def client(models: Path) -> Iterator[TestClient]:
    with TestClient(create_app(), raise_server_exceptions=False) as client:
        yield client


def kept(home: Path) -> list[dict[str, Any]]:
    """Read what the spool holds of answers."""
    files = (home / "state" / "spool").rglob("*")
    lines = [
        json.loads(x)
        for f in files
        if f.is_file()
        for x in f.read_bytes().splitlines()
        if x.startswith(b"{")
    ]
    return [line for line in lines if line["kind"] == "prediction"]


def test_the_api_answers_for_a_site(client: TestClient, models: Path) -> None:
    serve("s0001")
    row = usual(registry.card("energy"))

    main, own, pooled = (
        client.post(f"/api/v1/predict/energy{query}", json=row).json()
        for query in ("", "?site=s0001", "?site=s0002")
    )

    assert "site" not in main
    assert (own["site"], own["model"], own["model_version"]) == ("s0001", "site", "1.0.0")
    assert (pooled["site"], pooled["model"]) == ("s0002", "pooled")
    assert own["prediction"] == Predictor.load("energy", site="s0001").predict(row).prediction
    by_id = {line["id"]: line for line in kept(models)}
    told = [
        (by_id[a["id"]]["model_name"], by_id[a["id"]]["model_version"]) for a in (main, own, pooled)
    ]
    assert told == [("energy", "1.0.0"), ("energy@s0001", "1.0.0"), ("energy@s0002", "all@1.0.0")]
    text = client.get("/metrics").text
    assert 'model="energy@' not in text
    assert "s0001" not in text


def test_batches_reasons_and_models_know_sites(client: TestClient) -> None:
    row = usual(registry.card("energy"))

    batch = client.post("/api/v1/predict/batch/energy?site=s0001", json=[row, row]).json()
    why = client.post("/api/v1/predict/energy?site=s0001&reasons=true", json=row).json()
    model = client.get("/api/v1/models/energy?site=s0001").json()
    listed = client.get("/api/v1/models?site=s0001").json()["models"]

    assert [each["site"] for each in batch["predictions"]] == ["s0001"] * 2
    assert why["reasons"]["contributions"]
    assert (model["site"], model["model_version"]) == ("s0001", "all@1.0.0")
    assert model["card"]["site"] == ALL
    assert [each["domain"] for each in listed] == ["energy"]
    assert client.get("/api/v1/models/energy").json()["site"] == MAIN


def test_the_same_request_about_two_sites_is_two_answers(client: TestClient) -> None:
    row, named = usual(registry.card("energy")), {"X-Request-ID": "again"}

    ids = [
        client.post(f"/api/v1/predict/energy?site={site}", json=row, headers=named).json()["id"]
        for site in ("s0001", "s0002", "s0001")
    ]

    assert ids[0] == ids[2] != ids[1]


@pytest.mark.parametrize(
    "path", ["predict/energy", "predict/batch/energy", "forecast/energy/next_hour"]
)
def test_an_unknown_site_is_404_with_the_nearest(path: str, client: TestClient) -> None:
    row = usual(registry.card("energy"))
    recent = {"recent": [{"timestamp": "2025-01-01T00:00", "consumption_kwh": 1.0}]}
    body: Any = {"predict/energy": row, "predict/batch/energy": [row]}.get(path, recent)

    answer = client.post(f"/api/v1/{path}?site=s001", json=body)

    told = answer.json()
    assert (answer.status_code, told["success"]) == (404, False)
    assert "Did you mean 's0001'" in told["error"]
    assert told["details"][0] == {"field": "site", "problem": "is not known", "value": "s001"}
    for route in ("models", "models/energy"):
        assert client.get(f"/api/v1/{route}?site=%00").status_code == 404


# Runs


def facts(steps: list[reporting.Step]) -> str:
    """Digest what reports state; what changed since the last one hangs on which that was."""
    told = [runs.facts(step.run) or {} for step in steps if step.run]
    assert len(told) == len(steps), [step.error for step in steps]
    kept = [{name: fact for name, fact in each.items() if name != "changes"} for each in told]
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def test_runs_of_a_site_lie_in_a_folder_of_their_own(models: Path) -> None:
    main, own = (
        {path.name for path in (models / "reports" / "runs" / "02_train" / name).iterdir()}
        for name in ("energy", "energy@s0001")
    )

    (run,) = runs.listed("02_train", "energy", "s0001")

    assert not main & own
    assert run.id in own
    assert run.folder.parent.name == "energy@s0001"
    assert {each.site for each in runs.listed("02_train", "energy")} == {MAIN}


def test_what_was_trained_is_up_to_date_until_the_model_of_all_sites_changes(models: Path) -> None:
    def build() -> str:
        (step,) = reporting.build(
            ["energy"], sites={"energy": ["s0001"]}, quick=True, notebooks=("02_train",)
        )
        assert step.run
        return step.outcome

    assert build() == "up to date"
    (models / "models" / "energy@all" / "CURRENT").rename(models / "CURRENT")
    try:
        path = parameters.find("02_train")
        values = parameters.check(path, {"domain": "energy", "site": "s0001", "thorough": False})
        without = reporting.runner.fingerprint(path, values)
    finally:
        (models / "CURRENT").rename(models / "models" / "energy@all" / "CURRENT")
    assert reporting.runner.fingerprint(path, values) != without


def test_reports_fan_out_and_one_that_fails_stops_no_other(models: Path) -> None:
    done: list[tuple[int, int]] = []

    steps = reporting.fan_out(
        "05_report",
        ["energy"],
        sites={"energy": ["s0001", "s0009", "s0002"]},
        given={"days": 3},
        finished=lambda made, all_: done.append((made, all_)),
    )

    assert [step.outcome for step in steps] == ["made", "failed", "made"]
    assert "Did you mean" in str(steps[1].error)
    assert done == [(1, 3), (2, 3), (3, 3)]
    assert steps[0].run
    told = runs.facts(steps[0].run) or {}
    assert (told["model_version"], steps[0].run.model_version) == ("all@1.0.0", "all@1.0.0") or (
        told["model_version"] == "1.0.0"
    )
    assert "s0001" in (models / "reports" / "index.html").read_text()


def test_a_cluster_makes_the_same_reports(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {"energy": [MAIN, "s0001"]}
    here = facts(reporting.fan_out("05_report", ["energy"], sites=asked))
    cluster = LocalCluster(  # type: ignore[no-untyped-call]
        n_workers=1, threads_per_worker=2, dashboard_address="127.0.0.1:0"
    )
    with cluster:
        monkeypatch.setenv("SMARTCITY_SCHEDULER", cluster.scheduler_address)
        settings.current.cache_clear()

        there = reporting.fan_out("05_report", ["energy"], sites=asked)

    assert facts(there) == here


def test_a_worker_with_other_folders_is_refused(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = LocalCluster(  # type: ignore[no-untyped-call]
        n_workers=1, threads_per_worker=2, dashboard_address="127.0.0.1:0"
    )
    with cluster:
        monkeypatch.setenv("SMARTCITY_SCHEDULER", cluster.scheduler_address)
        monkeypatch.setenv("SMARTCITY_REPORTS", str(tmp_path / "elsewhere"))
        settings.current.cache_clear()

        with pytest.raises(UsageError, match="the same shared folders on every machine"):
            reporting.fan_out("05_report", ["energy"], sites={"energy": [MAIN, "s0001"]})


# Commands


def ran(*words: str) -> str:
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, (done.output, done.exception)
    return done.output


def test_commands_simulate_add_list_and_check_sites(tmp_path: Path) -> None:
    with at_home(tmp_path, **demo(tmp_path)):
        assert "site=s0002" in ran("data", "simulate", "energy", "--sites", "2").replace("\n", "")
        file = data.locate(ENERGY)[0].path

        first = json.loads(ran("data", "add", "energy", str(file), "--site", "north", "--json"))
        again = ran("data", "add", "energy", str(file), "--site", "north")

        assert first["added"] == first["rows"] > 0
        assert f"0 of {first['rows']} rows are new" in again.replace("\n", " ")
        rows = json.loads(ran("data", "list", "energy", "--json"))
        states = {row["site"]: row["state"] for row in rows}
        assert states["north"] == "not the published file"
        assert states["s0001"] == "simulated"
        assert json.loads(ran("data", "check", "energy", "--site", "north", "--json"))[0]["rows"]


def test_commands_take_a_model_by_domain_and_site(models: Path) -> None:
    listed = json.loads(ran("models", "list", "--json"))
    shown = json.loads(ran("models", "show", "energy@all", "--version", "1.0.0", "--json"))

    assert {row["domain"] for row in listed} == {
        "energy",
        "energy@all",
        "energy@s0001",
        "energy@s0002",
    }
    assert (shown["domain"], shown["site"]) == ("energy", ALL)
    assert "energy@all 1.0.0: all" in ran("models", "verify", "energy@all")


def test_build_takes_a_site(models: Path) -> None:
    steps = json.loads(ran("build", "--domain", "energy", "--site", "all", "--quick", "--json"))

    assert [(step["domain"], step["outcome"]) for step in steps] == [("energy@all", "up to date")]
