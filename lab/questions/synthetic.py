"""Questions about fictional things: only the mounted facts can answer them; every relation has many subjects."""

from __future__ import annotations

import random

from lab.questions import fictional
from lab.questions.question import Fact, Pool, Question, Split
from lab.questions.synthetic_kinds import KINDS, Kind, Relation
from lab.questions.wording import choose, possessive, sentence_case, styled

FACTS_PER_QUESTION = 1.5


def generate(split: Split, questions: int, seed: int) -> Pool:
    """A pool of `questions` questions about things whose names are of this split only."""
    rng = random.Random(f"synthetic:{split}:{seed}")
    relations = sum(len(kind.relations) for kind in KINDS)
    entities = round(questions * FACTS_PER_QUESTION / relations) + 1
    facts: dict[str, Fact] = {}
    asked: list[Question] = []
    for kind in KINDS:
        for subject in fictional.distinct(kind.entity, entities, split, rng):
            for relation in kind.relations:
                fact, question = _ask(kind, subject, relation, split, rng)
                facts[fact.text] = fact
                asked.append(question)
    return Pool("synthetic", tuple(rng.sample(asked, questions)), tuple(facts.values()))


def _ask(kind: Kind, subject: str, relation: Relation, split: Split, rng: random.Random) -> tuple[Fact, Question]:
    value = relation.value(rng)
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
