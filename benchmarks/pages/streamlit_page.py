"""The same page in Streamlit: one page a run, what is read cached, sliders in a fragment."""

from typing import Any

import content
import streamlit as st

st.set_page_config("SmartCity", layout="wide")
overview_cards = st.cache_data(content.overview, ttl=60, show_spinner=False)
sections = st.cache_data(content.sections, ttl=60, show_spinner=False)
predictor = st.cache_resource(content.predictor, show_spinner=False)


def overview() -> None:
    """Show a card per question."""
    for column, card in zip(st.columns(3, border=True), overview_cards(), strict=True):
        with column:
            st.metric(f"**{card.title}**", f"{card.number} {card.unit}")
            st.markdown("\n".join([card.sentence, "", *(f"- {text}" for text in card.comes)]))
            st.caption(card.note)
            st.link_button("Ask the model", f"?page={card.domain}")


@st.fragment
def ask(domain: str) -> None:
    """Show sliders and their answer; a move runs this and nothing else of the page."""
    left, right = st.columns(2)
    values = {}
    with right:
        columns = st.columns(2)
        for n, s in enumerate(content.sliders(domain)):
            label = f"{s.label} ({s.hint})"
            values[s.name] = columns[n % 2].slider(
                label, s.low, s.high, s.usual, s.step, key=s.name
            )
    given = content.answer(domain, values)
    with left:
        st.metric(f"**{given.label}**", f"{given.number} {given.unit}")
        lines = [given.text, "", given.sure, "", *(f"- {text}" for text in given.guidance)]
        lines += ["", "**Why**", "", *(f"- {text}" for text in given.why or ["All is as usual."])]
        st.markdown("\n".join(lines))
        for text in given.warnings:
            st.warning(text)
        st.caption(given.note)


def question(domain: str) -> None:
    """Show a question, its charts and its model card."""
    predictor(domain)
    st.header(content.question(domain))
    ask(domain)
    for section in sections(domain):
        st.subheader(section.title)
        columns = st.columns(2)
        for n, figure in enumerate(section.figures):
            with columns[n % 2]:
                draw(figure, f"{section.title}-{n}")
        st.caption(section.note)
    facts, scores = content.model_card(domain)
    st.subheader("Model card")
    table([{"": name, " ": value} for name, value in facts.items()])
    table(scores)


def draw(figure: dict[str, Any], key: str) -> None:
    """Draw one chart."""
    st.plotly_chart(figure, key=key, theme=None, config={"displayModeBar": False})
    st.caption(figure["layout"]["meta"]["summary"])


def reports() -> None:
    """Show what is served and what ran last."""
    st.subheader("Models being served")
    table(content.served())
    st.subheader("Last runs")
    table(content.reports())


def table(rows: list[dict[str, str]]) -> None:
    """Write rows as a table in words: lighter than a grid of its own."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
    st.markdown("\n".join(f"| {' | '.join(line)} |" for line in lines))


st.title("SmartCity")
st.caption("What the city's sensors say, and what to expect.")
named = st.query_params.get("page", "overview")
page = st.segmented_control(
    "Page",
    list(content.PAGES),
    default=named if named in content.PAGES else "overview",
    format_func=content.PAGES.get,
    label_visibility="collapsed",
)
st.query_params["page"] = page or "overview"
if page in content.DOMAINS:
    question(page)
elif page == "reports":
    reports()
else:
    overview()
