"""A report's page and its PDF: whole by themselves, for every eye and ear, nothing hostile runs."""

import csv
import json
import re
import tempfile
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import psutil
import pytest
from axe_playwright_python.sync_playwright import Axe
from bs4 import BeautifulSoup
from playwright.sync_api import Page
from pypdf import PdfReader

from smartcity import charts, domains
from smartcity.reporting import page, pdf, tables
from smartcity.runs import Run

#: Without types, so that mypy lets us call it.
V4: Any = nbformat.v4
HOSTILE = '<script>window.hit = 1</script><img src="x" onerror="window.hit = 1">'
SENTENCE = "Traffic was high in 35% of the readings."
HOURS = [datetime(2026, 3, 1) + timedelta(minutes=15 * n) for n in range(300)]


def record(**more: Any) -> Run:
    """Give the record of a run."""
    known: dict[str, Any] = {
        "id": "20260307T000000Z-aaaaaa",
        "notebook": "05_report",
        "domain": "traffic",
        "parameters": {"domain": "traffic", "site": "main", "days": 7, "as_of": "2026-03-08"},
        "status": "succeeded",
        "started_at": "2026-03-07T05:00:00+00:00",
        "seconds": 6.1,
        "fingerprint": "",
        "inputs": [{"name": "Traffic.csv", "sha256": "9db347c79beb3546", "published": True}],
        "simulated": True,
        "model_version": "1.2.0",
        "smartcity": "0.1.0",
        "git": {"commit": "0123456789abcdef", "dirty": False},
    }
    return Run(**known | more)


def shown(**data: Any) -> Any:
    """Give an output as a kernel gives it; ``text__html`` for text/html."""
    return V4.new_output("display_data", {name.replace("__", "/"): d for name, d in data.items()})


def drawn(chart: charts.Chart) -> Any:
    return V4.new_output("display_data", {charts.MIME: json.loads(str(chart.to_json()))})


def line() -> charts.Chart:
    rows = pd.DataFrame({"recorded_at": HOURS, "cars": [n % 7 / 3 for n in range(300)]})
    return charts.recent(rows, "cars", label="Cars", unit="vehicles in 15 min")


def band() -> charts.Chart:
    rows = pd.DataFrame({"recorded_at": HOURS[:20], "observed": [float(n) for n in range(20)]})
    rows = rows.assign(predicted=rows.observed + 1, low=rows.observed - 2, high=rows.observed + 3)
    return charts.later(domains.load("energy"), rows)


def cells(outputs: list[Any]) -> list[Any]:
    return [
        V4.new_markdown_cell("# City report\n*For the council.*"),
        V4.new_code_cell("domain = 'traffic'", metadata={"tags": ["parameters"]}),
        V4.new_markdown_cell("## The period"),
        V4.new_code_cell("charts.recent()", execution_count=2, outputs=outputs),
    ]


def report(folder: Path, *more: Any, **about: Any) -> Path:
    """Write the page of a report with three charts and a table; give its path."""
    table = pd.DataFrame({"reason": ["spike"], "action": ["noted"], "findings": [1234]})
    outputs = [
        drawn(line()),
        drawn(charts.pattern([[1.0 * d * h for h in range(24)] for d in range(7)], **LABELS)),
        drawn(band()),
        shown(text__html=table.set_index("reason").to_html()),
        V4.new_output(
            "display_data",
            {
                "application/json": {
                    "sentence": SENTENCE,
                    "from": "2026-03-01T00:00:00",
                    "to": "2026-03-07T23:45:00",
                }
            },
        ),
        *more,
    ]
    return written(folder, cells(outputs), record(**about))


LABELS = {"label": "All vehicles", "unit": "vehicles in 15 min"}


