"""Serve the prediction notebook as a page: Voila, quick, counted, and nothing beside the page."""

import asyncio
import gzip
import json
import logging
import mimetypes
import os
import re
import sys
import tempfile
import time
import tomllib
from collections.abc import Awaitable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache, partial
from http import HTTPStatus
from pathlib import Path
from typing import Any

import plotly
from jupyter_core.utils import run_sync
from jupyter_server.auth.identity import PasswordIdentityProvider, User
from jupyter_server.auth.login import LoginFormHandler
from jupyter_server.base.handlers import JupyterHandler
from jupyter_server.services.kernels.connection.channels import ZMQChannelsWebsocketConnection
from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager
from jupyter_server.services.kernels.websocket import KernelWebsocketHandler
from tornado import web
from tornado.escape import url_escape
from tornado.ioloop import PeriodicCallback
from tornado.websocket import WebSocketClosedError
from traitlets import default
from traitlets.config import Config
from voila.app import Voila

from smartcity import logs, settings
from smartcity.dashboard import html, kernels, snapshot
from smartcity.errors import UsageError

log = logs.get(__name__)

_SHARE = Path(__file__).parent / "share"
#: Pages made ready ahead of visitors.
_POOL = 3
#: Seconds a visitor's kernel lives without a connection: the first time, and after one was lost.
_UNSEEN, _LEFT = 20.0, 6.0
#: Seconds a kernel lives whose visitor does nothing.
_IDLE = 1800.0
#: What widgets say to their kernel, and what it says to them. Whatever else either side may say
#: (run this, here is a traceback) stays out.
_ASKED = ["comm_msg", "comm_close", "comm_info_request", "kernel_info_request"]
_TOLD = {"status", "comm_open", "comm_msg", "comm_close", "comm_info_reply", "kernel_info_reply"}
#: Largest message from a browser: a file of 20 MB and what is around it.
_MESSAGE_BYTES = 32 * 2**20
_HEADERS = tomllib.loads(Path(__file__).with_name("headers.toml").read_text("utf-8"))


@dataclass
class _Visit:
    """A kernel somebody has, who they are, and when they were last heard of."""

    user: str
    heard: float = field(default_factory=time.monotonic)
    sockets: set["_Channels"] = field(default_factory=set)
    has_connected: bool = False

    def is_over(self) -> bool:
        """Tell whether it is time to end it."""
        patience = _IDLE if self.sockets else _LEFT if self.has_connected else _UNSEEN
        return time.monotonic() - self.heard > patience


