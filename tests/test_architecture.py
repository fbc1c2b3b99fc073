"""The house: rooms in order, each library at home in one room, serving light, the package small."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "smartcity"

#: A room imports only from rooms above it.
ROOMS = [
    "errors",
    "settings",
    "atomic",
    "lineage",
    "logs",
    "engine",
    "domains",
    "features",
    "registry",
    "predict",
    "store",
    "monitoring",
    "parameters",
    "runs",
    "data",
    "modelling",
    "charts",
    "reporting",
    "dashboard",
    "api",
    "stack",
    "backup",
    "doctor",
    "cli",
]
#: Pairs that may not know each other although the order would allow it.
STRANGERS = {
    "data": {"predict"},
    "modelling": {"predict"},
    "reporting": {"predict"},
    "dashboard": {"data", "modelling", "charts", "reporting"},
    "api": {"data", "modelling", "charts", "reporting", "dashboard", "runs"},
    "stack": {"data", "modelling", "charts", "reporting"},
    "backup": {"data", "modelling", "charts", "reporting", "dashboard", "api", "stack"},
}
#: Library -> the rooms it is at home in.
HOMES = {
    "sklearn": {"modelling"},
    "skl2onnx": {"modelling"},
    "scipy": {"modelling"},
    "crepes": {"modelling"},
    "threadpoolctl": {"engine", "modelling"},
    "pandas": {"monitoring", "data", "modelling"},
    "pandera": {"data"},
    "pooch": {"data"},
    "onnxruntime": {"registry"},
    "joblib": {"engine", "registry"},
    "distributed": {"engine"},
    "plotly": {"charts", "reporting", "dashboard"},
    "papermill": {"reporting"},
    "cronsim": {"reporting"},
    "rocrate": {"reporting"},
    "nbconvert": {"reporting"},
    "ipywidgets": {"dashboard"},
    "anywidget": {"dashboard"},
    "voila": {"dashboard"},
    "tornado": {"dashboard"},
    "jupyter_client": {"reporting", "dashboard"},
    "jupyter_server": {"dashboard"},
    "ipykernel": {"reporting", "dashboard"},
    "fastapi": {"api"},
    "fastapi_offline": {"api"},
    "uvicorn": {"api"},
    "typer": {"cli"},
    "rich": {"cli"},
    "structlog": {"logs"},
    "sqlalchemy": {"store"},
    "alembic": {"store"},
    "prometheus_client": {"monitoring"},
    "psutil": {"monitoring"},
    "limits": {"api"},
    "cachetools": {"api"},
    "pyarrow": {"predict", "dashboard"},
    "xlsxwriter": {"dashboard"},
}
MODULES = sorted(
    path
    for path in PACKAGE.rglob("*.py")
    if path.parent != PACKAGE or path.stem not in {"__init__", "__main__"}
)


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[str]:
    """Yield every imported module, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == "smartcity":
            yield from (f"smartcity.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_knows_only_the_rooms_above_it(path: Path) -> None:
    room = room_of(path)
    known = {name.split(".")[1] for name in imports(path) if name.startswith("smartcity.")}

    rooms = (known & set(ROOMS)) - {room}
    assert all(ROOMS.index(other) < ROOMS.index(room) for other in rooms), rooms
    assert not rooms & STRANGERS.get(room, set())


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_library_stays_at_home(path: Path) -> None:
    libraries = {name.split(".")[0] for name in imports(path)} & set(HOMES)

    assert {name for name in libraries if room_of(path) not in HOMES[name]} == set()


def test_every_room_is_in_the_list() -> None:
    assert {room_of(path) for path in MODULES} == set(ROOMS)


@pytest.mark.parametrize("module", ["smartcity.predict", "smartcity.dashboard", "smartcity.api"])
def test_serving_imports_neither_pandas_nor_scikit_learn(module: str) -> None:
    asked = f"import sys, {module}; print(*{{n.split('.')[0] for n in sys.modules}})"

    loaded = subprocess.run(
        [sys.executable, "-c", asked], capture_output=True, text=True, check=True
    )

    assert not {"pandas", "sklearn", "plotly", "joblib", "skl2onnx"} & set(loaded.stdout.split())


def code_lines(path: Path) -> int:
    """Count the lines that are neither blank, nor comment, nor docstring."""
    text = path.read_text(encoding="utf-8")
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = [
        node.body[0]
        for node in ast.walk(ast.parse(text))
        if isinstance(node, documented) and ast.get_docstring(node)
    ]
    silent = {n for d in docstrings for n in range(d.lineno, (d.end_lineno or d.lineno) + 1)}
    lines = enumerate(map(str.strip, text.splitlines()), start=1)
    return sum(bool(line) and line[0] != "#" and n not in silent for n, line in lines)


def test_the_package_stays_small() -> None:
    sizes = {path: code_lines(path) for path in PACKAGE.rglob("*.py")}

    assert sum(sizes.values()) <= 16700
    assert max(sizes.values()) <= 420


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_functions_stay_short(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            length = (node.end_lineno or 0) - body[0].lineno + 1 if body else 0
            assert length <= 62, node.name
