"""Search, fit, export, describe on a card, judge: how a version comes to be."""

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from sklearn.covariance import EmpiricalCovariance

from smartcity import domains, features, lineage, registry
from smartcity.domains import ALL, MAIN
from smartcity.errors import ModelError
from smartcity.modelling import conformal, evaluation
from smartcity.modelling.candidates import SPECIFIED, candidates, fit
from smartcity.modelling.card import as_markdown
from smartcity.modelling.dataset import NOW, Dataset, Rows, problems
from smartcity.modelling.evaluation import LEVEL, ORIGINS
from smartcity.modelling.export import export, hard_rows
from smartcity.modelling.search import ONE_THREAD, Search, Tried, calibrate, search
from smartcity.registry import Card, Fitted, Gate, Novelty, Part

_PACKAGES = (
    "scikit-learn",
    "numpy",
    "pandas",
    "crepes",
    "skl2onnx",
    "onnx",
    "onnxruntime",
    "joblib",
)
#: The part that looks at the time and at recent readings, where that pays.
RECENT = "recent"
#: What a quick training tries, beside the specified forest and what is served.
QUICK = ("linear, inputs", "gradient boosting, inputs", "gradient boosting, recent")
#: How far below its level the coverage on later time may lie.
COVERAGE_SLACK = 0.05

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Trained:
    """A version about to be published: every part searched, chosen, fitted and exported.

    Attributes:
        searches: Question -> what was tried.
        chosen: Part -> what did best; ``now`` needs the specified inputs only.
        left_out: Forecast -> why the version does without it.
        origins: Of a model of all sites, what it was at earlier times -> the last row it knew then.
    """

    dataset: Dataset
    searches: dict[str, Search]
    chosen: dict[str, Tried]
    fitted: dict[str, Fitted]
    left_out: dict[str, str]
    origins: dict[str, str] = field(default_factory=dict)

    @property
    def champion(self) -> str:
        """The part that answers the specification's question best."""
        return RECENT if RECENT in self.chosen else NOW


def train(
    dataset: Dataset,
    *,
    thorough: bool = True,
    serving: Card | None = None,
    progress: Progress = lambda question, done, fits: None,
) -> Trained:
    """Try the candidates on every question, and fit what did best on all rows.

    Args:
        dataset: The readings.
        thorough: Try everything; otherwise a few quick candidates, and no forecasts.
        serving: The card of what is being served: its recipe is tried too.
        progress: Called with (question, fits done, fits in all).
    """
    posed = problems(dataset)
    only: set[str] = set()
    if not thorough:
        posed = {NOW: posed[NOW]}
        served = serving.parts.values() if serving else []
        only = {*QUICK, *(p.recipe for p in served if p.question == NOW)} - {SPECIFIED}
        only &= {candidate.name for candidate in candidates(posed[NOW])}
    searches = {
        name: search(problem, only, progress=partial(progress, name))
        for name, problem in posed.items()
    }
    chosen = {NOW: searches[NOW].best(only_inputs=True)}
    if not (best := searches[NOW].best()).candidate.needs_only_inputs:
        chosen[RECENT] = best
    left_out = {}
    for name, found in searches.items():
        if name != NOW:
            naive, gain = _skill(found, found.best(), "rolling", guesses_only=True)
            if gain > 0:
                chosen[name] = found.best()
            else:
                left_out[name] = f"no better than {naive} over the rolling origins ({gain:+.0%})"
    fitted = {name: _fit(tried) for name, tried in chosen.items()}
    origins = {}
    if dataset.members:  # so that each site can compare it with its own, on rows later than both
        best = chosen.get(RECENT, chosen[NOW])
        cuts = evaluation.splits(best.problem)
        for number in range(len(ORIGINS)):
            rows, name = cuts[f"origin {number}"][0], f"origin-{number}"
            fitted[name] = _fit(best, rows)
            origins[name] = str(best.problem.when[rows[-1]])
    return Trained(dataset, searches, chosen, fitted, left_out, origins)


@ONE_THREAD
def _fit(tried: Tried, rows: Rows | None = None) -> Fitted:
    """Fit a candidate on rows of its question, all if none are named, and export it."""
    problem, domain = tried.problem, tried.problem.dataset.domain
    chosen = slice(None) if rows is None else rows
    X = problem.matrix(tried.candidate.view)[chosen]
    estimator = fit(domain, tried.candidate, X, problem.y[chosen])
    missing = [n for n in range(X.shape[1]) if np.isnan(X[:, n]).any()][:12]
    return Fitted(estimator, export(estimator), hard_rows(estimator, X, missing))


