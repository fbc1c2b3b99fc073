"""The index of all reports and its feed: plain files, made of the records there are."""

import json
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree as ET

import pytest
from axe_playwright_python.sync_playwright import Axe
from bs4 import BeautifulSoup
from conftest import at_home
from playwright.sync_api import Page, expect

from smartcity import domains, runs
from smartcity.reporting import index

HOSTILE = '</title><script>window.hit = 1</script><img src="x" onerror="window.hit = 1">&amp;\x07'
ATOM = "{http://www.w3.org/2005/Atom}"


def ran(at: int, *, notebook: str = "05_report", domain: str = "traffic", **more: Any) -> runs.Run:
    """Keep the record of a run of some day in March, ``stated`` being its facts."""
    stated = {"value": at / 100, "to": f"2026-03-{at:02}T23:45:00", "sentence": f"It was {at}."}
    stated |= more.pop("stated", {})
    known: dict[str, Any] = {
        "id": f"202603{at:02}T000000Z-aaaaaa",
        "parameters": {"domain": domain, "site": "main", "days": 7},
        "status": "succeeded",
        "started_at": f"2026-03-{at:02}T05:00:00+00:00",
        "seconds": 6.1,
        "fingerprint": "",
        "inputs": [],
        "simulated": False,
        "model_version": "1.0.0",
        "smartcity": "0.1.0",
    }
    run = runs.Run(**known | {"notebook": notebook, "domain": domain} | more)
    run.folder.mkdir(parents=True)
    (run.folder / "manifest.json").write_text(run.model_dump_json())
    for name in ("report.html", "report.pdf", "notebook.ipynb", "recent.csv"):
        (run.folder / name).write_text("")
    if run.status == "succeeded":
        (run.folder / "metrics.json").write_text(json.dumps(stated))
    return run


def fails(at: int, message: str = "ValueError: the sensor fell off", **more: Any) -> runs.Run:
    error = {"cell": 7, "error": "ValueError", "message": message}
    return ran(at, status="failed", error=error, **more)


def page(home: Path) -> BeautifulSoup:
    """Make the index anew and read it."""
    index.write()
    return BeautifulSoup((home / "reports/index.html").read_text(encoding="utf-8"), "html.parser")


def feed(home: Path) -> Any:
    index.write()
    return ET.parse(home / "reports/feed.xml").getroot()  # noqa: S314 we wrote it


def lines(soup: BeautifulSoup) -> list[str]:
    return [re.sub(r"\s+", " ", row.get_text(" ")) for row in soup.select("tbody tr")]


def test_every_run_is_listed_the_newest_first_with_what_it_left(home: Path) -> None:
    ran(1, notebook="01_explore", domain="energy")
    fails(3, attempt=2, report="nightly")
    ran(2, simulated=True)

    soup = page(home)
    failed, good, explored = lines(soup)

    for said in ("✕ failed", "attempt 2", "Failed in cell 7: ValueError: the sensor fell off"):
        assert said in failed
    assert "nightly" in failed
    assert "Figures" not in failed
    for said in ("Report: Traffic", "✓ succeeded", "simulated", "It was 2.", "6.1 s", "1.0.0"):
        assert said in good
    for said in ("Page", "PDF", "Notebook", "Figures", "recent.csv"):
        assert said in good
    assert "Explore: Energy" in explored


def test_every_link_leads_to_a_file(home: Path) -> None:
    ran(1)
    fails(2)

    addresses = {str(link["href"]) for link in page(home).select("[href]")}

    assert len(addresses) == 10
    assert all((home / "reports" / unquote(address)).is_file() for address in addresses)


def test_a_card_tells_the_newest_good_report_and_the_trend(home: Path) -> None:
    for at in (1, 2, 3):
        ran(at)
    ran(9, stated={"to": "2026-03-03T23:45:00", "value": 0.5})  # the same period, made again
    ran(4, parameters={"domain": "traffic", "days": 30}, stated={"value": 9.0})
    ran(5, stated={"value": float("nan")})
    ran(6, stated={"value": "much"})
    (ran(7).folder / "metrics.json").write_text("[1]")
    fails(8)

    air, traffic, _ = page(home).select(".card")
    trend = traffic.select_one("svg")

    assert "No report yet." in air.get_text()
    assert trend is not None
    assert "50% of readings high or above" in re.sub(r"\s+", " ", traffic.get_text())
    assert "It was 9." in traffic.get_text()
    assert (
        trend["aria-label"] == "3 reports, 2026-03-01 to 2026-03-03: between 1% and 50% "
        "of readings high or above"
    )
    points = str(trend.polyline["points"]).split() if trend.polyline else []
    assert [point.split(",")[1] for point in points] == ["40.0", "39.3", "4.0"]


def test_one_report_is_no_trend(home: Path) -> None:
    ran(1, domain="energy", stated={"value": 1234.5})

    card = page(home).select(".card")[2]

    assert "1,234.50 kWh" in re.sub(r"\s+", " ", card.get_text())
    assert card.select("svg") == []


def test_before_the_first_run_the_index_says_how_to_begin(home: Path) -> None:
    assert "smartcity build" in page(home).get_text()
    assert feed(home).findtext(f"{ATOM}updated")


def test_a_broken_record_is_passed_over(home: Path) -> None:
    ran(1)
    (ran(2).folder / "manifest.json").write_text("{")

    assert len(lines(page(home))) == 1