def failed(folder: Path) -> Path:
    """Write the page of a run that failed, as papermill leaves it."""
    error = V4.new_output(
        "error", ename="ValueError", evalue="off", traceback=["\x1b[31mValueError\x1b[0m: fell off"]
    )
    marker = {"tags": ["papermill-error-cell-tag"]}
    parts = [
        V4.new_markdown_cell('<span style="color:red">An Exception</span>', metadata=marker),
        *cells([V4.new_output("stream", text="before")]),
        V4.new_markdown_cell("## The sensor"),
        V4.new_code_cell("read_sensor()", execution_count=3, outputs=[error]),
        V4.new_code_cell("never_run()"),
    ]
    told = {"cell": 3, "error": "ValueError", "message": "ValueError: the sensor fell off"}
    return written(folder, parts, record(status="failed", error=told))


def written(folder: Path, parts: list[Any], run: Run) -> Path:
    notebook: str = V4.writes(V4.new_notebook(cells=parts))
    (folder / "notebook.ipynb").write_text(notebook, encoding="utf-8")
    page.write(folder / "notebook.ipynb", folder / "report.html", run)
    return folder / "report.html"


def opened(browser: Any, path: Path, *, width: int = 1280, **more: Any) -> tuple[Page, list[str]]:
    """Open a file and wait for its charts; give the page and what it asked for or complained of."""
    context = browser.new_context(viewport={"width": width, "height": 900}, **more)
    context.set_default_timeout(30_000)
    seen: Page = context.new_page()
    wrong: list[str] = []
    seen.on("request", lambda r: None if r.url == path.as_uri() else wrong.append(r.url))
    seen.on("pageerror", lambda error: wrong.append(str(error)))
    seen.on("console", lambda m: wrong.append(m.text) if m.type == "error" else None)
    seen.goto(path.as_uri())
    if more.get("java_script_enabled", True):
        seen.evaluate("window.smartcityDrawn")
    return seen, wrong


def faults(seen: Page) -> list[str]:
    """Give what axe finds, with everything unfolded."""
    seen.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    found = Axe().run(seen).response["violations"]
    return [f"{fault['id']}: {fault['nodes'][0]['html']}" for fault in found]


def test_a_page_is_light_to_mail_and_names_nothing_elsewhere(home: Path) -> None:
    path = report(home)
    soup = BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")

    assert path.stat().st_size <= 2_000_000
    assert soup.select("[src], link, iframe, object, a[href^=http]") == []


def test_a_page_says_what_when_and_whence(home: Path) -> None:
    soup = BeautifulSoup(report(home).read_text(encoding="utf-8"), "html.parser")
    head, foot = soup.select_one("header"), soup.select_one("footer")

    assert head is not None
    assert foot is not None
    assert [h1.get_text() for h1 in soup.select("h1")] == ["City report: Traffic"]
    assert SENTENCE in head.get_text()
    assert "1 March 2026, 00:00 to 7 March 2026, 23:45, by the station's clock" in head.get_text()
    assert "Readings up to 8 March 2026." in head.get_text()
    assert "Simulated." in head.get_text()
    for said in ("20260307T000000Z-aaaaaa", "9db347c79beb)", "commit 0123456789ab", "1.2.0"):
        assert said in foot.get_text()


def test_what_a_notebook_says_itself_is_not_said_twice(home: Path) -> None:
    text = report(home, shown(text__markdown=f"**{SENTENCE}** Nothing to do.")).read_text()

    assert text.count(SENTENCE) == 1


def test_the_council_reads_no_code_and_the_analyst_does(home: Path) -> None:
    assert "charts.recent()" not in report(home).read_text()
    assert "charts.recent()" in report(home, notebook="01_explore").read_text()


@pytest.mark.browser
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("make", [report, failed])
def test_everybody_can_read_a_page(make: Any, theme: str, browser: Any, home: Path) -> None:
    seen, wrong = opened(browser, make(home), color_scheme=theme)

    assert faults(seen) == []
    assert wrong == []


@pytest.mark.browser
def test_charts_are_drawn_and_fit_a_phone(browser: Any, home: Path) -> None:
    seen, wrong = opened(browser, report(home), width=360)
    widths = seen.locator(".chart").evaluate_all("all => all.map((one) => one.scrollWidth)")

    assert seen.locator(".chart .xaxislayer-above, .chart .xy").count() >= 3
    assert max(widths) <= 360
    assert seen.evaluate("document.documentElement.scrollWidth") <= 360
    assert wrong == []


