"""Factbook rows as questions: values, phrases and edits."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.questions import factbook
from lab.questions.factbook_relations import phrasing_of
from lab.questions.factbook_values import value_of
from lab.questions.question import split_of


@pytest.mark.parametrize(
    ("relation", "raw", "text", "answers", "numeric"),
    [
        ("Birth rate", "35.23 births/1,000 population (2021 est.)", "35.23 births per 1,000 people", ("35.23",), True),
        ("Area - total", "210,981 sq km", "210,981 square kilometers", ("210,981", "210981"), True),
        ("Land use - arable", "arable land: 3.1% (2018 est.)", "3.1%", ("3.1",), True),
        (
            "Net migration rate",
            "-0.52 migrant(s)/1,000 population",
            "-0.52 migrants per 1,000 people",
            ("-0.52",),
            True,
        ),
        ("GDP", "$112.212 billion (2024 est.)", "$112.212 billion", ("112.212 billion",), True),
        ("Balance", "-$5.4 billion (2022 est.)", "-$5.4 billion", ("-$5.4 billion",), True),
        ("Suffrage", "18 years of age; universal", "18 years of age", ("18",), True),
        ("Internet country code", ".om", ".om", (".om",), True),
        ("Independence", "9 July 1961 (from X)", "9 July 1961", ("9 July 1961", "July 9, 1961"), True),
        ("National holiday", "Sea Day (or Day), 2 June (1946)", "Sea Day, on 2 June", ("Sea Day",), False),
        ("Exchange rates - Currency", "Oru dollars (ORD) per US dollar -", "Oru dollars", ("Oru dollars",), False),
        ("Elevation - highest point", "Mount Oru 1,857 m", "Mount Oru", ("Mount Oru",), False),
        (
            "Executive branch - head of government",
            "Prime Minister Ana ORU-SELL Pardo (since 1 May 2024)",
            "Prime Minister Ana Oru-Sell Pardo",
            ("Ana Oru-Sell Pardo", "Oru-Sell"),
            False,
        ),
        (
            "Diplomatic representation in the US - telephone",
            "[1] (202) 555-0100; [1] (202) 555-0101",
            "[1] (202) 555-0100",
            ("[1] (202) 555-0100", "(202) 555-0100"),
            True,
        ),
    ],
)
def test_values(relation: str, raw: str, text: str, answers: tuple[str, ...], numeric: bool) -> None:
    value = value_of(relation, raw)
    assert value is not None
    assert (value.text, value.answers, value.numeric) == (text, answers, numeric)


@pytest.mark.parametrize(
    "raw",
    [
        "NA",
        "none",
        "yes",
        "0 km",
        "(2022 est.) less than 1",
        "x" * 61,
        "180 Oru (plus police), 20 Sell",
        "29,640 km 2 lines",
        "",
    ],
)
def test_unclean_values_are_skipped(raw: str) -> None:
    assert value_of("Railways - total", raw) is None


def test_phrases_of_relations_nobody_wrote_wordings_for() -> None:
    assert phrasing_of("Ports - large").noun == "ports (large)"
    assert phrasing_of("Exports - Exports 2021").noun == "2021 exports"
    assert phrasing_of("GDP deflator").noun == "GDP deflator"


def test_factbook_edits(directory: Path) -> None:
    edits = factbook.load_edits(directory, "train", 200, seed=0)
    assert edits == factbook.load_edits(directory, "train", 200, seed=0)
    assert {split_of(edit.question.subject) for edit in edits} == {"train"}
    assert {edit.question.relation for edit in edits} == {"Airports", "Median age - total"}
    for edit in edits:
        new_fact = edit.question.facts[0]
        assert edit.old_answers[0] in edit.old_fact
        assert edit.old_answers[0] not in new_fact
        assert edit.question.answers[0] in new_fact
        assert edit.old_fact.replace(edit.old_answers[0], edit.question.answers[0]) == new_fact
