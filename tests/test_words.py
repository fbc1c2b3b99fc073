"""The page in another language: sentences found by their shape, numbers as they are written."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from smartcity.dashboard import words
from smartcity.dashboard.words import LANGUAGES, Words

CATALOGUES = [language for language in LANGUAGES if language != "en"]


def test_english_is_said_as_it_stands() -> None:
    assert Words().say("Likely between 1.20 and 3,400.5 kWh.") == (
        "Likely between 1.20 and 3,400.5 kWh."
    )


def test_a_sentence_is_found_by_its_shape_and_its_numbers_written_anew() -> None:
    german = Words("de")

    said = german.say("Likely between 1.20 and 3,400.5 kWh.")

    assert "1,20" in said
    assert "3.400,5 kWh" in said
    assert "Likely" not in said
    assert not german.missing


def test_what_is_not_in_the_catalogue_is_said_in_english_and_noted() -> None:
    german = Words("de")

    assert german.say("Nobody wrote this sentence.") == "Nobody wrote this sentence."
    assert german.missing == {"Nobody wrote this sentence."}


@pytest.mark.parametrize("text", ["2004-12-28", "1.0.0", "20261124T110226Z-6f4e2a", "PT08.S1(CO)"])
def test_dates_versions_and_names_are_no_numbers(text: str) -> None:
    assert Words("de").number(text) == text


def test_a_figure_is_said_too_and_its_data_left_alone() -> None:
    figure: dict[str, Any] = {
        "data": [{"type": "bar", "x": ["Mon", "Tue"], "y": [1.5, 2.5], "name": "forecast"}],
        "layout": {"title": {"text": "Table"}, "meta": {"name": "recent", "summary": "Table"}},
    }

    said = Words("de").figure(figure)

    assert said["data"][0]["y"] == [1.5, 2.5]
    assert said["data"][0]["x"] == ["Mo", "Di"]
    assert said["layout"]["separators"] == ",."
    assert said["layout"]["title"]["text"] != "Table"
    assert said["layout"]["meta"]["name"] == "recent"
    assert figure["layout"]["title"]["text"] == "Table"


@pytest.mark.parametrize("language", CATALOGUES)
def test_a_catalogue_keeps_every_gap(language: str) -> None:
    """A translation that loses a gap would lose a number."""
    path = Path(words.__file__).with_name(f"{language}.toml")
    texts = tomllib.loads(path.read_text(encoding="utf-8"))["texts"]

    for english, said in texts.items():
        gaps = re.findall(r"\{\w*\}", english)
        found = re.findall(r"\{(\w*)\}", said)
        assert said.strip(), english
        if "{}" in gaps:  # a translation may need them in another order: {1} {0}
            assert len(found) == len(gaps), english
            assert set(found) in ({""}, set(map(str, range(len(gaps))))), english
        else:
            assert sorted(gaps) == sorted(f"{{{name}}}" for name in found), english
