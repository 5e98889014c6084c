"""What tells whether a reply is grounded, as numbers: how facts fit, what was attended to, and what was said."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

REPLY = ("least_logprob", "agreement", "nearness")
"""Signals of what was said. Whether it follows a fact is judged by them alone: how well facts fit the question tells
kinds of questions apart, and of another kind nothing.

least_logprob  of the reply's least likely token
agreement      share of the reply's own words that stand in mounted facts
nearness       how near the question's words stand to them in the fact that has most of them
"""
UNATTENDED = ("best_relevance", "lead", "best_lexical", "mean_logprob", *REPLY)
"""Signals that every engine has.

best_relevance  greatest relevance of a mounted fact
lead            how far the best relevance found is above the second (0 for a single fact)
best_lexical    greatest share of the question's words that a mounted fact has
mean_logprob    of the reply's tokens
"""
ATTENDED = (*UNATTENDED, "best_attention", "all_attention", "attended_relevance")
"""And those of an engine that tells attention.

best_attention      log of the greatest share of attention on one fact
all_attention       log of the share on all mounted facts
attended_relevance  relevance averaged by attention
"""
LEAST_LOGPROB = -6.0
"""Less than this, or what is no number, tells no more."""


class Agreement(NamedTuple):
    """Of a reply's own words: those that tell something and that the question does not have. Both are in [0, 1]."""

    mounted: float
    """Share of them that stand in mounted facts; 0 without any."""
    nearness: float
    """How near the question's words stand to them in the fact that has most of them: 1 for as near as they could be."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Of one reply. Facts are the mounted ones, best first, at least one."""

    relevances: tuple[float, ...]
    """question embedding · fact embedding, of each fact"""
    lexical: tuple[float, ...]
    """The share of the question's words that each fact has, weighed by how much they tell: in [0, 1]."""
    others: tuple[float, ...]
    """Relevances of facts that were found as well, but rank too far behind the best to be mounted."""
    attention: tuple[float, ...] | None
    """Share of each fact; None where the engine does not tell it."""
    logprobs: tuple[float, ...]
    """Natural-log probabilities of the reply's tokens."""
    agreement: Agreement

    def __post_init__(self) -> None:
        if not self.relevances or len(self.relevances) != len(self.lexical):
            raise ValueError("one relevance and one lexical score for each mounted fact, and at least one fact")
        if self.attention is not None and len(self.attention) != len(self.relevances):
            raise ValueError("one share of attention for each mounted fact")

    def signals(self) -> dict[str, float]:
        """What the score is made of: `ATTENDED`, or `UNATTENDED` where attention is not told."""
        found = {**self._of_retrieval(), **self._of_reply()}
        return found if self.attention is None else found | self._of_attention(self.attention)

    def _of_retrieval(self) -> dict[str, float]:
        first, *rest = sorted((*self.relevances, *self.others), reverse=True)
        return {
            "best_relevance": max(self.relevances),
            "lead": first - max(rest, default=first),
            "best_lexical": max(self.lexical),
        }

    def _of_reply(self) -> dict[str, float]:
        agreement = self.agreement
        return {
            "mean_logprob": max(LEAST_LOGPROB, _mean(self.logprobs)),
            "least_logprob": max(LEAST_LOGPROB, min(self.logprobs, default=0.0)),
            "agreement": agreement.mounted,
            "nearness": agreement.nearness,
        }

    def _of_attention(self, attention: Sequence[float]) -> dict[str, float]:
        total = sum(attention)
        attended = sum(r * a for r, a in zip(self.relevances, attention, strict=True)) / total if total > 0 else 0.0
        return {"best_attention": _log(max(attention)), "all_attention": _log(total), "attended_relevance": attended}


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else 0.0


def _log(share: float) -> float:
    return math.log(max(share, 1e-6))
