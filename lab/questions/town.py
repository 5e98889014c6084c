"""The load tests' facts and questions: sentences of some 40 tokens with a subordinate clause, asked for in two.

Their form is unlike what φ is trained on, and they are held out: nothing is trained on this set.
"""

from __future__ import annotations

import random
from typing import Final

from lab.questions.question import Fact, Pool, Question, Split, split_of
from loadtests.corpus import NEAR, Item, make_corpus

DATASET: Final = "town"


def generate(split: Split, questions: int, seed: int) -> Pool:
    """`questions` questions (at most one for each fact) about places of this split only, and all facts about them."""
    items = [item for item in make_corpus(NEAR, seed) if split_of(item.subject) == split]
    asked = random.Random(f"{DATASET}:{split}:{seed}").sample(items, min(questions, len(items)))
    facts = (Fact(item.fact.text, item.subject, item.relation) for item in items)
    return Pool(DATASET, tuple(map(_question, asked)), tuple(facts))


def _question(item: Item) -> Question:
    """Its reply is the fact: the corpus has no other."""
    text = item.fact.text
    return Question(DATASET, item.subject, item.relation, item.question, (item.answer,), text, (text,), numeric=False)
