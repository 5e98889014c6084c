"""How the Factbook's relations are phrased, in facts and in questions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated

from lab.questions.tables import Table, filled_with, read_table

_PLURAL = re.compile(r"\b(?:rates|expenditures|exports|imports|reserves of .*|remittances)$")

Wording = Annotated[str, filled_with("s", "ps", "n", "be", "v")]
"""{s} subject, {ps} its possessive, {n} the relation's noun, {be} its verb, {v} value."""


@dataclass(frozen=True, slots=True)
class Phrasing:
    noun: str
    facts: tuple[str, ...]
    questions: tuple[str, ...]
    be: str = "is"
    it: str = "It is"


class _Wordings(Table):
    facts: tuple[Wording, ...]
    questions: tuple[Wording, ...]


class _Relation(Table):
    label: str
    noun: str
    facts: tuple[Wording, ...] = ()
    questions: tuple[Wording, ...]
    be: str = "is"
    it: str = "It is"
    general: bool = True
    """The general wordings fit it, too."""

    def phrased(self, general: _Wordings) -> Phrasing:
        """Own questions between the general ones, so that some of each are kept for testing."""
        facts, questions = self.facts, self.questions
        if self.general:
            own = len(questions) - len(questions) // 2
            facts += general.facts
            questions = (*questions[:own], *general.questions[:5], *questions[own:], *general.questions[5:])
        return Phrasing(self.noun, facts, questions, self.be, self.it)


class _Relations(Table):
    general: _Wordings
    unphrased: _Wordings
    """For what is only a label."""
    relations: tuple[_Relation, ...]


@cache
def _relations() -> _Relations:
    return read_table("factbook_relations", _Relations)


@cache
def _phrasings() -> Mapping[str, Phrasing]:
    """By label."""
    table = _relations()
    return {one.label: one.phrased(table.general) for one in table.relations}


def phrasing_of(relation: str) -> Phrasing:
    """The hand-written phrasing, or one made of the relation's label."""
    return _phrasings().get(relation) or _unphrased(relation)


def is_curated(relation: str) -> bool:
    return relation in _phrasings()


@cache
def _unphrased(relation: str) -> Phrasing:
    """ "A - b - c" becomes "a (b, c)"; "A - A 2023" becomes "2023 a"."""
    first, *rest = (part.strip() for part in relation.split(" - "))
    first = re.sub(r"\b[A-Z](?=[a-z])", lambda letter: letter.group().lower(), first, count=1)
    if rest and (year := re.search(r"\b\d{4}$", rest[-1])):
        return _of_year(f"{year.group()} {first}")
    if rest and rest[-1].casefold().startswith(first.casefold()):
        first, rest = first[:1] + rest[-1][1:], []
    noun = f"{first} ({', '.join(rest)})" if rest else first
    unphrased = _relations().unphrased
    return Phrasing(noun, unphrased.facts, unphrased.questions)


def _of_year(noun: str) -> Phrasing:
    general = _relations().general
    be, it = ("are", "They are") if _PLURAL.search(noun) else ("is", "It is")
    return Phrasing(noun, general.facts, general.questions, be, it)