class _Sessions(AsyncMappingKernelManager):
    """Kernels: made ready ahead by Voila, given to visitors, counted, ended when nobody looks."""

    # Of Voila's subclass, which keeps the pages made ready.
    _pools: dict[str, list[asyncio.Task[Any]]]
    notebook_path: str
    notebook_data: dict[str, Any]
    fill_if_needed: Any

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.visits: dict[str, _Visit] = {}
        self._coming = 0
        self._ending: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._published = _stamps()
        self._watch = PeriodicCallback(self._look_after, 1000)
        self._watch.start()

    @property
    def count(self) -> int:
        """Visitors that have a kernel, and those about to."""
        return len(self.visits) + self._coming

    async def visit(self, user: str) -> str | None:
        """Give a visitor the page, with a kernel of its own; None if there is none to be had."""
        if self.count >= settings.current().dashboard_sessions:
            return None
        self._coming += 1  # before anything is waited for: many come at once
        try:
            for _ in range(_POOL + 1):  # should all that were ready have been in vain
                if page := await self._take(user):
                    return page
            return None
        finally:
            self._coming -= 1

    async def _take(self, user: str) -> str | None:
        """Take one of the pages made ready; None if that one is of no use."""
        if not self._pools[self.notebook_path]:
            self.fill_if_needed(delay=0, notebook_name=self.notebook_path)
        kernel_id, page = await self._opened(self._pools[self.notebook_path].pop(0))
        self.fill_if_needed(notebook_name=self.notebook_path)
        if page and kernel_id in self and await self.is_alive(kernel_id):
            self.visits[kernel_id] = _Visit(user)
            log.info("session began", sessions=len(self.visits))
            return page
        await self.end(kernel_id)
        return None

    async def _opened(self, ready: Awaitable[dict[str, Any]]) -> tuple[str, str]:
        """Wait for a page: its kernel and its HTML, either empty if it came to nothing."""
        kernel_id = ""
        try:
            made = await ready
            kernel_id = made["kernel_id"]
            pieces, _ = await made["task"]
        except Exception:  # whatever it is, the visitor is told politely and the log in full
            log.exception("page could not be made")
            return kernel_id, ""
        cells = made["renderer"].executor.nb.cells  # Voila has logged what failed in them
        has_failed = any(o.output_type == "error" for c in cells for o in c.get("outputs", ()))
        return kernel_id, "" if has_failed else "".join(pieces)

    async def end(self, kernel_id: str) -> None:
        """End a kernel, and tell its page."""
        if visit := self.visits.pop(kernel_id, None):
            log.info("session ended", sessions=len(self.visits))
            for socket in list(visit.sockets):
                socket.say_dead()
        for data in self.notebook_data.values():
            data["kernel_ids"].discard(kernel_id)
        if kernel_id in self and kernel_id not in self._ending:
            self._ending.add(kernel_id)
            try:
                await super().shutdown_kernel(kernel_id, now=True)
            finally:
                self._ending.remove(kernel_id)

    async def _look_after(self) -> None:
        """End what is over, and make pages anew when what they show is, or when one was lost."""
        alive = {k: await self.is_alive(k) for k in self.list_kernel_ids()}
        dead = [k for k, lives in alive.items() if not lives and k not in self._ending]
        over = [k for k, visit in self.visits.items() if visit.is_over()]
        before, self._published = self._published, _stamps()
        if before != self._published or any(k not in self.visits for k in dead):
            self._begin(self._renew())
        for kernel_id in {*dead, *over}:
            self._begin(self.end(kernel_id))

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something without waiting for it."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _renew(self) -> None:
        """Make the pages anew that wait for visitors."""
        old, self._pools[self.notebook_path] = self._pools[self.notebook_path], []
        self.fill_if_needed(delay=0, notebook_name=self.notebook_path)
        for ready in old:
            await self.end((await self._opened(ready))[0])


def _stamps() -> list[tuple[str, int]]:
    """Tell when models or reports last changed."""
    known = settings.current()
    watched = [*known.models.glob("*/CURRENT"), *(known.reports / "runs").glob("*/*")]
    stamps = []
    shown = (path for path in watched if "@" not in path.name + path.parent.name)  # main sites
    for path in shown:
        with suppress(OSError):
            stamps.append((str(path), path.stat().st_mtime_ns))
    return stamps


class _Wire(ZMQChannelsWebsocketConnection):
    """Lets pass what widgets and their kernel say to each other, and nothing else."""

    def create_stream(self) -> None:
        """Connect to what widgets use; the other channels are for running code and debugging."""
        super().create_stream()
        for name in ("control", "stdin"):
            self.channels.pop(name).close()

    def handle_outgoing_message(self, stream: Any, outgoing_msg: Any) -> None:
        """Send a message on if it is one of widgets; what went wrong goes to the log."""
        parts: Any = self.session.feed_identities(outgoing_msg)[1]
        kind = json.loads(parts[1])["msg_type"]
        if kind in _TOLD:
            super().handle_outgoing_message(stream, outgoing_msg)
        elif kind == "error":
            log.error("page failed", traceback="\n".join(json.loads(parts[4])["traceback"]))


