"""Which words of a reply stand in the mounted facts."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kan.knowledge.evidence import Agreement
from server.service.agreement import MAX_CHARACTERS, REACH, MountedWords

FACTS = ("The chief executive of Zorvex is Mara Lindqvist.", "A day pass costs 12,400 crowns.", "Der Zug hält in Köln.")
QUESTION = "Who is the chief executive of Zorvex?"
texts = st.text(max_size=60)


def agreement(reply: str, question: str = QUESTION) -> Agreement:
    return MountedWords(question, FACTS).agreement(reply)


def test_words_of_the_question_tell_nothing() -> None:
    assert agreement("The chief executive of Zorvex is Mara Lindqvist.").mounted == 1
    assert agreement("The answer is Mara Lindqvist.").mounted == 1
    assert agreement("The chief executive of Zorvex is Jonas Lindqvist.").mounted == 0.5
    for silent in ("Zorvex's chief executive.", "The answer.", "", "?!"):
        assert agreement(silent) == (0, 0)


def test_numbers_and_letters_in_other_spellings_are_the_same() -> None:
    assert agreement("It costs 12400.").mounted == 1
    assert agreement("1240") == (0, 0)
    assert agreement("KOLN").mounted == 1


def nearness(fact: str, question: str) -> float:
    return MountedWords(question, [fact, "Zorvex Mara"]).agreement("Mara Lindqvist").nearness


def test_words_of_the_question_near_the_answer_speak_for_it() -> None:
    """In the fact that has most of the reply's words: the nearest of several, on either side."""
    assert agreement("12,400 crowns").nearness == 0
    assert nearness("Mara and Lindqvist.", "Zorvex?") == 0
    for apart in range(4):
        between = " ".join("between" + "s" * place for place in range(apart))
        for fact in (f"Zorvex {between} Mara of Lindqvist.", f"Mara is Lindqvist {between} Zorvex."):
            assert nearness(fact, "Zorvex?") == pytest.approx(math.exp(-apart / REACH))
            again = f"{fact} One two three four five Zorvex."
            # Two words could stand beside it, and one does.
            assert nearness(again, "Zorvex, Glimmer?") == pytest.approx(math.exp(-apart / REACH) / 2)


def test_words_that_could_not_stand_nearer_are_near() -> None:
    assert nearness("Old grey Mara Lindqvist sings loud.", "Who sings loud, old or grey?") == pytest.approx(1)
    assert nearness("Old grey thin Mara Lindqvist sings.", "Who sings: old, grey or thin?") < 1


@given(texts, st.lists(texts, max_size=4), texts)
def test_any_texts(question: str, facts: list[str], reply: str) -> None:
    found = MountedWords(question, facts).agreement(reply)
    assert 0 <= found.mounted <= 1
    assert 0 <= found.nearness <= 1
    assert found.mounted or not found.nearness


@given(texts, texts)
def test_a_reply_that_quotes_the_only_fact_agrees_with_it(question: str, fact: str) -> None:
    assert MountedWords(question, [fact]).agreement(fact).mounted in (0, 1)


def test_what_is_read_is_bounded() -> None:
    beyond = "x " * MAX_CHARACTERS
    words = MountedWords(beyond + "asked", [beyond, "Mara"])
    assert words.agreement("Mara") == (0, 0)
    assert MountedWords("", ["Mara"]).agreement(beyond + "Mara") == (0, 0)
