"""Notebooks: short, stripped, tested by nbval, and free of the traps that pass silently."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from conftest import at_home
from IPython.core.interactiveshell import InteractiveShell

from smartcity import parameters

HOME = Path(__file__).parents[1]
NOTEBOOKS = sorted((HOME / "notebooks").glob("*.ipynb"))
pytestmark = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code(path: Path) -> list[nbformat.NotebookNode]:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def test_is_committed_without_outputs(path: Path) -> None:
    assert all(not cell.outputs and cell.execution_count is None for cell in code(path))


def test_opens_with_a_title_and_one_parameters_cell(path: Path) -> None:
    cells = nbformat.read(path, as_version=4).cells
    tagged = [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]

    assert cells[0].source.startswith("# ")
    assert cells[1:2] == tagged


def test_parameters_have_type_and_help(path: Path) -> None:
    found = parameters.read(path)

    assert found
    assert all(parameter.help for parameter in found.values())


def test_parameters_are_no_magics(path: Path) -> None:
    """A line that begins with ``page`` runs the magic of that name and assigns nothing."""
    magics = InteractiveShell.instance().magics_manager.magics

    assert not set(parameters.read(path)) & {*magics["line"], *magics["cell"]}


def test_is_short_and_holds_no_machinery(path: Path) -> None:
    cells = code(path)

    assert len(cells) <= 20
    for cell in cells:
        assert len(cell.source.splitlines()) <= 15
        assert not any(line.startswith(("%", "!")) for line in cell.source.splitlines())
        tree = ast.parse(cell.source)
        banned = (ast.FunctionDef, ast.ClassDef, ast.For, ast.While, ast.Try, ast.With)
        assert not any(isinstance(node, banned) for node in ast.walk(tree))


def test_ends_by_asserting_what_a_wrong_run_would_break(path: Path) -> None:
    if path.stem == "04_predict":  # the door: three lines that show the page
        assert len(code(path)) == 2
        return
    last = "\n".join(cell.source for cell in code(path)[-2:])

    assert "assert" in last


def test_passes_nbval(path: Path, built: Path, tmp_path: Path) -> None:
    """Run every cell; the thorough search runs on the real readings, here a quick one will do."""
    text = path.read_text(encoding="utf-8").replace(
        "thorough: bool = True", "thorough: bool = False"
    )
    path = tmp_path / path.name
    path.write_text(text, encoding="utf-8")
    with at_home(built):
        done = subprocess.run(
            [
                *(sys.executable, "-m", "pytest", "-q", "--nbval-lax", "-p", "no:cacheprovider"),
                *("-c", os.devnull, "--rootdir", str(path.parent), str(path)),
            ],
            capture_output=True,
            text=True,
            env=os.environ.copy(),
            check=False,
        )

    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout
