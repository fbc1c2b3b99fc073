"""Search, evaluation, sureness, export and the gate: time stays in order, nothing flatters."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import DOMAINS
from hypothesis import given
from hypothesis import settings as trials
from hypothesis import strategies as st
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.svm import SVR

from smartcity import domains, features, modelling, registry, settings
from smartcity.errors import DataError, UsageError
from smartcity.modelling import candidates, conformal, evaluation, export
from smartcity.modelling.card import as_markdown
from smartcity.modelling.dataset import NOW, Problem

Trained = dict[str, modelling.Trained]


@pytest.fixture
def problem(trained: Trained) -> Problem:
    return trained["air_quality"].searches[NOW].problem


def test_the_time_ordered_split_tests_only_on_later_rows(problem: Problem) -> None:
    train, test = evaluation.splits(problem)["time_ordered"]

    assert train.max() < test.min()
    assert len(test) == round(len(problem.y) * 0.2)


def test_rolling_origins_learn_from_before_the_gap_only(problem: Problem) -> None:
    cuts = evaluation.splits(problem)
    cut = round(len(problem.y) * 0.8)

    for number in range(len(evaluation.ORIGINS)):
        train, test = cuts[f"origin {number}"]
        scored = test[evaluation.stretch(problem, number)]
        gap = problem.when[test[0]] - problem.when[train[-1]]
        assert gap > np.timedelta64(1, "D")
        assert scored.max() < cut  # the time-ordered test takes no part in choosing


def test_the_random_split_keeps_the_share_of_each_class(trained: Trained) -> None:
    problem = trained["traffic"].searches[NOW].problem

    _, test = evaluation.splits(problem)["random"]

    whole = np.bincount(problem.y.astype(int)) / len(problem.y)
    np.testing.assert_allclose(
        np.bincount(problem.y[test].astype(int)) / len(test), whole, atol=0.01
    )


def test_baselines_learn_nothing_from_the_test_rows(problem: Problem) -> None:
    train, test = evaluation.splits(problem)["time_ordered"]
    changed = dataclasses.replace(
        problem, y=np.where(np.arange(len(problem.y)) < test[0], problem.y, 99)
    )

    before = evaluation.baselines(problem, train, test)
    after = evaluation.baselines(changed, train, test)

    assert set(before) == {
        "mean",
        "previous reading",
        "same time yesterday",
        "same time last week",
        "hour of the week",
        "ridge",
    }
    for name in ("mean", "hour of the week", "ridge"):
        np.testing.assert_array_equal(before[name], after[name])


@pytest.mark.parametrize("name", DOMAINS)
def test_no_guess_knows_a_reading_before_it_came(name: str, trained: Trained) -> None:
    for search in trained[name].searches.values():
        problem = search.problem
        times = problem.dataset.times
        newest = problem.dataset.history.times[np.maximum(problem.known - 1, 0)]
        previous = problem.naive["previous reading"]
        for row in np.linspace(5, len(problem.y) - 1, 50).astype(int):
            earlier = times.astype("datetime64[s]").astype(float) / 60 <= newest[row]
            assert previous[row] == problem.dataset.y[earlier][-1]


@pytest.mark.parametrize("name", DOMAINS)
def test_the_future_does_not_leak_into_a_feature(name: str, trained: Trained) -> None:
    """Shuffle all that comes after a time: every feature of the time before stays the same."""
    for search in trained[name].searches.values():
        problem = search.problem
        dataset, half = problem.dataset, len(problem.y) // 2
        history = dataset.history
        start = int(problem.known[half])
        rng = np.random.default_rng(1)
        shuffled = dataset.clean.copy()
        columns = [c for c in shuffled if c != "recorded_at"]
        later = shuffled.loc[start:, columns].to_numpy()
        shuffled.loc[start:, columns] = later[rng.permutation(len(later))]
        other = dataclasses.replace(problem, dataset=_with_clean(dataset, shuffled))
        for tried in search.tried.values():
            view = tried.candidate.view
            if view.history:
                early = problem.known <= start
                np.testing.assert_array_equal(
                    problem.matrix(view)[early], other.matrix(view)[early]
                )
        assert len(history.times) == len(other.dataset.history.times)


def _with_clean(dataset: modelling.Dataset, clean: pd.DataFrame) -> modelling.Dataset:
    return dataclasses.replace(dataset, clean=clean)


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


def test_ashrae_figures_are_those_of_the_guideline() -> None:
    found = evaluation.guidelines(np.array([2.0, 4.0, 6.0]), np.array([3.0, 4.0, 5.0]))

    assert found == pytest.approx({"cv_rmse": 1 / 4, "nmbe": 0.0})


def test_skill_is_measured_against_the_best_guess() -> None:
    naive = {"poor": {"rmse": 4.0}, "best": {"rmse": 2.0}}

    assert evaluation.skill("regression", {"rmse": 1.0}, naive) == ("best", 0.5)
    guesses = {"poor": {"accuracy": 0.2}, "best": {"accuracy": 0.6}}
    best, gain = evaluation.skill("classification", {"accuracy": 0.8}, guesses)
    assert best == "best"
    assert gain == pytest.approx(0.5)


def test_days_drawn_anew_give_a_range_around_the_figure(trained: Trained) -> None:
    part = modelling.draft(trained["air_quality"], run="test").parts[NOW]
    low, high = part.spread

    assert low < part.metrics["time_ordered"]["rmse"] < high


def test_a_perfectly_stated_probability_has_no_calibration_error() -> None:
    rng = np.random.default_rng(0)
    p = rng.uniform(0.5, 1, 40_000)
    observed = (rng.uniform(size=len(p)) > p).astype(float)

    found = evaluation.reliability(np.column_stack([p, 1 - p]), observed)

    assert found["error"] < 0.01
    assert found["brier"] == pytest.approx(float(np.mean(2 * p * (1 - p))), abs=0.01)


def test_temperature_undoes_overconfidence() -> None:
    rng = np.random.default_rng(0)
    true = rng.dirichlet(np.ones(4), 20_000)
    observed = np.array([rng.choice(4, p=p) for p in true], dtype=float)
    too_sure = true**3 / (true**3).sum(axis=1, keepdims=True)

    sure = conformal.temperature(too_sure, observed)

    assert sure == pytest.approx(3, rel=0.1)
    np.testing.assert_allclose(features.tempered(too_sure, 3.0), true, atol=0.02)


def test_sets_hold_the_truth_as_often_as_stated() -> None:
    rng = np.random.default_rng(0)
    shares = rng.dirichlet(np.ones(4) * 0.6, 20_000)
    observed = np.array([rng.choice(4, p=p) for p in shares], dtype=float)
    half = len(shares) // 2

    limit = conformal.threshold(shares[:half], observed[:half], level=0.9)

    held = shares[np.arange(half, 2 * half), observed[half:].astype(int)] >= limit
    assert held.mean() == pytest.approx(0.9, abs=0.01)


def test_intervals_widen_with_the_level_and_hold_in_every_stretch() -> None:
    rng = np.random.default_rng(0)
    predicted = rng.uniform(0, 10, 6000)
    stretch = np.repeat(np.arange(6), 1000)
    noise = np.where(stretch == 4, 2.0, 1.0)  # one stretch was twice as bad
    observed = predicted + rng.normal(size=6000) * 0.1 * (1 + predicted) * noise
    ahead = np.zeros(6000, dtype=int)

    tables = conformal.intervals(predicted, observed, ahead, stretch, level=0.9)
    low, high = features.bounds(tables, predicted, ahead, low=0.0)

    held = (observed >= low) & (observed <= high)
    assert min(held[stretch == s].mean() for s in range(6)) >= 0.88
    assert tables[0]["above"][-1] > 3 * tables[0]["above"][0]
    assert (low >= 0).all()


@pytest.mark.parametrize("name", DOMAINS)
def test_the_forest_has_the_specified_parameters(name: str, trained: Trained) -> None:
    tried = trained[name].searches[NOW].tried[candidates.SPECIFIED]
    forest = candidates.make(domains.load(name), tried.candidate)["forest"]
    depth = 10 if name == "traffic" else 15

    assert forest.n_estimators == 100
    assert forest.max_depth == depth
    assert forest.min_samples_split == 5
    assert forest.random_state == 42
    assert forest.n_jobs == -1
    assert tried.candidate.view.names == domains.load(name).names


@pytest.mark.parametrize("name", DOMAINS)
def test_all_splits_and_all_baselines_are_scored(name: str, trained: Trained) -> None:
    card = modelling.draft(trained[name], run="test")

    assert set(card.metrics) == set(card.splits) == {"random", "rolling", "time_ordered"}
    for part in card.parts.values():
        assert len(part.baselines) == (5 if name == "traffic" else 6)
        for scores in [card.specified, *part.candidates.values(), *part.baselines.values()]:
            assert all(np.isfinite(list(split.values())).all() for split in scores.values())


@pytest.mark.parametrize("name", DOMAINS)
def test_each_forecast_is_scored_at_each_distance(name: str, trained: Trained) -> None:
    card = modelling.draft(trained[name], run="test")

    for forecast in domains.load(name).forecasts:
        assert (forecast.name in card.parts) != (forecast.name in card.left_out)
        if forecast.name in card.parts:
            scored = card.parts[forecast.name].by_ahead
            assert list(map(int, scored)) == list(forecast.minutes)


def test_what_is_chosen_did_best_over_the_rolling_origins(trained: Trained) -> None:
    search = trained["air_quality"].searches[NOW]
    chosen = trained["air_quality"].chosen

    errors = {name: tried.error for name, tried in search.tried.items()}
    best = search.tried[min(errors, key=lambda name: errors[name])]
    assert search.best().error == pytest.approx(best.error, abs=1e-4)
    assert chosen[NOW].candidate.needs_only_inputs


def test_a_stack_in_the_search_is_the_stack_that_is_fitted(trained: Trained) -> None:
    search = trained["air_quality"].searches[NOW]
    stack = search.tried["ridge + SVR, inputs"]

    again = modelling.recipe(search.problem, stack.candidate.name)

    np.testing.assert_allclose(
        again.answers["time_ordered"], stack.answers["time_ordered"], rtol=1e-6
    )


def test_the_search_gives_the_same_on_every_backend(
    home: Path, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = trained["energy"].searches[NOW].problem
    answers = []
    for backend in ("loky", "threading"):
        monkeypatch.setenv("SMARTCITY_BACKEND", backend)
        settings.current.cache_clear()
        found = modelling.search(problem, ["linear, inputs", "extra trees, inputs"])
        answers.append(found.tried["extra trees, inputs"].answers["random"])
    settings.current.cache_clear()

    np.testing.assert_array_equal(answers[0], answers[1])


def test_an_unknown_candidate_is_refused(problem: Problem) -> None:
    with pytest.raises(UsageError, match="candidate"):
        modelling.search(problem, ["forest of dreams"])


@pytest.mark.parametrize("name", DOMAINS)
def test_coverage_is_counted_on_later_time(name: str, trained: Trained) -> None:
    for tried in trained[name].chosen.values():
        later = tried.later
        held = (
            later["in_set"]
            if name == "traffic"
            else later["observed"].between(later["low"], later["high"])
        )
        assert tried.sureness["overall"] == pytest.approx(held.mean())
        assert later["recorded_at"].min() >= tried.problem.when[tried.cut]
        assert set(tried.sureness["by_month"]) == set(later["recorded_at"].dt.strftime("%Y-%m"))


@pytest.mark.parametrize("name", DOMAINS)
def test_the_export_agrees_on_the_rows_where_exports_go_wrong(name: str, trained: Trained) -> None:
    for fitted in trained[name].fitted.values():
        difference = registry._parity(fitted.estimator, fitted.onnx, fitted.rows)
        assert difference <= registry.PARITY_TOLERANCE


def _every_kind() -> list[Any]:
    regressors = [
        candidates._REGRESSORS[m] for m in ("linear", "ridge", "SVR", "gradient boosting")
    ]
    return [(*pair, "air_quality") for pair in regressors] + [
        (*candidates._CLASSIFIERS[m], "traffic") for m in ("logistic", "gradient boosting")
    ]


@pytest.mark.parametrize("part", _every_kind(), ids=lambda part: str(part[2]))
def test_each_estimator_exports_exactly(part: Any, trained: Trained) -> None:
    front, last, name = part
    problem = trained[name].searches[NOW].problem
    view = candidates.views(problem.dataset)["recent"]
    X = problem.matrix(view)
    fitted = front(last(X.shape[1])).fit(X, problem.y)
    missing = [n for n in range(X.shape[1]) if np.isnan(X[:, n]).any()]

    rows = export.hard_rows(fitted, X, missing[:6])

    assert registry._parity(fitted, export.export(fitted), rows) <= registry.PARITY_TOLERANCE


def test_hard_rows_stand_on_split_thresholds(trained: Trained) -> None:
    problem = trained["energy"].searches[NOW].problem
    boosted = HistGradientBoostingRegressor(max_iter=20).fit(problem.dataset.inputs, problem.y)

    rows = export.hard_rows(boosted, problem.dataset.inputs, [])

    columns, values = export.thresholds(boosted)
    known = {(c, np.float32(v)) for c, v in zip(columns, values, strict=True)}
    edges = rows[len(rows) // 2 :]
    assert all(any((c, v) in known for c, v in enumerate(row)) for row in edges)


def test_a_kernel_regression_survives_its_own_export() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 5)).astype(np.float32)
    fitted = TransformedTargetRegressor(
        SVR(C=2.0, gamma=0.2), func=np.log1p, inverse_func=np.expm1, check_inverse=False
    ).fit(X, np.abs(X[:, 0]) + X[:, 1] ** 2)

    assert registry._parity(fitted, export.export(fitted), X) <= registry.PARITY_TOLERANCE


@pytest.mark.parametrize("name", DOMAINS)
def test_the_card_tells_where_the_model_comes_from(name: str, trained: Trained) -> None:
    card = modelling.draft(trained[name], run="20260101T000000Z-abc")

    assert card.data["simulated"] is True
    assert [len(f["sha256"]) for f in card.data["files"]] == [64] * len(card.data["files"])
    assert card.data["rows"] == len(trained[name].dataset.rows)
    assert set(card.environment["packages"]) >= {"scikit-learn", "onnxruntime", "crepes"}
    assert card.run == "20260101T000000Z-abc"
    assert [i.name for i in card.inputs] == list(domains.load(name).names)


@pytest.mark.parametrize("name", DOMAINS)
def test_the_card_as_a_page_says_what_a_reader_needs(name: str, trained: Trained) -> None:
    card = modelling.draft(trained[name], run="test")

    page = as_markdown(domains.load(name), card)

    for heading in ("Intended use", "How good it is", "Limits", "What it learned from", "again"):
        assert heading in page
    for part in card.parts.values():
        assert f"**{part.recipe}**" in page
        assert f"{part.coverage['overall']:.1%}" in page
    assert "specified forest" in page
    assert f"smartcity run 02_train --domain {name}" in page


def test_a_model_no_better_than_a_guess_is_refused(trained: Trained) -> None:
    poor = _with_noise(trained["air_quality"], 50.0)

    gate = modelling.judge(poor)

    assert not gate.passed
    assert "no better than" in gate.reasons[0]


def test_intervals_that_do_not_hold_are_refused(trained: Trained) -> None:
    tried = trained["air_quality"].chosen[trained["air_quality"].champion]
    tight = dataclasses.replace(tried)
    tight.__dict__["sureness"] = tried.sureness | {"overall": 0.7}
    chosen = trained["air_quality"].chosen | {trained["air_quality"].champion: tight}

    gate = modelling.judge(dataclasses.replace(trained["air_quality"], chosen=chosen))

    assert gate.reasons == ["Of its 90% intervals or sets, only 70.0% hold."]


def test_a_model_worse_than_the_served_one_is_refused(trained: Trained) -> None:
    serving = modelling.draft(trained["air_quality"], run="test").model_copy(
        update={"version": "1.0.0"}
    )
    search = trained["air_quality"].searches[NOW]
    worst = max(search.tried.values(), key=lambda tried: tried.error)
    worse = dataclasses.replace(trained["air_quality"], chosen={NOW: worst})

    gate = modelling.judge(worse, serving)

    assert any("The served 1.0.0" in reason for reason in gate.reasons)
    assert modelling.judge(trained["air_quality"], serving).passed


def test_a_version_that_left_questions_untried_is_refused(trained: Trained) -> None:
    serving = modelling.draft(trained["air_quality"], run="test").model_copy(
        update={"version": "1.0.0"}
    )
    searches = {NOW: trained["air_quality"].searches[NOW]}
    hasty = dataclasses.replace(trained["air_quality"], searches=searches)

    gate = modelling.judge(hasty, serving)

    assert len(serving.parts) > 1
    assert any("The served 1.0.0 also answers next_" in reason for reason in gate.reasons)


def _with_noise(trained: modelling.Trained, size: float) -> modelling.Trained:
    champion = trained.champion
    tried = trained.chosen[champion]
    noisy = {split: given + size for split, given in tried.answers.items()}
    return dataclasses.replace(
        trained, chosen={champion: dataclasses.replace(tried, answers=noisy)}
    )


def test_collinear_inputs_are_shuffled_together() -> None:
    from smartcity.modelling.importance import _alike

    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2, 500))

    groups = _alike(np.column_stack([one, other, -one * 3 + 0.01 * other]))

    assert sorted(map(list, groups)) == [[0, 2], [1]]


def test_importance_finds_what_matters(trained: Trained) -> None:
    tried = trained["traffic"].chosen[NOW]

    found = modelling.importance(tried)

    assert found["worse"].iloc[0] > 0.1
    assert list(found["worse"]) == sorted(found["worse"], reverse=True)


@trials(deadline=None)  # a busy machine is no fault
@given(st.lists(st.integers(0, 500), min_size=5, max_size=40))
def test_a_table_of_scores_by_level_has_every_answer_once(tenths: list[int]) -> None:
    values = [tenth / 10 for tenth in tenths]
    later = pd.DataFrame({"observed": values, "predicted": values})
    domain = domains.load("air_quality")

    found = modelling.by(later, domain, modelling.levels(domain, later))

    assert found["answers"].sum() == len(values)
    assert (found["rmse"] == 0).all()


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
