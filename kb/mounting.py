"""Which of the facts that were found are worth mounting: those that do not only distract from a better one."""

from __future__ import annotations

from collections.abc import Sequence

from kb.index.terms import MAX_QUESTION_CHARACTERS, telling_words_of
from kb.snapshot import Hit

LEAST_LOSS = 0.05
"""Share of what a fact's words tell of the question by which a covered one must fall short of it."""
NEAR = 0.05
"""So much nearer by meaning a covered fact may be."""


def to_mount(question: str, hits: Sequence[Hit], *, max_gap: float, drop_covered: bool) -> tuple[Hit, ...]:
    """Those of `hits`, the best first, that lead and, if `drop_covered`, are not covered."""
    found = leading(hits, max_gap)
    return uncovered(question, found) if drop_covered else found


def leading(hits: Sequence[Hit], max_gap: float) -> tuple[Hit, ...]:
    """Those of `hits`, the best first, that rank no further than `max_gap` behind the best.

    Where one leads clearly, the others only distract.
    """
    return tuple(hit for hit in hits if hit.rank_score >= hits[0].rank_score - max_gap)


def uncovered(question: str, hits: Sequence[Hit]) -> tuple[Hit, ...]:
    """Those of `hits` that no other covers, in their order.

    A fact is covered by one that has all of the question's words that it has, and more, and is not clearly further from
    the question by meaning: that one tells of what was asked for, where it tells of a namesake, or something else of
    the same thing. Facts that have words of their own, the same ones or none stay.
    """
    if len(hits) < 2:
        return tuple(hits)
    asked = frozenset(telling_words_of(question[:MAX_QUESTION_CHARACTERS]))
    words = [asked.intersection(telling_words_of(hit.fact.text)) for hit in hits]

    def covers(other: int, place: int) -> bool:
        one, better = hits[place], hits[other]
        less = bool(words[place]) and words[place] < words[other] and one.lexical < better.lexical * (1 - LEAST_LOSS)
        return less and one.score <= better.score + NEAR

    places = range(len(hits))
    return tuple(hits[place] for place in places if not any(covers(other, place) for other in places))
