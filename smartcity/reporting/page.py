"""An executed notebook as one self-contained page: no network; light, dark and on paper."""

import base64
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import nbformat
from markupsafe import Markup
from nbconvert import filters

from smartcity import atomic, charts, domains
from smartcity.reporting import tables, templates
from smartcity.runs import Run

#: Rows of a chart's table on the page; its CSV file has them all.
_ROWS = 100
#: Of plotly.js the kinds our charts are of, a quarter of the whole; ``frontend/`` makes it.
_PLOTLY = "dashboard/share/voila/templates/smartcity/static/made/plotly.js"
#: What papermill puts before a cell that failed.
_MARKER = "papermill-error-cell-tag"


def _written(markdown: str, about: str) -> Markup:
    return tables.cleaned(filters.markdown2html(markdown), about)


def _chart(figure: Mapping[str, Any]) -> dict[str, Any]:
    layout = figure["layout"]
    meta = layout.get("meta") or {}
    header, *rows = tables.of_chart(figure) or [[]]
    return {
        "figure": {"data": figure["data"], "layout": layout},
        "name": meta.get("name", ""),
        "title": layout.get("title", {}).get("text", ""),
        "summary": meta.get("summary", ""),
        "height": int(layout.get("height", 340)),
        "header": header,
        "rows": rows[:_ROWS],
        "all": len(rows),
    }


def _inlined(picture: str, mime: str) -> str:
    """Embed a picture: in one no script runs, be there any."""
    coded = base64.b64encode(picture.encode()).decode() if mime == "image/svg+xml" else picture
    return f"data:{mime};base64,{coded}"


#: Kinds of output in the order they are preferred: what each becomes, and how.
_SHOWN: dict[str, tuple[str, Callable[[Any, str], Any]]] = {
    charts.MIME: ("chart", lambda figure, about: _chart(figure)),
    "text/html": ("html", tables.cleaned),
    "image/svg+xml": ("picture", lambda text, about: _inlined(text, "image/svg+xml")),
    "image/png": ("picture", lambda coded, about: _inlined(coded, "image/png")),
    "text/markdown": ("html", _written),
    "text/plain": ("plain", lambda text, about: text),
}


def _shown(output: Mapping[str, Any], about: str) -> dict[str, Any] | None:
    """Choose what to show of an output: its ``kind``, and what is ``shown``."""
    if output["output_type"] == "stream":
        return {"kind": "plain", "shown": filters.strip_ansi(output["text"])}
    if output["output_type"] == "error":
        return {"kind": "error", "shown": filters.strip_ansi("\n".join(output["traceback"]))}
    mime = next((mime for mime in _SHOWN if mime in output["data"]), None)
    if mime is None or "application/json" in output["data"]:
        return None  # facts for programs are in metrics.json
    kind, show = _SHOWN[mime]
    return {"kind": kind, "shown": show(output["data"][mime], about)}


def _cells(notebook: Any) -> Iterator[dict[str, Any]]:
    """Yield what is shown of each cell; the first heading stands in the page's head already."""
    about = ""
    for cell in notebook.cells:
        if not cell.source.strip() or _MARKER in cell.metadata.get("tags", ()):
            continue
        if cell.cell_type == "markdown":
            source = cell.source if about else re.sub(r"\A\s*# .*", "", cell.source)
            about = "".join(re.findall(r"^#+ (.*)", cell.source, flags=re.MULTILINE)[-1:]) or about
            yield {"is_text": True, "text": _written(source, about)}
        elif cell.cell_type == "code":
            outputs = [shown for o in cell.outputs if (shown := _shown(o, about))]
            number = cell.execution_count
            yield {"is_text": False, "source": cell.source, "number": number, "outputs": outputs}


def _facts(notebook: Any) -> dict[str, Any]:
    """Take the facts a notebook states; empty if it states none."""
    stated = [
        output["data"]["application/json"]
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if "application/json" in output.get("data", ())
    ]
    return stated[-1] if stated and isinstance(stated[-1], dict) else {}


