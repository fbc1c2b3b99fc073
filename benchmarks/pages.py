"""Compare our page with the same content in Dash, Streamlit and Panel, in one run, in turns.

The others' pages are in ``pages/``; they read the same reports and ask the same model. They lack
our upload, languages, options and reset, which makes them lighter. Each server is started once; a
headless Chromium opens the pages in turns and looks at the screen from inside, once a frame: three
numbers readable; a slider moved and its answer changed; two charts drawn. Times count from the
navigation's start, the browser's cache warm; bytes are counted with an empty one. Ours zips what
it sends; the others leave that to a proxy, so bytes are told as sent and unpacked.

    python benchmarks/pages.py --rounds 5 --sessions 60
"""

import argparse
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright
from rich.console import Console
from rich.table import Table
from serving import answers, free_port, memory

HERE = Path(__file__).parent
VENV = HERE / ".venv-pages"
BIN = VENV / "bin"
#: What the model needs, in the versions we run it with.
SHARED = ("numpy", "onnxruntime", "orjson", "plotly", "pydantic", "pydantic-settings", "structlog")
#: Runs in a page before anything of its own does.
WATCH = (HERE / "pages" / "watch.js").read_text(encoding="utf-8")
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
QUIET += ["--disable-background-networking", "--disable-component-update"]
DEEP = "?page=air_quality"
#: Moves of a visitor in a round, milliseconds between them, and visitors at once.
MOVES, EVERY, VISITORS = 20, 250, 6


@dataclass(frozen=True)
class Tool:
    """How to start a page, what to ask whether it is up, and where on it to look.

    ``number`` selects the overview's three, ``slider`` what moves one: a native range, or what
    takes its keys. An unanswered move is tried again after ``retry`` milliseconds; Streamlit waits
    for a pause in the moves, so a hasty second one would only hold it up.
    """

    command: tuple[str, ...]
    number: str
    slider: str
    loading: str
    answer: str = ""
    path: str = ""
    retry: int = 100
    up: str = "favicon.ico"


TOOLS = {
    "ours": Tool(
        (sys.executable, "-m", "smartcity", "dashboard"),
        ".smartcity-number",
        ".smartcity-inputs input[type=range]",
        ".smartcity-waits",
        answer=".smartcity-answer .smartcity-number",
        up="smartcity/health",  # the page itself would take a kernel
    ),
    "dash": Tool(
        (f"{BIN}/gunicorn", "dash_page:server", "--bind=127.0.0.1:{port}"),
        ".number",
        "[role=slider]",
        "._dash-loading, ._dash-loading-callback",
    ),
    "streamlit": Tool(
        (f"{BIN}/streamlit", "run", "streamlit_page.py", "--server.port={port}"),
        "[data-testid=stMetricValue]",
        ".st-key-C6H6_GT input[type=range]",
        "[data-testid=stStatusWidget], [data-testid=stSkeleton]",
        retry=1000,
    ),
    "panel": Tool(
        (f"{BIN}/panel", "serve", "panel_page.py", "--port={port}", "--warm"),
        ".number",
        ".noUi-handle",
        ".pn-loading",
        path="panel_page",
    ),
}
ROWS = {
    "three numbers readable, ms": "first",
    "a moved slider answered, ms": "answer",
    "two charts drawn, ms": "charts",
    "alive: all of the page, ms": "alive",
    "alive with an empty cache, ms": "cold",
    "requests until alive": "requests",
    "MB until alive, as sent": "sent",
    "MB until alive, unpacked": "unpacked",
    "move to answer p50, ms": "moves p50",
    "move to answer p95, ms": "moves p95",
    f"{VISITORS} visitors: move to answer p95, ms": "crowd p95",
    "server, nobody there, MB": "idle",
    "of it workers or kernels, MB": "children",
    "each session more, MB": "session",
}
Found = dict[str, list[float]]


def prepare() -> None:
    """Make the others' environment, unless it is there and as it should be."""
    listed, mark = HERE / "pages" / "requirements.txt", VENV / ".ready"
    shared = [f"{name}=={version(name)}" for name in SHARED]
    wanted = listed.read_text(encoding="utf-8") + "\n".join(shared)
    if mark.is_file() and mark.read_text(encoding="utf-8") == wanted:
        return
    uv = str(Path(sys.executable).with_name("uv"))
    install = [uv, "pip", "install", "--quiet", "--compile-bytecode", f"--python={BIN}/python"]
    subprocess.run([uv, "venv", "--quiet", "--clear", VENV], check=True)
    subprocess.run([*install, "-r", listed, *shared], check=True)
    subprocess.run([*install, "--no-deps", "--editable", HERE.parent], check=True)
    mark.write_text(wanted, encoding="utf-8")


