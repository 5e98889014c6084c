"""Conversations of two turns about the demo knowledge: the second points back, goes on, or changes the subject."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations, product
from typing import Annotated, Literal, get_args

from lab.questions.tables import Table, filled_with, read_table

Kind = Literal["points back", "asks on", "stands alone", "changes the subject"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Template = Annotated[str, filled_with("")]


@dataclass(frozen=True, slots=True)
class Conversation:
    """What the user said, and the id of the demo's fact that answers the last of it."""

    kind: Kind
    said: tuple[str, str]
    fact: str


class _Relation(Table):
    fact: Template
    question: Template
    pointing: tuple[str, ...]

    def fact_of(self, subject: str) -> str:
        return self.fact.format(subject.split()[0].lower())


class _Conversations(Table):
    subjects: tuple[str, ...]
    onwards: tuple[Template, ...]
    relations: tuple[_Relation, ...]
    others: dict[str, str]


def conversations(count: int, seed: int) -> list[Conversation]:
    """Up to `count` of each kind, the same for the same arguments. Raises DataError."""
    rng = random.Random(f"conversations:{seed}")
    drawn = list(_all(read_table("conversations", _Conversations), rng))
    rng.shuffle(drawn)
    return [one for kind in KINDS for one in [each for each in drawn if each.kind == kind][:count]]


def _all(table: _Conversations, rng: random.Random) -> Iterator[Conversation]:
    for subject, (first, second) in product(table.subjects, permutations(table.relations, 2)):
        before = first.question.format(subject)
        for pointing in second.pointing:
            yield Conversation("points back", (before, pointing), second.fact_of(subject))
    for first, (subject, other) in product(table.relations, permutations(table.subjects, 2)):
        before, second = first.question.format(subject), rng.choice(table.relations)
        yield Conversation("asks on", (before, rng.choice(table.onwards).format(other)), first.fact_of(other))
        yield Conversation("stands alone", (before, second.question.format(other)), second.fact_of(other))
    for relation, subject, (fact, question) in product(table.relations, table.subjects, table.others.items()):
        yield Conversation("changes the subject", (relation.question.format(subject), question), fact)
