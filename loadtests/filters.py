"""What a filter costs a search: the index alone, with random vectors, facts of the load tests' corpus and metadata of
known selectivity. Every answer is compared with an exact one, by brute force over the facts that pass."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kb.filters import Filter, read_filter
from kb.index.attributes import Attributes
from kb.index.ids import Ids
from kb.index.lexical import Corpus
from kb.index.namespace import NamespaceIndex
from kb.index.part import Part
from kb.index.postings import Postings
from kb.index.search import BM25_WEIGHT, COVERED_WEIGHT, EXTRA_CANDIDATES
from kb.index.segment import FlatSegment, Vectors
from kb.index.terms import Term, question_of
from loadtests.corpus import NEAR, Item, make_corpus
from loadtests.report import Report
from loadtests.scenario import Progress

TOP_K = 8
DIMENSION = 384
"""Of the encoder that a server has."""
SHARES = (1, 10, 1_000, 100_000)
"""One fact in so many passes; 1: no filter."""
WARM_UP = 3


@dataclass(frozen=True, slots=True)
class FiltersPlan:
    """facts: in the index; rounds: questions per series; dead: share of the rows that edits left dead."""

    facts: int
    rounds: int
    seed: int
    dead: float = 0.1


@dataclass(frozen=True, slots=True)
class Question:
    """As a search takes it."""

    vector: Vectors
    terms: tuple[Term, ...]
    where: Filter | None


class Scene:
    """An index, and questions to it."""

    def __init__(self, plan: FiltersPlan, report: Report) -> None:
        self._draw = random.Random(plan.seed)
        self._noise = np.random.default_rng(plan.seed)
        self._items = make_corpus(min(plan.facts, NEAR), plan.seed)
        self.count = plan.facts
        numbers = range(plan.facts)
        texts = [f"{self._items[number % len(self._items)].fact.text} File {number}." for number in numbers]
        started = time.perf_counter()
        attributes = Attributes.of(
            {f"one_in_{share}": number // max(1, plan.facts // share) for share in SHARES} for number in numbers
        )
        report.figures["columns of metadata made (s)"] = time.perf_counter() - started
        ids = Ids.of(f"{number:09d}" for number in numbers)
        columns = Postings.of(texts), attributes
        segment = FlatSegment(ids, self._vectors(plan.facts), np.full(plan.facts, math.inf), *columns)
        part = Part.of(segment)
        gone = self._draw.sample(numbers, int(plan.dead * plan.facts))
        self.part = part.without(gone) if gone else part
        self.index = NamespaceIndex((self.part,))

    def questions(self, share: int, count: int) -> Iterator[Question]:
        """That pass one fact in `share`."""
        for _ in range(count):
            item: Item = self._draw.choice(self._items)
            values = max(1, min(share, self.count))
            wanted = {f"one_in_{share}": {"eq": self._draw.randrange(values)}}
            where = None if share == 1 else read_filter(wanted)
            yield Question(self._vectors(1)[0], question_of(item.question), where)

    def exact(self, question: Question) -> list[str]:
        """Ids of the best living facts that pass, as `kb.index.search` defines the hybrid search; all are scored."""
        segment = self.part.segment
        (relevance,) = Corpus([self.part.living(self.part.alive)]).relevances(question.terms)
        passing = self.part.mask()
        if question.where is not None:
            passing &= segment.attributes.matching(question.where)
        rows = np.flatnonzero(passing)
        bm25, covered = relevance.of(rows)
        scores = segment.vectors(rows).astype(np.float64) @ question.vector.astype(np.float64)
        ranks = scores + BM25_WEIGHT * bm25 + COVERED_WEIGHT * covered
        count = TOP_K + EXTRA_CANDIDATES
        near, alike = np.lexsort((rows, -scores))[:count], np.lexsort((rows, -bm25))[:count]
        proposed = np.union1d(near, alike[bm25[alike] > 0])
        order = proposed[np.lexsort((rows[proposed], -ranks[proposed]))][:TOP_K]
        return [segment.ids[row] for row in rows[order].tolist()]

    def _vectors(self, count: int) -> NDArray[np.float32]:
        vectors: Any = self._noise.standard_normal((count, DIMENSION), dtype=np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)  # type: ignore[no-any-return]


def run(plan: FiltersPlan, progress: Progress) -> Report:
    """The kinds of questions take turns, so that all see the same machine."""
    report = Report(
        "filters", f"{plan.facts} facts, {plan.dead:.0%} of the rows dead", f"no server, {DIMENSION} numbers"
    )
    scene = Scene(plan, report)
    shares = [share for share in SHARES if share <= plan.facts]
    questions = {share: list(scene.questions(share, plan.rounds + WARM_UP)) for share in shares}
    times: dict[int, list[float]] = {share: [] for share in shares}
    right, wanted = dict.fromkeys(shares, 0), dict.fromkeys(shares, 0)
    for turn in range(plan.rounds + WARM_UP):
        progress("questions", turn, plan.rounds + WARM_UP)
        for share in shares:
            asked = questions[share][turn]
            started = time.perf_counter()
            found = scene.index.search(asked.vector, TOP_K, time.time(), asked.terms, "hybrid", asked.where)
            if turn >= WARM_UP:
                times[share].append((time.perf_counter() - started) * 1e3)
                exact = scene.exact(asked)
                right[share] += len({one.id for one in found} & set(exact))
                wanted[share] += len(exact)
    for share in shares:
        name = "no filter" if share == 1 else f"1 in {share:,}"
        report.add_series(f"search, {name} (ms)", times[share], plan.rounds)
        report.figures[f"recall of {TOP_K} against exact, {name}"] = right[share] / max(1, wanted[share])
        report.figures[f"facts that an answer could have, {name}"] = wanted[share] / max(1, plan.rounds)
    report.notes["method"] = f"hybrid, top {TOP_K}; exact: every living fact that passes, scored; kinds take turns"
    return report
