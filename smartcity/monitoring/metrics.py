"""Metrics as Prometheus reads them: requests, answers, cache, models, live accuracy, machine."""

import math
import os
import time
from collections import Counter as Tally
from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path

import psutil
from prometheus_client import (
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    multiprocess,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from smartcity import domains, logs, settings
from smartcity.errors import SmartCityError

log = logs.get(__name__)

_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
#: Folder through which several workers add up; prometheus-client reads the same variable.
SHARED = "PROMETHEUS_MULTIPROC_DIR"
#: Seconds a question to the database is answered from memory.
_FRESH = 15.0
#: Days that answers are looked back on with ranges.
_DAYS = 30
#: Seconds the database is waited for.
_PATIENCE = 2.0
#: After a question that took longer than that, this many times as long nothing is asked.
_REST = 20
#: Routes by which others look after us: no requests anybody waits for.
_PROBES = ("/health", "/metrics")
_BESIDE = ThreadPoolExecutor(1, "accuracy")

REQUESTS = Counter("smartcity_requests", "Requests answered", ["route", "method", "status"])
SECONDS = Histogram("smartcity_request_seconds", "Time to an answer", ["route"], buckets=_BUCKETS)
PREDICTIONS = Counter("smartcity_predictions", "Rows answered", ["domain"])
LATENCY = Histogram(
    "smartcity_prediction_seconds", "Time in the model", ["domain"], buckets=_BUCKETS
)
HITS = Counter("smartcity_cache_hits", "Rows answered from memory", ["domain"])
MISSES = Counter("smartcity_cache_misses", "Rows a model had to be asked", ["domain"])
LOADING = Gauge(
    "smartcity_model_load_seconds",
    "Time to open the version served",
    ["domain"],
    multiprocess_mode="mostrecent",
)
REFUSED = Counter("smartcity_spool_refused", "Answers withheld as they could not be kept")


def exposition() -> bytes:
    """Give everything in Prometheus's text format, all workers added up."""
    registry: CollectorRegistry = REGISTRY
    if SHARED in os.environ:
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry) + generate_latest(_machine)


class _Machine(Collector):
    """What is read when asked for: the machine, the spool, and how answers turned out."""

    def __init__(self) -> None:
        self._accuracy: list[Metric] = []
        self._asked, self._pause = -_FRESH, 0.0
        self._asking: Future[tuple[list[Metric], float]] | None = None

    def collect(self) -> Iterator[Metric]:
        known = settings.current()
        memory, traffic = psutil.virtual_memory(), psutil.net_io_counters()
        disk = psutil.disk_usage(str(_existing(known.state)))
        spool = known.state / "spool"
        yield _gauge("cpu_percent", "Processors in use, all of them", psutil.cpu_percent(0.1))
        yield _gauge("memory_used_bytes", "Memory in use", memory.total - memory.available)
        yield _gauge("memory_total_bytes", "Memory there is", memory.total)
        yield _gauge("process_memory_bytes", "Memory of the API's processes", _own_memory())
        yield _gauge("disk_used_bytes", "Disk in use, where answers are kept", disk.used)
        yield _gauge("disk_total_bytes", "Disk there is", disk.total)
        yield _counter("network_received_bytes", "Received", traffic.bytes_recv)
        yield _counter("network_sent_bytes", "Sent", traffic.bytes_sent)
        yield _gauge("spool_bytes", "Answers waiting for the database", _bytes_in(spool))
        quarantined = _bytes_in(spool / "quarantine")
        yield _gauge("spool_quarantine_bytes", "Answers the database refused", quarantined)
        yield from self._live()

    def _live(self) -> list[Metric]:
        """Give how answers turned out, as last known where the database takes its time."""
        if self._asking is None and time.monotonic() - self._asked > max(_FRESH, self._pause):
            self._asked, self._asking = time.monotonic(), _BESIDE.submit(_timed)
        if self._asking:
            with suppress(TimeoutError):
                self._accuracy, seconds = self._asking.result(timeout=_PATIENCE)
                self._pause = seconds * _REST if seconds > _PATIENCE else 0.0
                self._asking = None
        return self._accuracy


def _timed() -> tuple[list[Metric], float]:
    """Ask how answers turned out, and say how long it took; nothing while it is not known."""
    started = time.monotonic()
    try:
        found = _accuracy()
    except SmartCityError as error:
        log.warning("live accuracy unknown", error=str(error))
        found = []
    return found, time.monotonic() - started


def _accuracy() -> list[Metric]:
    """Tell how answers turned out, from what was observed afterwards."""
    from smartcity.store import answers

    known = answers.live_accuracy()
    about = "How answers turned out, where the truth was sent"
    family = GaugeMetricFamily("smartcity_live_accuracy", about, labels=["domain", "measure"])
    main = {name: known[name] for name in known if domains.apart(name)[1] == domains.MAIN}
    for domain, measures in main.items():  # labels do not grow with the sites
        for measure, value in measures.items():
            family.add_metric([domain, measure], float(value))
    return [family, _recent(), *_alarms()]


