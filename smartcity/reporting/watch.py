"""Look for alarms: in the readings of every site, and in how the answers turned out."""

from collections.abc import Sequence
from datetime import datetime

from smartcity import data, domains, engine, logs
from smartcity.domains import MAIN
from smartcity.errors import DataError, SmartCityError
from smartcity.monitoring import accuracy, drift
from smartcity.monitoring import alarms as worth
from smartcity.reporting import index
from smartcity.store import alarms
from smartcity.store.alarms import Alarm, Noticed

log = logs.get(__name__)

#: So many sites are looked at before workers would have started.
_FEW = 8


def look(now: datetime, names: Sequence[str] = ()) -> list[Alarm]:
    """Look for alarms and note them.

    Args:
        now: The time.
        names: Domains to look at; all if empty.

    Returns:
        Those nobody knew of; silenced ones apart.

    Raises:
        DatabaseError: The database is out of reach.
    """
    wanted = [domains.load(name) for name in names] or list(domains.load_all().values())
    tasks = [(domain.name, site) for domain in wanted for site in data.present(domain)]
    seen = engine.each(sensors, tasks, jobs=1 if len(tasks) <= _FEW else None)
    fresh = []
    for (name, site), found in zip(tasks, seen, strict=True):
        if found is None:
            continue  # what is not read is not known to be over either
        models: list[Noticed] = []
        unsure: set[str] = set()
        if site == MAIN:  # answers are not told apart by site
            models, unsure = worth.of_models(accuracy.look(domains.load(name)))
        fresh += alarms.note(name, site, [*found, *models], now, unsure)
    for alarm in fresh:
        about = {"id": alarm.id, "domain": alarm.domain, "site": alarm.site}
        log.warning("alarm", **about, subject=alarm.subject, kind=alarm.kind, said=alarm.said)
    show()
    return fresh


def sensors(name: str, site: str) -> list[Noticed] | None:
    """Give the alarms about the sensors of one site; None if its readings cannot be read."""
    domain = domains.load(name)
    try:
        return worth.of_sensors(domain, drift.watch(domain, data.read(name, site).frame))
    except DataError as error:
        log.warning("readings not watched", domain=name, site=site, error=str(error))
        return None


def show() -> None:
    """Bring the index up to date, which lists what goes on."""
    try:
        index.write()
    except SmartCityError as error:  # the alarms are noted all the same
        log.warning("index not written", error=str(error))
