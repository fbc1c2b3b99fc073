"""The page in a real Chromium: as a reader meets it, by hand, by keyboard, in two languages."""

import csv
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from axe_playwright_python.sync_playwright import Axe
from conftest import at_home
from playwright.sync_api import Page, expect

from smartcity import runs
from smartcity.predict import Predictor

pytestmark = pytest.mark.browser
TITLES = {
    "overview": "Overview",
    "air_quality": "Air quality",
    "traffic": "Traffic",
    "energy": "Energy",
    "reports": "Reports & monitoring",
}
DOOR = str(Path(__file__).parents[1] / "notebooks" / "04_predict.ipynb")


@contextmanager
def serving(
    built: Path, *words: str, ready: str = "smartcity/health", **more: str
) -> Iterator[tuple[str, int]]:
    """Serve the simulated city's page with a command, ``PORT`` in it standing for a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    variables = {name: value for name, value in os.environ.items() if "SMARTCITY" not in name}
    folders = ("datasets", "models", "reports", "logs", "state")
    variables |= {f"SMARTCITY_{n.upper()}": str(built / n) for n in folders}
    server = subprocess.Popen(
        [sys.executable, "-m", *(word.replace("PORT", str(port)) for word in words)],
        env=variables | {"SMARTCITY_DASHBOARD_PORT": str(port)} | more,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/{ready}", timeout=5)
            break
        except OSError:
            time.sleep(0.3)
    try:
        yield f"http://127.0.0.1:{port}/", server.pid
    finally:
        server.terminate()
        server.wait(timeout=30)


@pytest.fixture(scope="module")
def server(built: Path) -> Iterator[tuple[str, int]]:
    """The dashboard, served as people meet it: its address and its process."""
    with serving(built, "smartcity", "dashboard") as server:
        yield server


@pytest.fixture(scope="module")
def address(server: tuple[str, int]) -> str:
    return server[0]


class Reader:
    """Somebody with the page open.

    Attributes:
        page: What they see.
        outside: Addresses outside this machine that the page asked for.
        wrong: What the page complained of.
    """

    def __init__(self, browser: Any, address: str, *, width: int = 1280, **more: Any) -> None:
        """Sit down at a screen of some width; ``more`` as Playwright's contexts take it."""
        dark = more.pop("dark", False)
        self.context = browser.new_context(
            viewport={"width": width, "height": 800},
            color_scheme="dark" if dark else "light",
            locale=more.pop("locale", "en-GB"),
            accept_downloads=True,
            **more,
        )
        self.page: Page = self.context.new_page()
        self.outside: list[str] = []
        self.wrong: list[str] = []
        own = (address, "data:", "blob:", address.replace("http", "ws"))
        self.page.on(
            "request", lambda r: None if r.url.startswith(own) else self.outside.append(r.url)
        )
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on(
            "console", lambda said: self.wrong.append(said.text) if said.type == "error" else None
        )
        self.address = address

    def open(self, link: str = "") -> Page:
        """Open the page and wait until it is awake."""
        self.page.goto(self.address + link)
        self.awake()
        return self.page

    def awake(self) -> None:
        """Wait until the page's widgets are there."""
        self.page.locator("#live:not([hidden])").wait_for(timeout=60_000)

    def turn(self, name: str) -> None:
        """Go to one of the five pages."""
        self.page.get_by_role("navigation").get_by_role("link", name=TITLES[name]).click()
        self.page.locator(f".smartcity-page-{name}").wait_for()


@pytest.fixture
def reader(browser: Any, address: str) -> Iterator[Callable[..., Reader]]:
    """Let somebody open the page; they leave when the test ends."""
    came: list[Reader] = []

    def come(**more: Any) -> Reader:
        came.append(Reader(browser, address, **more))
        return came[-1]

    yield come
    for each in came:
        each.context.close()


def chart(page: Page, name: str, place: int = 0) -> Any:
    """A chart of a page, drawn, as it comes into sight."""
    figure = page.locator(f".smartcity-page-{name} figure").nth(place)
    figure.scroll_into_view_if_needed()
    figure.locator(".main-svg").first.wait_for()
    return figure


def answer(page: Page) -> Any:
    """The answer on the page being shown."""
    return page.locator(".smartcity-answer:visible .smartcity-number")