@pytest.mark.browser
def test_charts_wear_the_theme_and_paper_is_always_light(browser: Any, home: Path) -> None:
    seen, _ = opened(browser, report(home), color_scheme="dark")
    colour = "one => getComputedStyle(one).fill"
    label = seen.locator(".chart .xtick text").first

    assert label.evaluate(colour) == "rgb(230, 235, 240)"
    seen.emulate_media(media="print")
    assert label.evaluate(colour) == "rgb(27, 39, 51)"


@pytest.mark.browser
def test_without_scripts_the_numbers_can_be_read(browser: Any, home: Path) -> None:
    seen, _ = opened(browser, report(home), java_script_enabled=False)
    unfold = seen.get_by_text("The numbers as a table").first

    unfold.click()

    assert seen.get_by_role("rowheader", name="2026-03-01 00:15").first.is_visible()
    assert not seen.locator(".chart").first.is_visible()


def test_a_csv_holds_what_its_chart_draws(home: Path) -> None:
    folder = report(home).parent
    rows = {
        name: list(csv.reader((folder / f"{name}.csv").read_text().splitlines()))
        for name in ("recent", "pattern", "later")
    }

    assert rows["recent"][0] == ["time", "Cars"]
    assert [float(value) for _, value in rows["recent"][1:]] == [n % 7 / 3 for n in range(300)]
    assert rows["recent"][-1][0] == HOURS[-1].isoformat()
    assert rows["pattern"][0] == ["hour of the day", *map(str, range(24))]
    assert [float(cell) for cell in rows["pattern"][7][1:]] == [6.0 * hour for hour in range(24)]
    assert rows["later"][0] == ["time", "observed", "predicted", "interval, low", "interval, high"]
    assert [float(cell) for cell in rows["later"][5][1:]] == [4.0, 5.0, 2.0, 7.0]


def test_a_long_table_is_cut_and_says_where_the_rest_is(home: Path) -> None:
    soup = BeautifulSoup(report(home).read_text(encoding="utf-8"), "html.parser")
    table = soup.select("figure table")[0]

    assert len(table.select("tbody tr")) == 100
    assert "the first 100 of 300 rows; all are in recent.csv" in str(table.caption)


def test_lying_bars_and_odd_charts_become_tables() -> None:
    lying = json.loads(str(charts.findings(["spike", "gap"], [3, 1]).to_json()))

    assert tables.of_chart(lying) == [["item", "findings"], ["spike", 3], ["gap", 1]]
    assert tables.of_chart({"data": [], "layout": {}}) == []
    assert tables.of_chart({"data": [{"type": "pie", "labels": ["a"]}], "layout": {}}) == [
        ["item", "value"]
    ]


def test_tables_of_a_notebook_get_header_cells_and_numbers_to_the_right() -> None:
    frame = pd.DataFrame({"word": ["a", "b"], "number": [1.5, None], "share": ["5.0%", "-3%"]})
    named = frame.assign(reason=["x", "y"]).set_index("reason").to_html(na_rep="nan")
    soup = BeautifulSoup(tables.cleaned(named, "Findings"), "html.parser")

    assert [(th.get_text(), th["scope"]) for th in soup.select("thead th")] == [
        (name, "col") for name in ("reason", "word", "number", "share")
    ]
    assert [th["scope"] for th in soup.select("tbody th")] == ["row", "row"]
    assert [td.get_text() for td in soup.select("td.number")] == ["1.5", "5.0%", "nan", "-3%"]
    frame_around = soup.select_one(".wide")
    assert frame_around is not None
    assert frame_around["aria-label"] == "Table: Findings"


def test_a_failed_run_shows_its_cell_and_why_at_the_top(home: Path) -> None:
    soup = BeautifulSoup(failed(home).read_text(encoding="utf-8"), "html.parser")
    top = soup.select_one("main > :first-child")

    assert top is not None
    for said in ("Failed in cell 3", "the sensor fell off", "read_sensor()", "ValueError: fell"):
        assert said in top.get_text()
    assert "An Exception" not in soup.get_text()
    assert "What follows was not run" in soup.get_text()
    assert "\x1b" not in str(soup)


