"""A small simulated city in a folder of its own, fitted once; real readings where they are."""

import os
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from smartcity import data, domains, modelling, registry, reporting, settings
from smartcity.modelling import candidates

#: What the person who started the tests named; the tests themselves never read from there.
REAL = os.environ.pop("SMARTCITY_DATASETS", None)
DOMAINS = ("air_quality", "traffic", "energy")


@contextmanager
def at_home(folder: Path, **more: str) -> Iterator[Path]:
    """Let every setting point into a folder for a while."""
    names = ("datasets", "demo", "models", "reports", "logs")
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
