"""The best rows of an index for a question, by meaning, by words, or by both."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from kb.facts import SearchMethod
from kb.filters import Filter
from kb.index.lexical import Corpus, Living, Relevance
from kb.index.part import Part
from kb.index.segment import Bitmap, Vectors
from kb.index.terms import Term

EXTRA_CANDIDATES = 32
"""Each half proposes so many rows more than are wanted."""
BM25_WEIGHT = 0.25
COVERED_WEIGHT = 0.5
"""Beside 1 for the inner product: best by recall@1 and recall@8, averaged over the dev splits of the sets of questions
(`lab.questions`, 300 each), out of 0 to 2 × 0 to 1.5. Ranks alone (reciprocal rank fusion) were worse."""
_NO_ROWS = np.empty(0, np.int64)
LEXICAL_SCALE = 0.7
"""A row that has half of what a question tells is as relevant as one whose inner product is 0.35. With this, none of
400 questions about something else found facts that it had not found by meaning, in bases of 224 to 10,000 facts."""


class Found(NamedTuple):
    """A row that was found."""

    id: str
    score: float
    """Inner product with the question's vector."""
    lexical: float
    """The share of the question's words that it has, weighed by how much they tell: in [0, 1]."""
    bm25: float
    """In [0, 1]."""
    vector: Vectors

    @property
    def fused(self) -> float:
        """What the hybrid search ranks by."""
        return self.score + BM25_WEIGHT * self.bm25 + COVERED_WEIGHT * self.lexical

    def rank_score(self, method: SearchMethod) -> float:
        """What a search ranks by."""
        return {"dense": self.score, "lexical": self.bm25, "hybrid": self.fused}[method]


def relevance(score: float, lexical: float, method: SearchMethod) -> float:
    """What least scores are compared with, on the scale of inner products. What is found by words need not be near."""
    if method == "dense":
        return score
    scaled = LEXICAL_SCALE * lexical
    return scaled if method == "lexical" else max(score, scaled)


def search(
    parts: Sequence[Part],
    query: Vectors,
    k: int,
    now: float,
    question: Sequence[Term],
    method: SearchMethod,
    where: Filter | None = None,
) -> list[Found]:
    """The k best living rows at `now` (unix seconds), best first, ties by id. `query` is float32 [dim].

    dense: by inner product; lexical: rows with a word of the question, by BM25; hybrid: the best of both, by both.
    """
    count = k + EXTRA_CANDIDATES
    selected = [part.selected(now) for part in parts]
    wanted = selected
    if where is not None:
        wanted = [part.passing(rows, where) for part, rows in zip(parts, selected, strict=True)]
    corpus = Corpus([_living(*one, filtered=where is not None) for one in zip(parts, selected, wanted, strict=True)])
    found = [
        one
        for part, rows, relevance in zip(parts, wanted, corpus.relevances(question), strict=True)
        for one in _candidates(part, rows, query, relevance, count, method)
    ]
    # Cut to what both halves propose of all parts together, so that it does not matter how rows lie in them.
    near = heapq.nsmallest(count, found, key=lambda one: (-one.score, one.id))
    alike = heapq.nsmallest(count, (one for one in found if one.bm25), key=lambda one: (-one.bm25, one.id))
    if method == "dense":
        return near[:k]
    if method == "lexical":
        return alike[:k]
    both = {one.id: one for one in (*near, *alike)}
    return heapq.nsmallest(k, both.values(), key=lambda one: (-one.fused, one.id))


def _living(part: Part, selected: Bitmap | None, wanted: Bitmap | None, *, filtered: bool) -> Living:
    """How rare words are is told by all that were selected: a filter changes no score."""
    return part.living(selected, wanted if filtered else None)


def _candidates(
    part: Part, wanted: Bitmap | None, query: Vectors, relevance: Relevance, count: int, method: SearchMethod
) -> Iterator[Found]:
    near = _NO_ROWS if method == "lexical" else part.segment.search(query, count, wanted)
    alike = _NO_ROWS if method == "dense" else relevance.best(count)
    rows = np.union1d(near, alike)
    vectors = part.segment.vectors(rows)
    # Scored again in float64, so that equal vectors tie exactly in whichever segments they lie.
    scores = (vectors.astype(np.float64) * query.astype(np.float64)).sum(axis=1)
    ids = part.segment.ids.at(rows)
    bm25, covered = relevance.of(rows)
    return map(Found, ids, scores.tolist(), covered.tolist(), bm25.tolist(), vectors)
