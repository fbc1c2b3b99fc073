"""Kernels of notebook runs: forked from a process that has imported what notebooks import.

Every kernel takes two to three seconds to start and import; forked ones take a tenth of that.
None is given the secrets this process may know.
"""

import atexit
import multiprocessing
import os
import re
import signal
import sys
import threading
from collections.abc import Mapping
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType
from typing import Any

from jupyter_client.provisioning.local_provisioner import LocalProvisioner
from pydantic import SecretStr

from smartcity import settings

#: Imported once, by the process kernels are forked from.
_SHARED = ["ipykernel.kernelapp", "smartcity.cli", "smartcity.charts", "smartcity.modelling"]
_SHARED += ["smartcity.predict", "smartcity.reporting"]
_STARTING = threading.Lock()
_SECRET = re.compile(
    r"secret|token|passw|credential|private|(api|access|account)_?key|dsn$|database_url|redis_url",
    re.IGNORECASE,
)


def secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """Give what of an environment no notebook is to see: its variables whose names say so."""
    known = settings.Settings.model_fields.items()
    ours = {f"SMARTCITY_{n.upper()}" for n, f in known if SecretStr in _kinds(f.annotation)}
    return {k: v for k, v in environment.items() if v and (k in ours or _SECRET.search(k))}


def _kinds(annotation: Any) -> tuple[Any, ...]:
    return (annotation, *getattr(annotation, "__args__", ()))


class _Forked:
    """A kernel's process, as the part of a ``Popen`` that a provisioner uses."""

    stdin = stdout = stderr = None

    def __init__(self, process: BaseProcess) -> None:
        self.process, self.pid = process, process.pid

    def poll(self) -> int | None:
        return self.process.exitcode

    wait = poll  # it is called when the process has ended

    def send_signal(self, signum: int) -> None:
        if self.pid and self.poll() is None:
            os.kill(self.pid, signum)


class ReportProvisioner(LocalProvisioner):
    """Starts kernels without secrets, and forks them where that can be done."""

    async def launch_kernel(self, cmd: list[str], **given: Any) -> Any:
        """Start a kernel that takes the connection file already written."""
        hidden = secrets(given["env"])
        env = {name: value for name, value in given["env"].items() if name not in hidden}
        if sys.platform != "linux":
            return await super().launch_kernel(cmd, **given | {"env": env})
        words = cmd[cmd.index("-f") :]
        kernel = _warm().Process(target=_be_kernel, args=(words, str(Path.cwd()), env))
        _start(kernel)
        self.process: Any = _Forked(kernel)
        self.pid = self.pgid = kernel.pid  # the kernel leads a group: its workers go with it
        return self.connection_info


def _warm() -> ForkServerContext:
    """Give the context whose processes are forked from one that has imported all that is shared."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_SHARED)
    return context


def warm() -> None:
    """Begin to import what kernels share, in the process they are forked from; at once done."""
    if sys.platform == "linux":
        _warm()
        with _STARTING:
            forkserver.ensure_running()


def _start(process: BaseProcess) -> None:
    """Start a process that does not import the script we were called from.

    ``multiprocessing`` would have it do so, to find what is defined there; a script without
    ``if __name__ == "__main__"`` would run once more in every kernel.
    """
    with _STARTING:
        script = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            process.start()
        finally:
            sys.modules["__main__"] = script


def _end_with_parent() -> None:
    """End this kernel and its workers when the process that asked for it is gone, killed or not."""
    if parent := multiprocessing.parent_process():
        parent.join()
        os.killpg(0, signal.SIGKILL)


def _be_kernel(words: list[str], cwd: str, env: dict[str, str]) -> None:
    """Go on as a kernel, until told to end or until who asked for it is gone."""
    os.setsid()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    settings.current.cache_clear()
    from ipykernel.kernelapp import IPKernelApp

    try:
        IPKernelApp.launch_instance(argv=words)
    finally:
        # multiprocessing's children end without it, and joblib's workers would leave files behind.
        atexit._run_exitfuncs()  # noqa: SLF001
