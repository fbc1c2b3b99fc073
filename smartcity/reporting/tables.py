"""Tables for readers: the numbers a chart draws, and the tables a notebook wrote."""

import csv
import io
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bs4 import BeautifulSoup, Tag
from markupsafe import Markup
from nbconvert.preprocessors.sanitize import SanitizeHTML

#: Lets pass what a notebook may write of HTML: nothing that runs or loads.
_ALLOWED = SanitizeHTML(
    **tomllib.loads(Path(__file__).with_name("allowed.toml").read_text("utf-8"))
)
_NUMBER = re.compile(r"[-+−]?[\d,.]*\d(e[-+]?\d+)?( ?%)?|nan|–", re.IGNORECASE)


def of_chart(figure: Mapping[str, Any]) -> list[list[Any]]:
    """List every number a chart draws, as the chart has them.

    Args:
        figure: ``data`` and ``layout``, as plotly writes them.

    Returns:
        A header, then rows: what the values stand for, then each trace's value; of a band its
        lower and its upper edge. Empty for a chart that draws nothing.
    """
    data, layout = figure["data"], figure["layout"]
    x, y = (layout.get(axis, {}).get("title", {}).get("text", "") for axis in ("xaxis", "yaxis"))
    if not data:
        return []
    if data[0].get("type") == "heatmap":
        named = zip(data[0]["y"], data[0]["z"], strict=True)
        return [
            [" / ".join(filter(None, (y, x))) or "item", *data[0]["x"]],
            *([name, *cells] for name, cells in named),
        ]
    is_lying = data[0].get("orientation") == "h"
    what, quantity = (y, x) if is_lying else (x, y)
    columns = dict(_columns(data, "yx" if is_lying else "xy", quantity or "value"))
    keys = list(dict.fromkeys(key for column in columns.values() for key in column))
    timed = bool(keys) and bool(re.match(r"\d{4}-\d\d-\d\d", str(keys[0])))
    header = [what or ("time" if timed else "item"), *columns]
    return [header, *([key, *(column.get(key) for column in columns.values())] for key in keys)]


def _columns(
    traces: Sequence[Mapping[str, Any]], axes: str, quantity: str
) -> Iterator[tuple[str, dict[Any, Any]]]:
    """Yield each column's name and its values; bands, drawn as an outline, come last."""
    for trace in sorted(traces, key=lambda trace: trace.get("fill") == "toself"):
        found: dict[Any, list[Any]] = {}
        for key, value in zip(*(trace.get(axis) or () for axis in axes), strict=False):
            if key is not None:  # where an outline breaks off
                plain = key.replace("<br>", " ") if isinstance(key, str) else key
                found.setdefault(plain, []).append(value)
        name = trace.get("name") or quantity
        if trace.get("fill") == "toself":
            yield f"{name}, low", {key: min(values) for key, values in found.items()}
            yield f"{name}, high", {key: max(values) for key, values in found.items()}
        else:
            yield name, {key: values[-1] for key, values in found.items()}


def as_csv(rows: Sequence[Sequence[Any]]) -> str:
    """Write rows as CSV (RFC 4180), numbers in full."""
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()


def cleaned(html: str, about: str) -> Markup:
    """Make what a notebook wrote fit for a page: nothing that runs, tables people can read.

    A tag that is not allowed is shown as the text it is. Tables get header cells with a scope, one
    row of headers where pandas writes two, numbers to the right and text to the left, and a frame
    that scrolls, also by keyboard.

    Args:
        html: What it wrote.
        about: What its tables are about, for who hears the page.
    """
    soup = BeautifulSoup(html, "html.parser")
    for left in soup.select("style, a.anchor-link"):
        left.decompose()
    for table in soup.select("table"):
        _dress(table)
        frame = {"class": "wide", "tabindex": "0", "role": "group", "aria-label": f"Table: {about}"}
        table.wrap(soup.new_tag("div", attrs=frame))
    return Markup(_ALLOWED.sanitize_html_tags(str(soup)))


def _dress(table: Tag) -> None:
    _join_headers(table)
    for header in table.select("th"):
        if header.get_text(strip=True):
            header["scope"] = "row" if header.find_parent("tbody") else "col"
        else:
            header.name = "td"
    lines = [row.find_all(["th", "td"]) for row in table.select("tr")]
    if max(map(len, lines), default=0) > 10:
        table["class"] = "many"
    for column in zip(*lines, strict=False):
        texts = [cell.get_text(strip=True) for cell in column if cell.find_parent("tbody")]
        numbers = sum(bool(text and _NUMBER.fullmatch(text)) for text in texts)
        if 2 * numbers > sum(map(bool, texts)) and column[-1].name == "td":
            for cell in column:
                cell["class"] = "number"


def _join_headers(table: Tag) -> None:
    """Make one row of the two in which pandas names the columns, and below them the index."""
    heads = [row.find_all(["th", "td"]) for row in table.select("thead tr")]
    if len(heads) != 2 or len(heads[0]) != len(heads[1]):
        return
    texts = [[cell.get_text(strip=True) for cell in pair] for pair in zip(*heads, strict=True)]
    if not any(all(pair) for pair in texts):
        for cell, pair in zip(heads[0], texts, strict=True):
            cell.string = "".join(pair)
        table.select("thead tr")[1].decompose()
