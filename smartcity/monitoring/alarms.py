"""What of sensors and models is worth an alarm now."""

from collections.abc import Sequence

from smartcity.domains import Domain
from smartcity.monitoring import drift
from smartcity.monitoring.accuracy import Accuracy
from smartcity.monitoring.drift import Event
from smartcity.store.alarms import Noticed

#: Kind of an alarm about a model; those about sensors are ``drift.Kind``.
MODEL = "model"
#: Of these a model would learn nothing but the fault.
NO_READINGS = frozenset({"stuck", "bursts", "silent", "outage"})


def of_sensors(domain: Domain, events: Sequence[Event]) -> list[Noticed]:
    """Give an alarm for each sensor that does something unusual now.

    Args:
        domain: Whose sensors.
        events: What was noticed; see ``drift.watch``.
    """
    return [
        Noticed(alarm.sensor, alarm.kind, f"{alarm.since:%Y-%m-%dT%H:%M}", f"{said}.", advice)
        for event in events
        for advice in [drift.advice(domain, event)]
        for alarm, said in zip(event.alarms, drift.sentences(domain, event), strict=True)
        if alarm.until is None
    ]


def of_models(found: Accuracy) -> tuple[list[Noticed], set[str]]:
    """Give an alarm for each part of the served version that is not as good as promised.

    Args:
        found: How its answers turned out.

    Returns:
        The alarms, and the subjects of which too little was observed to say.
    """
    wrong, unsure = [], set()
    for group in (group for group in found.groups if group.served):
        subject, verdict = f"{group.version} {group.part}", group.verdict
        if verdict.wrong:
            said, _, advice = verdict.wrong.rpartition(" See what")
            wrong.append(Noticed(subject, MODEL, str(verdict.since), said, f"See what{advice}"))
        elif verdict.intervals == "too few to tell":
            unsure.add(subject)
    return wrong, unsure