def _skill(
    found: Search, tried: Tried, split: str, *, guesses_only: bool = False
) -> tuple[str, float]:
    """Compare with the best baseline on a split.

    Args:
        found: What was tried on the question.
        tried: Which of it.
        split: Where.
        guesses_only: Leave out the linear baseline: as a candidate it was in the choice.
    """
    task = found.problem.dataset.domain.task
    naive = {
        name: scores[split]
        for name, scores in found.baselines.items()
        if not guesses_only or name != evaluation.RIDGE
    }
    return evaluation.skill(task, tried.metrics[split], naive)


def judge(trained: Trained, serving: Card | None = None, pooled: Card | None = None) -> Gate:
    """Decide whether a version may be served.

    It must beat every naive guess and what is being served, both over the rolling origins, have
    tried every question that is being answered, and hold its coverage on later time. That its
    export agrees is seen to when it is published.

    Args:
        trained: The version.
        serving: The card of what is being served; none if nothing is.
        pooled: The card of the model of all sites, where the site has to do better than that.
    """
    tried, found = trained.chosen[trained.champion], trained.searches[NOW]
    reasons = []
    naive, gain = _skill(found, tried, "rolling", guesses_only=True)
    if gain <= 0:
        reasons.append(f"Over the rolling origins it is no better than {naive} ({gain:+.1%}).")
    held = tried.sureness["overall"]
    if held < LEVEL - COVERAGE_SLACK:
        reasons.append(f"Of its {LEVEL:.0%} intervals or sets, only {held:.1%} hold.")
    if serving:
        reasons += _against(tried, found, serving)
        lost = {p.question for p in serving.parts.values()} - {*trained.searches}
        if lost:
            reasons.append(f"The served {serving.version} also answers {', '.join(sorted(lost))}.")
    reasons += _against_pool(tried, pooled) if pooled else []
    return Gate(passed=not reasons, reasons=reasons)


def _against(tried: Tried, found: Search, serving: Card) -> list[str]:
    """Compare with what is served: its recipe on the same rows or, if unknown, its own score."""
    part = serving.parts[serving.champion]
    if part.recipe in found.tried:
        theirs = found.tried[part.recipe].error
    else:
        metric = evaluation.headline(serving.task)
        score = part.metrics["rolling"][metric]
        theirs = score if metric == "rmse" else 1 - score
    if tried.error <= theirs + 1e-9:
        return []
    said = f"The served {serving.version} ({part.recipe}) errs less over the rolling origins: "
    return [f"{said}{theirs:.3g} against {tried.error:.3g}."]


def _against_pool(tried: Tried, pooled: Card) -> list[str]:
    """Compare with the model of all sites, as it was before each of this site's origins.

    Both answer the same rows, and neither has seen any row, of whichever site, as late as those. An
    origin before the first of all sites' models is left out of the comparison.
    """
    problem, part = tried.problem, pooled.parts[pooled.champion]
    domain = problem.dataset.domain
    model, X = registry.Model(pooled, None), problem.matrix(part.view)
    cuts, errors = evaluation.splits(problem), []
    for number in range(len(ORIGINS)):
        split, scored = f"origin {number}", evaluation.stretch(problem, number)
        rows = cuts[split][1][scored]
        known = {end: name for name, end in pooled.data["origins"].items()}
        older = [end for end in known if np.datetime64(end) < problem.when[rows[0]]]
        if not older:
            continue
        scores = model.scores(X[rows], known[max(older)])
        if domain.target.levels:
            theirs = scores.argmax(axis=1).astype(np.float64)
        else:
            theirs = np.clip(scores, domain.target.low, domain.target.high)
        answers = (tried.predicted(split)[scored], theirs)
        errors.append([evaluation.error(domain.task, problem.y[rows], each) for each in answers])
    own, others = np.mean(errors, axis=0) if errors else (0.0, 0.0)
    if own <= others:
        return []
    said = f"The model of all sites ({pooled.version}, {part.recipe}) errs less over the rolling "
    return [f"{said}origins of this one: {others:.3g} against {own:.3g}."]