@pytest.mark.parametrize(
    ("name", "label", "shape"),
    [
        ("air_quality", "Benzene", r"\d+\.\d\d mg/m³"),
        ("traffic", "Cars", r"(?i)(low|medium|high|very high)"),
        ("energy", "Hour", r"\d+\.\d\d kWh"),
    ],
)
def test_a_prediction_is_read_off_the_screen_and_follows_the_slider(
    name: str, label: str, shape: str, reader: Callable[..., Reader], built: Path
) -> None:
    one = reader()
    page = one.open(f"?page={name}")
    assert re.search(shape, answer(page).inner_text())
    before = page.locator(".smartcity-answer:visible").inner_text()

    slider = page.locator(f'.smartcity-page-{name} input[type="range"]').nth(
        [*_labels(page, name)].index(label)
    )
    slider.focus()
    for _ in range(3):
        page.keyboard.press("PageUp")
    expect(page.locator(".smartcity-answer:visible")).not_to_have_text(before)
    page.wait_for_timeout(500)

    query = dict(part.split("=") for part in page.url.partition("?")[2].split("&"))
    with at_home(built):
        predictor = Predictor.load(name)
        asked = {i.name: i.typical for i in predictor.card.inputs if i.name != "total"}
        asked |= {key: float(value) for key, value in query.items() if key != "page"}
        expected = predictor.predict(asked)
    assert float(str(answer(page).get_attribute("data-value"))) == expected.prediction
    assert one.outside == []
    assert one.wrong == []


def _labels(page: Page, name: str) -> list[str]:
    labels = page.locator(f".smartcity-page-{name} .smartcity-line label").all_inner_texts()
    return [label.split("\n")[0].rsplit(" ", 1)[0] if label else "" for label in _plain(labels)]


def _plain(labels: list[str]) -> list[str]:
    return [re.sub(r" (vehicles in 15 min|µg/m³|h)$", " unit", label) for label in labels]


def test_the_page_is_readable_before_its_widgets_are_awake(reader: Callable[..., Reader]) -> None:
    one = reader(java_script_enabled=False)

    one.page.goto(one.address)

    numbers = one.page.locator(".smartcity-number")
    assert numbers.count() == 3
    assert all(re.search(r"\d", numbers.nth(n).inner_text()) for n in range(3))
    assert "Simulated." in one.page.locator(".smartcity-banner").inner_text()


def test_a_link_restores_the_view_and_the_back_button_works(reader: Callable[..., Reader]) -> None:
    one = reader()
    page = one.open("?page=traffic&car_count=61&lanes=2&capacity=1800")

    cars = page.locator('.smartcity-page-traffic input[type="range"]').first
    expect(cars).to_have_value("61")
    expect(page.locator(".smartcity-answer:visible")).to_contain_text("Volume over capacity")
    one.turn("energy")
    assert "page=energy" in page.url
    page.go_back()
    page.locator(".smartcity-page-traffic").wait_for()
    expect(cars).to_have_value("61")
    page.reload()
    one.awake()
    expect(cars).to_have_value("61")
    assert page.title().startswith("Traffic")


def test_a_page_that_is_not_there_is_the_overview(reader: Callable[..., Reader]) -> None:
    page = reader().open("?page=<b>nowhere</b>")

    expect(page.locator(".smartcity-page-overview")).to_be_visible()


def test_charts_have_words_a_table_and_a_file(reader: Callable[..., Reader]) -> None:
    one = reader()
    page = one.open("?page=air_quality")
    figure = chart(page, "air_quality")
    summary = figure.locator(".smartcity-caption").inner_text()

    assert re.search(r"\d", summary)
    assert summary in str(figure.locator('[role="img"]').get_attribute("aria-label"))
    figure.locator("summary").click()
    figure.locator("tbody tr").nth(10).wait_for()
    with page.expect_download() as kept:
        figure.get_by_role("button", name="Download CSV").click()
    lines = Path(kept.value.path()).read_text(encoding="utf-8-sig").splitlines()
    assert len(lines) > figure.locator("tbody tr").count()
    assert one.wrong == []


def test_the_week_can_be_seen_in_3d_and_flat_again(reader: Callable[..., Reader]) -> None:
    one = reader()
    page = one.open("?page=energy")
    figure = chart(page, "energy", 1)

    figure.get_by_role("button", name="Show in 3D").click()
    figure.locator("canvas, .smartcity-caption:has-text('cannot draw')").first.wait_for()
    if figure.locator("canvas").count():
        figure.get_by_role("button", name="Show flat").click()
    expect(figure.locator(".heatmaplayer")).to_have_count(1)
    assert one.outside == []


def test_a_view_can_be_saved_as_a_file_that_needs_nothing_else(
    reader: Callable[..., Reader], browser: Any, tmp_path: Path
) -> None:
    one = reader()
    page = one.open("?page=air_quality")
    page.locator(".smartcity-page-air_quality figure").first.wait_for()
    with page.expect_download() as kept:
        page.get_by_role("button", name="Save as HTML").click()
    path = tmp_path / "view.html"
    kept.value.save_as(path)

    assert path.stat().st_size < 3_000_000
    alone = Reader(browser, path.as_uri())
    alone.page.goto(path.as_uri())
    assert "mg/m³" in alone.page.locator(".smartcity-number").first.inner_text()
    assert alone.page.locator(".main-svg").count() > 4
    assert alone.page.locator("script").count() == 0
    assert alone.outside == []
    alone.context.close()


