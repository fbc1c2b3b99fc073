"""Tidy values -> plotly figures, nothing else; each names itself and says what it shows."""

import json
import math
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from smartcity.domains import Domain

# Okabe and Ito (2008): told apart with any colour vision.
MODEL, TRUTH, NAIVE = "#0072b2", "#d55e00", "#8a94a0"
SCALE = [[0, "#eef6fb"], [0.5, "#56b4e9"], [1, "#00446b"]]
MIME = "application/vnd.plotly.v1+json"
WEEKDAYS = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]


class Chart(go.Figure):
    """A figure that shows itself as data, not as a script to be fetched from somewhere.

    Plotly's own renderers also import nbformat, which costs each kernel more than two seconds.
    """

    def _ipython_display_(self) -> None:
        from IPython.display import display

        display({MIME: json.loads(self.to_json()), "text/plain": self.layout.title.text}, raw=True)


def _figure(name: str, title: str, summary: str, traces: Sequence[Any], **layout: Any) -> Chart:
    """Dress traces alike; ``meta`` lets the page find the figure and read its summary aloud."""
    figure = Chart(list(traces))
    figure.update_layout(
        template="none",
        title={"text": title, "x": 0, "y": 0.97, "yanchor": "top", "font": {"size": 15}},
        meta={"name": name, "summary": summary},
        font={"family": "system-ui, sans-serif", "size": 13},
        margin={"l": 60, "r": 16, "t": 76 if len(traces) > 1 else 48, "b": 48},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        legend={"orientation": "h", "y": 1.01, "yanchor": "bottom", "x": 0, "xanchor": "left"},
        hovermode="x unified",
        height=340,
        **layout,
    )
    grid = {"gridcolor": "rgba(128,140,152,0.25)", "zeroline": False, "automargin": True}
    figure.update_xaxes(**grid)
    figure.update_yaxes(**grid)
    return figure


def recent(rows: Any, column: str, *, label: str, unit: str) -> Chart:
    """Draw the latest readings of a quantity over time; gaps stay gaps.

    Args:
        rows: ``recorded_at`` and the column, in time order.
        column: What to draw.
        label: Its name for readers.
        unit: Its unit.
    """
    known = rows[column].dropna()
    summary = f"{label}: {len(known)} readings between {known.min():g} and {known.max():g} {unit}."
    rows = _with_gaps(rows[["recorded_at", column]])
    line = go.Scatter(
        x=list(rows["recorded_at"]),
        y=list(rows[column]),
        mode="lines",
        name=label,
        line={"color": MODEL, "width": 2},
    )
    axis = {"title": {"text": unit or label}}
    return _figure("recent", f"{label}, latest readings", summary, [line], yaxis=axis)


def pattern(table: Sequence[Sequence[float]], *, label: str, unit: str) -> Chart:
    """Draw the usual value by weekday (7 rows) and hour (24 columns)."""
    cells = [
        (value, day, hour)
        for day, row in enumerate(table)
        for hour, value in enumerate(row)
        if not math.isnan(value)
    ]
    value, day, hour = max(cells)
    summary = f"{label}: usually highest on {WEEKDAYS[day]} at {hour}:00 ({value:.3g} {unit})."
    heat = go.Heatmap(
        z=[list(row) for row in table],
        x=list(range(24)),
        y=WEEKDAYS,
        colorscale=SCALE,
        colorbar={"thickness": 12},
        hovertemplate="%{y} %{x}:00: %{z:.2f}<extra></extra>",
    )
    return _figure(
        "pattern",
        f"{label} by weekday and hour, {unit}",
        summary,
        [heat],
        xaxis={"title": {"text": "hour of the day"}, "dtick": 3},
        yaxis={"autorange": "reversed"},
    )


def scores(names: Sequence[str], values: dict[str, Sequence[float]], *, metric: str) -> Chart:
    """Draw one metric of the model (first) and the baselines, for each split."""
    best = "lowest" if metric in {"rmse", "mae"} else "highest"
    later = list(values["time-ordered"])
    winner = names[later.index(min(later) if best == "lowest" else max(later))]
    name = metric.upper() if metric in {"rmse", "mae"} else metric.capitalize()
    summary = f"On later time, {winner} has the {best} {name}."
    bars = [
        go.Bar(
            x=list(numbers),
            y=list(names),
            orientation="h",
            name=split,
            marker={"color": colour},
            text=[f"{v:.3f}" for v in numbers],
        )
        for (split, numbers), colour in zip(values.items(), (NAIVE, MODEL), strict=True)
    ]
    return _figure(
        "scores",
        f"{name} of model and baselines",
        summary,
        bars,
        barmode="group",
        xaxis={"title": {"text": f"{best} is best"}},
        yaxis={"autorange": "reversed"},
    )


