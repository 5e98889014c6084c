"""Questions that need two facts: one names what the other is about, or the question asks for two things."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from lab.questions import fictional
from lab.questions.question import Fact, Pool, Question, Split
from lab.questions.synthetic import answers_of, say
from lab.questions.synthetic_kinds import KINDS, Kind, Relation
from lab.questions.wording import choose, styled

HOP_SHARE = 0.6
"""Of the questions; the others ask for two values of a kind at once."""


@dataclass(frozen=True, slots=True)
class _Hop:
    """subject -first-> bridge (an entity of `kind`) -second-> value; {s} the subject, {v} the bridge."""

    name: str
    entity: Callable[[random.Random], str]
    kind: str
    facts: tuple[str, ...]
    called: str
    """The bridge as the question has it, by way of the subject."""


def _engine(rng: random.Random) -> str:
    what = rng.choice(("engine", "blender", "camera", "bicycle", "heater", "scooter"))
    return f"the {fictional.word(rng)} {what}"


def _festival(rng: random.Random) -> str:
    return f"the {fictional.word(rng)} {rng.choice(('festival', 'marathon', 'regatta', 'congress'))}"


def _book(rng: random.Random) -> str:
    return f"the {rng.choice(('novel', 'film', 'opera'))} “{fictional.word(rng)}”"


_HOPS = (
    _Hop(
        "maker",
        _engine,
        "company",
        ("{s} is made by {v}.", "{v} is the maker of {s}.", "{s} is a product of {v}."),
        "the company that makes {s}",
    ),
    _Hop(
        "sponsor",
        _festival,
        "company",
        ("{s} is sponsored by {v}.", "{v} pays for {s}.", "The sponsor of {s} is {v}."),
        "the company that sponsors {s}",
    ),
    _Hop(
        "author",
        _book,
        "person",
        ("{s} was created by {v}.", "{v} is the author of {s}.", "The author of {s} is {v}."),
        "the person who created {s}",
    ),
    _Hop(
        "winner",
        _festival,
        "person",
        ("{s} was won by {v}.", "{v} won {s}.", "The winner of {s} was {v}."),
        "the person who won {s}",
    ),
)
_JOINED = ("{a} And {b}", "Two things: {a} And {b}", "{a} Also, {b}", "I have two questions. {a} {B}")


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
        whole = [w for w in self.relation.questions if w.split()[0] in _QUESTION_WORDS and "{ps}" not in w]
        return say(choose([w for w in whole if w.count("?") == 1 and ". " not in w], split, rng), subject, self.value)


def generate(split: Split, questions: int, seed: int) -> Pool:
    """A pool of `questions` questions about things whose names are of this split only."""
    rng = random.Random(f"two facts:{split}:{seed}")
    entities = questions // 6 + 3
    known = {kind.name: _kind_facts(kind, entities, split, rng) for kind in KINDS if kind.name in _BRIDGES}
    facts = [one.fact for group in known.values() for of_subject in group for one in of_subject]
    hops: list[Question] = []
    for hop in _HOPS:
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
    value = relation.value(rng)
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
        choose(_JOINED, split, rng).format(a=a, b=_lower(b), B=b),
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


_BRIDGES = {hop.kind for hop in _HOPS}
_QUESTION_WORDS = {
    "Who",
    "What",
    "Where",
    "Which",
    "When",
    "How",
    "In",
    "On",
    "At",
    "Who's",
    "What's",
    "Whose",
    "Under",
}