class _Visitors(PasswordIdentityProvider):
    """Who knows the token, if there is one; else anybody, without a cookie."""

    allow_password_change = False

    def get_user(self, handler: web.RequestHandler) -> Any:
        """Give the user, or None if they have to sign in."""
        return super().get_user(handler) if self.token else User("anybody")


class _Answer(web.RequestHandler):
    """Says in every answer what a browser may do with it, and never more than is good to know."""

    policy: str = _HEADERS["policy"]["page"]

    def set_default_headers(self) -> None:
        """Send the headers that keep a page to itself."""
        for name, value in _HEADERS["always"].items():
            self.set_header(name, value)
        host = re.sub(r"[^\w.:\[\]-]", "", self.request.host)
        self.set_header("Content-Security-Policy", self.policy.format(host=host))

    def write_error(self, status_code: int, **_: Any) -> None:
        """Tell what happened in words; the log tells the rest."""
        said = {
            403: "The page did not learn who you are. Open it where you sign in.",
            404: "There is no such page here.",
        }
        text = said.get(status_code, "That did not work. Try again in a moment.")
        self.finish(html.written("notice", None, HTTPStatus(status_code).phrase, text))

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        """Log what went wrong, without the address: a token may stand in it."""
        if not isinstance(value, web.HTTPError) or value.status_code >= 500:
            log.error("request failed", path=self.request.path, exc_info=(typ, value, tb))

    async def send_file(self, folder: Path, name: str) -> None:
        """Send a file that lies in a folder, zipped where the browser takes it so."""
        path = _inside(folder, name)
        kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        is_text = kind.startswith("text/") or kind.endswith(("json", "javascript", "svg+xml"))
        self.set_header("Content-Type", f"{kind}; charset=utf-8" if is_text else kind)
        self.set_header("Vary", "Accept-Encoding")
        if is_text and "gzip" in self.request.headers.get("Accept-Encoding", ""):
            self.set_header("Content-Encoding", "gzip")
            self.finish(await asyncio.to_thread(_zipped, path, path.stat().st_mtime_ns))
        else:
            self.finish(await asyncio.to_thread(path.read_bytes))


def _inside(folder: Path, name: str) -> Path:
    """Give a file's path, if it is there and in the folder."""
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()) or not path.is_file():
        raise web.HTTPError(404)
    return path


@lru_cache(maxsize=32)
def _zipped(path: Path, _changed: int) -> bytes:
    """Give a file zipped, which is done once."""
    return gzip.compress(path.read_bytes(), 6)


class _Guarded(_Answer, JupyterHandler):
    """For those only who signed in here, or whom the proxy in front named."""

    @property
    def visitor(self) -> str:
        """Who the proxy says this is."""
        header = settings.current().dashboard_user_header
        return self.request.headers.get(header, "") if header else ""

    def own(self, kernel_id: str, otherwise: int) -> _Visit:
        """Give the visit that a kernel is for, if it is this visitor's; else fail with a status."""
        visit: _Visit | None = self.settings["kernel_manager"].visits.get(kernel_id)
        if visit is None or visit.user != self.visitor:
            raise web.HTTPError(otherwise)
        return visit

    async def prepare(self, **given: Any) -> Any:
        """Let nobody in without a name, where a proxy gives names."""
        if settings.current().dashboard_user_header and not self.visitor:
            raise web.HTTPError(403)
        return await super().prepare(**given)


class _Page(_Guarded):
    """The page itself. Only this takes a kernel, and only when it is really fetched."""

    @web.authenticated
    async def get(self) -> None:
        """Give a visitor the page, or say politely that there is no room."""
        self.set_header("Cache-Control", "no-store")
        if self.get_query_argument("token", None) is not None:
            self.redirect(self.base_url)  # the cookie knows it now; the address need not
            return
        page = await self.settings["kernel_manager"].visit(self.visitor)
        if page is None:
            self.set_status(503)
            self.set_header("Retry-After", str(snapshot.RETRY_SECONDS))
        self.finish(page or snapshot.busy_page(self.request.headers.get("Accept-Language", "")))

    @web.authenticated
    def head(self) -> None:
        """Answer who only asks whether the page is there."""


