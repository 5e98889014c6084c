"""Knowledge and questions for the load tests: made from templates, the same for the same seed, no two alike.

Sized in the tokens of the served model (checked through the server's /tokenize by the scenarios):
facts of about 40 tokens, questions of about 30.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from loadtests.client import FactRecord


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_FIRST = _words(
    "Anna Boris Clara David Elena Frank Grace Henry Irene Jacob "
    "Karen Lucas Maria Nathan Olivia Peter Rachel Simon Teresa Victor"
)
_LAST = _words(
    "Adler Brook Carver Dalton Easton Fisher Garner Holland Ingram Jensen "
    "Keller Lawson Mercer Norton Osborn Parker Quinn Ramsey Sutton Turner"
)
_PLACE_START = _words("North South East West Upper Lower Old New Great Little")
_PLACE_END = _words("Ashford Bramley Colton Dunmore Elmwood Fairview Greenfield Hartley Kingston Marlow")
_ORGANISATION = _words("bakery brewery clinic college library museum orchestra shipyard theatre winery")


@dataclass(frozen=True, slots=True)
class _Relation:
    name: str
    fact: str
    question: str


_RELATIONS = (
    _Relation(
        "director",
        "The director of the {place} {organisation} is {person}, who was chosen by the town council "
        "after a long search and moved into the office beside the main gate in {year}.",
        "I am writing a short article about the {place} {organisation} for our Sunday paper. "
        "Could you please tell me the full name of its director?",
    ),
    _Relation(
        "founder",
        "The {place} {organisation} was founded in the spring of {year} by {person}, who had saved for "
        "many years and bought the first small house on the river with that money.",
        "We are preparing a birthday party for the {place} {organisation} next month with many guests. "
        "Could you please tell me who founded it?",
    ),
    _Relation(
        "night guard",
        "The night guard of the {place} {organisation} is called {person}. The guard has had the keys of "
        "every door since {year} and walks around the house once in every hour.",
        "I lost my bag in the {place} {organisation} late last night and all of it is closed now. "
        "What is its night guard called, please?",
    ),
    _Relation(
        "roof",
        "The roof of the {place} {organisation} was designed by {person}, and the work on it was "
        "finished in {year} although a heavy storm had broken half of the beams.",
        "My students would like to draw the roof of the {place} {organisation} this week. "
        "Could you please tell us who it was that designed that roof?",
    ),
    _Relation(
        "gift",
        "The largest gift that the {place} {organisation} ever received came from {person}, who gave a "
        "piece of land beside the lake in {year} and asked for nothing in return.",
        "For the yearly report of the {place} {organisation} I need one name only. "
        "From whom did the largest gift it ever received come, please?",
    ),
)

NEAR = len(_RELATIONS) * len(_PLACE_START) * len(_PLACE_END) * len(_ORGANISATION)
"""How many different facts there are without a family's name in them."""
CAPACITY = NEAR * (1 + len(_LAST) ** 2)
"""How many there are in all: of more than NEAR, most differ from others in one part of a name only."""


@dataclass(frozen=True, slots=True)
class Item:
    """A fact and a question that asks for it."""

    fact: FactRecord
    question: str
    answer: str
    """What a right reply contains."""
    subject: str
    relation: str
    """What is asked of the subject."""


def make_corpus(count: int, seed: int) -> list[Item]:
    """`count` facts, each about its own (relation, place, organisation). Raises ValueError above CAPACITY."""
    if not 0 < count <= CAPACITY:
        raise ValueError(f"count must be between 1 and {CAPACITY}, not {count}")
    draw = random.Random(seed)
    return [_item(number, draw) for number in draw.sample(range(max(NEAR, count)), count)]


def _item(number: int, draw: random.Random) -> Item:
    family, rest = divmod(number, NEAR)
    rest, relation = divmod(rest, len(_RELATIONS))
    rest, organisation = divmod(rest, len(_ORGANISATION))
    start, end = divmod(rest, len(_PLACE_END))
    words = {
        "place": f"{_PLACE_START[start]} {_PLACE_END[end]}{_family(family)}",
        "organisation": _ORGANISATION[organisation],
        "person": person(draw),
        "year": str(draw.randrange(1900, 2000)),
    }
    template, subject = _RELATIONS[relation], "the {place} {organisation}".format(**words)
    fact = FactRecord(f"load-{number:05d}", template.fact.format(**words))
    return Item(fact, template.question.format(**words), words["person"], subject, template.name)


def _family(number: int) -> str:
    """What tells this family's places from those of the others."""
    if not number:
        return ""
    first, second = divmod(number - 1, len(_LAST))
    return f" {_LAST[first]}-{_LAST[second]}"


def person(draw: random.Random) -> str:
    return f"{draw.choice(_FIRST)} {draw.choice(_LAST)}"


def rewritten(item: Item, serial: int) -> FactRecord:
    """The same fact with a text that no earlier serial had, so that its pages must be made anew."""
    return FactRecord(item.fact.id, f"{item.fact.text[:-1]}, as the register noted under number {serial}.")


def pasted(texts: Sequence[str]) -> str:
    """The system message that people write today to give a model the same facts."""
    return "Answer the question using the known facts.\nFacts:\n" + "".join(f"- {text}\n" for text in texts)
