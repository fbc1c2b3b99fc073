"""Tidy values -> plotly figures, nothing else; each names itself and says what it shows."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from smartcity.domains import Domain, Forecast

# Okabe and Ito (2008): told apart with any colour vision.
MODEL, TRUTH, NAIVE = "#0072b2", "#d55e00", "#8a94a0"
SCALE = [[0, "#eef6fb"], [0.5, "#56b4e9"], [1, "#00446b"]]
#: Low to high, dark enough on white, light enough on black.
SEQUENCE = ["#56b4e9", "#009e73", "#e69f00", "#d55e00"]
MIME = "application/vnd.plotly.v1+json"
#: Bars that say their figure beside their end.
_OUTSIDE: dict[str, Any] = {"textposition": "outside", "cliponaxis": False}
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
        **{"height": 340, **layout},
    )
    grid = {"gridcolor": "rgba(128,140,152,0.25)", "zeroline": False, "automargin": True}
    figure.update_xaxes(**grid)
    figure.update_yaxes(**grid)
    return figure


def _line(x: Any, y: Any, name: str, mode: str = "lines", **line: Any) -> go.Scatter:
    """Make a line; ``color``, ``width`` and ``dash`` as plotly has them."""
    return go.Scatter(x=list(x), y=list(y), name=name, mode=mode, line=line)


def _bars(x: Any, y: Any, name: str, color: Any = MODEL, **more: Any) -> go.Bar:
    """Make bars that stand, one at each ``x``."""
    return go.Bar(x=list(x), y=list(y), name=name, marker={"color": color}, **more)


def _lying(values: Iterable[float], names: Iterable[str], color: str, **more: Any) -> go.Bar:
    """Make bars that lie, as their names are long."""
    return go.Bar(x=list(values), y=list(names), orientation="h", marker={"color": color}, **more)


def _ranked(
    name: str, title: str, summary: str, bars: Sequence[go.Bar], axis: str, **layout: Any
) -> Chart:
    """Draw bars that lie, the first at the top."""
    axes = {"xaxis": _titled(axis), "yaxis": {"autorange": "reversed"}}
    return _figure(name, title, summary, bars, **axes, **layout)


def _height(lines: int) -> int:
    """Give lying bars room for so many lines of text."""
    return max(340, 130 + 18 * lines)


def _heat(rows: Sequence[Sequence[float]], x: Any, y: Any, told: str, **more: Any) -> go.Heatmap:
    """Colour the cells of a table; ``told`` is what a reader who points at one is told."""
    cells = [list(row) for row in rows]
    return go.Heatmap(z=cells, x=list(x), y=list(y), colorscale=SCALE, hovertemplate=told, **more)


def _titled(text: str, **more: Any) -> dict[str, Any]:
    """Name an axis."""
    return {"title": {"text": text}, **more}


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
    line = _line(rows["recorded_at"], rows[column], label, color=MODEL, width=2)
    title, axis = f"{label}, latest readings", _titled(unit or label)
    return _figure("recent", title, summary, [line], yaxis=axis)


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
    told = "%{y} %{x}:00: %{z:.2f}<extra></extra>"
    heat = _heat(table, range(24), WEEKDAYS, told, colorbar={"thickness": 12})
    return _figure(
        "pattern",
        f"{label} by weekday and hour, {unit}",
        summary,
        [heat],
        xaxis=_titled("hour of the day", dtick=3),
        yaxis={"autorange": "reversed"},
    )


def hours(table: Mapping[str, Sequence[float]], *, label: str, unit: str) -> Chart:
    """Draw the usual value by hour of the day, a line for each kind of day.

    Args:
        table: Kind of day -> 24 values.
        label: The quantity's name for readers.
        unit: Its unit.
    """
    tops = []
    for name, values in table.items():
        if read := [(value, hour) for hour, value in enumerate(values) if not math.isnan(value)]:
            value, hour = max(read)
            tops.append(f"{name} at {hour}:00 ({value:.3g} {unit})")
    looks = ((MODEL, "solid"), (TRUTH, "dash"))
    lines = [
        _line(range(24), values, name, color=colour, width=2, dash=dash)
        for (name, values), (colour, dash) in zip(table.items(), looks, strict=True)
    ]
    return _figure(
        "hours",
        f"{label} by hour of the day",
        f"{label}: usually highest {'; '.join(tops)}.",
        lines,
        xaxis=_titled("hour of the day", dtick=3),
        yaxis=_titled(unit or label, rangemode="tozero"),
    )


def account(domain: Domain, told: dict[str, Any]) -> list[Chart]:
    """Draw what a period amounts to, by whichever of these there is.

    Args:
        domain: The question.
        told: ``guidelines``, ``levels`` or ``energy``, as a report states them.
    """
    drawn = []
    if "guidelines" in told:
        held = told["guidelines"]
        drawn += [_beside_limits(domain, held, averaging) for averaging in held["daily"]]
    if "levels" in told:
        drawn.append(_levels(domain, told["levels"]["shares"]))
    if "energy" in told:
        title = f"{domain.target.label} by day"
        drawn.append(_daily("energy", title, told["energy"]["by_day"], unit=domain.target.unit))
    return drawn


def _beside_limits(domain: Domain, told: dict[str, Any], averaging: str) -> Chart:
    limits = {
        f"{table['standard']}: {table['stated']}": table["limit"]
        for table in told["tables"]
        if table["averaging"] == averaging
    }
    title = f"{domain.target.label}, highest running {averaging} mean of each day"
    name = f"guidelines_{averaging.replace(' ', '')}"
    return _daily(name, title, told["daily"][averaging], unit=told["unit"], limits=limits)


def _daily(
    name: str,
    title: str,
    values: dict[str, float],
    *,
    unit: str,
    limits: dict[str, float] | None = None,
) -> Chart:
    """Draw a value for each day, beside limits where there are any."""
    summary = "No day has readings enough."
    if values:
        top = max(values, key=values.__getitem__)
        summary = f"Highest: {values[top]:.2f} {unit} on {top}."
    traces: list[Any] = [_bars(values, values.values(), "day")]
    ends = [min(values, default=None), max(values, default=None)]
    dashes = ("dash", "dot", "dashdot")
    for (label, limit), dash in zip((limits or {}).items(), dashes, strict=False):
        traces.append(_line(ends, [limit] * 2, label, color=TRUTH, width=1.5, dash=dash))
    return _figure(name, title, summary, traces, yaxis=_titled(unit))


def _levels(domain: Domain, shares: dict[str, float]) -> Chart:
    most = max(shares, key=shares.__getitem__)
    text = [f"{share:.0%}" for share in shares.values()]
    bars = _lying(shares.values(), shares, MODEL, text=text, **_OUTSIDE)
    return _figure(
        "levels",
        f"{domain.target.label}: share of readings",
        f"{domain.target.label} was most often {most}: in {shares[most]:.0%} of the readings.",
        [bars],
        xaxis={"tickformat": ".0%", "rangemode": "tozero"},
        yaxis={"type": "category"},
    )


def scores(names: Sequence[str], values: dict[str, Sequence[float]], *, metric: str) -> Chart:
    """Draw one metric of the model (first) and the baselines, for each split."""
    best = "lowest" if metric in {"rmse", "mae"} else "highest"
    later = list(values["time-ordered"])
    winner = names[later.index(min(later) if best == "lowest" else max(later))]
    name = metric.upper() if metric in {"rmse", "mae"} else metric.capitalize()
    summary = f"On later time, {winner} has the {best} {name}."
    bars = []
    for (split, numbers), colour in zip(values.items(), (NAIVE, MODEL), strict=True):
        text = [f"{v:.3f}" for v in numbers]
        small = {"textfont": {"size": 11}, **_OUTSIDE}
        bars.append(_lying(numbers, names, colour, name=split, text=text, **small))
    title, axis = f"{name} of model and baselines", f"{best} is best"
    height = _height(2 * len(names))
    return _ranked("scores", title, summary, bars, axis, barmode="group", height=height)


def coverage(counted: dict[str, Any]) -> Chart:
    """Draw how often intervals or sets held the truth on later time, month by month.

    Args:
        counted: ``level``, ``overall`` and ``by_month``.
    """
    months, level = counted["by_month"], counted["level"]
    shares = [f"{share:.0%}" for share in months.values()]
    bars = _bars(months, months.values(), "held", text=shares)
    meant = [level] * len(months)
    aim = _line(months, meant, "meant to hold", "lines+markers", color=TRUTH, dash="dash")
    summary = f"Meant to hold in {level:.0%} of cases; on later time {counted['overall']:.1%} did."
    axis = {"range": [0, 1.05], "tickformat": ".0%"}
    title = "Did it know how sure it was?"
    return _figure("coverage", title, summary, [bars, aim], yaxis=axis, xaxis={"type": "category"})


def reliability(bins: Sequence[dict[str, Any]], forecast: Forecast | None = None) -> Chart:
    """Draw stated probabilities beside how often they were right.

    Args:
        bins: ``stated``, ``right`` and ``answers`` of each bin.
        forecast: Whose they are, if not the present's.
    """
    name = f"{forecast.name}_reliability" if forecast else "reliability"
    about = f"{forecast.title}: do" if forecast else "Do"
    worst = max(bins, key=lambda b: b["answers"] * abs(b["stated"] - b["right"]))
    summary = (
        f"Of answers stated with {worst['stated']:.0%}, {worst['right']:.0%} were right "
        f"({worst['answers']} answers); no other bin weighs more."
    )
    ideal = _line([0, 1], [0, 1], "as stated", color=NAIVE, dash="dash")
    stated, right = ([b[name] for b in bins] for name in ("stated", "right"))
    found = _line(stated, right, "were right", "lines+markers", color=MODEL)
    found.text = [f"{b['answers']} answers" for b in bins]
    axes = {"range": [0, 1.02], "tickformat": ".0%"}
    return _figure(
        name,
        f"{about} its probabilities mean what they say?",
        summary,
        [ideal, found],
        xaxis=_titled("stated probability", **axes),
        yaxis=_titled("share that was right", **axes),
    )


def horizons(
    forecast: Forecast, by_ahead: dict[str, dict[str, float]], *, metric: str, unit: str
) -> Chart:
    """Draw how good a forecast is at each distance.

    Args:
        forecast: The question.
        by_ahead: Minutes -> the metric and the skill over the best baseline.
        metric: ``rmse`` or ``accuracy``.
        unit: The target's unit.
    """
    hours = [int(minutes) / 60 for minutes in by_ahead]
    skills = [scores["skill"] for scores in by_ahead.values()]
    better = sum(skill > 0 for skill in skills)
    name = metric.upper() if metric == "rmse" else metric.capitalize()
    texts = [f"{name} {scores[metric]:.2f} {unit}".rstrip() for scores in by_ahead.values()]
    colours = [MODEL if skill > 0 else TRUTH for skill in skills]
    beside = texts if len(texts) < 4 else None
    bars = _bars(hours, skills, "skill", colours, text=beside, hovertext=texts)
    return _figure(
        f"{forecast.name}_skill",
        f"{forecast.title}: skill over the best baseline",
        f"Better than the best baseline at {better} of {len(skills)} distances.",
        [bars],
        xaxis=_titled("hours ahead"),
        yaxis={"tickformat": ".0%"},
    )


def importance(groups: Sequence[str], worse: Sequence[float], *, metric: str, unit: str) -> Chart:
    """Draw how much worse a model gets when each group of inputs is shuffled, largest first."""
    label = f"RMSE rises by, {unit}" if metric == "rmse" else "share of wrong classes rises by"
    names = [group.replace(" + ", ",<br>") for group in groups]
    bars = _lying(worse, names, MODEL, text=[f"{v:.2f}" for v in worse])
    # All bars are as high as the longest label.
    lines = len(groups) * max(group.count(" + ") + 1 for group in groups)
    title, summary = "What it leans on, on later time", f"It leans most on: {groups[0]}."
    return _ranked("importance", title, summary, [bars], label, height=_height(lines))


def ahead(domain: Domain, name: str, answers: Sequence[Any]) -> Chart:
    """Draw a forecast: the quantity with its interval, or the probability of each class.

    Args:
        domain: The question.
        name: Which forecast of it.
        answers: One per time, with ``at`` and what was answered.
    """
    times, unit = [a.at for a in answers], domain.target.unit
    [title] = [forecast.title for forecast in domain.forecasts if forecast.name == name]
    top = max(answers, key=lambda a: a.prediction)
    if domain.target.levels:
        most = "At most " if len(answers) > 1 else ""
        summary = f"{most}{top.label} is expected at {top.at:%H:%M} ({top.confidence:.0%} sure)."
        traces = [
            _bars(times, [a.probabilities[level.label] for a in answers], level.label, colour)
            for level, colour in zip(domain.target.levels, SEQUENCE, strict=False)
        ]
        axis: dict[str, Any] = {"tickformat": ".0%", "range": [0, 1]}
    else:
        most = "Highest at" if len(answers) > 1 else "At"
        summary = (
            f"{most} {top.at:%H:%M}: {top.prediction:.2f} {unit}, likely between "
            f"{top.interval.low:.2f} and {top.interval.high:.2f}."
        )
        edge = [a.interval.high for a in answers] + [a.interval.low for a in answers[::-1]]
        values = [a.prediction for a in answers]
        traces = [
            _band(times + times[::-1], edge, "likely"),
            _line(times, values, "forecast", color=MODEL, width=2),
        ]
        axis = _titled(unit, rangemode="tozero")
    return _figure(
        name,
        f"{title}: {domain.target.label.lower()}",
        summary,
        traces,
        barmode="stack",
        yaxis=axis,
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
    times = rows["recorded_at"]
    traces = [
        _band(*_outline(rows), "interval"),
        _line(times, rows["observed"], "observed", color=TRUTH, width=1.5),
        _line(times, rows["predicted"], "predicted", color=MODEL, width=1.5),
    ]
    return _figure(
        "later",
        "Predicted and observed on later time",
        f"On the stretch shown, predictions were off by {error:.2f} {unit} on average.",
        traces,
        yaxis=_titled(unit),
    )


def _band(x: list[Any], y: list[Any], name: str) -> go.Scatter:
    """Fill an outline."""
    fill = {"fill": "toself", "fillcolor": "rgba(0,114,178,0.18)", "hoverinfo": "skip"}
    return go.Scatter(x=x, y=y, name=name, mode="lines", line={"width": 0}, **fill)


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
    told = "observed %{y}, predicted %{x}: %{z}<extra></extra>"
    heat = _heat(cells, labels, labels, told, showscale=False, text=cells, texttemplate="%{text}")
    return _figure(
        "later",
        "Predicted and observed on later time",
        f"{right} of {len(pairs)} later readings were put into the right class.",
        [heat],
        xaxis=_titled("predicted"),
        yaxis=_titled("observed", autorange="reversed"),
    )


def findings(reasons: Sequence[str], counts: Sequence[int]) -> Chart:
    """Draw how many findings there are for each reason."""
    most = f"Most often: {reasons[0]} ({counts[0]})." if len(reasons) else "Nothing was found."
    bars = _lying(counts, reasons, NAIVE, text=[f"{c:,}" for c in counts])
    return _ranked("findings", "Faults found in the readings", most, [bars], "findings")


def alarms(told: Sequence[tuple[str, str, str, str]]) -> list[Chart]:
    """Draw when sensors did what they had not done before; nothing where none did.

    Args:
        told: For each alarm the sensor, its kind, when it began and ended; ISO 8601.
    """
    traces = []
    kinds = sorted({kind for _, kind, *_ in told})
    for kind, colour in zip(kinds, [*SEQUENCE, NAIVE], strict=False):
        mine = [(sensor, ends) for sensor, its, *ends in told if its == kind]
        x = [at for _, ends in mine for at in (*ends, None)]
        y = [name for sensor, _ in mine for name in (sensor, sensor, None)]
        trace = _line(x, y, kind, "lines+markers", color=colour, width=9)
        traces.append(trace.update(marker={"size": 9}))
    sensors = list(dict.fromkeys(sensor for sensor, *_ in told))
    summary = f"Number of alarms: {len(told)}; of sensors: {len(sensors)}."
    axis = {"type": "category", "autorange": "reversed", "ticks": "outside"}
    title, height = "Alarms by sensor", 150 + 28 * len(sensors)
    return [_figure("alarms", title, summary, traces, height=height, yaxis=axis)] if told else []
