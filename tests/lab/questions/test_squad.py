"""SQuAD rows as questions."""

from __future__ import annotations

from pathlib import Path

from lab.questions import squad
from lab.questions.sources import load_pool


def test_squad_leaves_out_long_paragraphs_and_answers(directory: Path) -> None:
    pool = load_pool("squad", directory, "train", questions=500, seed=0)
    assert all(len(fact.text) <= squad.MAX_CHARACTERS for fact in pool.facts)
    assert {question.numeric for question in pool.questions} == {True, False}
    assert not any("too long" in question.text for question in pool.questions)
