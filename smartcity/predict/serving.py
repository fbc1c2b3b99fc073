"""Every domain's predictor while the servers run: follows what is served, keeps the last good."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from smartcity import domains, logs, registry
from smartcity.errors import ModelError
from smartcity.predict.predictor import Predictor

log = logs.get(__name__)

#: Sites whose models are kept open; who was asked longest ago goes first.
MOST_SITES = 64


@dataclass
class Predictors:
    """Every domain's predictor; follows ``CURRENT`` while running and keeps the last good model.

    Attributes:
        folder: Where models live; the setting by default.
        errors: Domain -> why its current version is not the one being served.
        opened: Told each domain and the seconds its version took to open.
    """

    folder: Path | None = None
    errors: dict[str, str] = field(default_factory=dict)
    opened: Callable[[str, float], object] = lambda *_: None
    _open: dict[str, Predictor] = field(default_factory=dict)
    _refused: dict[str, tuple[str, int]] = field(default_factory=dict)
    _sites: OrderedDict[tuple[str, str], Predictor] = field(default_factory=OrderedDict)
    _opening: threading.Lock = field(default_factory=threading.Lock)

    def get(self, name: str) -> Predictor:
        """Give the predictor of a domain, the newly published one if there is one.

        A version that does not open is reported in ``errors``; the one served before it stays, and
        at a cold start the newest older version that opens is served.

        Raises:
            UsageError: There is no such domain.
            ModelError: No version of it can be served.
        """
        domain = domains.load(name).name
        try:
            wanted = registry.current(domain, self.folder)
            self._follow(domain, wanted)
        except ModelError as error:
            self.errors[domain] = str(error)
        if domain not in self._open:
            raise ModelError(self.errors[domain])
        return self._open[domain]

    def ready(self, domain: str) -> Predictor:
        """Give what is open without looking for anything newer; ``follow`` does that.

        Raises:
            ModelError: No version of it can be served.
        """
        try:
            return self._open[domain]
        except KeyError:
            raise ModelError(self.errors.get(domain, f"{domain}: starting; try again.")) from None

    def of_site(self, domain: str, site: str) -> Predictor:
        """Give who answers for a site: its own model, else that of all sites; opened when asked.

        Where a version does not open, the one before it stays.

        Raises:
            UsageError: There is no such domain or site.
            ModelError: No model of it can be served.
        """
        known = domains.load(domain)
        domains.require_site(known, site)
        if site == domains.MAIN:
            return self.ready(known.name)
        name, version = registry.answering(known.name, site, "", self.folder)
        with self._opening:
            found = self._sites.get((known.name, site))
            if found is None or (found.card.name, found.card.version) != (name, version):
                try:
                    found = Predictor(known, self._model(name, version), site)
                except ModelError as error:
                    if found is None:
                        raise
                    log.warning("model refused", domain=name, version=version, error=str(error))
                self._sites[known.name, site] = found
            self._sites.move_to_end((known.name, site))
            while len(self._sites) > MOST_SITES:
                self._sites.popitem(last=False)
        return found

    def _model(self, name: str, version: str) -> registry.Model:
        """Open a version, once for all the sites it answers."""
        for other in self._sites.values():
            if (other.card.name, other.card.version) == (name, version):
                return other.opened
        return registry.load(name, version, self.folder)

    def follow(self, stop: threading.Event, every: float = 0.25) -> None:
        """Open what is newly published, until stopped; those who ask meanwhile need not wait.

        Args:
            stop: Set to end.
            every: Seconds between two looks.
        """
        while True:
            for name in domains.load_all():
                try:
                    self.get(name)
                except ModelError:
                    continue  # noted in ``errors``; it may be published later
                except Exception:  # a fault in one version must not end the watch over all
                    log.exception("could not look for a new version", domain=name)
            if stop.wait(every):
                return

    def _follow(self, domain: str, wanted: str) -> None:
        """Open the wanted version unless it is open, or was refused and has not changed since."""
        serving = self._open.get(domain)
        if serving and serving.card.version == wanted:
            self.errors.pop(domain, None)
            return
        stamp = registry.stamp(domain, wanted, self.folder)
        if self._refused.get(domain) == (wanted, stamp):
            return
        self._refused[domain] = (wanted, stamp)
        self.errors.pop(domain, None)
        older = [] if serving else registry.before(domain, wanted, self.folder)
        for version in [wanted, *reversed(older)]:
            started = time.perf_counter()
            try:
                self._open[domain] = Predictor.load(domain, version, self.folder)
            except ModelError as error:
                self.errors.setdefault(domain, str(error))
                log.warning("model refused", domain=domain, version=version, error=str(error))
            else:
                self.opened(domain, time.perf_counter() - started)
                return
