"""Questions in two sentences, about fictional things, whose facts say more than what is asked for.

A fact has other names, years and places beside the answer, which stands somewhere in its midst.
"""

from __future__ import annotations

import random
from functools import cache
from typing import Annotated

from lab.questions import fictional
from lab.questions.question import Fact, Pool, Question, Split
from lab.questions.synthetic import FACTS_PER_QUESTION, Wording, answers_of, say
from lab.questions.tables import Table, filled_with, read_table
from lab.questions.wording import choose, styled

OPENED = 0.6
"""Share of questions behind a sentence that says what they are about."""
CLOSED = 0.2
"""Share of those before a sentence that says what for. The rest are one sentence."""


class _Relation(Table):
    """Something that can be known of a thing, among other things that are told with it."""

    name: str
    value: fictional.Templates
    facts: tuple[fictional.Templates, ...]
    """With {{s}} and {{v}}, which are filled last."""
    questions: tuple[Wording, ...]
    replies: tuple[Wording, ...]
    it: str = "It is"
    numeric: bool = False


class _Kind(Table):
    name: str
    entity: fictional.Templates
    openings: tuple[Annotated[str, filled_with("s")], ...]
    relations: tuple[_Relation, ...]


class _Kinds(Table):
    closings: tuple[Annotated[str, filled_with("")], ...]
    kinds: tuple[_Kind, ...]


@cache
def _table() -> _Kinds:
    return read_table("lengthy", _Kinds)


def generate(split: Split, questions: int, seed: int) -> Pool:
    """A pool of `questions` questions about things whose names are of this split only."""
    rng = random.Random(f"lengthy:{split}:{seed}")
    relations = sum(len(kind.relations) for kind in _table().kinds)
    entities = round(questions * FACTS_PER_QUESTION / relations) + 1
    told = [
        _ask(kind, subject, relation, split, rng)
        for kind in _table().kinds
        for subject in fictional.distinct(kind.entity, entities, split, rng)
        for relation in kind.relations
    ]
    asked = rng.sample([question for _, question in told], questions)
    return Pool("lengthy", tuple(asked), tuple(fact for fact, _ in told))


def _ask(kind: _Kind, subject: str, relation: _Relation, split: Split, rng: random.Random) -> tuple[Fact, Question]:
    """One fact with a question about it."""
    value = fictional.make(relation.value, rng)
    name = f"{kind.name}: {relation.name}"
    fact = Fact(say(fictional.make(rng.choice(relation.facts), rng), subject, value), subject, name)
    text, reply = styled(
        _asked(kind, subject, relation, split, rng),
        sentence=say(rng.choice(relation.replies), subject, value),
        value=value,
        it_is=f"{relation.it} {value}.",
        split=split,
        rng=rng,
    )
    answers = answers_of(value)
    return fact, Question("lengthy", subject, name, text, answers, reply, (fact.text,), relation.numeric)


def _asked(kind: _Kind, subject: str, relation: _Relation, split: Split, rng: random.Random) -> str:
    question, drawn = choose(relation.questions, split, rng), rng.random()
    if drawn < OPENED:
        pointing = question.format(s="it", ps="its")
        return f"{choose(kind.openings, split, rng).format(s=subject)} {pointing[:1].upper()}{pointing[1:]}"
    asked = say(question, subject, value="")
    return choose(_table().closings, split, rng).format(asked) if drawn < OPENED + CLOSED else asked
