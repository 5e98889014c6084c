"""Questions about passages of other kinds than SQuAD's."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.errors import DataError
from lab.questions import encyclopedia, news
from lab.questions.sources import load_pool


def test_encyclopedia_asks_what_a_passage_says_once(directory: Path) -> None:
    pool = load_pool("encyclopedia", directory, "train", questions=500, seed=0)
    said = {question.relation: question.answers for question in pool.questions}
    assert said == {
        "born": ("4 May 1911",),
        "birthplace": ("Vellby",),
        "school": ("Harrow Hill",),
        "director": ("Odd Marn",),
        "writer": ("Ilse Vane",),
        "place": ("Vellby",),
        "founded": ("1874",),
    }
    assert all(encyclopedia.WORDS[0] <= len(fact.text.split()) <= encyclopedia.WORDS[1] for fact in pool.facts)
    assert all(question.subject in question.text for question in pool.questions)
    assert not any("(film)" in question.text for question in pool.questions)


def test_news_is_for_judging_alone(directory: Path) -> None:
    pool = load_pool("news", directory, "test", questions=40, seed=0)
    assert pool == load_pool("news", directory, "test", questions=40, seed=0)
    assert 5 < len(pool.questions) <= 40
    texts = {fact.text for fact in pool.facts}
    assert len(texts) == len(pool.facts) > len(pool.questions)
    for question in pool.questions:
        assert set(question.facts) <= texts
        assert question.answers[0] in question.facts[0]
        assert question.numeric == question.answers[0].isdigit()
    with pytest.raises(DataError, match="to be judged by"):
        news.load(directory, "train", 5, 0)


def test_prose_asks_for_more_and_brings_no_reply(directory: Path) -> None:
    pools = [load_pool("prose", directory, split, questions=300, seed=0) for split in ("train", "test")]
    assert all(question.reply == "" and question.answers for pool in pools for question in pool.questions)
    shapes = [{question.text.split("the ")[0][:12] for question in pool.questions} for pool in pools]
    assert shapes[1] - shapes[0], "wordings that training has not seen"
