"""The page in a real Chromium: predictions read off the screen, nothing from elsewhere."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, sync_playwright

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = pytest.mark.browser
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@contextmanager
def serving(built: Path, *words: str) -> Iterator[str]:
    """Serve the simulated city's page with a command, ``PORT`` in it standing for a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    variables = {name: value for name, value in os.environ.items() if "SMARTCITY" not in name}
    folders = ("datasets", "models", "reports", "logs", "state")
    variables |= {f"SMARTCITY_{n.upper()}": str(built / n) for n in folders}
    server = subprocess.Popen(
        [sys.executable, "-m", *(word.replace("PORT", str(port)) for word in words)],
        env=variables | {"SMARTCITY_DASHBOARD_PORT": str(port)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/voila/static/voila.js", timeout=5)
            break
        except OSError:
            time.sleep(0.3)
    yield f"http://127.0.0.1:{port}/"
    server.terminate()
    server.wait(timeout=30)


@pytest.fixture(scope="module")
def address(built: Path) -> Iterator[str]:
    """The dashboard, served as people meet it."""
    with serving(built, "smartcity", "dashboard") as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        if os.environ.get("CI"):
            pytest.fail("CI needs a Chromium: tests/setup installs one as root")
        pytest.skip("no Chromium; install it, as in: sudo apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser
        browser.close()


def open_page(
    browser: Any, address: str, *, width: int, dark: bool = False
) -> tuple[Page, list[str]]:
    """Open the page; give it with the addresses outside this machine that it asked for."""
    context = browser.new_context(
        viewport={"width": width, "height": 800}, color_scheme="dark" if dark else "light"
    )
    page: Page = context.new_page()
    outside: list[str] = []
    page.on(
        "request",
        lambda request: (
            None
            if request.url.startswith((address, "data:", "blob:", address.replace("http", "ws")))
            else outside.append(request.url)
        ),
    )
    page.goto(address)
    page.get_by_role("button", name="Overview").wait_for(timeout=60_000)
    return page, outside


@pytest.fixture(scope="module")
def desktop(browser: Any, address: str) -> tuple[Page, list[str]]:
    return open_page(browser, address, width=1280)


@pytest.mark.parametrize(
    ("title", "slider", "pattern"),
    [
        ("Air quality", "Benzene", r"\d+\.\d\d mg/m³"),
        ("Traffic", "Cars", r"(?i)(low|medium|high|very high)"),
        ("Energy", "Hour", r"\d+\.\d\d kWh"),
    ],
)
def test_a_prediction_is_read_off_the_screen_and_follows_the_slider(
    title: str, slider: str, pattern: str, desktop: tuple[Page, list[str]]
) -> None:
    page, outside = desktop
    page.get_by_role("button", name=title, exact=True).click()
    answer = page.locator(".smartcity-answer")
    answer.wait_for()
    before = answer.inner_text()

    handle = page.locator(".smartcity-input", has_text=slider).first.locator(".noUi-handle")
    handle.focus()
    for _ in range(3):
        page.keyboard.press("PageUp")
    page.wait_for_function(
        "before => document.querySelector('.smartcity-answer').innerText !== before", arg=before
    )

    assert re.search(pattern, page.locator(".smartcity-number").first.inner_text())
    assert "simulated" in answer.inner_text()
    page.locator(".smartcity-chart .main-svg").nth(3).wait_for()
    assert outside == []


def test_the_page_says_simulated(desktop: tuple[Page, list[str]]) -> None:
    assert "Simulated." in desktop[0].locator(".smartcity-banner").inner_text()


def test_a_report_opens(desktop: tuple[Page, list[str]], address: str) -> None:
    page, _ = desktop
    page.get_by_role("button", name="Reports & monitoring").click()
    link = page.get_by_role("link", name="Open").first.get_attribute("href")

    with urllib.request.urlopen(address + str(link), timeout=10) as answer:
        assert b"City report" in answer.read()


def test_the_source_of_the_notebook_is_not_served(address: str) -> None:
    with pytest.raises(urllib.error.HTTPError, match="403|404"):
        urllib.request.urlopen(address + "voila/files/04_predict.ipynb", timeout=60)
    with urllib.request.urlopen(address, timeout=60) as answer:
        assert b"import Dashboard" not in answer.read()


@pytest.fixture(scope="module")
def phone(browser: Any, address: str) -> Page:
    return open_page(browser, address, width=360, dark=True)[0]


@pytest.mark.parametrize(
    "title", ["Overview", "Air quality", "Traffic", "Energy", "Reports & monitoring"]
)
def test_a_phone_needs_no_sideways_scroll(title: str, phone: Page) -> None:
    phone.get_by_role("button", name=title, exact=True).click()
    phone.wait_for_timeout(1500)

    assert phone.evaluate("document.documentElement.scrollWidth") <= 360


def test_charts_are_drawn_where_no_page_of_ours_brings_plotly(browser: Any, built: Path) -> None:
    """Under a stock template, as on Binder, the kernel hands plotly.js over."""
    door = str(Path(__file__).parents[1] / "notebooks" / "04_predict.ipynb")
    with serving(built, "voila", door, "--port=PORT", "--no-browser") as stock:
        page, _ = open_page(browser, stock, width=1280)
        page.get_by_role("button", name="Energy", exact=True).click()

        page.locator(".smartcity-chart .main-svg").nth(3).wait_for(timeout=60_000)
