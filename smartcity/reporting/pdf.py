"""A page as PDF, printed by a Chromium where there is one, once all charts are drawn."""

import os
import re
import shutil
import signal
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

from smartcity import atomic

#: Browsers that print, by the names of their programs; the first that is there does.
_NAMES = "chromium chromium-browser google-chrome google-chrome-stable chrome microsoft-edge"
_NAMES += " microsoft-edge-stable msedge"
#: The window is wider than A4 in CSS pixels, so that charts come out a little smaller.
_FLAGS = """
    --headless --window-size=800,940 --no-pdf-header-footer --generate-pdf-document-outline
    --no-first-run --no-default-browser-check --disable-gpu --disable-dev-shm-usage
    --disable-extensions --disable-sync --disable-component-update --disable-breakpad
    --disable-background-networking --enable-logging=stderr
"""
#: Put into the page: it loads nothing from anywhere, and its links lead to no place of this disk.
_FENCE = """<base href="about:blank"><meta http-equiv="Content-Security-Policy" content="
default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:">"""
#: Put behind it: it says in the browser's log that all is drawn, or why not.
_TELLS = """<script>(window.smartcityDrawn ?? Promise.resolve([])).then((all) =>
console.log(`drawn(${all.find((one) => one.reason)?.reason.message ?? ""})`))</script>"""


class _NotPrintedError(Exception):
    """The browser did not do what it was asked."""


def find() -> str | None:
    """Name the browser that prints, if there is one."""
    return next(filter(None, map(shutil.which, _NAMES.split())), None)


def write(page: Path, target: Path, *, seconds: float = 60) -> str | None:
    """Print a page of ours into a PDF: A4, tagged, with an outline.

    The browser opens a copy that may load nothing and reaches no network, so that neither paths nor
    anything from elsewhere can get into the PDF.

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
        names = ", ".join(_NAMES.split())
        return f"No PDF: none of {names} is on the PATH; install Chromium for one."
    try:
        content = _printed(browser, page.read_text(encoding="utf-8"), seconds)
    except (OSError, _NotPrintedError) as error:
        return (
            f"No PDF: {Path(browser).name} did not print the page: {error}. "
            f"See whether it starts by hand, or allow more than {seconds:g} s."
        )
    atomic.write(target, content)
    return None


def _printed(browser: str, text: str, seconds: float) -> bytes:
    """Have a browser with a home of its own print; when the time is up it ends."""
    with tempfile.TemporaryDirectory(prefix="smartcity-pdf-", ignore_cleanup_errors=True) as home:
        page, made, log = (Path(home) / name for name in ("page.html", "page.pdf", "log"))
        page.write_text(text.replace("<head>", f"<head>{_FENCE}", 1) + _TELLS, encoding="utf-8")
        # Time is the page's own: what it waits for comes at once, what never comes is not waited
        # for. Root is refused the sandbox; everybody else has it.
        flags = [*_FLAGS.split(), *["--no-sandbox"][: not os.geteuid()]]
        flags += [
            "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--virtual-time-budget={int(1000 * seconds)}",
        ]
        flags += [f"--user-data-dir={home}", f"--print-to-pdf={made}", page.as_uri()]
        homes = dict.fromkeys(("HOME", "TMPDIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"), home)
        with log.open("wb") as output:
            process = subprocess.Popen(
                [browser, *flags],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=output,
                env=os.environ | homes,
                start_new_session=True,
            )
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise _NotPrintedError("it was not done in time") from None
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # its helpers too
            process.wait()
        drawn = re.search(r'"drawn\((.*)\)"', log.read_text(encoding="utf-8", errors="replace"))
        if drawn is None:
            raise _NotPrintedError("it ended before all charts were drawn")
        if drawn[1]:
            raise _NotPrintedError(f"a chart was not drawn: {drawn[1]}")
        return made.read_bytes()