def later(domain: Domain, rows: Any) -> Chart:
    """Draw predictions on later time beside what was then observed.

    Args:
        domain: The question.
        rows: Columns ``recorded_at``, ``observed``, ``predicted`` and, for a quantity, ``low`` and
            ``high``.
    """
    if domain.target.levels:
        return _confusion([level.label for level in domain.target.levels], rows)
    unit = domain.target.unit
    error = float((rows["observed"] - rows["predicted"]).abs().mean())
    rows = _with_gaps(rows)
    times = list(rows["recorded_at"])
    outline, edge = _outline(rows)
    traces = [
        go.Scatter(
            x=outline,
            y=edge,
            fill="toself",
            fillcolor="rgba(0,114,178,0.18)",
            line={"width": 0},
            mode="lines",
            hoverinfo="skip",
            name="interval",
        )
    ]
    for name, colour in (("observed", TRUTH), ("predicted", MODEL)):
        line = {"color": colour, "width": 1.5}
        traces.append(go.Scatter(x=times, y=list(rows[name]), name=name, mode="lines", line=line))
    return _figure(
        "later",
        "Predicted and observed on later time",
        f"On the stretch shown, predictions were off by {error:.2f} {unit} on average.",
        traces,
        yaxis={"title": {"text": unit}},
    )


def _outline(rows: Any) -> tuple[list[Any], list[Any]]:
    """Walk around the interval, up one side and down the other, anew after each gap."""
    x: list[Any] = []
    y: list[Any] = []
    for _, part in rows.groupby(rows["low"].isna().cumsum()):
        known = part.dropna(subset=["low"])
        x += [*known["recorded_at"], *known["recorded_at"][::-1], None]
        y += [*known["high"], *known["low"][::-1], None]
    return x, y


def _with_gaps(rows: Any) -> Any:
    """Put an empty row into every long pause, so that no line is drawn across it."""
    pause = rows["recorded_at"].diff()
    first_after = rows[pause > 5 * pause.median()]
    empty = first_after.assign(**dict.fromkeys(rows.columns.drop("recorded_at"), float("nan")))
    empty["recorded_at"] -= pause.median()
    # The frame brings its own concat: this room draws and does not import pandas.
    return rows.reset_index(drop=True).merge(empty, how="outer").sort_values("recorded_at")


def _confusion(labels: Sequence[str], rows: Any) -> Chart:
    """Draw how often each observed class (row) was predicted as each class (column)."""
    numbers = range(len(labels))
    pairs = list(zip(rows["observed"], rows["predicted"], strict=True))
    cells = [[pairs.count((o, p)) for p in numbers] for o in numbers]
    right = sum(row[n] for n, row in enumerate(cells))
    heat = go.Heatmap(
        z=cells,
        x=list(labels),
        y=list(labels),
        colorscale=SCALE,
        showscale=False,
        text=cells,
        texttemplate="%{text}",
        hovertemplate="observed %{y}, predicted %{x}: %{z}<extra></extra>",
    )
    return _figure(
        "later",
        "Predicted and observed on later time",
        f"{right} of {len(pairs)} later readings were put into the right class.",
        [heat],
        xaxis={"title": {"text": "predicted"}},
        yaxis={"title": {"text": "observed"}, "autorange": "reversed"},
    )


def findings(reasons: Sequence[str], counts: Sequence[int]) -> Chart:
    """Draw how many findings there are for each reason."""
    most = f"Most often: {reasons[0]} ({counts[0]})." if len(reasons) else "Nothing was found."
    bars = go.Bar(
        x=list(counts),
        y=list(reasons),
        orientation="h",
        marker={"color": NAIVE},
        text=[f"{c:,}" for c in counts],
    )
    return _figure(
        "findings",
        "Faults found in the readings",
        most,
        [bars],
        xaxis={"title": {"text": "findings"}},
        yaxis={"autorange": "reversed"},
    )
