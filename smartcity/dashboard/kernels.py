"""Kernels forked from a process that has all they need: quick to start, small in memory."""

import asyncio
import ctypes
import gc
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

from jupyter_client.provisioning.local_provisioner import LocalProvisioner

from smartcity import domains, logs
from smartcity.errors import SmartCityError
from smartcity.predict import Predictors

log = logs.get(__name__)

_TOLD = tomllib.loads(Path(__file__).with_name("kernels.toml").read_text("utf-8"))
#: Of every kernel.
ENVIRONMENT: dict[str, str] = _TOLD["environment"]
#: What a fork server runs; by its module's name, for its children to find what it has opened.
_MAIN = f"import sys, {__name__} as kernels; kernels.main(int(sys.argv[1]), sys.argv[2])"
#: Number of prctl's request to be sent a signal when the process one was forked from ends.
_PR_SET_PDEATHSIG = 1

#: The models that are open in the fork server, and so in every kernel forked from it.
_warm: Predictors | None = None


def warm() -> Predictors | None:
    """Give the models that were open before this kernel was forked.

    Returns:
        None where no fork server made this kernel, as in JupyterLab.
    """
    return _warm


class _Forked:
    """A kernel's process, as the part of a ``Popen`` that a provisioner uses.

    It is known by a handle, which means this process whoever has its number by now. That it ended
    can be seen from here; how it did, only by its parent.
    """

    stdin = stdout = stderr = None

    def __init__(self, pid: int) -> None:
        self.pid, self._handle = pid, os.pidfd_open(pid)
        self.returncode: int | None = None

    def poll(self) -> int | None:
        self.send_signal(0)
        return self.returncode

    wait = poll

    def send_signal(self, signum: int) -> None:
        if self.returncode is None:
            try:
                signal.pidfd_send_signal(self._handle, signum)
            except ProcessLookupError:
                os.close(self._handle)
                self.returncode = 0


def _end(forked: asyncio.Task[_Forked]) -> None:
    if not forked.cancelled() and not forked.exception():
        forked.result().send_signal(signal.SIGKILL)


class ForkServer:
    """The process that kernels are forked from, seen from the dashboard's server.

    Attributes:
        current: The one of this process; without it kernels are started as everywhere else.
    """

    current: ClassVar["ForkServer | None"] = None
    _process: subprocess.Popen[bytes] | None = None
    _control: socket.socket

    def __init__(self, folder: str) -> None:
        """Make one known; it starts with the first kernel, and again should it have ended.

        Args:
            folder: Where sockets and connection files are; it goes when the dashboard ends.
        """
        self._folder = folder
        self._asking = asyncio.Lock()

    async def fork(self, file: str, cwd: str, env: Mapping[str, str]) -> _Forked:
        """Have a kernel forked.

        Args:
            file: Its connection file.
            cwd: The folder it works in.
            env: Its environment.

        Raises:
            OSError: It could not be.
        """
        asking = asyncio.create_task(self._ask(file=file, cwd=cwd, env=dict(env)))
        try:
            return await asyncio.shield(asking)
        except asyncio.CancelledError:  # the kernel that comes all the same is nobody's
            asking.add_done_callback(_end)
            raise

    async def _ask(self, **what: object) -> _Forked:
        async with self._asking:
            if self._process is None or self._process.poll() is not None:
                self._start()
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(self._control, json.dumps(what).encode() + b"\n")
            told = await loop.sock_recv(self._control, 2**16)
        if not told:
            raise OSError("the fork server ended")
        said = json.loads(told)
        if "failed" in said:
            raise OSError(said["failed"])
        return _Forked(said["pid"])

    def _start(self) -> None:
        if self._process:
            log.error("the kernels' fork server ended", code=self._process.returncode)
            self._control.close()
        self._control, theirs = socket.socketpair()
        self._control.setblocking(False)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _MAIN, str(theirs.fileno()), self._folder],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C is the dashboard's business
                env=os.environ | ENVIRONMENT | {"IPYTHONDIR": f"{self._folder}/ipython"},
            )

    def stop(self) -> None:
        """End it and all kernels, and remove the folder."""
        if self._process:
            self._control.close()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()


