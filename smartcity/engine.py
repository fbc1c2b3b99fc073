"""The same done to many things side by side: on threads, on processes, or on a Dask cluster.

Everything that is spread goes through ``each``. Whichever the backend and however many its workers,
results are the same, come in the order of the tasks, and each once; a worker that dies costs time.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, CancelledError
from contextlib import contextmanager
from typing import Any, TypeVar

import joblib
from threadpoolctl import threadpool_limits

from smartcity import __version__, logs, settings
from smartcity.errors import EngineError, UsageError

log = logs.get(__name__)
Result = TypeVar("Result")
Progress = Callable[[int, int], None]

#: Times in a row that workers may die without one more task done.
_DEATHS = 3
_CONNECT_SECONDS = 20


def each(
    work: Callable[..., Result],
    tasks: Sequence[tuple[Any, ...]],
    *,
    jobs: int | None = None,
    progress: Progress = lambda done, tasks: None,
    in_threads: bool = False,
) -> list[Result]:
    """Do some work on each of many tasks.

    Args:
        work: A function of a module; it may be called again for a task whose worker died, so what
            it writes has to be the same the second time.
        tasks: Arguments of each call. The longest first, so that no worker waits for a late one;
            large arrays as arguments of their own, so that they travel once.
        jobs: Calls at the same time; the setting if left out. A cluster uses all it has, and does
            not serve for one.
        progress: Called with (tasks done, tasks in all), in this thread.
        in_threads: The work is done elsewhere, as in kernels: on one machine, threads wait for it.

    Returns:
        What each call gave, in order.

    Raises:
        UsageError: There is no such cluster, or the package for it is not installed.
        EngineError: Workers die again and again.
        Exception: What a call raised; no further ones are started.
    """
    done: list[Result] = []
    deaths = 0
    known = settings.current()
    jobs = min(jobs or (len(tasks) if known.scheduler else known.jobs), len(tasks))
    with _backend(jobs, in_threads=in_threads) as lost, threadpool_limits(1):
        while len(done) < len(tasks):
            before = len(done)
            left = [joblib.delayed(_alone)(os.getpid(), work, *task) for task in tasks[before:]]
            try:
                for result in joblib.Parallel(return_as="generator")(left):
                    done.append(result)
                    progress(len(done), len(tasks))
            except lost as error:
                deaths = 1 if len(done) > before else deaths + 1
                log.warning("worker lost", done=len(done), tasks=len(tasks), error=str(error))
                if deaths == _DEATHS:
                    raise EngineError(
                        f"Workers died {deaths} times in a row after {len(done)} of {len(tasks)} "
                        "tasks. Is there too little memory? Let fewer work at the same time "
                        "(SMARTCITY_JOBS), then run the same command again."
                    ) from error
    return done


def _alone(caller: int, work: Callable[..., Result], *task: Any) -> Result:
    """Work on one thread, as all cores have work: more would wait for each other, and round."""
    if os.getpid() != caller:  # the caller's own threads are limited by it
        threadpool_limits(1)
    # Dask would let the work spread its own parts again, and add them up as they come.
    with joblib.parallel_config("sequential"):
        return work(*task)


@contextmanager
def _backend(jobs: int, *, in_threads: bool) -> Iterator[tuple[type[Exception], ...]]:
    """Make joblib use what the settings name; give what it raises when a worker dies."""
    known = settings.current()
    if jobs < 2 or not known.scheduler:
        name = "threading" if in_threads else known.backend
        name = "sequential" if jobs < 2 else name
        with joblib.parallel_config(name, n_jobs=jobs):
            yield (BrokenExecutor,)
        return
    try:
        import distributed
    except ImportError:
        raise UsageError(
            "SMARTCITY_SCHEDULER is set, and Dask is not installed: pip install 'smartcity[scale]'"
        ) from None
    try:
        client = distributed.Client(  # type: ignore[no-untyped-call]
            known.scheduler, timeout=_CONNECT_SECONDS, set_as_default=False
        )
    except (OSError, ValueError) as error:
        raise UsageError(
            f"SMARTCITY_SCHEDULER={known.scheduler}: no scheduler answers there ({error}). Start "
            "one with `dask scheduler`, or unset the variable to work on this machine alone."
        ) from None
    with client:
        _require_same_code(client)
        with joblib.parallel_config("dask", client=client, wait_for_workers_timeout=60):
            yield (distributed.KilledWorker, CancelledError)


def _require_same_code(client: Any) -> None:
    """Refuse workers with another version of this package: results would depend on which works."""
    versions = client.run(_version, on_error="return")  # an error where it lacks the package
    others = {f"{at} has {version}" for at, version in versions.items() if version != __version__}
    if others:
        told = ", ".join(sorted(others))
        raise UsageError(
            f"Workers run other code than version {__version__} here: {told}. Install the same "
            "everywhere: pip install 'smartcity[scale]'"
        )


def _version() -> str:
    return __version__
