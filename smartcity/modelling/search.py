"""Try every candidate on every split, side by side; choose by rolling origins alone."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from smartcity import engine, features
from smartcity.domains import Domain
from smartcity.errors import unknown
from smartcity.features import Matrix
from smartcity.modelling import conformal, evaluation
from smartcity.modelling.candidates import SPECIFIED, Candidate, candidates, fit
from smartcity.modelling.dataset import Problem, Rows, Values
from smartcity.modelling.evaluation import LEVEL, ORIGINS, TEST_SHARE, Scores

Answers = NDArray[np.float64]
Progress = Callable[[int, int], None]
#: Fits run side by side, in this process and in others: threads of one would wait for each other.
ONE_THREAD = threadpool_limits.wrap(limits=1)


@dataclass(frozen=True)
class Tried:
    """What a candidate answered on each split, on rows it was not fitted on.

    Attributes:
        answers: Split -> quantities of shape (rows,), or probabilities of shape (rows, classes).
    """

    problem: Problem
    candidate: Candidate
    answers: dict[str, Answers]

    def predicted(self, split: str) -> Values:
        """Give the answers of a split as quantities or numbers of classes."""
        found = self.answers[split]
        return found if found.ndim == 1 else found.argmax(axis=1).astype(np.float64)

    @cached_property
    def metrics(self) -> Scores:
        """Score it on each split; ``rolling`` is the mean over the origins."""
        return _metrics(self.problem, self.predicted, has_origins="origin 0" in self.answers)

    @property
    def error(self) -> float:
        """What it is chosen by: its error over the rolling origins."""
        value = self.metrics["rolling"][evaluation.headline(self._task)]
        return value if self._task == "regression" else 1 - value

    @property
    def _task(self) -> str:
        return self.problem.dataset.domain.task

    def unseen(self, *, until: int) -> tuple[Answers, Rows, Rows]:
        """Collect answers to rows later than what each origin's model was fitted on.

        Args:
            until: Rows from here on count as not yet come.

        Returns:
            The answers, which row each is about, and which stretch of which origin's time it lies
            in. Rows come up once per origin before them: young models and old, as in use.
        """
        length = round(len(self.problem.y) * evaluation.STRETCH / 2)
        starts = {f"origin {n}": round(len(self.problem.y) * s) for n, s in enumerate(ORIGINS)}
        starts["time_ordered"] = self.cut
        answers, rows, stretches = [], [], []
        for number, (split, start) in enumerate(starts.items()):
            if start < until:
                answers.append(self.answers[split][: until - start])
                rows.append(np.arange(start, until))
                stretches.append(number * 100 + (rows[-1] - start) // length)
        return np.concatenate(answers), np.concatenate(rows), np.concatenate(stretches)

    @property
    def cut(self) -> int:
        """The first row of the time-ordered test."""
        return round(len(self.problem.y) * (1 - TEST_SHARE))

    @cached_property
    def later(self) -> pd.DataFrame:
        """Its answers on the last rows in time, with what it would have said of its sureness.

        ``recorded_at``, ``observed``, ``predicted``, ``ahead``; for a quantity ``low`` and
        ``high``; for a class ``probability`` of the class predicted and ``in_set``.
        """
        problem, cut = self.problem, self.cut
        answers, rows, parts = self.unseen(until=cut)
        told = {"recorded_at": problem.when[cut:], "observed": problem.y[cut:]}
        if self._task == "classification":
            sure, limit = calibrate(answers, problem.y[rows])
            shares = features.tempered(self.answers["time_ordered"], sure)
            truth = shares[np.arange(len(shares)), problem.y[cut:].astype(int)]
            told |= {"predicted": shares.argmax(axis=1).astype(float)}
            told |= {"probability": shares.max(axis=1)}
            told |= {"in_set": (truth >= limit) | (truth == shares.max(axis=1))}
            told |= {"set_size": np.maximum((shares >= limit).sum(axis=1), 1)}
        else:
            predicted = self.answers["time_ordered"]
            came, ahead = problem.y[rows], problem.ahead[rows]
            tables = conformal.intervals(answers, came, ahead, parts, level=LEVEL)
            least = problem.dataset.domain.target.low
            low, high = features.bounds(tables, predicted, problem.ahead[cut:], low=least)
            told |= {"predicted": predicted, "low": low, "high": high}
        return pd.DataFrame(told | {"ahead": problem.ahead[cut:]})

    @property
    def coverage(self) -> dict[str, Any] | None:
        """The same as ``sureness``, or None where it was not tried on rolling origins."""
        return self.sureness if "rolling" in self.metrics else None

    @cached_property
    def sureness(self) -> dict[str, Any]:
        """Count how often its intervals or sets held the truth on later time, and how wide."""
        later = self.later
        if self._task == "classification":
            held, width = later["in_set"], later["set_size"].mean()
        else:
            held = later["observed"].between(later["low"], later["high"])
            width = (later["high"] - later["low"]).mean()
        months = later["recorded_at"].dt.strftime("%Y-%m").to_numpy()
        counted = conformal.coverage(held.to_numpy(), months, level=LEVEL)
        return counted | {"mean_width": float(width)}

    @property
    def probabilities(self) -> Answers:
        """Calibrated probabilities on the last rows in time."""
        answers, rows, _ = self.unseen(until=self.cut)
        sure, _ = calibrate(answers, self.problem.y[rows])
        return features.tempered(self.answers["time_ordered"], sure)


def calibrate(probabilities: Answers, observed: Values) -> tuple[float, float]:
    """Give the temperature, and the probability from which a class belongs to the set."""
    sure = conformal.temperature(probabilities, observed)
    told = features.tempered(probabilities, sure)
    return sure, conformal.threshold(told, observed, level=LEVEL)


@dataclass(frozen=True)
class Search:
    """A question, everything tried on it, and the guesses to beat."""

    problem: Problem
    tried: dict[str, Tried]
    baselines: dict[str, Scores] = field(default_factory=dict)

    def best(self, *, only_inputs: bool = False) -> Tried:
        """Give what did best over the rolling origins; of equals the simplest.

        Args:
            only_inputs: Leave out what needs more than the specified inputs.
        """
        fitting = [t for t in self.tried.values() if "rolling" in t.metrics]
        if only_inputs:
            fitting = [t for t in fitting if t.candidate.needs_only_inputs]
        return min(fitting, key=lambda t: (round(t.error, 4), len(t.candidate.members)))


@ONE_THREAD
def search(
    problem: Problem, only: Collection[str] = (), *, progress: Progress = lambda done, tasks: None
) -> Search:
    """Try candidates on a question, side by side.

    Args:
        problem: The question.
        only: Names of the candidates to try, beside the specified forest; all if empty.
        progress: Called with (fits done, fits in all).

    Raises:
        UsageError: A name is unknown.
    """
    known = {c.name: c for c in candidates(problem)}
    for name in only:
        if name not in known:
            raise unknown(f"candidate for {problem.name!r}", name, known)
    wanted = {c.name: c for c in known.values() if not only or c.name in {*only, SPECIFIED}}
    single = {m for c in wanted.values() for m in (c.members or (c.name,))}
    matrices = {known[n].view: problem.matrix(known[n].view) for n in single}
    cuts = evaluation.splits(problem)
    # Only to be shown beside a quick search, the specified forest need not be chosen or sure.
    shown = {SPECIFIED} if only else set()
    tasks = [
        (name, split)
        for name in sorted(single)
        for split in cuts
        if name not in shown or not split.startswith("origin")
    ]
    # The longest fits first, so that no core waits for a late one.
    tasks.sort(key=lambda task: -len(cuts[task[1]][0]))
    domain = problem.dataset.domain
    answers: dict[str, dict[str, Answers]] = {name: {} for name in single}
    fits = [
        (domain, known[name], matrices[known[name].view], problem.y, *cuts[split])
        for name, split in tasks
    ]
    jobs = 1 if only else None  # a few fits are done before workers have started
    found = engine.each(answer, fits, jobs=jobs, progress=progress)
    for (name, split), given in zip(tasks, found, strict=True):
        answers[name][split] = given
    for name, candidate in wanted.items():
        if candidate.members:
            answers[name] = {
                split: _mean([answers[member][split] for member in candidate.members])
                for split in cuts
            }
    tried = {name: Tried(problem, c, answers[name]) for name, c in wanted.items()}
    guesses = {split: evaluation.baselines(problem, *rows) for split, rows in cuts.items()}

    def guess(name: str) -> Callable[[str], Values]:
        return lambda split: guesses[split][name]

    scored = {name: _metrics(problem, guess(name)) for name in guesses["random"]}
    return Search(problem, tried, scored)


@ONE_THREAD
def recipe(problem: Problem, name: str) -> Tried:
    """Fit one candidate anew on the rows before the time-ordered test, and answer those.

    Raises:
        UsageError: The name is unknown.
    """
    known = {c.name: c for c in candidates(problem)}
    if name not in known:
        raise unknown(f"candidate for {problem.name!r}", name, known)
    cuts = evaluation.splits(problem)["time_ordered"]
    X, domain = problem.matrix(known[name].view), problem.dataset.domain
    given = answer(domain, known[name], X, problem.y, *cuts)
    return Tried(problem, known[name], {"time_ordered": given})


def answer(
    domain: Domain, candidate: Candidate, X: Matrix, y: Values, train: Rows, test: Rows
) -> Answers:
    """Fit a candidate on some rows and answer others."""
    fitted = fit(domain, candidate, X[train], y[train])
    if domain.task == "regression":
        with np.errstate(over="ignore"):  # a line drawn too far on the log scale; cut off below
            given: Answers = np.asarray(fitted.predict(X[test]), dtype=np.float64)
        return np.clip(given, domain.target.low, domain.target.high)
    shares = np.zeros((len(test), len(domain.target.levels)))
    shares[:, fitted.classes_.astype(int)] = fitted.predict_proba(X[test])
    return shares


def _mean(answers: list[Answers]) -> Answers:
    """Average a stack's members as the fitted stack does: quantities on their log scale."""
    if answers[0].ndim == 2:
        return np.asarray(np.mean(answers, axis=0))
    return np.asarray(np.expm1(np.mean(np.log1p(answers), axis=0)))


def _metrics(
    problem: Problem, predicted: Callable[[str], Values], *, has_origins: bool = True
) -> Scores:
    task, y = problem.dataset.domain.task, problem.y
    cuts = evaluation.splits(problem)

    def score(split: str, part: slice = slice(None)) -> dict[str, float]:
        rows = cuts[split][1][part]
        answers = {"observed": y[rows], "predicted": predicted(split)[part]}
        return evaluation.measure(task, pd.DataFrame(answers))

    if not has_origins:
        return {"random": score("random"), "time_ordered": score("time_ordered")}
    rolled = [score(f"origin {n}", evaluation.stretch(problem, n)) for n in range(len(ORIGINS))]
    mean = {name: float(np.mean([scores[name] for scores in rolled])) for name in rolled[0]}
    return {"random": score("random"), "rolling": mean, "time_ordered": score("time_ordered")}
