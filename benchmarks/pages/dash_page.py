"""The same page in Dash: a location, links, and one callback per question."""

from typing import Any

import content
from dash import Dash, Input, Output, callback, dcc, html

app = Dash(__name__, title="SmartCity", update_title="", suppress_callback_exceptions=True)
server = app.server
app.index_string = app.index_string.replace(
    "{%css%}",
    """{%css%}<style>
    body { font: 16px/1.5 system-ui, sans-serif; max-width: 1120px; margin: 0 auto; padding: 20px; }
    nav a { margin-right: 16px; } .number { font-size: 2.6rem; font-weight: 700; margin: 6px 0; }
    .cards { display: grid; gap: 16px; grid-template-columns: repeat(3, 1fr); }
    .pair { display: grid; gap: 16px; grid-template-columns: repeat(2, minmax(0, 1fr)); }
    .inputs { display: grid; gap: 4px 24px; grid-template-columns: repeat(2, minmax(0, 1fr)); }
    td, th { text-align: left; padding: 6px 12px 6px 0; } small { color: #566472; }
    </style>""",
)
app.layout = html.Div(
    [
        dcc.Location(id="place"),
        html.H1("SmartCity"),
        html.P("What the city's sensors say, and what to expect."),
        html.Nav([dcc.Link(title, href=f"?page={name}") for name, title in content.PAGES.items()]),
        html.Main(id="page"),
    ]
)


@callback(Output("page", "children"), Input("place", "search"))
def show(search: str) -> Any:
    """Show the page the address names."""
    name = (search or "").removeprefix("?page=")
    if name in content.DOMAINS:
        return question(name)
    return reports() if name == "reports" else overview()


def overview() -> Any:
    """Show a card per question."""
    return html.Div(
        [
            html.Article(
                [
                    html.H3(card.title),
                    html.P([card.number, html.Small(f" {card.unit}")], className="number"),
                    html.P(card.sentence),
                    listed(card.comes),
                    html.Small(card.note),
                    html.P(dcc.Link("Ask the model", href=f"?page={card.domain}")),
                ]
            )
            for card in content.overview()
        ],
        className="cards",
    )


def question(domain: str) -> Any:
    """Show sliders, their answer, the charts and the model card."""
    usual = {slider.name: slider.usual for slider in content.sliders(domain)}
    facts, scores = content.model_card(domain)
    return html.Div(
        [
            html.H2(content.question(domain)),
            html.Div(
                [
                    html.Div(answer(domain, usual), id=f"{domain}-answer", role="status"),
                    html.Div(
                        [asked(domain, s) for s in content.sliders(domain)], className="inputs"
                    ),
                ],
                className="pair",
            ),
            *[
                html.Section([html.H3(s.title), charts(s.figures), html.Small(s.note)])
                for s in content.sections(domain)
            ],
            html.H3("Model card"),
            html.Dl([part for k, v in facts.items() for part in (html.Dt(k), html.Dd(v))]),
            table(scores),
        ]
    )


def asked(domain: str, slider: content.Slider) -> Any:
    """Show one input."""
    return html.Label(
        [
            slider.label,
            html.Br(),
            html.Small(slider.hint),
            dcc.Slider(
                slider.low,
                slider.high,
                slider.step,
                value=slider.usual,
                marks=None,
                updatemode="drag",
                id=f"{domain}-{slider.name}",
            ),
        ]
    )


def answer(domain: str, values: dict[str, float]) -> Any:
    """Ask the model, and show what it says."""
    given = content.answer(domain, values)
    return [
        html.B(given.label),
        html.P([given.number, html.Small(f" {given.unit}")], className="number"),
        html.P(given.text),
        html.P(given.sure),
        listed(given.guidance),
        html.B("Why"),
        listed(given.why or ["Everything is as usual."]),
        listed([f"⚠ {text}" for text in given.warnings]),
        html.Small(given.note),
    ]


for name in content.DOMAINS:
    # The page comes with its first answer, so no callback runs before a slider is moved.
    callback(
        Output(f"{name}-answer", "children"),
        inputs={
            "values": {s.name: Input(f"{name}-{s.name}", "value") for s in content.sliders(name)}
        },
        prevent_initial_call=True,
    )(lambda values, domain=name: answer(domain, values))


def charts(figures: list[dict[str, Any]]) -> Any:
    """Draw charts side by side."""
    quiet = {"displayModeBar": False, "responsive": True}
    drawn = [
        html.Div(
            [
                dcc.Graph(figure=figure, config=quiet, style={"height": 340}),
                html.P(figure["layout"]["meta"]["summary"]),
            ]
        )
        for figure in figures
    ]
    return html.Div(drawn, className="pair")


def reports() -> Any:
    """Show what is served and what ran last."""
    return html.Div(
        [
            html.H3("Models being served"),
            table(content.served()),
            html.H3("Last runs"),
            table(content.reports()),
        ]
    )


def listed(texts: list[str]) -> Any:
    """Show sentences as a list."""
    return html.Ul([html.Li(text) for text in texts])


def table(rows: list[dict[str, str]]) -> Any:
    """Show rows as a table."""
    body = [html.Tr([html.Td(cell) for cell in row.values()]) for row in rows]
    return html.Table([html.Thead(html.Tr([html.Th(name) for name in rows[0]])), html.Tbody(body)])
