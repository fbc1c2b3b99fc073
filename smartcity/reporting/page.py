"""An executed notebook as one self-contained page: no network, light and dark, charts alive."""

import json
from pathlib import Path
from typing import Any

import jinja2
import nbformat
import plotly.offline
from markupsafe import Markup
from nbconvert import filters

from smartcity import atomic, charts
from smartcity.runs import Run

#: Kinds of output in the order they are preferred.
_RICHEST = (charts.MIME, "text/html", "image/svg+xml", "image/png", "text/markdown", "text/plain")


def _shown(output: dict[str, Any]) -> dict[str, Any] | None:
    """Choose what to show of an output, as ``kind`` and ``content``."""
    if output["output_type"] == "stream":
        return {"kind": "stream", "content": output["text"]}
    if output["output_type"] == "error":
        return {"kind": "error", "content": "\n".join(output["traceback"])}
    if "application/json" in output["data"]:
        return None  # facts for programs, already in metrics.json
    kind = next((kind for kind in _RICHEST if kind in output["data"]), None)
    return {"kind": kind, "content": output["data"][kind]} if kind else None


def _script_json(value: Any) -> Markup:
    """Write JSON that cannot end the script element it stands in."""
    return Markup(json.dumps(value).replace("</", "<\\/"))


def write(notebook: Path, target: Path, record: Run) -> None:
    """Write the page of an executed notebook.

    Args:
        notebook: The executed copy.
        target: The HTML file to write.
        record: The run, for the page's head.

    Raises:
        StorageError: It cannot be written.
    """
    executed = nbformat.read(notebook, as_version=4)
    cells = [
        {
            "is_text": cell.cell_type == "markdown",
            "source": cell.source,
            "outputs": [s for output in cell.get("outputs", []) if (s := _shown(output))],
        }
        for cell in executed.cells
        if cell.source.strip()
    ]
    has_charts = any(o["kind"] == charts.MIME for cell in cells for o in cell["outputs"])
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True
    )
    environment.filters |= {
        "markdown": lambda text: Markup(filters.markdown2html(text)),
        "highlight": lambda text: Markup(filters.Highlight2HTML()(text)),
        "ansi": lambda text: Markup(filters.ansi2html(text)),
        "script_json": _script_json,
        "trusted": Markup,
    }
    text = environment.get_template("page.html.j2").render(
        cells=cells,
        run=record,
        # The council reads the report, not the code; analysts open the notebook beside it.
        show_code=record.notebook != "05_report" or record.status == "failed",
        plotly_kind=charts.MIME,
        plotly_js=Markup(plotly.offline.get_plotlyjs()) if has_charts else "",
    )
    atomic.write(target, text)
