"""The same page in Panel: one page a session, sliders bound to the answer, Plotly panes."""

from html import escape
from typing import Any

import content
import panel as pn

pn.extension("plotly", sizing_mode="stretch_width")
STYLE = ".number { font-size: 2.6rem; font-weight: 700; margin: 6px 0 } td, th { text-align: left }"


def written(html: str) -> Any:
    """Show HTML."""
    return pn.pane.HTML(html, stylesheets=[STYLE])


def listed(texts: list[str]) -> str:
    """Write sentences as a list."""
    return "<ul>" + "".join(f"<li>{escape(text)}</li>" for text in texts) + "</ul>"


def table(rows: list[dict[str, str]]) -> Any:
    """Show rows as a table."""
    head = "".join(f"<th>{escape(name)}</th>" for name in rows[0])
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row.values()) + "</tr>"
        for row in rows
    )
    return written(f"<table><tr>{head}</tr>{body}</table>")


def overview() -> Any:
    """Show a card per question."""
    return pn.Row(
        *(
            written(
                f"<h3>{escape(card.title)}</h3>"
                f'<p class="number">{card.number} <small>{escape(card.unit)}</small></p>'
                f"<p>{escape(card.sentence)}</p>{listed(card.comes)}<p>{escape(card.note)}</p>"
                f'<a href="?page={card.domain}">Ask the model</a>'
            )
            for card in content.overview()
        )
    )


def question(domain: str) -> Any:
    """Show sliders, their answer, the charts and the model card."""
    sliders = {s.name: slider(s) for s in content.sliders(domain)}

    def answer(**values: float) -> str:
        given = content.answer(domain, values)
        return (
            f"<b>{escape(given.label)}</b>"
            f'<p class="number">{given.number} <small>{escape(given.unit)}</small></p>'
            f"<p>{escape(given.text)}</p><p>{escape(given.sure)}</p>{listed(given.guidance)}"
            f"<b>Why</b>{listed(given.why or ['Everything is as usual.'])}"
            f"{listed(given.warnings)}<p>{escape(given.note)}</p>"
        )

    facts, scores = content.model_card(domain)
    return pn.Column(
        f"## {content.question(domain)}",
        pn.Row(
            pn.pane.HTML(pn.bind(answer, **sliders), stylesheets=[STYLE], css_classes=["answer"]),
            pn.GridBox(*sliders.values(), ncols=2),
        ),
        *(part for section in content.sections(domain) for part in charts(section)),
        "### Model card",
        table([{"": name, " ": value} for name, value in facts.items()]),
        table(scores),
    )


def slider(spec: content.Slider) -> Any:
    """Make one input; its value follows the pointer while it moves."""
    kind = pn.widgets.IntSlider if isinstance(spec.step, int) else pn.widgets.FloatSlider
    return kind(
        name=f"{spec.label} ({spec.hint})",
        start=spec.low,
        end=spec.high,
        step=spec.step,
        value=spec.usual,
        stylesheets=[".bk-slider-title { white-space: normal }"],
    )


def charts(section: content.Section) -> list[Any]:
    """Draw charts side by side."""
    panes = [
        pn.Column(
            pn.pane.Plotly(
                figure, height=340, config={"displayModeBar": False, "responsive": True}
            ),
            figure["layout"]["meta"]["summary"],
        )
        for figure in section.figures
    ]
    return [f"### {section.title}", pn.GridBox(*panes, ncols=2), section.note]


def reports() -> Any:
    """Show what is served and what ran last."""
    return pn.Column(
        "### Models being served",
        table(content.served()),
        "### Last runs",
        table(content.reports()),
    )


def show(page: str) -> Any:
    """Show one page."""
    if page in content.DOMAINS:
        return question(page)
    return reports() if page == "reports" else overview()


nav = pn.widgets.RadioButtonGroup(
    name="Page", options={title: name for name, title in content.PAGES.items()}, value="overview"
)
if pn.state.location:
    pn.state.location.sync(nav, {"value": "page"})
pn.Column(
    "# SmartCity", "What the city's sensors say, and what to expect.", nav, pn.bind(show, nav)
).servable(title="SmartCity")