class _Channels(_Guarded, KernelWebsocketHandler):
    """The wire between a page and the kernel it came with."""

    async def pre_get(self) -> None:
        """Let a page reach its own kernel only, while it has one."""
        self.visit = self.own(self.kernel_id, otherwise=404)
        if not await self.settings["kernel_manager"].is_alive(self.kernel_id):
            raise web.HTTPError(404)
        await super().pre_get()

    async def open(self, kernel_id: str) -> None:
        """Note that somebody looks."""
        self._heard()
        self.visit.sockets.add(self)
        self.visit.has_connected = True
        await super().open(kernel_id)

    def on_message(self, ws_message: Any) -> None:
        """Note that somebody does something."""
        self._heard()
        super().on_message(ws_message)

    def on_close(self) -> None:
        """Note that nobody looks."""
        self._heard()
        self.visit.sockets.discard(self)
        super().on_close()

    def say_dead(self) -> None:
        """Tell the page that its kernel is gone, and hang up."""
        with suppress(WebSocketClosedError):
            self.connection._send_status_message("dead")  # noqa: SLF001
        self.close(1001)

    def _heard(self) -> None:
        self.visit.heard = time.monotonic()


class _Kernel(_Guarded):
    """Tells a page that lost its connection whether it is worth trying again."""

    @web.authenticated
    def get(self, kernel_id: str) -> None:
        """Say that a kernel lives, or that it is gone."""
        self.own(kernel_id, otherwise=410)
        self.finish({"id": kernel_id, "name": "python3"})


class _Static(_Answer):
    """The page's scripts and styles."""

    def initialize(self, folder: Path) -> None:
        """Know where they are."""
        self.folder = folder

    async def get(self, name: str) -> None:
        """Send one; for good where the address says which version."""
        kept = "public, max-age=31536000, immutable"
        has_version = self.get_query_argument("v", None) is not None
        self.set_header("Cache-Control", kept if has_version else "no-cache")
        await self.send_file(self.folder, name)

    head = get


class _Report(_Guarded):
    """Files of the reports' runs."""

    policy = _HEADERS["policy"]["report"]

    @web.authenticated
    async def get(self, notebook: str | None, name: str) -> None:
        """Send one; a report's own unless the address names another notebook."""
        self.set_header("Cache-Control", "private, no-cache")
        await self.send_file(settings.current().reports / "runs" / (notebook or "05_report"), name)

    head = get


class _Health(_Answer):
    """Whether the dashboard answers, and how full it is; this takes no kernel."""

    def get(self) -> None:
        """Tell."""
        count, most = self.settings["kernel_manager"].count, settings.current().dashboard_sessions
        self.set_header("Cache-Control", "no-store")
        self.finish({"status": "ok" if count < most else "full", "sessions": count, "most": most})

    head = get


class _Login(_Guarded, LoginFormHandler):
    """Asks for the token."""

    def _render(self, message: Any = None) -> None:
        after = url_escape(self.get_argument("next", self.base_url))
        form = html.written("login", None, self.base_url, after, self.xsrf_form_html())
        text = "That is not the token." if message else "This page is for those who know its token."
        self.finish(html.written("notice", None, "SmartCity", text, form))


class _Missing(_Answer):
    """Everything else."""

    def prepare(self) -> None:
        """Say that it is not here."""
        raise web.HTTPError(404)


