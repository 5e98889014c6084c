"""Ten thousand facts about companies with invented names, many of them near each other.

Who is meant is told by a letter or a word, which sentence embeddings hardly see. Questions say the rest in the words of
the facts: other wordings are what the other sets are about.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Final

from lab.questions import fictional
from lab.questions.question import Fact, Pool, Question, Split, split_of
from lab.questions.synthetic import Kind, ask
from lab.questions.tables import read_table

DATASET: Final = "names-10k"
FACTS: Final = 10_000
FAMILY: Final = 16
"""Companies with near names, at most: one word with a letter changed, or the same word before something else."""
WORDS: Final = 12
"""Words of a family that differ in a letter."""
LETTERS: Final = "abcdefghijklmnopqrstuvwxyz"


def generate(split: Split, questions: int, seed: int) -> Pool:
    """`questions` questions (at most one for each fact) about companies whose names are of this split only."""
    rng = random.Random(f"{DATASET}:{split}:{seed}")
    told = _told(FACTS, split, rng)
    asked = rng.sample([replace(question, dataset=DATASET) for _, question in told], min(questions, len(told)))
    return Pool(DATASET, tuple(asked), tuple(fact for fact, _ in told))


def companies(count: int, seed: int) -> list[tuple[Fact, Question]]:
    """As many facts of the test split, each with a question about it: for how things go with their number."""
    return _told(count, "test", random.Random(f"{DATASET}:{count}:{seed}"))


def _told(count: int, split: Split, rng: random.Random) -> list[tuple[Fact, Question]]:
    company = read_table("names_10k", Kind)
    told: list[tuple[Fact, Question]] = []
    for subject in islice(_names(company, split, rng), -(-count // len(company.relations))):
        told += (ask(company, subject, relation, split, rng) for relation in company.relations)
    return told[:count]


def _names(company: Kind, split: Split, rng: random.Random) -> Iterator[str]:
    """Names without end, family after family, none of them twice."""
    seen: set[str] = set()
    while True:
        for name in _family(company, split, rng):
            if name not in seen:
                seen.add(name)
                yield name


def _family(company: Kind, split: Split, rng: random.Random) -> Iterator[str]:
    """One word, and words that differ from it in one letter, each before different ones."""
    word = fictional.word(rng)
    words = [word, *(_misspelled(word, rng) for _ in range(WORDS - 1))]
    names = [entity.replace("{word}", one) for entity in company.entity for one in words]
    rng.shuffle(names)
    return islice((name for name in names if split_of(name) == split), FAMILY)


def _misspelled(word: str, rng: random.Random) -> str:
    """With one letter replaced, not the first."""
    place = rng.randrange(1, len(word))
    return word[:place] + rng.choice(LETTERS) + word[place + 1 :]