def publish(trained: Trained, card: Card) -> Card:
    """Publish a trained version with its card.

    Raises:
        ModelError: An export differs from the fitted model; nothing was published.
        StorageError: The models folder cannot be written; nothing was published.
    """
    rows = pd.concat([t.later.assign(part=name) for name, t in trained.chosen.items()])
    pages = {
        "card.md": as_markdown(trained.dataset.domain, card),
        "later.csv": rows.to_csv(index=False, float_format="%.6g"),
    }
    return registry.publish(card, trained.fitted, pages=pages)


def served(name: str, site: str = MAIN) -> Card | None:
    """Give the card of a site's own model being served, or None if none is."""
    try:
        return registry.card(domains.at(domains.load(name).name, site))
    except ModelError:
        return None


def rival(name: str, site: str) -> Card | None:
    """Give the card of the model of all sites, where a site's own has to do better."""
    return None if site in {MAIN, ALL} else served(name, ALL)


def own(name: str, site: str = MAIN, version: str = "") -> Card:
    """Give the card of a site's own model, also where that of all sites answers for it.

    Args:
        name: The domain.
        site: Which of its sites.
        version: Which version; the served one when empty, the newest where another model answers.

    Raises:
        ModelError: There is none, or it is damaged.
    """
    domain = domains.load(name).name
    model, wanted = registry.answering(domain, site, version)
    if model != domains.at(domain, site):
        model = domains.at(domain, site)
        wanted = (registry.versions(model) or [registry.current(model)])[-1]
    return registry.card(model, wanted)


def later(card: Card, part: str | None = None) -> pd.DataFrame:
    """Read what a version answered on the last rows in time, when fitted on those before them.

    Args:
        card: The version.
        part: Which of its parts; the champion by default.

    Returns:
        ``recorded_at``, ``observed``, ``predicted``, ``ahead``; for a quantity ``low`` and
        ``high``; for a class ``probability`` and ``in_set``.
    """
    rows = pd.read_csv(io.StringIO(registry.page(card, "later.csv")), parse_dates=["recorded_at"])
    rows = rows[rows["part"] == (part or card.champion)]
    return rows.drop(columns="part").dropna(axis="columns", how="all").reset_index(drop=True)


def draft(
    trained: Trained, *, run: str, serving: Card | None = None, pooled: Card | None = None
) -> Card:
    """Write the card of a trained version, but for what publishing adds."""
    dataset, champion = trained.dataset, trained.champion
    domain = dataset.domain
    parts = {name: _part(trained, name) for name in trained.chosen}
    specified = trained.searches[NOW].tried[SPECIFIED]
    return Card(
        domain=domain.name,
        site=dataset.readings.site,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        task=domain.task,
        target=domain.target.name,
        unit=domain.target.unit,
        inputs=_inputs(dataset),
        estimator="; ".join(f"{name}: {part.recipe}" for name, part in parts.items()),
        metrics=parts[champion].metrics,
        specified=specified.metrics,
        baselines=parts[champion].baselines,
        splits=evaluation.SPLITS,
        averaging=evaluation.AVERAGING if domain.task == "classification" else None,
        coverage=parts[champion].coverage,
        specified_coverage=specified.coverage,
        champion=champion,
        parts=parts,
        left_out=trained.left_out,
        gate=judge(trained, serving, pooled),
        novelty=_novelty(dataset),
        answers=_answers(dataset),
        data=_lineage(dataset) | ({"origins": trained.origins} if trained.origins else {}),
        environment=lineage.environment(_PACKAGES),
        git=lineage.git(),
        run=run,
    )


def _part(trained: Trained, name: str) -> Part:
    """Describe one part: how it scored on time it had not seen, and what serving needs of that."""
    tried = trained.chosen[name]
    problem = tried.problem
    X = problem.matrix(tried.candidate.view)
    found = trained.searches[problem.name]
    task = problem.dataset.domain.task
    is_class = task == "classification"
    later = tried.later
    answers, rows, stretches = tried.unseen(until=len(problem.y))
    sure = calibrate(answers, problem.y[rows]) if is_class else (None, None)
    intervals = (
        None
        if is_class
        else conformal.intervals(
            answers, problem.y[rows], problem.ahead[rows], stretches, level=LEVEL
        )
    )
    splits = ("rolling", "time_ordered")
    skills = {split: _skill(found, tried, split) for split in splits}
    observed, predicted = later["observed"].to_numpy(), later["predicted"].to_numpy()
    return Part(
        question=problem.name,
        recipe=tried.candidate.name,
        view=tried.candidate.view,
        typical=[float(np.median(v[~np.isnan(v)])) if (~np.isnan(v)).any() else 0.0 for v in X.T],
        metrics=tried.metrics,
        candidates={n: t.metrics for n, t in found.tried.items()},
        baselines=found.baselines,
        skill={split: gain for split, (_, gain) in skills.items()},
        best_baseline={split: naive for split, (naive, _) in skills.items()},
        spread=evaluation.spread(task, problem, np.arange(tried.cut, len(problem.y)), predicted),
        coverage=tried.sureness,
        intervals=intervals,
        temperature=sure[0],
        threshold=sure[1],
        by_ahead=_by_ahead(tried),
        guidelines=None if is_class else evaluation.guidelines(observed, predicted),
        reliability=evaluation.reliability(tried.probabilities, observed) if is_class else None,
    )


