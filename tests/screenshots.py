"""Make pictures of every page, at three widths, light and dark, into test-results/screenshots."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Literal

from conftest import CHROMIUM, QUIET
from playwright.sync_api import Page, sync_playwright
from test_browser import TITLES

TARGET = Path(__file__).parents[1] / "test-results" / "screenshots"
WIDTHS = (360, 768, 1440)
THEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")


def main() -> None:
    """Serve the page with the models and reports there are, and look at it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "smartcity", "dashboard"],
        env=os.environ | {"SMARTCITY_DASHBOARD_PORT": str(port)},
    )
    address = f"http://127.0.0.1:{port}/"
    try:
        wait_for(f"{address}smartcity/health")
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
            for theme in THEMES:
                for width in WIDTHS:
                    context = browser.new_context(
                        viewport={"width": width, "height": 900}, color_scheme=theme
                    )
                    for name in TITLES:
                        page = context.new_page()
                        page.goto(f"{address}?page={name}")
                        whole(page)
                        page.screenshot(path=TARGET / f"{name}-{width}-{theme}.png", full_page=True)
                        page.close()
                    context.close()
            browser.close()
    finally:
        server.terminate()
        server.wait(timeout=30)
    sys.stdout.write(f"{len(TITLES) * len(WIDTHS) * 2} pictures: {TARGET}\n")


def wait_for(address: str) -> None:
    """Wait until a server answers."""
    deadline = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(address, timeout=5)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.3)
        else:
            return


def whole(page: Page) -> None:
    """Wake the page and walk down it once, as charts are drawn when they come into sight."""
    page.locator("#live:not([hidden])").wait_for(timeout=60_000)
    page.wait_for_timeout(800)
    height = page.evaluate("document.documentElement.scrollHeight")
    for _ in range(0, height, 500):
        page.mouse.wheel(0, 500)
        page.wait_for_timeout(120)
    page.evaluate("scrollTo(0, 0)")
    page.wait_for_timeout(400)


if __name__ == "__main__":
    main()
