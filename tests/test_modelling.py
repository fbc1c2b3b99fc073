"""Training and evaluation: time stays in order, baselines stand beside, exports agree."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import DOMAINS

from smartcity import domains, modelling, registry
from smartcity.errors import DataError
from smartcity.modelling import evaluation, training

Trained = dict[str, modelling.Trained]


def test_the_time_ordered_split_tests_only_on_later_rows() -> None:
    train, test = evaluation.splits(domains.load("energy"), np.arange(1000.0))["time_ordered"]

    assert train.max() < test.min()
    assert len(test) == 200


def test_the_random_split_keeps_the_share_of_each_class() -> None:
    y = np.repeat([0.0, 1.0, 2.0, 3.0], [500, 300, 150, 50])

    _, test = evaluation.splits(domains.load("traffic"), y)["random"]

    assert np.bincount(y[test].astype(int)).tolist() == [100, 60, 30, 10]


def test_baselines_learn_nothing_from_the_test_rows() -> None:
    times = pd.Series(pd.date_range("2024-01-01", periods=400, freq="h"))
    y = np.arange(400.0)
    changed = np.where(np.arange(400) < 320, y, 1e6)
    train, test = np.arange(320), np.arange(320, 400)

    before = evaluation._baselines(domains.load("energy"), y, times, train, test)
    after = evaluation._baselines(domains.load("energy"), changed, times, train, test)

    np.testing.assert_array_equal(before["mean"], after["mean"])
    np.testing.assert_array_equal(before["hour of the week"], after["hour of the week"])
    assert before["previous reading"][0] == after["previous reading"][0] == 319


def test_a_constant_error_is_scored_as_itself() -> None:
    observed = np.array([1.0, 2.0, 3.0, 4.0])
    answers = pd.DataFrame({"observed": observed, "predicted": observed + 0.5})

    scores = evaluation.measure("regression", answers)

    assert scores == pytest.approx({"rmse": 0.5, "mae": 0.5, "r2": 0.8})


def test_classes_are_averaged_without_weights() -> None:
    answers = pd.DataFrame({"observed": [0, 0, 0, 1], "predicted": [0, 0, 0, 0]})

    scores = evaluation.measure("classification", answers)

    assert scores == pytest.approx(
        {"accuracy": 0.75, "precision": 0.375, "recall": 0.5, "f1": 3 / 7}
    )


@pytest.mark.parametrize("name", DOMAINS)
def test_the_forest_has_the_specified_parameters(name: str, trained: Trained) -> None:
    forest = trained[name].estimator["forest"]
    depth = 10 if name == "traffic" else 15

    assert forest.n_estimators == 100
    assert forest.max_depth == depth
    assert forest.min_samples_split == 5
    assert forest.random_state == 42
    assert training.estimator(domains.load(name))["forest"].n_jobs == -1


@pytest.mark.parametrize("name", DOMAINS)
def test_both_splits_and_all_baselines_are_scored(name: str, trained: Trained) -> None:
    card = modelling.draft(trained[name], run="test")

    assert set(card.metrics) == set(card.splits) == {"random", "time_ordered"}
    assert len(card.baselines) == 3
    for scores in [card.metrics, card.specified, *card.baselines.values()]:
        assert all(np.isfinite(list(split.values())).all() for split in scores.values())


@pytest.mark.parametrize("name", ["air_quality", "traffic"])
def test_the_model_beats_every_naive_guess_on_later_time(name: str, trained: Trained) -> None:
    card = modelling.draft(trained[name], run="test")

    assert "is better than" in card.verdict


def test_a_model_no_better_than_a_guess_is_called_so(trained: Trained) -> None:
    card = modelling.draft(trained["air_quality"], run="test")
    poor = card.model_copy(update={"metrics": {"time_ordered": {"rmse": 99.0}}})

    assert "is worse than" in poor.verdict


def test_coverage_is_counted_on_later_time(trained: Trained) -> None:
    dataset = trained["air_quality"].dataset
    card = modelling.draft(trained["air_quality"], run="test")

    later = modelling.later(dataset, card)

    inside = later["observed"].between(later["low"], later["high"])
    assert card.coverage is not None
    assert card.coverage["overall"] == pytest.approx(inside.mean())
    assert (
        later["recorded_at"].min() > dataset.rows["recorded_at"].iloc[int(len(dataset.rows) * 0.79)]
    )


@pytest.mark.parametrize("name", DOMAINS)
def test_evaluating_again_gives_the_scores_on_the_card(name: str, trained: Trained) -> None:
    card = modelling.draft(trained[name], run="test")

    scores = modelling.measure(card.task, modelling.later(trained[name].dataset, card))

    assert scores == pytest.approx(card.metrics["time_ordered"])


@pytest.mark.parametrize("name", DOMAINS)
def test_the_export_agrees_on_the_rows_where_exports_go_wrong(name: str, trained: Trained) -> None:
    rows = training.hard_rows(trained[name])
    has_optional = any(i.optional for i in trained[name].dataset.domain.inputs)

    difference = registry._parity(trained[name].estimator, trained[name].onnx, rows)

    assert difference <= registry.PARITY_TOLERANCE
    assert np.isnan(rows).any() == has_optional


def test_hard_rows_stand_on_split_thresholds(trained: Trained) -> None:
    rows = training.hard_rows(trained["energy"])
    trees = [tree.tree_ for tree in trained["energy"].estimator["forest"].estimators_]
    thresholds = {np.float32(t) for tree in trees for t in tree.threshold[tree.feature >= 0]}

    edges = rows[len(rows) // 2 :]

    assert all(any(value in thresholds for value in row) for row in edges)


@pytest.mark.parametrize("name", DOMAINS)
def test_the_card_tells_where_the_model_comes_from(name: str, trained: Trained) -> None:
    card = modelling.draft(trained[name], run="20260101T000000Z-abc")

    assert card.data["simulated"] is True
    assert [len(f["sha256"]) for f in card.data["files"]] == [64] * len(card.data["files"])
    assert card.data["rows"] == len(trained[name].dataset.rows)
    assert set(card.environment["packages"]) >= {"scikit-learn", "onnxruntime"}
    assert card.run == "20260101T000000Z-abc"
    assert [i.name for i in card.inputs] == list(domains.load(name).names)


def test_readings_without_one_of_the_classes_are_refused(city: Path) -> None:
    path = city / "datasets" / "traffic" / "Traffic.csv"
    lines = [line for line in path.read_text().splitlines() if not line.endswith("heavy")]
    path.write_text("\n".join([*lines, ""]))

    with pytest.raises(DataError, match="fewer than 5 rows of \\['heavy'\\]"):
        modelling.prepare("traffic")


def test_too_few_rows_are_refused(city: object) -> None:
    path = modelling.prepare("energy").readings.sources[0].path
    for other in path.parent.glob("*.csv"):
        lines = other.read_text().splitlines()
        other.write_text("\n".join([*lines[:20], ""]))

    with pytest.raises(DataError, match="at least 100 are needed"):
        modelling.prepare("energy")
