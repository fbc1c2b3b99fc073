"""A page as PDF, printed by a Chromium where there is one, once all charts are drawn."""

import base64
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Timer
from typing import IO, Any

from smartcity import atomic

_NAMES = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "chrome",
    "microsoft-edge",
    "microsoft-edge-stable",
    "msedge",
)
_FLAGS = (
    "--headless",
    "--remote-debugging-pipe",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-sync",
    "--disable-component-update",
    "--disable-background-networking",
    "--disable-breakpad",
    "--host-resolver-rules=MAP * ~NOTFOUND",
)
# It listens on file 3 and speaks on file 4.
_PIPED = 'exec "$@" 3<&0 4>&1 0</dev/null 1>/dev/null'
#: CSS pixels the page is laid out in: more than A4 has, so that charts come out a little smaller.
_WIDTH = 800


class _NoAnswer(Exception):  # noqa: N818 it is told, not raised further
    """The browser did not do what it was asked."""


class _Browser:
    """A browser that is spoken to through its pipe, in the Chrome DevTools Protocol."""

    def __init__(self, said: IO[bytes], heard: IO[bytes]) -> None:
        """Speak into one end, listen at the other."""
        self._said, self._heard = said, heard
        self._rest, self._count = b"", 0
        self.session: dict[str, str] = {}

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Ask for something and wait for the answer; what else it tells is passed over."""
        self._count += 1
        asked = {"id": self._count, "method": method, "params": parameters} | self.session
        self._said.write(json.dumps(asked).encode() + b"\0")
        self._said.flush()
        while (answer := self._message()).get("id") != self._count:
            pass
        if "error" in answer:
            raise _NoAnswer(f"{method}: {answer['error'].get('message')}")
        return dict(answer["result"])

    def _message(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            more = os.read(self._heard.fileno(), 1 << 20)
            if not more:
                raise _NoAnswer("it ended before it answered")
            self._rest += more
        message, _, self._rest = self._rest.partition(b"\0")
        return dict(json.loads(message))


def find() -> str | None:
    """Name the browser that prints, if there is one."""
    return next(filter(None, map(shutil.which, _NAMES)), None)


def write(page: Path, target: Path, *, seconds: float = 60) -> str | None:
    """Print a page of ours into a PDF: A4, tagged, with an outline.

    The page is handed over as text: the browser opens no file and reaches no network, so that
    neither paths nor anything from elsewhere can get into the PDF.

    Args:
        page: The HTML file.
        target: The PDF to write; it appears whole.
        seconds: Longest it may take.

    Returns:
        None when it is made, else the reason in a sentence.

    Raises:
        StorageError: It cannot be written.
    """
    browser = find()
    if browser is None:
        return f"No PDF: none of {', '.join(_NAMES)} is on the PATH; install Chromium for one."
    try:
        with _started(browser, seconds) as started:
            content = _printed(started, page.read_text(encoding="utf-8"))
    except (OSError, _NoAnswer) as error:
        return (
            f"No PDF: {Path(browser).name} did not print the page: {error}. "
            f"See whether it starts by hand, or allow more than {seconds:g} s."
        )
    atomic.write(target, content)
    return None


@contextmanager
def _started(browser: str, seconds: float) -> Iterator[_Browser]:
    """Start a browser with a home of its own; when the time is up it ends, whatever it does."""
    with tempfile.TemporaryDirectory(prefix="smartcity-pdf-", ignore_cleanup_errors=True) as home:
        # Root is refused the sandbox; everybody else has it.
        flags = [*_FLAGS, f"--user-data-dir={home}", *["--no-sandbox"][: not os.geteuid()]]
        homes = dict.fromkeys(("HOME", "TMPDIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"), home)
        process = subprocess.Popen(
            ["sh", "-c", _PIPED, "sh", browser, *flags],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | homes,
            start_new_session=True,
        )
        assert process.stdin is not None  # noqa: S101 we asked for both
        assert process.stdout is not None  # noqa: S101

        def end() -> None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

        watch = Timer(seconds, end)
        watch.start()
        try:
            yield _Browser(process.stdin, process.stdout)
        finally:
            watch.cancel()
            end()  # its helpers too
            with suppress(BrokenPipeError), process:
                pass


def _printed(browser: _Browser, html: str) -> bytes:
    tab = browser.ask("Target.createTarget", url="about:blank")["targetId"]
    attached = browser.ask("Target.attachToTarget", targetId=tab, flatten=True)
    browser.session = {"sessionId": attached["sessionId"]}
    browser.ask(
        "Emulation.setDeviceMetricsOverride",
        width=_WIDTH,
        height=940,
        deviceScaleFactor=1,
        mobile=False,
    )
    light = {"name": "prefers-color-scheme", "value": "light"}
    browser.ask("Emulation.setEmulatedMedia", features=[light])
    frame = browser.ask("Page.getFrameTree")["frameTree"]["frame"]["id"]
    browser.ask("Page.setDocumentContent", frameId=frame, html=html)
    drawn = browser.ask(
        "Runtime.evaluate",
        expression="document.fonts.ready.then(() => window.smartcityDrawn)"
        ".then((all) => (all ?? []).find((one) => one.reason)?.reason.message ?? '')",
        awaitPromise=True,
    )
    if drawn["result"].get("value") != "":
        raise _NoAnswer(f"a chart was not drawn: {drawn['result'].get('value')}")
    printed = browser.ask(
        "Page.printToPDF",
        preferCSSPageSize=True,
        printBackground=True,
        generateTaggedPDF=True,
        generateDocumentOutline=True,
    )
    return base64.b64decode(printed["data"])