def _heading(notebook: Any, record: Run) -> str:
    """Name the page: the notebook's first heading, and the question."""
    texts = (cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    heading = re.search(r"^# (.+)", "\n".join(texts), flags=re.MULTILINE)
    domain = domains.load_all().get(record.domain)
    site = record.parameters.get("site", "main")
    where = "" if site == "main" else f", {site}"
    named = heading[1].strip() if heading else record.notebook
    return f"{named}: {domain.title if domain else record.domain}{where}"


def _period(facts: Mapping[str, Any], record: Run) -> str:
    """Say which time the page speaks of."""
    said = ""
    if facts.get("from") and facts.get("to"):
        first, last = templates.moment(facts["from"]), templates.moment(facts["to"])
        said = f"{first} to {last}, by the station's clock. "
    if at := record.parameters.get("as_of"):
        said += f"Readings up to {templates.moment(at)}."
    return said


def _made(record: Run) -> dict[str, str]:
    """Tell where the page comes from, for who wants to make it again."""
    # By the runner: the model, the report before, how answers turned out.
    told = {"version", "previous", "answers"}
    asked = {k: v for k, v in record.parameters.items() if v != "" and k not in told}
    git = record.git or {}
    dirty = ", with changes that are in no commit" if git.get("dirty") else ""
    files = [f"{f['name']} (sha256 {str(f['sha256'])[:12]})" for f in record.inputs]
    lines = {
        "Notebook": record.notebook,
        "Run": record.id + (f", attempt {record.attempt}" if record.attempt > 1 else ""),
        "Made": f"{templates.moment(record.started_at)}, in {record.seconds:g} s",
        "Readings": ", ".join(files) + (", simulated" if record.simulated else ""),
        "Parameters": ", ".join(f"{name} {value}" for name, value in asked.items()),
        "Model": f"version {record.model_version}" if record.model_version else "",
        "Code": f"SmartCity {record.smartcity}"
        + (f", commit {str(git['commit'])[:12]}{dirty}" if git.get("commit") else ""),
    }
    return {name: said for name, said in lines.items() if said}


def write(notebook: Path, target: Path, record: Run) -> None:
    """Write the page of an executed notebook, and each chart's numbers as CSV beside it.

    Args:
        notebook: The executed copy.
        target: The HTML file to write; a chart named ``recent`` becomes ``recent.csv``.
        record: The run, for the page's head and foot.

    Raises:
        StorageError: They cannot be written.
    """
    executed = nbformat.read(notebook, as_version=4)
    cells, facts = list(_cells(executed)), _facts(executed)
    outputs = [(c, o) for c in cells if not c["is_text"] for o in c["outputs"]]
    drawn = [output["shown"] for _, output in outputs if output["kind"] == "chart"]
    failed = [(c["source"], o["shown"]) for c, o in outputs if o["kind"] == "error"]
    sentence = str(facts.get("sentence", ""))
    said = " ".join(Markup(o["shown"]).striptags() for _, o in outputs if o["kind"] == "html")
    library = Path(__file__).parents[1] / _PLOTLY
    text = templates.render(
        "page.html.j2",
        title=_heading(executed, record),
        # Some notebooks begin with it themselves; nobody wants to read it twice.
        lead=sentence if sentence not in said else "",
        period=_period(facts, record),
        cells=cells,
        failed={"source": failed[0][0], "traceback": failed[0][1]} if failed else None,
        run=record,
        made=_made(record),
        footline=f"SmartCity · {record.notebook} · {record.domain} · {record.id}",
        # Their readers want the report, not the code; analysts open the notebook beside it.
        show_code=record.notebook not in {"05_report", "06_monitor"} or record.status == "failed",
        plotly_js=Markup(library.read_text(encoding="utf-8")) if drawn else "",
    )
    atomic.write(target, text)
    for chart in drawn:
        if re.fullmatch(r"\w+", chart["name"]) and chart["all"]:
            rows = tables.of_chart(chart["figure"])
            atomic.write(target.with_name(f"{chart['name']}.csv"), tables.as_csv(rows))