@contextmanager
def running(name: str, folder: Path) -> Iterator[tuple[str, int]]:
    """Run a tool's server; give its page's address and its process id."""
    tool, port, log = TOOLS[name], free_port(), folder / f"{name}.log"
    # One thread for a single row, as our kernels have it.
    more = {"SMARTCITY_DASHBOARD_PORT": str(port), "OMP_NUM_THREADS": "1"}
    with log.open("wb") as output:
        server = subprocess.Popen(
            [word.format(port=port) for word in tool.command],
            cwd=HERE / "pages",
            env=os.environ | more | {"SMARTCITY_LOGS": str(folder / "logs")},
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C ends us, and we end it
        )
    try:
        while not answers(f"http://127.0.0.1:{port}/{tool.up}"):
            if server.poll() is not None:
                raise SystemExit(f"{name} did not start:\n{log.read_text()[-2000:]}")
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/{tool.path}", server.pid
    finally:
        is_up = server.poll() is None
        left: list[Any] = psutil.Process(server.pid).children(recursive=True) if is_up else []
        server.terminate()
        with suppress(subprocess.TimeoutExpired):
            server.wait(timeout=20)
        for process in [*left, server]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        server.wait()


def settled(pid: int) -> float:
    """Wait until a server's memory stays as it is; give it in MB, shared pages counted once."""
    before, now, rounds = 0.0, memory(pid), 0
    while abs(now - before) > 0.002 * now and (rounds := rounds + 1) < 30:
        time.sleep(2)
        before, now = now, memory(pid)
    return now


@contextmanager
def visitor(browser: Browser, name: str) -> Iterator[BrowserContext]:
    """Give a browser's context of its own, cache and all, that looks at a tool's pages."""
    tool = TOOLS[name]
    look = {n: getattr(tool, n) for n in ("number", "slider", "loading", "retry")}
    look |= {"name": name, "answer": tool.answer or tool.number}
    context = browser.new_context(viewport={"width": 1280, "height": 1800})  # charts in sight
    context.add_init_script(f"{WATCH}({json.dumps(look)})")
    yield context
    context.close()


def visit(page: Page, address: str) -> dict[str, float]:
    """Open an address, wait for what is looked for there, and give when it was there."""
    page.goto(address)
    return dict(page.evaluate("bench.done()"))


def cold(browser: Browser, name: str, address: str) -> dict[str, float]:
    """Open the air quality page with an empty cache; count what comes until it is alive."""
    asked: list[str] = []
    sizes = {"sent": 0.0, "unpacked": 0.0}

    def data(said: dict[str, Any]) -> None:
        sizes["sent"] += said["encodedDataLength"] / 1e6
        sizes["unpacked"] += said["dataLength"] / 1e6

    def frame(said: dict[str, Any]) -> None:
        # Bytes are told as base64, and both kinds unpacked.
        told = said["response"]
        size = len(told["payloadData"]) * (0.75 if told["opcode"] == 2 else 1)
        data({"encodedDataLength": size, "dataLength": size})

    with visitor(browser, name) as context:
        page = context.new_page()
        network = context.new_cdp_session(page)
        network.on("Network.requestWillBeSent", lambda said: asked.append(said["request"]["url"]))
        network.on("Network.dataReceived", data)
        network.on("Network.webSocketFrameReceived", frame)
        network.on("Network.webSocketFrameSent", frame)
        network.send("Network.enable")
        seen = visit(page, address + DEEP)
    asked = [url for url in asked if url.startswith("http")]  # not data: and blob:
    strangers = [url for url in asked if not url.startswith("http://127.0.0.1:")]
    if strangers:
        raise SystemExit(f"{name} asked for {strangers}, which is not on this machine")
    return sizes | {"requests": len(asked), "cold": seen["alive"]}


def turn(browser: Browser, name: str, address: str, found: Found) -> None:
    """Measure one tool once: first numbers, alive, moves alone and with others, a cold load."""
    with visitor(browser, name) as context:
        page = context.new_page()
        for _ in range(2):  # the first fills the caches
            first = visit(page, address)["first"]
            figures = visit(page, address + DEEP) | {"first": first}
        time.sleep(1)
        page.evaluate(f"void bench.move({MOVES}, {EVERY})")
        found["moves"] += page.evaluate("bench.times")
    with ExitStack() as stack:
        pages = [stack.enter_context(visitor(browser, name)).new_page() for _ in range(VISITORS)]
        for page in pages:
            visit(page, address + DEEP)
        time.sleep(1)
        for page in pages:
            page.evaluate(f"void bench.move({MOVES}, {EVERY})")
        for page in pages:
            found["crowd"] += page.evaluate("bench.times")
    figures |= cold(browser, name, address)
    for figure in set(figures) & set(ROWS.values()):
        found[figure].append(figures[figure])


