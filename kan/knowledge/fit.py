"""How mounted facts fit a question: what φ is told of them, from sentence embeddings alone."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]

SAME = 1e-3
"""Vectors no further apart than this say the same."""
TIED = 1e-6
"""Relevances no further apart than this are equal, whatever the order of summation."""


class Fit(NamedTuple):
    """Of one fact among those mounted, each in [-1, 1].

    relevance   ρ(question)·ρ(fact)
    bridge      how well it fits what the best fact adds to the question
    rest        how well it fits what the best fact leaves of the question
    """

    relevance: float
    bridge: float = 0.0
    rest: float = 0.0


def fits(question: Vectors, facts: Vectors) -> tuple[Fit, ...]:
    """The fit of each fact; the same in any order of the facts. question [dim] and facts [m, dim] are unit vectors.

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
    return tuple(map(Fit, relevance.tolist(), bridge.tolist(), rest.tolist()))


def _unit(vector: Vectors) -> Vectors:
    """Of length 1, or 0 for what is next to nothing."""
    length = float(np.linalg.norm(vector))
    return vector / np.float32(length) if length >= SAME else np.zeros_like(vector)
