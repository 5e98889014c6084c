"""What is a term of a text."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kb.index.terms import (
    MAX_QUESTION_TERMS,
    key_of,
    question_of,
    spelling_of,
    words_of,
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The depot's manager is Mara.", "the depot s manager is mara"),
        ("Škoda Straße ＦＵＬＬ ﬁre", "skoda strasse full fire"),
        ("line XK-4471, or xk4471", "line xk 4471 xk4471 or xk 4471 xk4471"),
        ("98,000 people, 98000", "98000 people 98000"),
        ("at 10:30 on 2024-05-01", "at 10 30 1030 on 2024 05 01 20240501"),
        ("well-known e-mail", "well known e mail"),
        ("the U.S. fleet", "the u s us fleet"),
        ("東京都は日本", "東京 京都 都は は日 日本"),
        ("ガス・ﾃﾚﾋﾞ", "ガス テレ レビ"),
        ("水", "水"),
        ("2024年", "2024 年"),
        ("서울 지하철", "서울 지하철"),
        ("हिन्दी भाषा", "हिन्दी भाषा"),
        ("ไทย", "ไท ทย"),
        ("¿Qué? — ¡no!", "que no"),
        ("", ""),
        ("\ud800", ""),
    ],
)
def test_words(text: str, words: str) -> None:
    assert words_of(text) == words.split()


@given(st.text())
def test_case_and_form_of_unicode_do_not_matter(text: str) -> None:
    words = words_of(text)
    for other in (unicodedata.normalize(form, text) for form in ("NFC", "NFD")):
        assert words_of(other) == words
    assert all(words)


@given(st.lists(st.from_regex(r"[a-z]{1,8}|[0-9]{1,6}", fullmatch=True), min_size=1, max_size=5))
def test_a_code_is_found_whole_and_by_its_parts(parts: list[str]) -> None:
    code = "-".join(parts)
    assert set(words_of(code.upper())) == set(words_of(code)) >= set(parts)
    if len(parts) > 1 and any(part.isdigit() for part in parts):
        assert "".join(parts) in words_of(code)


@given(st.text(max_size=400))
def test_a_question_has_distinct_terms_of_a_bounded_number(text: str) -> None:
    keys = [term.key for term in question_of(text)]
    assert len(set(keys)) == len(keys) <= MAX_QUESTION_TERMS
    assert set(keys) <= set(map(key_of, words_of(text)))
    assert bool(keys) == bool(words_of(text))


def test_function_words_count_only_where_there_are_no_others() -> None:
    assert [term.key for term in question_of("Who is the boss of Zorvex?")] == [key_of("boss"), key_of("zorvex")]
    assert [term.key for term in question_of("Who is it?")] == [key_of(word) for word in ("who", "is", "it")]


@given(st.from_regex(r"[a-z]{4,12}", fullmatch=True))
def test_a_spelling_tells_words_apart_by_their_letters(word: str) -> None:
    spelling = spelling_of(word)
    assert list(spelling) == sorted(set(spelling))
    assert len(set(zip(f" {word}", f"{word} ", strict=True))) == len(spelling)
    assert spelling_of(f"{word}7") == ()


def test_keys_stay_what_they_were() -> None:
    """A saved index holds them."""
    assert key_of("zorvex") == 4664895858929949228
