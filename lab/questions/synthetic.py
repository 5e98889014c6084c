"""Questions about fictional things: only the mounted facts can answer them; every relation has many subjects."""

from __future__ import annotations

import random
from functools import cache
from typing import Annotated

from lab.questions import fictional
from lab.questions.question import Fact, Pool, Question, Split
from lab.questions.tables import Table, filled_with, read_table
from lab.questions.wording import choose, possessive, sentence_case, styled

FACTS_PER_QUESTION = 1.5

Wording = Annotated[str, filled_with("s", "ps", "v")]
"""{s} subject, {ps} its possessive, {v} value."""


class Relation(Table):
    """Something that can be known of a thing: how its value is made, and what is said and asked of it."""

    name: str
    value: fictional.Templates
    facts: tuple[Wording, ...]
    questions: tuple[Wording, ...]
    it: str = "It is"
    numeric: bool = False


class Kind(Table):
    """A kind of fictional things."""

    name: str
    entity: fictional.Templates
    relations: tuple[Relation, ...]


class _Kinds(Table):
    kinds: tuple[Kind, ...]


@cache
def kinds() -> tuple[Kind, ...]:
    """All that there are. Raises DataError."""
    return read_table("synthetic", _Kinds).kinds


def generate(split: Split, questions: int, seed: int) -> Pool:
    """A pool of `questions` questions about things whose names are of this split only."""
    rng = random.Random(f"synthetic:{split}:{seed}")
    relations = sum(len(kind.relations) for kind in kinds())
    entities = round(questions * FACTS_PER_QUESTION / relations) + 1
    facts: dict[str, Fact] = {}
    asked: list[Question] = []
    for kind in kinds():
        for subject in fictional.distinct(kind.entity, entities, split, rng):
            for relation in kind.relations:
                fact, question = ask(kind, subject, relation, split, rng)
                facts[fact.text] = fact
                asked.append(question)
    return Pool("synthetic", tuple(rng.sample(asked, questions)), tuple(facts.values()))


def ask(kind: Kind, subject: str, relation: Relation, split: Split, rng: random.Random) -> tuple[Fact, Question]:
    """One fact with a question about it."""
    value = fictional.make(relation.value, rng)
    name = f"{kind.name}: {relation.name}"
    fact = Fact(say(rng.choice(relation.facts), subject, value), subject, name)
    text, reply = styled(
        say(choose(relation.questions, split, rng), subject, value),
        sentence=say(rng.choice(relation.facts), subject, value),
        value=value,
        it_is=f"{relation.it} {value}.",
        split=split,
        rng=rng,
    )
    answers = answers_of(value)
    return fact, Question("synthetic", subject, name, text, answers, reply, (fact.text,), relation.numeric)


def say(wording: str, subject: str, value: str) -> str:
    return sentence_case(wording.format(s=subject, ps=possessive(subject), v=value))


def answers_of(value: str) -> tuple[str, ...]:
    """The value without its unit; also without thousands separators."""
    first, _, unit = value.partition(" ")
    core = first if unit in _UNITS else value.removeprefix("aisle ").removeprefix("$")
    plain = core.replace(",", "")
    return (core, plain) if plain != core and core[0].isdigit() else (core,)


_UNITS = {"kilometers", "kilograms", "minutes", "degrees", "meters"}