def _by_ahead(tried: Tried) -> dict[str, dict[str, float]]:
    """Score each horizon on later time beside its best naive guess."""
    problem, cut = tried.problem, tried.cut
    task = problem.dataset.domain.task
    metric, scored = evaluation.headline(task), {}
    test = np.arange(cut, len(problem.y))
    guesses = evaluation.baselines(problem, np.arange(cut), test)
    predicted = tried.later["predicted"].to_numpy()
    for minutes in np.unique(problem.ahead[cut:]):
        rows = problem.ahead[cut:] == minutes
        errors = {
            name: evaluation.error(task, problem.y[cut:][rows], given[rows])
            for name, given in {"own": predicted, **guesses}.items()
        }
        own, naive = errors.pop("own"), min(errors.values())
        value = own if metric == "rmse" else 1 - own
        scored[str(int(minutes))] = {metric: value, "skill": 1 - own / max(naive, 1e-9)}
    return scored


def _inputs(dataset: Dataset) -> list[registry.CardInput]:
    described = []
    for spec, values in zip(dataset.domain.inputs, dataset.inputs.T, strict=True):
        seen = values[~np.isnan(values)]
        marks = np.percentile(seen, [0, 1, 50, 99, 100]) if len(seen) else [spec.low] * 5
        low, first, typical, last, high = (round(float(mark), 6) for mark in marks)
        described.append(
            registry.CardInput(
                name=spec.name,
                label=spec.label,
                unit=spec.unit,
                low=low,
                high=high if len(seen) else spec.high,
                edges=(first, last),
                typical=round(typical, 0) if spec.whole else typical,
                optional=spec.optional,
            )
        )
    return described


def _novelty(dataset: Dataset) -> Novelty | None:
    """Learn which inputs go together; parts of time are left out, as any time may come."""
    domain, X = dataset.domain, dataset.inputs
    is_known = np.isnan(X).mean(axis=0) < 0.5
    names = [
        spec.name
        for spec, known in zip(domain.inputs, is_known, strict=True)
        if known and not spec.from_time and not spec.sum_of
    ]
    if len(names) < 2:
        return None
    columns = features.on_log_scale(X[:, [domain.names.index(name) for name in names]])
    columns = columns[~np.isnan(columns).any(axis=1)]
    fitted = EmpiricalCovariance().fit(columns)
    return Novelty(
        inputs=names,
        mean=fitted.location_.tolist(),
        precision=fitted.precision_.tolist(),
        limit=float(np.quantile(fitted.mahalanobis(columns), 0.995)),
    )


def _answers(dataset: Dataset) -> dict[str, float]:
    """Describe the observed answers: shares of the classes, or marks of the quantity."""
    if dataset.domain.target.levels:
        levels = enumerate(dataset.domain.target.levels)
        return {level.label: float(np.mean(dataset.y == number)) for number, level in levels}
    marks = np.percentile(dataset.y, [10, 50, 90])
    return dict(zip(("p10", "p50", "p90"), map(float, marks), strict=True))


def _lineage(dataset: Dataset) -> dict[str, Any]:
    times, simulated = dataset.rows["recorded_at"], dataset.readings.simulated
    return {
        "files": [source.record() for source in dataset.readings.sources],
        "site": dataset.readings.site,
        "from": times.iloc[0].isoformat(),
        "to": times.iloc[-1].isoformat(),
        "rows": len(dataset.rows),
        "rows_left_out": dataset.left_out,
        "simulated": simulated,
        "licence": "free, as made up" if simulated else dataset.domain.licence,
        "source": "the simulated demo city" if simulated else dataset.domain.source,
    }