def weigh(browser: Browser, name: str, address: str, pid: int) -> dict[str, float]:
    """Tell a server's memory without visitors, and what each one adds."""
    idle, parts = settled(pid), sum(memory(child.pid) for child in psutil.Process(pid).children())
    with ExitStack() as stack:
        for _ in range(VISITORS):
            page = stack.enter_context(visitor(browser, name)).new_page()
            visit(page, address + DEEP)
        return {"idle": idle, "children": parts, "session": (settled(pid) - idle) / VISITORS}


def fill(browser: Browser, address: str, pid: int, sessions: int) -> dict[str, Any]:
    """Open our page so often, ask once more, close all, and see how soon they are forgotten."""
    asking, refused = browser.new_context().request, list[Any]()
    with visitor(browser, "ours") as context:
        for _ in range(sessions):
            visit(context.new_page(), address)
        total, counted = settled(pid), asking.get(address + TOOLS["ours"].up).json()
        page = context.new_page()
        page.on("response", lambda answer: refused.append(answer.status))
        page.goto(address)
        refused.append(page.locator("[role=status]").inner_text())
    closed, freed = time.perf_counter(), dict[str, float]()
    while "all" not in freed and (after := time.perf_counter() - closed) < 120:
        left = asking.get(address + TOOLS["ours"].up).json()["sessions"]
        for which, most in {"first": counted["sessions"] - 1, "all": 0}.items():
            if left <= most:
                freed.setdefault(which, round(after, 1))
        time.sleep(0.1)
    return {"health": counted, "MB": round(total), "one more": refused, "freed after s": freed}


def summed(found: Found) -> dict[str, float]:
    """Give the medians of the rounds, and of all moves the middle and the slow."""
    told = {name: statistics.median(values) for name, values in found.items()}
    for name in ("moves", "crowd"):
        cuts = statistics.quantiles(found[name], n=20)
        told |= {f"{name} p50": cuts[9], f"{name} p95": cuts[18]}
    return told


def table(told: dict[str, dict[str, float]]) -> Table:
    """Lay out the figures, and ours by each other's."""
    others = [name for name in told if name != "ours" and "ours" in told]
    laid = Table("Medians of one run, in turns", *told, *(f"ours / {name}" for name in others))
    for row, figure in ROWS.items():
        by = [told[name][figure] for name in others]
        cells = [f"{told['ours'][figure] / other:.2f}" if other > 0.1 else "" for other in by]
        laid.add_row(row, *(f"{figures[figure]:,.1f}" for figures in told.values()), *cells)
    return laid


def measure(chosen: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Start all servers and the browser, measure in turns, and end them."""
    with ExitStack() as stack:
        servers = {n: stack.enter_context(running(n, folder)) for n in chosen.only}
        chromium = stack.enter_context(sync_playwright()).chromium
        browser = chromium.launch(executable_path=shutil.which("chromium"), args=QUIET)
        stack.callback(browser.close)
        for name, (address, _) in servers.items():
            with visitor(browser, name) as context:  # models are opened, caches filled
                visit(context.new_page(), address)
                visit(context.new_page(), address + DEEP)
        time.sleep(35)  # until even Panel has forgotten who left
        weights = {name: weigh(browser, name, *server) for name, server in servers.items()}
        found: dict[str, Found] = {name: defaultdict(list) for name in servers}
        for _ in range(chosen.rounds):
            for name, (address, _pid) in servers.items():
                turn(browser, name, address, found[name])
        machine = f"{platform.platform()}, {os.cpu_count()} cores, Chromium {browser.version}"
        medians = {name: summed(values) | weights[name] for name, values in found.items()}
        told = {"machine": machine, "medians": medians, "values": found}
        if chosen.sessions and "ours" in servers:
            told["sessions"] = fill(browser, *servers["ours"], chosen.sessions)
    return told


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=TOOLS, default=list(TOOLS))
    parser.add_argument("--sessions", type=int, default=0, help="of ours to open at once")
    parser.add_argument("--json", action="store_true", help="print JSON")
    chosen = parser.parse_args()
    if not shutil.which("chromium"):
        raise SystemExit("chromium is not here. Install it, as in: apt-get install chromium")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that all is ended
    os.environ["SMARTCITY_DASHBOARD_SESSIONS"] = str(chosen.sessions or 60)
    prepare()
    with tempfile.TemporaryDirectory(prefix="smartcity-bench-") as folder:
        told = measure(chosen, Path(folder))
    console = Console(width=140)
    if chosen.json:
        console.print_json(data=told)
    else:
        console.print(table(told["medians"]), told["machine"], told.get("sessions", ""))


if __name__ == "__main__":
    main()
