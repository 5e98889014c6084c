"""Which of the facts that were found are mounted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kb.facts import Fact
from kb.mounting import NEAR, leading, uncovered
from kb.snapshot import Hit

QUESTION = "Who is the night guard of the North Elmwood orchestra?"
GOLD = "The night guard of the North Elmwood orchestra is called David Mercer."
NAMESAKE = "The night guard of the South Elmwood orchestra is called Clara Jensen."
ELSE = "The roof of the North Elmwood orchestra was designed by Irene Norton."


def hit(text: str, score: float = 0.5, lexical: float = 0.5, rank_score: float = 1.0) -> Hit:
    fact = Fact(text, "default", text, metadata={}, expires_at=None, version=1, created_at=0.0)
    return Hit(fact, score, lexical, rank_score, np.zeros(1, np.float32))


def texts(hits: Sequence[Hit]) -> list[str]:
    return [one.fact.text for one in hits]


def test_a_namesake_and_something_else_of_the_same_thing_are_left_out() -> None:
    found = [hit(GOLD, lexical=1.0), hit(NAMESAKE, lexical=0.8), hit(ELSE, lexical=0.6)]
    assert texts(uncovered(QUESTION, found)) == [GOLD]
    assert texts(uncovered(QUESTION, found[::-1])) == [GOLD]


def test_what_has_words_of_its_own_stays() -> None:
    question = "Who is the night guard of the North Elmwood orchestra, and who designed its roof?"
    found = [hit(GOLD, lexical=0.7), hit(ELSE, lexical=0.6), hit(NAMESAKE, lexical=0.5)]
    assert texts(uncovered(question, found)) == [GOLD, ELSE]


def test_equals_stay() -> None:
    found = [hit(GOLD, lexical=0.5), hit(ELSE, lexical=0.5)]
    assert uncovered("What is known of the North Elmwood orchestra?", found) == tuple(found)


@pytest.mark.parametrize(
    ("other", "stays"),
    [
        (hit(NAMESAKE, score=0.5 + NEAR + 0.01, lexical=0.8), True),
        (hit(NAMESAKE, score=0.5 + NEAR - 0.01, lexical=0.8), False),
        (hit(NAMESAKE, lexical=0.97), True),
        (hit("It was played by night.", lexical=0.1), False),
        (hit("Nothing of the kind.", lexical=0.0), True),
    ],
    ids=["clearly nearer by meaning", "hardly nearer", "hardly less told", "one word", "no word"],
)
def test_the_other_must_be_worse_in_both(other: Hit, stays: bool) -> None:
    assert (other in uncovered(QUESTION, [hit(GOLD, lexical=1.0), other])) == stays


WORDS = ["amber", "basalt", "cedar", "delta", "ember", "flint"]
facts = st.lists(
    st.tuples(st.sets(st.sampled_from(WORDS)), st.floats(-1, 1), st.floats(0, 1)), min_size=1, max_size=6
).map(lambda drawn: [hit(" ".join(sorted(words)) or "-", score, share) for words, score, share in drawn])


@given(st.sets(st.sampled_from(WORDS)).map(lambda words: " ".join(sorted(words))), facts)
def test_something_stays_in_order_and_nothing_left_is_covered(question: str, found: list[Hit]) -> None:
    kept = uncovered(question, found)
    assert kept
    assert list(kept) == [one for one in found if one in kept]
    assert uncovered(question, kept) == kept


@given(facts, st.floats(0, 4))
def test_leading_keeps_the_best(found: list[Hit], max_gap: float) -> None:
    assert leading(found, max_gap)[0] is found[0]
