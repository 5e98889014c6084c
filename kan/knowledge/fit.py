"""How mounted facts fit a question: what φ is told of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]

SAME = 1e-3
"""Vectors no further apart than this say the same."""
TIED = 1e-6
"""Relevances no further apart than this are equal, whatever the order of summation."""


class Fit(NamedTuple):
    """Of one fact among those mounted.

    relevance   ρ(question)·ρ(fact), in [-1, 1]
    bridge      how well it fits what the best fact adds to the question, in [-1, 1]
    rest        how well it fits what the best fact leaves of the question, in [-1, 1]
    lexical     the share of the question's words that it has, weighed by how much they tell, in [0, 1]
    length      its characters
    """

    relevance: float
    bridge: float = 0.0
    rest: float = 0.0
    lexical: float = 0.0
    length: float = 0.0


def fits(
    question: Vectors, facts: Vectors, lexical: Sequence[float] | None = None, texts: Sequence[str] | None = None
) -> tuple[Fit, ...]:
    """The fit of each fact; the same in any order of the facts. question [dim] and facts [m, dim] are unit vectors.

    Without `lexical` (one number per fact) no word is shared, without `texts` no fact has a length.

    bridge and rest find the second of two facts, which relevance alone plays down. "Where is the maker of X?" is
    nearest to "X is made by Y", and what that adds leads to "Y is in Z". "Who runs X, and who runs Y?" is nearest to
    one answer, and the other is what is left to be asked.

    With b the best fact, bridge is ρ(fact) along the part of ρ(b) that is perpendicular to ρ(question); rest is it
    along the part of ρ(question) that is perpendicular to ρ(b). 0 where there is no such part.
    """
    if not len(facts):
        return ()
    relevance = facts @ question
    # Facts that are equally relevant are all the best: none of them is first.
    best = _unit(facts[relevance >= relevance.max() - TIED].mean(axis=0))
    common = float(best @ question)
    bridge = facts @ _unit(best - common * question)
    rest = facts @ _unit(question - common * best)
    none = [0.0] * len(facts)
    shared, lengths = none if lexical is None else lexical, none if texts is None else list(map(len, texts))
    return tuple(map(Fit, relevance.tolist(), bridge.tolist(), rest.tolist(), shared, lengths))


def _unit(vector: Vectors) -> Vectors:
    """Of length 1, or 0 for what is next to nothing."""
    length = float(np.linalg.norm(vector))
    return vector / np.float32(length) if length >= SAME else np.zeros_like(vector)
