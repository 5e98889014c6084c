"""Questions that need two facts: one names what the other is about, or the question asks for two things."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache
from typing import Annotated

from lab.questions import fictional
from lab.questions.question import Fact, Pool, Question, Split
from lab.questions.synthetic import Kind, Relation, answers_of, kinds, say
from lab.questions.tables import Table, filled_with, read_table
from lab.questions.wording import choose, styled

HOP_SHARE = 0.6
"""Of the questions; the others ask for two values of a kind at once."""


class _Hop(Table):
    """subject -first-> bridge (an entity of `kind`) -second-> value; {s} the subject, {v} the bridge."""

    name: str
    entity: fictional.Templates
    kind: str
    facts: tuple[Annotated[str, filled_with("s", "v")], ...]
    called: Annotated[str, filled_with("s")]
    """The bridge as the question has it, by way of the subject."""


class _Wordings(Table):
    joined: tuple[Annotated[str, filled_with("a", "b", "B")], ...]
    """Two questions asked at once; {B} keeps its first letter."""
    openings: frozenset[str]
    """First words of questions that stay grammatical beside another."""
    hops: tuple[_Hop, ...]


@cache
def _wordings() -> _Wordings:
    return read_table("two_fact", _Wordings)


@dataclass(frozen=True, slots=True)
class _Known:
    """One relation of one entity, with its value and the fact that states it."""

    subject: str
    kind: Kind
    relation: Relation
    value: str
    fact: Fact

    def asked(self, subject: str, split: Split, rng: random.Random) -> str:
        """A question that stays grammatical with a long subject and next to another question."""
        openings = _wordings().openings
        whole = [w for w in self.relation.questions if w.split()[0] in openings and "{ps}" not in w]
        return say(choose([w for w in whole if w.count("?") == 1 and ". " not in w], split, rng), subject, self.value)


def generate(split: Split, questions: int, seed: int) -> Pool:
    """A pool of `questions` questions about things whose names are of this split only."""
    rng = random.Random(f"two facts:{split}:{seed}")
    entities = questions // 6 + 3
    bridges = {hop.kind for hop in _wordings().hops}
    known = {kind.name: _kind_facts(kind, entities, split, rng) for kind in kinds() if kind.name in bridges}
    facts = [one.fact for group in known.values() for of_subject in group for one in of_subject]
    hops: list[Question] = []
    for hop in _wordings().hops:
        subjects = fictional.distinct(hop.entity, entities, split, rng)
        for subject, of_bridge in zip(subjects, rng.sample(known[hop.kind], entities), strict=True):
            bridge = Fact(say(rng.choice(hop.facts), subject, of_bridge[0].subject), subject, hop.name)
            facts.append(bridge)
            hops += (_hop_question(hop, bridge, one, split, rng) for one in of_bridge)
    asked = rng.sample(hops, round(questions * HOP_SHARE))
    asked += (_pair_question(rng.choice(list(known.values())), split, rng) for _ in range(questions - len(asked)))
    return Pool("two_fact", tuple(asked), tuple(facts))


def _kind_facts(kind: Kind, entities: int, split: Split, rng: random.Random) -> list[list[_Known]]:
    """For each of so many entities, everything that is known of it."""
    return [
        [_known(kind, relation, subject, rng) for relation in kind.relations]
        for subject in fictional.distinct(kind.entity, entities, split, rng)
    ]


def _known(kind: Kind, relation: Relation, subject: str, rng: random.Random) -> _Known:
    value = fictional.make(relation.value, rng)
    text = say(rng.choice(relation.facts), subject, value)
    return _Known(subject, kind, relation, value, Fact(text, subject, f"{kind.name}: {relation.name}"))


def _hop_question(hop: _Hop, bridge: Fact, known: _Known, split: Split, rng: random.Random) -> Question:
    called = hop.called.format(s=bridge.subject)
    chained = f"{bridge.text} {known.fact.text}"
    direct = say(rng.choice(known.relation.facts), called, known.value)
    text, reply = styled(
        known.asked(called, split, rng),
        sentence=rng.choice((chained, direct)),
        value=known.value,
        it_is=f"{known.relation.it} {known.value}.",
        split=split,
        rng=rng,
    )
    relation = f"{hop.name} > {known.fact.relation}"
    facts = (bridge.text, known.fact.text)
    answers = answers_of(known.value)
    return Question("two_fact", bridge.subject, relation, text, answers, reply, facts, known.relation.numeric)


def _pair_question(entities: list[list[_Known]], split: Split, rng: random.Random) -> Question:
    """Two subjects and one relation, or one subject and two relations."""
    if rng.random() < 0.5:
        place = rng.randrange(len(entities[0]))
        first, second = (of_subject[place] for of_subject in rng.sample(entities, 2))
    else:
        first, second = rng.sample(rng.choice(entities), 2)
    a, b = (known.asked(known.subject, split, rng) for known in (first, second))
    text, reply = styled(
        choose(_wordings().joined, split, rng).format(a=a, b=_lower(b), B=b),
        sentence=f"{first.fact.text} {second.fact.text}",
        value=f"{first.value} and {second.value}",
        it_is=f"{first.relation.it} {first.value}, and the other is {second.value}.",
        split=split,
        rng=rng,
    )
    whole, plain = ((answers_of(one.value)[0], answers_of(one.value)[-1]) for one in (first, second))
    answers = tuple(dict.fromkeys(f"{one} & {other}" for one, other in zip(whole, plain, strict=True)))
    relations = " & ".join(dict.fromkeys((first.fact.relation, second.fact.relation)))
    numeric = first.relation.numeric or second.relation.numeric
    facts = (first.fact.text, second.fact.text)
    return Question("two_fact", first.subject, relations, text, answers, reply, facts, numeric)


def _lower(question: str) -> str:
    """With a small first letter: it goes on a sentence."""
    return question[0].lower() + question[1:]