class ForkingProvisioner(LocalProvisioner):
    """Has kernels forked instead of started; in all else they are as any local kernel."""

    async def launch_kernel(self, cmd: list[str], **given: Any) -> Any:
        """Fork a kernel that takes the connection file already written."""
        if ForkServer.current is None:
            return await super().launch_kernel(cmd, **given)
        manager: Any = self.parent
        forked: Any = await ForkServer.current.fork(
            manager.connection_file, given["cwd"], given["env"]
        )
        self.process, self.pid = forked, forked.pid
        return self.connection_info


def main(control: int, folder: str) -> None:
    """Be the fork server, until the dashboard has ended.

    Args:
        control: The number of the socket it asks through, in lines of JSON.
        folder: What to remove then.
    """
    global _warm  # what ``warm`` gives, here and in every child
    import smartcity.dashboard  # noqa: F401  # as the notebook will

    logs.configure()
    _warm, app = Predictors(), _application()
    _open_models(_warm)
    ctypes.CDLL(None).malloc_trim(0)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how a kernel ended
    kernels: list[_Forked] = []
    with socket.socket(fileno=control) as asking, asking.makefile("rb") as lines:
        for line in lines:
            kernels = [kernel for kernel in kernels if kernel.poll() is None]
            said: dict[str, object]
            try:
                _open_models(_warm)
                kernels.append(_Forked(_fork(control, app, **json.loads(line))))
                said = {"pid": kernels[-1].pid}
            except Exception as error:  # this one kernel is lost, not all that are to come
                log.exception("a kernel could not be forked")
                said = {"failed": str(error)}
            asking.sendall(json.dumps(said).encode() + b"\n")
    for kernel in kernels:
        kernel.send_signal(signal.SIGKILL)
    with suppress(ChildProcessError):  # when the last has ended
        os.waitpid(-1, 0)
    shutil.rmtree(folder, ignore_errors=True)


def _fork(control: int, app: Any, *, file: str, cwd: str, env: dict[str, str]) -> int:
    """Fork a kernel and give its number; in the kernel, never come back."""
    parent = os.getpid()
    if pid := os.fork():
        return pid
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == parent:  # else it ended before it could be asked to take this one along
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.close(control)
            os.setsid()
            os.chdir(cwd)
            os.environ.clear()
            os.environ.update(env)
            app.connection_file = file
            app.initialize()
            app.start()
    except BaseException:
        log.exception("a kernel failed")
    finally:
        os._exit(1)  # what its parent would do at the end is not this process's to do


def _open_models(models: Predictors) -> None:
    """Open what is newly published, and keep the garbage collector off all that is shared."""
    for name in domains.load_all():
        with suppress(SmartCityError):  # the page says so itself
            models.get(name)
    gc.collect()
    gc.freeze()


def _application() -> Any:
    """Make ipykernel's application and its kernel, less what a page that is served never uses."""
    sys.modules["debugpy"] = None  # type: ignore[assignment]  # so it is not imported: 9 MB
    from ipykernel.ipkernel import IPythonKernel
    from ipykernel.kernelapp import IPKernelApp
    from traitlets.config import Config

    class Kernel(IPythonKernel):
        @classmethod
        def instance(cls, **given: Any) -> Any:
            """Make it before the fork; after the fork give it its sockets."""
            if not cls.initialized():
                return super().instance(**given)
            kernel: Any = super().instance()
            del given["user_ns"]
            for name, value in given.items():
                setattr(kernel, name, value)
            for shown in (kernel.shell.displayhook, kernel.shell.display_pub):
                shown.session, shown.pub_socket = kernel.session, kernel.iopub_socket
            return kernel

    class Served(IPKernelApp):
        def _skip(self, *_: object, **__: object) -> None:
            """Have no command line, no profile of anybody's, no debugger and no heartbeat."""

        parse_command_line = init_config_files = load_config_file = update_config = _skip
        init_pdb = init_heartbeat = init_gui_pylab = init_extensions = init_code = _skip

        def init_control(self, context: Any) -> None:
            super().init_control(context)
            self.shell_channel_thread = None  # it serves subshells, which the page has none of

    app = Served.instance(config=Config(_TOLD["config"]), kernel_class=Kernel, parent_handle=1)
    app.init_profile_dir()
    Kernel.instance(parent=app, log=app.log, profile_dir=app.profile_dir)
    return app
