"""How facts fit a question beyond their relevance to it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]


def bridges(question: Vectors, facts: Vectors) -> tuple[float, ...]:
    """Of each fact, ρ(fact)·u, where u is the direction that the best fact adds to the question.

    It finds the second of two facts, which names what the question only describes: "Where is the maker of X?" is
    nearest to "X is made by Y", and that leads to "Y is in Z".

    With b the fact of greatest relevance, u is ρ(b) without its part along ρ(question), of unit length; 0 for all facts
    where b adds nothing. question [dim] and facts [m, dim] are unit vectors. A number in [-1, 1] per fact.
    """
    if not len(facts):
        return ()
    relevance = facts @ question
    best = int(np.argmax(relevance))
    added = facts[best] - relevance[best] * question
    length = float(np.linalg.norm(added))
    if length < SAME:
        return (0.0,) * len(facts)
    return tuple((facts @ (added / length)).tolist())


SAME = 1e-3
"""Vectors no further apart than this say the same."""
