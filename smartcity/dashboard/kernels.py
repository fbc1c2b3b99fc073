"""Kernels forked from a process that has all they need: quick to start, small in memory."""

import asyncio
import ctypes
import gc
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, ClassVar

from jupyter_client.provisioning.local_provisioner import LocalProvisioner

from smartcity import domains, logs
from smartcity.errors import SmartCityError
from smartcity.predict import Predictors

log = logs.get(__name__)

#: Of every kernel. One thread each: many people look at the same few processors, and a fork copies
#: one thread only. onnxruntime would start another, to tell its makers what it is used for.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "1",
    "ORT_DISABLE_TELEMETRY": "1",
    "JUPYTER_WIDGETS_ECHO": "0",
}
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
    """A kernel's process, as the part of a ``Popen`` that a provisioner uses."""

    stdin = stdout = stderr = None

    def __init__(self, server: "ForkServer", pid: int) -> None:
        self.server, self.pid = server, pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        return self.returncode

    wait = poll

    def send_signal(self, signum: int) -> None:
        # By way of its parent, which knows whether this number still means this process.
        if self.returncode is None:
            self.server.tell(pid=self.pid, signum=signum)


class ForkServer:
    """The process that kernels are forked from, seen from the dashboard's server.

    Attributes:
        current: The one of this process; without it kernels are started as everywhere else.
    """

    current: ClassVar["ForkServer | None"] = None

    def __init__(self, folder: str) -> None:
        """Make one known; it starts with the first kernel, and again should it have ended.

        Args:
            folder: Where sockets and connection files are; it goes when the dashboard ends.
        """
        self._folder = folder
        self._starting = asyncio.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._listening: asyncio.Task[None] | None = None
        self._awaited: list[asyncio.Future[_Forked]] = []
        self._running: dict[int, _Forked] = {}

    async def fork(self, file: str, cwd: str, env: Mapping[str, str]) -> _Forked:
        """Have a kernel forked.

        Args:
            file: Its connection file.
            cwd: The folder it works in.
            env: Its environment.

        Raises:
            OSError: It could not be.
        """
        async with self._starting:
            if self._writer is None:
                await self._start()
        awaited: asyncio.Future[_Forked] = asyncio.get_running_loop().create_future()
        self._awaited.append(awaited)
        self.tell(file=file, cwd=cwd, env=dict(env))
        return await awaited

    def tell(self, **what: object) -> None:
        """Tell the fork server something; in vain if it has ended, and its kernels with it."""
        if self._writer:
            self._writer.write(json.dumps(what).encode() + b"\n")

    async def _start(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(  # noqa: ASYNC220  # a few milliseconds, once
                [sys.executable, "-c", _MAIN, str(theirs.fileno()), self._folder],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C is the dashboard's business
                env=os.environ | ENVIRONMENT | {"IPYTHONDIR": f"{self._folder}/ipython"},
            )
        reader, self._writer = await asyncio.open_unix_connection(sock=ours)
        self._listening = asyncio.create_task(self._listen(reader, self._process))

    async def _listen(self, reader: asyncio.StreamReader, process: subprocess.Popen[bytes]) -> None:
        """Note which kernels began and ended, until the fork server ends and all with it."""
        with suppress(ConnectionError):
            while line := await reader.readline():
                self._note(**json.loads(line))
        # All at once: what is waited for next may already be of another fork server.
        if self._writer:
            self._writer.close()
            self._writer = None
        for pid in list(self._running):
            self._note(ended=pid, code=-signal.SIGKILL)
        while self._awaited:
            self._note(failed="the fork server ended")
        log.error("the kernels' fork server ended", code=await asyncio.to_thread(process.wait))

    def _note(self, *, ended: int = 0, code: int = 0, pid: int = 0, failed: str = "") -> None:
        if ended:
            self._running.pop(ended).returncode = code
            return
        awaited = self._awaited.pop(0)
        forked = _Forked(self, pid)
        if pid:
            self._running[pid] = forked
        if awaited.cancelled():
            forked.send_signal(signal.SIGKILL)
        elif failed:
            awaited.set_exception(OSError(failed))
        else:
            awaited.set_result(forked)

    def stop(self) -> None:
        """End it and all kernels, and remove the folder."""
        if self._process and self._writer:
            self._writer.get_extra_info("socket").shutdown(socket.SHUT_RDWR)
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
        control: The number of the socket it asks through.
        folder: What to remove then.
    """
    logs.configure()
    with socket.socket(fileno=control) as asking:
        _Forking(asking).run()
    shutil.rmtree(folder, ignore_errors=True)


class _Forking:
    """The fork server: forks whenever asked, says what became of it, ends with the dashboard."""

    def __init__(self, control: socket.socket) -> None:
        """Make all ready that kernels share.

        Args:
            control: Where the dashboard asks, in lines of JSON.
        """
        global _warm  # noqa: PLW0603  # what ``warm`` gives, here and in every child
        import smartcity.dashboard  # noqa: F401  # as the notebook will

        self.control = control
        self.bell, self.ringing = socket.socketpair()
        self.ringing.setblocking(False)
        signal.set_wakeup_fd(self.ringing.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # heard as a byte, for ``select``
        self.running: set[int] = set()
        self.models = _warm = Predictors()
        self.app = _application()
        _open_models(self.models)
        ctypes.CDLL(None).malloc_trim(0)

    def run(self) -> None:
        """Fork until the dashboard has ended."""
        unread = b""
        while True:
            ready, _, _ = select.select([self.control, self.bell], [], [])
            if self.bell in ready:
                self.bell.recv(4096)
                self._reap()
            if self.control in ready:
                if not (received := self.control.recv(2**16)):
                    break
                *lines, unread = (unread + received).split(b"\n")
                for line in lines:
                    self._do(**json.loads(line))
        signal.set_wakeup_fd(-1)
        for pid in self.running:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)

    def _say(self, **what: object) -> None:
        self.control.sendall(json.dumps(what).encode() + b"\n")

    def _reap(self) -> None:
        while self.running and (ended := os.waitpid(-1, os.WNOHANG))[0]:
            self.running.remove(ended[0])
            self._say(ended=ended[0], code=os.waitstatus_to_exitcode(ended[1]))

    def _do(self, *, signum: int | None = None, pid: int = 0, **asked: Any) -> None:
        if signum is None:
            try:
                pid = self._fork(**asked)
            except Exception as error:  # this one kernel is lost, not all that are to come
                log.exception("a kernel could not be forked")
                self._say(failed=str(error))
            else:
                self.running.add(pid)
                self._say(pid=pid)
        elif pid in self.running:
            os.kill(pid, signum)

    def _fork(self, **asked: Any) -> int:
        """Fork a kernel, with all that is published open."""
        _open_models(self.models)
        parent = os.getpid()
        if pid := os.fork():
            return pid
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for own in (self.control, self.bell, self.ringing):
                own.close()
            _be_kernel(self.app, parent, **asked)
        except BaseException:
            log.exception("a kernel failed")
        finally:
            os._exit(1)  # what its parent would do at the end is not this process's to do


def _be_kernel(app: Any, parent: int, file: str, cwd: str, env: dict[str, str]) -> None:
    """Go on as a kernel."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return  # it ended before it could be asked to take this one with it
    os.setsid()
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    app.connection_file = file
    app.initialize()
    app.start()


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

    config = Config()
    config.HistoryManager.enabled = False
    config.IPCompleter.use_jedi = False
    config.InteractiveShell.cache_size = 0
    config.IPKernelApp.capture_fd_output = False
    app = Served.instance(config=config, kernel_class=Kernel, parent_handle=1)
    app.init_profile_dir()
    Kernel.instance(parent=app, log=app.log, profile_dir=app.profile_dir)
    return app