def test_a_view_prints_whole(reader: Callable[..., Reader], tmp_path: Path) -> None:
    page = reader().open("?page=traffic")
    chart(page, "traffic")

    pdf = page.pdf(path=tmp_path / "view.pdf", format="A4")

    assert pdf.startswith(b"%PDF")
    assert len(pdf) > 20_000


def test_times_are_the_readers(reader: Callable[..., Reader]) -> None:
    page = reader(timezone_id="Asia/Tokyo").open("?page=reports")
    shown = page.locator(".smartcity-page-reports tbody time").first
    shown.wait_for()

    utc = datetime.fromisoformat(str(shown.get_attribute("datetime")))
    expect(shown).to_contain_text((utc + timedelta(hours=9)).strftime("%H:%M"))


def test_the_page_speaks_german_to_who_reads_german(reader: Callable[..., Reader]) -> None:
    one = reader(locale="de-DE")
    page = one.open("?page=air_quality")

    expect(page.locator("html")).to_have_attribute("lang", "de")
    expect(answer(page)).to_have_text(re.compile(r"\d,\d\d"))
    page.get_by_label("Sprache").select_option("en")
    expect(answer(page)).to_have_text(re.compile(r"\d\.\d\d"))
    page.reload()
    one.awake()
    expect(page.locator("html")).to_have_attribute("lang", "en")
    assert one.wrong == []


def test_light_or_dark_is_the_readers_choice_and_kept(reader: Callable[..., Reader]) -> None:
    one = reader()
    page = one.open()
    paper = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(paper)

    page.get_by_label("Colours").select_option("dark")
    assert page.evaluate(paper) != light
    page.reload()
    assert page.evaluate(paper) != light
    one.awake()
    page.get_by_label("Colours").select_option("system")
    assert page.evaluate(paper) == light


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("name", TITLES)
def test_axe_finds_nothing(name: str, dark: bool, reader: Callable[..., Reader]) -> None:
    page = reader(dark=dark).open(f"?page={name}")
    page.wait_for_timeout(700)
    for more in page.locator(f".smartcity-page-{name} details:visible").all():
        more.evaluate("more => { more.open = true; }")

    found = Axe().run(page)

    rules = {v["id"]: [n["html"][:160] for n in v["nodes"]] for v in found.response["violations"]}
    assert rules == {}


@pytest.mark.parametrize("name", TITLES)
def test_a_phone_needs_no_sideways_scroll(name: str, reader: Callable[..., Reader]) -> None:
    page = reader(width=360, dark=True).open(f"?page={name}")
    page.wait_for_timeout(700)

    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_by_keyboard_alone_from_the_first_page_to_a_prediction_to_a_download(
    reader: Callable[..., Reader],
) -> None:
    one = reader()
    page = one.open()

    def walk(wanted: str, *, most: int = 150) -> None:
        """Press Tab until the focus stands on something."""
        for _ in range(most):
            page.keyboard.press("Tab")
            if page.evaluate(f"document.activeElement.matches({wanted!r})"):
                outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
                assert outline != "none", wanted
                return
        pytest.fail(f"the keyboard never reaches {wanted}")

    walk('a[data-page="traffic"]')
    page.keyboard.press("Enter")
    walk('.smartcity-page-traffic input[type="range"]')
    before = page.locator(".smartcity-answer:visible").inner_text()
    for _ in range(4):
        page.keyboard.press("PageUp")
    expect(page.locator(".smartcity-answer:visible")).not_to_have_text(before)
    live = page.locator(".smartcity-page-traffic .smartcity-form > [role=status]")
    expect(live).to_contain_text("Traffic is")
    walk(".smartcity-page-traffic figure .smartcity-more button:last-of-type")
    with page.expect_download() as kept:
        page.keyboard.press("Enter")
    assert kept.value.suggested_filename.endswith(".csv")


