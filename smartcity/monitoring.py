"""Metrics as Prometheus reads them: requests, answers, cache, models, live accuracy, machine."""

import os
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
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
from prometheus_client.registry import Collector

from smartcity import logs, settings
from smartcity.errors import SmartCityError

log = logs.get(__name__)

_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
#: Folder through which several workers add up; prometheus-client reads the same variable.
SHARED = "PROMETHEUS_MULTIPROC_DIR"
#: Seconds a question to the database is answered from memory.
_FRESH = 15.0
#: Seconds the database is waited for.
_PATIENCE = 2.0
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
        self._asked = -_FRESH
        self._asking: Future[list[Metric]] | None = None

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
        if self._asking is None and time.monotonic() - self._asked > _FRESH:
            self._asked, self._asking = time.monotonic(), _BESIDE.submit(_accuracy)
        if self._asking:
            with suppress(TimeoutError):
                self._accuracy = self._asking.result(timeout=_PATIENCE)
                self._asking = None
        return self._accuracy


def _accuracy() -> list[Metric]:
    """Ask how answers turned out, from what was observed afterwards; none while it is not known."""
    from smartcity.store import answers

    try:
        known = answers.live_accuracy()
    except SmartCityError as error:
        log.warning("live accuracy unknown", error=str(error))
        return []
    about = "How answers turned out, where the truth was sent"
    family = GaugeMetricFamily("smartcity_live_accuracy", about, labels=["domain", "measure"])
    for domain, measures in known.items():
        for measure, value in measures.items():
            family.add_metric([domain, measure], float(value))
    return [family]


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