@pytest.mark.browser
def test_hostile_text_stays_text(browser: Any, home: Path) -> None:
    figure = line()
    figure.update_layout(meta={"name": "../evil", "summary": HOSTILE}, title={"text": HOSTILE})
    parts = cells(
        [
            drawn(figure),
            shown(text__html=f"<table><tr><td onclick='x()'>{HOSTILE}</td></tr></table>"),
            shown(text__markdown=f"{HOSTILE} [go](javascript:window.hit=1)"),
            V4.new_output("display_data", {"image/svg+xml": f"<svg>{HOSTILE}</svg>"}),
            shown(text__plain=HOSTILE),
            V4.new_output("stream", text=HOSTILE),
            V4.new_output(
                "display_data", {"application/json": {"sentence": HOSTILE, "to": HOSTILE}}
            ),
        ]
    )
    parts[0].source = f"# {HOSTILE}\n{HOSTILE}"
    told = {"cell": 1, "error": "E", "message": f"\ud800{HOSTILE}"}
    (home / "run").mkdir()
    path = written(home / "run", parts, record(error=told, status="failed", report=HOSTILE))

    seen, _ = opened(browser, path)
    soup = BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")

    assert seen.evaluate("window.hit") is None
    assert seen.get_by_text("window.hit = 1").count() >= 8
    assert {str(img["src"])[:18] for img in soup.select("img")} == {"data:image/svg+xml"}
    assert soup.select("[onerror], [onclick], a[href^=javascript]") == []
    assert list(home.rglob("*.csv")) == []


@pytest.mark.browser
def test_a_pdf_has_the_words_the_charts_and_an_outline(browser: Any, home: Path) -> None:
    path = report(home)
    target = home / "report.pdf"

    assert pdf.write(path, target) is None

    read = PdfReader(target)
    text = re.sub(r"\s+", " ", " ".join(part.extract_text() for part in read.pages))
    root: Any = read.trailer["/Root"]
    assert SENTENCE in text.replace("ﬃ", "ffi")
    assert "hour of the day" in text  # stands in the drawing only
    assert f"1 / {len(read.pages)}" in text
    assert "The numbers as a table" not in text
    assert len(read.pages) <= 4
    assert [round(float(side) / 72 * 25.4) for side in read.pages[0].mediabox[2:]] == [210, 297]
    assert root["/MarkInfo"]["/Marked"]
    assert root["/Lang"] == "en"
    assert "The period" in [str(one.title) for one in read.outline[1]]  # type: ignore[union-attr]
    assert str(home) not in str(read.metadata) + text
    assert b"file:" not in target.read_bytes()


@pytest.mark.browser
def test_a_pdf_leaves_nothing_behind(
    browser: Any, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = set(psutil.Process().children(recursive=True))

    # A short path: a socket's may have 107 characters.
    with tempfile.TemporaryDirectory(prefix="sc-") as folder, monkeypatch.context() as patch:
        patch.setattr(tempfile, "tempdir", folder)
        assert pdf.write(report(home), home / "report.pdf") is None
        assert list(Path(folder).iterdir()) == []

    assert set(psutil.Process().children(recursive=True)) <= before


@pytest.mark.browser
def test_a_pdf_that_cannot_be_made_says_why(browser: Any, home: Path) -> None:
    path, target = home / "page.html", home / "report.pdf"
    target.write_text("the one before")
    broken = "Promise.allSettled([Promise.reject(new Error('no ink'))])"
    path.write_text(f"<script>window.smartcityDrawn = {broken}</script>")

    assert "a chart was not drawn: no ink" in str(pdf.write(path, target))
    path.write_text("<script>window.smartcityDrawn = new Promise(() => {})</script>")
    assert "more than 2 s" in str(pdf.write(path, target, seconds=2))
    assert target.read_text() == "the one before"


def test_where_no_browser_is_there_is_no_pdf(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(home))

    assert "install Chromium" in str(pdf.write(home / "page.html", home / "report.pdf"))
    assert not (home / "report.pdf").exists()