def test_own_readings_are_checked_answered_and_taken_away(
    reader: Callable[..., Reader], built: Path
) -> None:
    one = reader()
    page = one.open("?page=traffic")
    page.locator(".smartcity-upload:visible input[type=file]").set_input_files(
        {
            "name": "counts.csv",
            "mimeType": "text/csv",
            "buffer": b"Cars;bikes;Buses;TRUCKS\n60;10;8;5\n-3;1;1;1\n70;x;1;1\n",
        }
    )

    panel = page.locator(".smartcity-upload:visible")
    expect(panel).to_contain_text("3 rows: 1 answered, 2 set aside", timeout=15_000)
    with page.expect_download() as kept:
        panel.get_by_role("button", name="Answers as CSV").click()
    text = Path(kept.value.path()).read_text(encoding="utf-8-sig")
    [got] = csv.DictReader(io.StringIO(text), delimiter=";")  # as the file that was brought
    with at_home(built):
        counts = {"car_count": 60, "bike_count": 10, "bus_count": 8, "truck_count": 5}
        assert float(got["prediction"]) == Predictor.load("traffic").predict(counts).prediction
    assert one.wrong == []


def test_a_report_opens(reader: Callable[..., Reader], address: str) -> None:
    one = reader()
    page = one.open("?page=reports")
    link = page.get_by_role("link", name=re.compile("^Open")).first
    with one.context.expect_page() as opened:
        link.click()

    expect(opened.value.locator("h1")).to_contain_text("City report")
    opened.value.locator(".chart .main-svg").first.wait_for()


def test_a_report_is_asked_for_and_its_parameters_are_checked_meanwhile(
    reader: Callable[..., Reader], built: Path
) -> None:
    one = reader()
    page = one.open("?page=reports")
    form = page.get_by_role("form", name="Make a report")
    days = form.get_by_label("Days")
    days.fill("500")
    expect(form).to_contain_text("The nearest is 366")
    expect(form.get_by_role("button", name="Ask for it")).to_be_disabled()

    days.fill("14")
    form.get_by_label("Question").select_option("Energy")
    command = "smartcity report run 05_report --domain energy -p days 14"
    expect(form.get_by_label("The same as a command")).to_have_text(command)
    days.focus()
    page.keyboard.press("Enter")

    expect(form).to_contain_text("It is made within a minute")
    with at_home(built):
        [note] = runs.asked()
    wish = json.loads(note.read_bytes())["parameters"]
    note.unlink()
    assert (wish["domain"], wish["days"]) == ("energy", 14)
    assert one.wrong == []


def test_a_killed_kernel_is_told_and_what_was_set_is_kept(
    reader: Callable[..., Reader], server: tuple[str, int]
) -> None:
    one = reader()
    page = one.open("?page=traffic&car_count=77")
    kernel = page.locator("#live").get_attribute("data-kernel")
    found = [
        process
        for process in psutil.Process(server[1]).children(recursive=True)
        if any(str(kernel) in (file or "") for file in _sockets(process))
    ]
    assert len(found) == 1

    os.kill(found[0].pid, signal.SIGKILL)

    notice = page.locator(".smartcity-notice")
    expect(notice).to_contain_text("What you set is kept", timeout=20_000)
    notice.get_by_role("button", name="Continue").click()
    one.awake()
    expect(page.locator('.smartcity-page-traffic input[type="range"]').first).to_have_value("77")


def _sockets(process: psutil.Process) -> list[str]:
    try:
        return [str(connection.laddr) for connection in process.net_connections("unix")]
    except psutil.Error:
        return []


@pytest.mark.parametrize("kind", ["voila", "lab"])
def test_the_same_notebook_works_elsewhere(
    kind: str, browser: Any, built: Path, tmp_path: Path
) -> None:
    """Under Voila's own template, as on Binder, and in JupyterLab the kernel hands plotly over."""
    words = ["voila", DOOR, "--port=PORT", "--no-browser"]
    link = ""
    if kind == "lab":
        shutil.copy(DOOR, tmp_path / "04_predict.ipynb")
        words = ["jupyterlab", f"--ServerApp.root_dir={tmp_path}", "--port=PORT", "--no-browser"]
        words += ["--allow-root", "--IdentityProvider.token=", "--ServerApp.password="]
        link = "lab/tree/04_predict.ipynb"
    ready = "voila/static/voila.js" if kind == "voila" else "api"
    with serving(built, *words, ready=ready) as (address, _):
        one = Reader(browser, address, width=1400)
        page = one.page
        page.goto(address + link)
        if kind == "lab":
            page.locator(".jp-Notebook .jp-CodeCell").first.wait_for(timeout=60_000)
            page.get_by_text("| Idle").wait_for(timeout=60_000)  # before, cells would not be run
            page.get_by_role("menuitem", name="Run", exact=True).click()
            page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        page.get_by_role("link", name="Energy", exact=True).first.click(timeout=60_000)
        slider = page.locator('.smartcity-page-energy input[type="range"]').nth(2)
        slider.wait_for()
        before = answer(page).inner_text()

        slider.focus()
        page.keyboard.press("PageUp")

        expect(answer(page)).not_to_have_text(before)
        chart(page, "energy")
        one.context.close()
