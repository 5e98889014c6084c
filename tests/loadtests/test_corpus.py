"""The load test's knowledge is the same every time and no two facts are alike."""

from __future__ import annotations

import pytest

from loadtests.corpus import CAPACITY, NEAR, make_corpus, pasted, rewritten


def test_same_seed_same_corpus() -> None:
    assert make_corpus(50, 7) == make_corpus(50, 7)
    assert make_corpus(50, 7) != make_corpus(50, 8)


def test_all_facts_and_questions_differ() -> None:
    for count in (NEAR, 3 * NEAR):
        corpus = make_corpus(count, 1)
        assert len({item.fact.id for item in corpus}) == count
        assert len({item.fact.text for item in corpus}) == count
        assert len({item.question for item in corpus}) == count


@pytest.mark.parametrize("count", [0, -1, CAPACITY + 1])
def test_count_out_of_range(count: int) -> None:
    with pytest.raises(ValueError, match="count"):
        make_corpus(count, 1)


def test_rewritten_texts_are_new_every_time() -> None:
    item = make_corpus(1, 1)[0]
    facts = [rewritten(item, serial) for serial in range(100)]
    assert {fact.id for fact in facts} == {item.fact.id}
    assert len({fact.text for fact in facts} | {item.fact.text}) == 101


def test_pasted_facts_are_lines() -> None:
    assert pasted(["A is 1.", "B is 2."]).endswith("Facts:\n- A is 1.\n- B is 2.\n")