def _recent() -> Metric:
    """Tell the same of the last days alone, by version and part, with ranges; and its yardstick.

    Only a version that is served is worth an alarm, and an error only beside the card's.
    """
    from smartcity.monitoring import accuracy

    about = f"How answers of the last {_DAYS} days turned out, with 95 % ranges"
    family = GaugeMetricFamily(
        "smartcity_live_recent", about, labels=["domain", "version", "part", "measure"]
    )
    since = datetime.now(UTC) - timedelta(days=_DAYS)
    for name, domain in domains.load_all().items():
        for group in accuracy.look(domain, "month", since, observed=True).groups:
            told = accuracy.flat(group.overall) | {"served": float(group.served)}
            if card := group.verdict.before:
                high = card.value if card.high is None else card.high
                told |= {"card_error": card.value, "card_error_high": high}
            for measure, value in told.items():
                family.add_metric([name, group.version, group.part, measure], value)
    return family


def _alarms() -> Iterator[Metric]:
    """Count the alarms that go on; every kind and state is told, as none is news too."""
    from smartcity.store import alarms

    now, looked = datetime.now(UTC), alarms.looked_at()
    going_on = Tally((a.domain, a.kind, a.state(now)) for a in alarms.listed())
    family = GaugeMetricFamily(
        "smartcity_alarms", "Alarms that go on", labels=["domain", "kind", "state"]
    )
    for key in product(domains.load_all(), alarms.KINDS, alarms.STATES):
        family.add_metric(key, going_on[key])
    yield family
    if looked:
        about = "When alarms were last looked for, in seconds since 1970"
        yield GaugeMetricFamily("smartcity_alarms_looked_seconds", about, value=looked.timestamp())


def _gauge(name: str, about: str, value: float) -> Metric:
    return GaugeMetricFamily(f"smartcity_{name}", about, value=float(value))


def _counter(name: str, about: str, value: float) -> Metric:
    return CounterMetricFamily(f"smartcity_{name}", about, value=float(value))


def _existing(path: Path) -> Path:
    return next(folder for folder in (path, *path.parents) if folder.exists())


def _bytes_in(folder: Path) -> int:
    return sum(_sizes(folder.glob("*.jsonl")))


def _sizes(files: Iterable[Path]) -> Iterator[int]:
    for file in files:
        try:
            yield file.stat().st_size
        except FileNotFoundError:
            continue  # imported meanwhile


def _own_memory() -> int:
    """Add up the memory of this server: its workers too, where there are several."""
    process = psutil.Process(os.getppid() if SHARED in os.environ else os.getpid())
    total = 0
    for each in [process, *process.children(recursive=True)]:
        try:
            total += each.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


_machine = CollectorRegistry(auto_describe=False)
_machine.register(_Machine())


@dataclass(frozen=True)
class Figure:
    """One metric for a person to read.

    Attributes:
        name: What it is.
        value: In ``unit``; None while nobody has measured it.
        unit: Its unit.
        note: What is counted, or why there is no value.
        domain: Of which question, where each has its own.
    """

    name: str
    value: float | None
    unit: str
    note: str
    domain: str | None = None


def read(text: str) -> list[Figure]:
    """Read what ``exposition`` wrote, here or in another process.

    Args:
        text: Prometheus's text format.

    Returns:
        The specification's twelve metrics in its order; response time and network have two rows,
        those of models one for each domain.

    Raises:
        SmartCityError: The text is no whole exposition of ours.
    """
    try:
        told = _Told(text)
        figures = [*_of_requests(told), *_of_machine(told)]
        for of_models in (_latency, _live, _loading, _alarmed):
            figures += [of_models(told, name) for name in domains.load_all()]
    except (ValueError, KeyError, AttributeError) as error:
        raise SmartCityError(f"These are not SmartCity's metrics, or not all: {error!r}") from None
    spared = _ratio(told.total("cache_hits_total"), told.total("predictions_total"), 100)
    about = "of all rows answered, in batches too, no model had to be asked for"
    return [*figures, Figure("Cache efficiency", spared, "%", about)]


class _Told:
    """The samples of an exposition, but for the requests of those who look after us."""

    def __init__(self, text: str) -> None:
        families = list(text_string_to_metric_families(text))
        self.families = {family.name for family in families}
        self._samples = [
            (sample.name.removeprefix("smartcity_"), sample.labels, sample.value)
            for family in families
            for sample in family.samples
            if math.isfinite(sample.value)
            and not sample.labels.get("route", "").startswith(_PROBES)
        ]

    def total(self, name: str, **labels: str) -> float | None:
        """Add up the samples of a name and some labels; None if there are none."""
        values = [v for n, own, v in self._samples if n == name and labels.items() <= own.items()]
        return sum(values) if values else None

    def now(self, name: str) -> float:
        """Give what is always there; KeyError if it is not."""
        if (value := self.total(name)) is None:
            raise KeyError(name)
        return value

    def by(self, name: str, label: str) -> dict[str, float]:
        """Add up the samples of a name, for each value of a label."""
        sums: dict[str, float] = defaultdict(float)
        for n, labels, value in self._samples:
            if n == name:
                sums[labels[label]] += value
        return sums