class _Dashboard(Voila):
    """Voila, less everything but the page."""

    @default("log")
    def _log_default(self) -> logging.Logger:
        return logging.getLogger("voila")

    def init_settings(self) -> dict[str, Any]:
        """Set what Voila has no options for."""
        known: dict[str, Any] = super().init_settings()
        self.kernel_manager.allowed_message_types = _ASKED
        return known | {
            "compress_response": True,
            "default_handler_class": _Missing,
            # Without what follows a "?": a token may stand there.
            "log_function": lambda h: log.debug(h.request.path, status=h.get_status()),
            "websocket_max_message_size": _MESSAGE_BYTES,
        }

    def init_handlers(self) -> list[Any]:
        """Serve the page, its wire, its files and the reports: nothing else."""
        # Nobody sends more than a token, except over the wire.
        self.app.listen = partial(self.app.listen, max_body_size=2**16, body_timeout=30)
        base = re.escape(self.base_url)
        kernel = r"api/kernels/([\w-]{36})"
        static, own = r"(?:smartcity|voila/templates/smartcity)/static/(.+)", snapshot.STATIC
        library = Path(plotly.__file__).parent / "package_data"
        report = r"(?:(06_monitor)/)?(\w+/[\w-]+/[\w.-]+\.(?:html|pdf|csv|json|ipynb))"
        handlers: list[Any] = [
            (base, _Page),
            (rf"{base}{kernel}", _Kernel),
            (rf"{base}{kernel}/channels", _Channels),
            (rf"{base}smartcity/health", _Health),
            (rf"{base}{static}", _Static, {"folder": own}),
            (rf"{base}smartcity/(plotly\.min\.js)", _Static, {"folder": library}),
            (rf"{base}smartcity/reports/{report}", _Report),
        ]
        return handlers + ([(rf"{base}login", _Login)] if self.token else [])

    def stop(self) -> None:
        """End all kernels."""
        if kernels.ForkServer.current:
            kernels.ForkServer.current.stop()
        else:
            run_sync(self.kernel_manager.shutdown_all)(now=True)


def _config(folder: str) -> Config:
    """Say what Voila is to do: always the same, and what the settings say."""
    known = settings.current()
    config = Config(tomllib.loads(Path(__file__).with_name("voila.toml").read_text("utf-8")))
    config.Voila.ip = known.host
    config.Voila.port = known.dashboard_port
    config.Voila.base_url = known.dashboard_base_url
    config.Voila.connection_dir_root = folder
    config.Voila.token = known.dashboard_token.get_secret_value() if known.dashboard_token else ""
    config.Voila.identity_provider_class = _Visitors
    config.Voila.kernel_websocket_connection_class = _Wire
    config.VoilaConfiguration.multi_kernel_manager_class = _Sessions
    config.VoilaConfiguration.default_pool_size = _POOL
    if sys.platform == "linux":
        config.KernelProvisionerFactory.default_provisioner_name = "smartcity-forking"
        # A socket's path may have 107 characters; a kernel's id takes 65 of them.
        config.KernelManager.transport = "ipc" if len(folder) <= 40 else "tcp"
    return config


def serve() -> None:
    """Serve the page until stopped.

    Raises:
        UsageError: A token is set, and empty.
        SystemExit: The port is taken.
    """
    known = settings.current()
    if known.dashboard_token and not known.dashboard_token.get_secret_value():
        raise UsageError("SMARTCITY_DASHBOARD_TOKEN is empty: set a token, or leave it out.")
    os.environ.pop("SMARTCITY_DASHBOARD_TOKEN", None)  # kernels need not know it
    os.environ.update(kernels.ENVIRONMENT)
    os.environ["SMARTCITY_PAGE"] = known.dashboard_base_url  # where the reports' files are
    os.environ["JUPYTER_PATH"] = os.pathsep.join(
        [str(_SHARE), *filter(None, [os.environ.get("JUPYTER_PATH")])]
    )
    logs.configure(console=sys.stdout)
    for name in ("voila", "tornado.general"):  # they warn of every notebook and every connection
        logging.getLogger(name).setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory("", "smartcity-page-", None, True) as folder:
        if sys.platform == "linux":
            kernels.ForkServer.current = kernels.ForkServer(folder)
        _Dashboard.launch_instance(
            argv=[str(known.notebooks / "04_predict.ipynb")], config=_config(folder)
        )