def test_the_feed_holds_what_the_standard_demands(home: Path) -> None:
    for at in range(1, 28):
        ran(at)
        fails(at, domain="energy")

    root = feed(home)
    entries = root.findall(f"{ATOM}entry")

    for element in [root, *entries]:  # RFC 4287, 4.1.1 and 4.1.2
        assert [len(element.findall(ATOM + name)) for name in ("id", "title", "updated")] == [1] * 3
        assert re.fullmatch(r"urn:uuid:[0-9a-f-]{36}", element.findtext(f"{ATOM}id"))
        assert datetime.fromisoformat(element.findtext(f"{ATOM}updated")).tzinfo
        relations = [link.get("rel") for link in element.findall(f"{ATOM}link")]
        assert relations.count("alternate") == 1
    assert root.findtext(f"{ATOM}author/{ATOM}name") == "SmartCity"
    assert len(entries) == 50
    assert len({entry.findtext(f"{ATOM}id") for entry in entries}) == 50
    moments = [entry.findtext(f"{ATOM}updated") for entry in entries]
    assert moments == sorted(moments, reverse=True)
    assert root.findtext(f"{ATOM}updated") == moments[0]
    summaries = {entry.findtext(f"{ATOM}summary") for entry in entries}
    assert "Failed in cell 7: ValueError: the sensor fell off" in summaries
    links = [link.get("href") for link in root.iter(f"{ATOM}link")]
    assert all((home / "reports" / link).is_file() for link in links)


def test_the_feeds_names_stay_and_a_new_run_comes_first(home: Path) -> None:
    ran(1)
    before = [each.text for each in feed(home).iter(f"{ATOM}id")]
    ran(2)
    after = [each.text for each in feed(home).iter(f"{ATOM}id")]

    assert after[0] == before[0]
    assert after[2:] == before[1:]


@pytest.fixture
def hostile(tmp_path: Path) -> Iterator[Path]:
    """An index of a question, a message and a sentence that would like to run."""
    toml = Path(domains.__file__).with_name("traffic.toml").read_text(encoding="utf-8")
    title = HOSTILE.replace('"', '\\"').replace("\x07", "")
    toml = toml.replace('title = "Traffic"', f'title = "{title}"', 1)
    (tmp_path / "more").mkdir()
    (tmp_path / "more/evil.toml").write_text(toml.replace('name = "traffic"', 'name = "evil"', 1))
    with at_home(tmp_path, SMARTCITY_DOMAINS=str(tmp_path / "more")):
        ran(1, domain="evil", report=HOSTILE, stated={"sentence": HOSTILE, "to": HOSTILE})
        ran(2, domain="evil", parameters={"site": HOSTILE, "days": 7})
        fails(3, message=HOSTILE, domain="evil", model_version=HOSTILE)
        yield tmp_path


def test_hostile_text_stays_text_in_the_feed(hostile: Path) -> None:
    root = feed(hostile)

    assert HOSTILE.rstrip("\x07") in str(root.find(f"{ATOM}entry").findtext(f"{ATOM}title"))
    assert f"Failed in cell 7: {HOSTILE.rstrip(chr(7))}" in [
        entry.findtext(f"{ATOM}summary") for entry in root.findall(f"{ATOM}entry")
    ]


def opened(browser: Any, home: Path, *, width: int = 1280, **more: Any) -> tuple[Page, list[str]]:
    """Open the index; give it and what it asked for elsewhere or complained of."""
    path = home / "reports/index.html"
    seen: Page = browser.new_context(viewport={"width": width, "height": 900}, **more).new_page()
    wrong: list[str] = []
    seen.on("request", lambda r: None if r.url == path.as_uri() else wrong.append(r.url))
    seen.on("pageerror", lambda error: wrong.append(str(error)))
    seen.goto(path.as_uri())
    return seen, wrong


@pytest.fixture
def some(home: Path) -> Path:
    """An index of a few runs of all kinds."""
    for at in range(1, 5):
        ran(at, simulated=at == 2)
        ran(at, domain="energy", attempt=at)
        ran(at, domain="air_quality", notebook="01_explore")
    fails(5)
    index.write()
    return home


@pytest.mark.browser
def test_hostile_text_stays_text_on_the_page(browser: Any, hostile: Path) -> None:
    index.write()
    seen, wrong = opened(browser, hostile)

    assert seen.evaluate("window.hit") is None
    assert seen.get_by_text("window.hit = 1").count() >= 6
    assert wrong == []


@pytest.mark.browser
def test_runs_are_found_by_word_status_notebook_and_question(browser: Any, some: Path) -> None:
    seen, wrong = opened(browser, some)
    rows = seen.locator("tbody tr:visible")
    expect(rows).to_have_count(13)

    seen.get_by_label("Search").fill("attempt ENERGY")
    expect(rows).to_have_count(3)
    expect(seen.get_by_role("status")).to_have_text("3 of 13 shown")
    seen.get_by_label("Search").fill("")
    seen.get_by_label("Status").select_option("failed")
    expect(rows).to_have_count(1)
    seen.get_by_label("Status").select_option("all")
    seen.get_by_label("Notebook").select_option("01_explore")
    expect(rows).to_have_count(4)
    seen.get_by_label("Question").select_option("Energy")
    expect(rows).to_have_count(0)
    assert wrong == []


@pytest.mark.browser
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_everybody_can_read_the_index(width: int, theme: str, browser: Any, some: Path) -> None:
    seen, wrong = opened(browser, some, width=width, color_scheme=theme)
    seen.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")

    found = Axe().run(seen).response["violations"]

    assert [(fault["id"], fault["nodes"][0]["html"]) for fault in found] == []
    assert seen.evaluate("document.documentElement.scrollWidth") <= width
    assert wrong == []


@pytest.mark.browser
def test_without_scripts_all_runs_are_there(browser: Any, some: Path) -> None:
    seen, _ = opened(browser, some, java_script_enabled=False)

    expect(seen.locator("tbody tr:visible")).to_have_count(13)
    expect(seen.locator("form")).to_be_hidden()
