"""What a monitoring report states: what the sensors do, whether answers suffer, what to do."""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any, cast

import pandas as pd

from smartcity import features
from smartcity.domains import Domain
from smartcity.errors import ModelError
from smartcity.monitoring import accuracy, drift
from smartcity.monitoring.drift import Alarm, Event
from smartcity.predict import Predictor
from smartcity.store.database import DatabaseError

Facts = dict[str, Any]


def _plain(told: Facts) -> Facts:
    """Give values as JSON has them; times and days as ISO 8601, read easily."""
    return cast("Facts", json.loads(json.dumps(told, default=str)))


def events(domain: Domain, found: Sequence[Event], since: pd.Timestamp) -> list[Facts]:
    """Tell events in plain values.

    Args:
        domain: Whose sensors.
        found: What was noticed; see ``drift.watch``.
        since: What was over before is left out.

    Returns:
        For each its ``Event``, with ``until``, ``said`` (a sentence for each alarm) and ``advice``.
    """
    told = []
    for event in [e for e in found if e.until is None or e.until >= since]:
        said = {"said": drift.sentences(domain, event), "advice": drift.advice(domain, event)}
        told.append(_plain(asdict(event) | {"until": event.until} | said))
    return told


def ongoing(found: Sequence[Event]) -> list[Alarm]:
    """Give the alarms that go on, the strongest first; of equals the newest."""
    alarms = [alarm for event in found for alarm in event.alarms if alarm.until is None]
    return sorted(alarms, key=lambda alarm: (alarm.strength, alarm.since), reverse=True)


def answers(domain: Domain, known: str = "") -> Facts:
    """Say how the served model's answers turned out.

    Args:
        domain: The question.
        known: What this gave before, as JSON: a notebook run knows no secret, so its kernel may
            not reach the database. The database is asked if empty.

    Returns:
        ``models``: the ``accuracy.Group`` of each part that answered, without its windows;
        ``wrong``: what is not right; ``said``: all of it in a few words.
    """
    if known:
        return cast("Facts", json.loads(known))
    try:
        groups = [group for group in accuracy.look(domain).groups if group.served]
    except DatabaseError:
        said = "how the model's answers turned out is not known, as the database cannot be read"
        return {"models": [], "wrong": [], "said": said}
    wrong = [group.verdict.wrong for group in groups if group.verdict.wrong]
    said = "too few answers were observed to judge the model"
    if wrong:
        said = "the model's answers are not as good as promised"
    elif any(group.verdict.intervals == "hold" for group in groups):
        said = "the model's answers are as good as promised"
    elif not any(group.overall.observed for group in groups):
        said = "nothing was observed yet to judge the model by"
    models = [asdict(replace(group, windows=())) for group in groups]
    return _plain({"models": models, "wrong": wrong, "said": said})


def shown(figure: Facts | None) -> str:
    """Write a figure of ``answers`` with its range."""
    return accuracy.shown(accuracy.Ranged(**figure), ".3g") if figure else "–"


def effects(
    domain: Domain, version: str, readings: pd.DataFrame, found: Sequence[Event]
) -> list[Facts]:
    """Work out what shifts that go on change: answers as read, and with each shift taken out.

    The part that needs no recent readings answers.

    Args:
        domain: The question.
        version: Of the model; the served one if empty.
        readings: Clean rows, of the last day.
        found: What was noticed.

    Returns:
        For each shift of an input ``sensor``, ``sentence``, ``moved`` (how far answers move on
        average; classes, in levels; None without a model) and ``half``, the mean half-width of
        their intervals, None for classes.
    """
    inputs = {spec.name: spec for spec in domain.inputs}
    needed = [name for name, spec in inputs.items() if name in readings and not spec.optional]
    whole = readings.dropna(subset=needed)
    read_at_all = {name for name in inputs if name in whole and whole[name].notna().any()}
    shifts = [a for a in ongoing(found) if a.size is not None and a.sensor in read_at_all]
    if not shifts:
        return []
    try:
        predictor = Predictor.load(domain.name, version or None)
    except ModelError:
        unknown = "is not known, as no model is served."
        return [
            {
                "sensor": alarm.sensor,
                "sentence": f"What {said} {unknown}",
                "moved": None,
                "half": None,
            }
            for alarm in shifts
            for said in [f"the shift of {inputs[alarm.sensor].label} changes"]
        ]
    at = whole["recorded_at"].to_numpy("datetime64[s]")

    def ask(frame: pd.DataFrame) -> Any:  # what ``score`` gives
        columns = {str(name): frame[name].to_numpy(float) for name in frame if name in inputs}
        return predictor.score(features.matrix(domain, columns, recorded_at=at), at)

    told, read = [], ask(whole)
    for alarm in shifts:
        spec, values, half = inputs[alarm.sensor], whole[alarm.sensor], None
        # A share where zero is none at all; where it is arbitrary, an amount.
        right = values / (1 + (alarm.size or 0)) if spec.low >= 0 else values - (alarm.amount or 0)
        change = abs(ask(whole.assign(**{spec.name: right})).values - read.values)  # noqa: PD011
        said = f"{(change > 0).mean():.0%} of the last day's answers would be another class."
        if read.low is not None and read.high is not None:
            half, unit = float((read.high - read.low).mean()) / 2, domain.target.unit
            said = f"the last day's answers would differ by {change.mean():.3g} {unit} on average, "
            said += f"where their intervals reach {half:.3g} {unit} to either side."
        said = f"Without the shift of {spec.label}, {said}"
        moved = {"moved": float(change.mean()), "half": half}
        told.append({"sensor": spec.name, "sentence": said, **moved})
    return told


def todo(domain: Domain, told: Sequence[Facts], answered: Facts) -> list[str]:
    """List what is to be done: the sensors first, as a model learns their faults; or nothing.

    Args:
        domain: The question.
        told: Its ``events``.
        answered: Its ``answers``.
    """
    advice = [event["advice"] for event in told if event["until"] is None]
    if answered["wrong"]:
        when = "Once the sensors are right, retrain" if advice else "No sensor explains it: retrain"
        advice.append(f"{when}: `smartcity run 02_train --domain {domain.name}`")
    return advice or ["Nothing."]


def sentence(domain: Domain, days: int, found: Sequence[Event], answered: Facts) -> str:
    """Say in one sentence how sensors and model do.

    Args:
        domain: The question.
        days: How many days of readings there are.
        found: What was noticed.
        answered: Its ``answers``.
    """
    said = "No sensor does anything unusual"
    if ill := len({name for alarm in ongoing(found) for name in (alarm.sensor, *alarm.others)}):
        said = f"Sensors that need a look: {ill} of {len(drift.sensors(domain))}"
    elif days <= drift.LEAST_DAYS:
        said = "Too few readings to watch the sensors yet"
    return f"{said}; {answered['said']}."