def _ratio(part: float | None, whole: float | None, scale: float) -> float | None:
    return scale * part / whole if part is not None and whole else None


def _quantile(told: _Told, name: str, share: float) -> float | None:
    """Estimate a quantile as Prometheus does: evenly spread within a bucket, never beyond them."""
    counts = {float(edge): count for edge, count in told.by(f"{name}_bucket", "le").items()}
    rank = share * counts.get(math.inf, 0.0)
    low = below = 0.0
    for high, count in sorted(counts.items()):
        if count >= rank > 0:
            step = (rank - below) / (count - below)
            return low if math.isinf(high) else low + (high - low) * step
        low, below = high, count
    return None


def _of_requests(told: _Told) -> Iterator[Figure]:
    count, by_status = told.total("requests_total"), told.by("requests_total", "status")
    first = {status: sum(v for s, v in by_status.items() if s[:1] == status) for status in "45"}
    refused = _ratio(first["4"], count, 100) or 0.0
    mean = _ratio(told.total("request_seconds_sum"), told.total("request_seconds_count"), 1000)
    p99 = _quantile(told, "request_seconds", 0.99)
    hits, misses = told.total("cache_hits_total"), told.total("cache_misses_total")
    since = "since the API started, but for health checks and metrics"
    yield Figure("Request count", count, "requests", since)
    yield Figure("Response time, mean", mean, "ms", "until the answer went out")
    about = "99 of 100 answers took no longer; estimated from a histogram"
    yield Figure("Response time, p99", None if p99 is None else 1000 * p99, "ms", about)
    about = f"our own errors (5xx); {refused:.1f} % were refused (4xx)" if count else "5xx"
    yield Figure("Error rate", _ratio(first["5"], count, 100), "%", about)
    looked_up = None if hits is None or misses is None else hits + misses
    about = "of the rows looked up in memory were there"
    yield Figure("Cache hit rate", _ratio(hits, looked_up, 100), "%", about)


def _of_machine(told: _Told) -> Iterator[Figure]:
    yield Figure("CPU", told.now("cpu_percent"), "%", "of all processors, over a tenth of a second")
    for name in ("memory", "disk"):
        used, total = told.now(f"{name}_used_bytes"), told.now(f"{name}_total_bytes")
        about = f"{used / 1e9:.1f} of {total / 1e9:.1f} GB in use"
        if name == "memory":
            about += f"; the API itself {told.now('process_memory_bytes') / 1e6:.0f} MB"
        yield Figure(name.capitalize(), _ratio(used, total, 100), "%", about)
    for way, name in (("in", "received"), ("out", "sent")):
        megabytes = told.now(f"network_{name}_bytes_total") / 1e6
        yield Figure(f"Network {way}", megabytes, "MB", "since the machine started")


def _latency(told: _Told, domain: str) -> Figure:
    seconds = told.total("prediction_seconds_sum", domain=domain)
    mean = _ratio(seconds, told.total("predictions_total", domain=domain), 1000)
    return Figure("Prediction latency", mean, "ms", "mean of a row, in batches too", domain)


def _live(told: _Told, domain: str) -> Figure:
    """Read how answers turned out: share of right ones, or mean absolute error."""
    found = {
        measure: told.total("live_accuracy", domain=domain, measure=measure)
        for measure in ("observed", "accuracy", "mae")
    }
    target = domains.load(domain).target
    value, unit = (found["mae"], target.unit) if not target.levels else (found["accuracy"], "%")
    if value is None:
        known = "smartcity_live_accuracy" in told.families
        why = "no observation was sent yet" if known else "the database has not answered"
        return Figure("Live accuracy", None, unit, why, domain)
    about = f"of {found['observed'] or 0:.0f} answers whose truth was sent"
    if target.levels:
        return Figure("Live accuracy", 100 * value, unit, f"right, {about}", domain)
    return Figure("Live accuracy", value, unit, f"mean absolute error {about}", domain)


def _loading(told: _Told, domain: str) -> Figure:
    seconds = told.total("model_load_seconds", domain=domain)
    about = "to open the version served"
    return Figure("Model load time", _ratio(seconds, 1, 1000), "ms", about, domain)


def _alarmed(told: _Told, domain: str) -> Figure:
    new, seen, silenced = (
        told.total("alarms", domain=domain, state=state)
        for state in ("new", "acknowledged", "silenced")
    )
    if new is None:
        return Figure("Alarms", None, "new", "the database has not answered", domain)
    about = f"beside them seen by somebody: {seen or 0:.0f}; silenced: {silenced or 0:.0f}"
    return Figure("Alarms", new, "new", about, domain)
