"""Work that is spread: the same results on every backend, each once, though workers die."""

import hashlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest
from distributed import LocalCluster

from smartcity import engine, settings
from smartcity.errors import EngineError, UsageError


def use(monkeypatch: pytest.MonkeyPatch, **values: object) -> None:
    for name, value in values.items():
        monkeypatch.setenv(f"SMARTCITY_{name.upper()}", str(value))
    settings.current.cache_clear()


@contextmanager
def cluster(workers: int, *, processes: bool = True) -> Iterator[LocalCluster]:
    made = LocalCluster(  # type: ignore[no-untyped-call]
        n_workers=workers,
        threads_per_worker=1,
        processes=processes,
        dashboard_address="127.0.0.1:0",
    )
    with made:
        yield made


@pytest.fixture(scope="module")
def two_workers() -> Iterator[str]:
    with cluster(2) as made:
        yield made.scheduler_address


def product(seed: int, size: int) -> str:
    """Multiply matrices: the last bits hang on how many threads do it."""
    numbers = np.random.default_rng(seed).normal(size=(size, size))
    return hashlib.sha256((numbers @ numbers.T).tobytes()).hexdigest()


def note(folder: Path, number: int, seconds: float) -> tuple[int, int]:
    """Leave a mark for each call, and say which process was at it."""
    (folder / f"{number}-{os.getpid()}-{time.monotonic_ns()}").touch()
    time.sleep(seconds)
    return number, os.getpid()


def die(number: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return number


def refuse(number: int) -> int:
    if number == 3:
        raise UsageError("number: 3 is not wanted; give another.")
    return number


TASKS = [(seed, 300) for seed in range(12)]


@pytest.mark.parametrize("backend", ["threading", "loky", "sequential"])
@pytest.mark.parametrize("jobs", [1, 2, 4])
def test_threads_and_processes_give_the_same(
    backend: str, jobs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, backend="sequential")
    expected = engine.each(product, TASKS, jobs=1)
    use(monkeypatch, backend=backend)

    assert engine.each(product, TASKS, jobs=jobs) == expected
    assert len(set(expected)) == len(TASKS)


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_a_cluster_gives_the_same(workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = engine.each(product, TASKS, jobs=1)
    with cluster(workers) as made:
        use(monkeypatch, scheduler=made.scheduler_address)

        assert engine.each(product, TASKS) == expected


def test_a_cluster_in_this_process_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = engine.each(product, TASKS, jobs=1)
    with cluster(2, processes=False) as made:
        use(monkeypatch, scheduler=made.scheduler_address)

        assert engine.each(product, TASKS) == expected


def kill_one(folder: Path, spare: int) -> tuple[engine.Progress, list[int]]:
    """Give a progress that kills a worker other than this process, once, and whom it killed."""
    killed: list[int] = []

    def progress(done: int, tasks: int) -> None:
        if not killed:
            for mark in sorted(folder.iterdir(), reverse=True):
                pid = int(mark.name.split("-")[1])
                if pid != spare:
                    killed.append(pid)
                    os.kill(pid, signal.SIGKILL)
                    return

    return progress, killed


def test_a_process_that_is_killed_costs_time_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, backend="loky")
    progress, killed = kill_one(tmp_path, os.getpid())
    tasks = [(tmp_path, number, 0.2) for number in range(10)]

    given = engine.each(note, tasks, jobs=2, progress=progress)

    assert killed
    assert [number for number, _ in given] == list(range(10))


def test_a_worker_of_a_cluster_that_is_killed_costs_time_only(
    tmp_path: Path, two_workers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, scheduler=two_workers)
    progress, killed = kill_one(tmp_path, os.getpid())
    tasks = [(tmp_path, number, 0.2) for number in range(10)]

    given = engine.each(note, tasks, progress=progress)

    assert killed
    assert [number for number, _ in given] == list(range(10))


def test_workers_that_die_again_and_again_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, backend="loky")

    with pytest.raises(EngineError, match=re.escape("3 times in a row after 0 of 2 tasks")):
        engine.each(die, [(1,), (2,)], jobs=2)


@pytest.mark.parametrize("backend", ["threading", "loky", "sequential"])
def test_what_a_call_raises_is_raised(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, backend=backend)

    with pytest.raises(UsageError, match="3 is not wanted"):
        engine.each(refuse, [(number,) for number in range(5)], jobs=2)


def test_a_cluster_says_what_a_call_raised(
    two_workers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, scheduler=two_workers)

    with pytest.raises(UsageError, match="3 is not wanted"):
        engine.each(refuse, [(number,) for number in range(5)])


def test_no_tasks_give_nothing() -> None:
    assert engine.each(product, []) == []


def test_progress_counts_every_task(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, backend="threading")
    told: list[tuple[int, int]] = []

    engine.each(product, TASKS, jobs=2, progress=lambda done, tasks: told.append((done, tasks)))

    assert told == [(number, len(TASKS)) for number in range(1, len(TASKS) + 1)]


def test_a_cluster_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_CONNECT_SECONDS", 0.5)
    use(monkeypatch, scheduler="tcp://127.0.0.1:9")

    with pytest.raises(UsageError, match=re.escape("SMARTCITY_SCHEDULER=tcp://127.0.0.1:9")):
        engine.each(product, TASKS, jobs=2)


def test_workers_with_other_code_are_refused(
    two_workers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, scheduler=two_workers)
    monkeypatch.setattr(engine, "__version__", "9.9.9")

    with pytest.raises(UsageError, match=re.escape("other code than version 9.9.9")):
        engine.each(product, TASKS)


def test_workers_without_our_code_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "smartcity.py").write_text("")  # what the worker finds first, from where it starts
    with cluster(0) as made, ExitStack() as stack:
        words = ["-m", "distributed.cli.dask_worker", made.scheduler_address, "--no-nanny"]
        worker = subprocess.Popen(
            [sys.executable, *words, "--no-dashboard"], cwd=tmp_path, stderr=subprocess.DEVNULL
        )
        stack.callback(worker.wait, 30)
        stack.callback(worker.terminate)
        made.wait_for_workers(1, timeout=60)
        use(monkeypatch, scheduler=made.scheduler_address)

        with pytest.raises(UsageError, match=re.escape("pip install 'smartcity[scale]'")):
            engine.each(product, TASKS)


@pytest.mark.parametrize("address", ["host:8786", "false", "tcp://"])
def test_an_address_that_is_none_is_refused(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, scheduler=address)

    with pytest.raises(UsageError, match="SMARTCITY_SCHEDULER"):
        settings.current()
