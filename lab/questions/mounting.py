"""Facts to mount for a question: its own and the hardest wrong ones, as retrieval from a real index would find them."""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from kan.knowledge.fit import Fit, fits
from lab.questions.question import Fact, Pool, Question, parts_of

Vectors = NDArray[np.float32]
_FIRST_LOOK = 64
"""Neighbours searched for beyond the ones wanted, before all facts are ranked."""


class Relevance(Protocol):
    """ρ, the sentence encoder."""

    def __call__(self, texts: Sequence[str], /) -> Vectors:
        """Unit vectors, float32 [len(texts), dim]."""
        ...


@dataclass(frozen=True, slots=True)
class Mounted:
    """Facts as retrieval returns them, best score first."""

    question: Question
    facts: tuple[str, ...]
    fits: tuple[Fit, ...]
    gold: tuple[int, ...]
    """Places of the gold facts in `facts`; () when they are absent."""

    @property
    def scores(self) -> tuple[float, ...]:
        """question embedding · fact embedding, of each fact"""
        return tuple(fit.relevance for fit in self.fits)


class Distractors:
    """The facts of a pool in a FAISS index (exact inner products), and what to mount for a question beside its own."""

    def __init__(self, pool: Pool, relevance: Relevance) -> None:
        import faiss  # heavy, and only needed by those who mount

        self._relevance = relevance
        self._facts = pool.facts
        self._vectors = _embedded(relevance, [fact.text for fact in pool.facts])
        self._index: Any = faiss.IndexFlatIP(self._vectors.shape[1])
        self._index.add(self._vectors)
        self._places = {fact.text: place for place, fact in enumerate(pool.facts)}
        self._by_relation: defaultdict[str, list[int]] = defaultdict(list)
        for place, fact in enumerate(pool.facts):
            self._by_relation[fact.relation].append(place)
        texts = list(dict.fromkeys(question.text for question in pool.questions))
        vectors = _embedded(relevance, texts) if texts else ()
        self._questions: dict[str, Vectors] = dict(zip(texts, vectors, strict=True))

    def mount(
        self,
        question: Question,
        distractors: int,
        *,
        with_gold: bool = True,
        same_relation: bool = False,
        base: int | None = None,
        rng: random.Random,
    ) -> Mounted:
        """Gold facts (if wanted) and up to `distractors` others: the nearest that do not answer the question.

        same_relation: first those that state the question's relation of other subjects, then the nearest others.
        base: the others are the nearest among so many facts drawn at random, as if there were no more.
        `rng` draws, and orders facts of equal score. A question need not be of the pool, nor its gold facts.
        """
        vector = self._question_vector(question)
        candidates = (
            self._candidates(question, vector, distractors, same_relation)
            if base is None
            else iter(self._drawn(base, vector, rng))
        )
        chosen = self._wrong(question, candidates, distractors)
        texts = [self._facts[place].text for place in chosen]
        vectors = self._vectors[chosen]
        if with_gold:
            texts += question.facts
            vectors = np.concatenate((vectors, self._fact_vectors(question.facts)))
        found = fits(vector, vectors)
        order = list(range(len(texts)))
        rng.shuffle(order)
        order.sort(key=lambda place: -found[place].relevance)
        facts = tuple(texts[place] for place in order)
        gold = tuple(place for place, text in enumerate(facts) if text in question.facts)
        return Mounted(question, facts, tuple(found[place] for place in order), gold)

    def _wrong(self, question: Question, candidates: Iterator[int], count: int) -> list[int]:
        """The first `count` places, fewer if there are no more, whose facts do not answer the question."""
        answers = _answer_check(question, self._gold(question))
        chosen: dict[int, None] = {}
        while len(chosen) < count and (place := next(candidates, None)) is not None:
            if place not in chosen and not answers(self._facts[place]):
                chosen[place] = None
        return list(chosen)

    def _candidates(self, question: Question, vector: Vectors, count: int, same_relation: bool) -> Iterator[int]:
        """Places of all facts, the hardest first; some come twice."""
        if same_relation:
            yield from self._nearest_of_relation(question, vector)
        yield from self._nearest(vector, count)

    def _drawn(self, count: int, vector: Vectors, rng: random.Random) -> list[int]:
        """Places of so many facts drawn at random, the nearest first."""
        drawn = rng.sample(range(len(self._facts)), min(count, len(self._facts)))
        order = np.argsort(-(self._vectors[drawn] @ vector), kind="stable")
        return [drawn[int(index)] for index in order]

    def _nearest_of_relation(self, question: Question, vector: Vectors) -> Iterator[int]:
        relations = {question.relation, *(fact.relation for fact in self._gold(question))} - {""}
        places = sorted(place for relation in relations for place in self._by_relation.get(relation, ()))
        if not places:
            return iter(())
        order = np.argsort(-(self._vectors[places] @ vector), kind="stable")
        return (places[int(index)] for index in order)

    def _nearest(self, vector: Vectors, count: int) -> Iterator[int]:
        """Places in order of score; only the first few are looked up unless more are asked for."""
        few = min(count + _FIRST_LOOK, len(self._facts))
        yield from self._search(vector, few)
        if few < len(self._facts):
            yield from self._search(vector, len(self._facts))

    def _search(self, vector: Vectors, count: int) -> list[int]:
        _, places = self._index.search(vector[None], count)
        return [int(place) for place in places[0] if place >= 0]

    def _gold(self, question: Question) -> list[Fact]:
        places = (self._places.get(text) for text in question.facts)
        return [self._facts[place] for place in places if place is not None]

    def _question_vector(self, question: Question) -> Vectors:
        known = self._questions.get(question.text)
        if known is not None:
            return known
        vector: Vectors = _embedded(self._relevance, [question.text])[0]
        return vector

    def _fact_vectors(self, texts: Sequence[str]) -> Vectors:
        if not all(text in self._places for text in texts):
            return _embedded(self._relevance, texts)
        vectors: Vectors = self._vectors[[self._places[text] for text in texts]]
        return vectors


def _answer_check(question: Question, gold: Sequence[Fact]) -> Callable[[Fact], bool]:
    """Whether a fact answers the question: it is gold, states what gold states, or names an answer of the subject."""
    texts = set(question.facts)
    asked = {(question.subject, question.relation), *((fact.subject, fact.relation) for fact in gold)}
    subjects = {subject for subject, _ in asked}
    parts = (re.escape(part) for answer in question.answers for part in parts_of(answer))
    named = re.compile(rf"(?<!\w)(?:{'|'.join(parts)})(?!\w)", re.IGNORECASE)

    def answers(fact: Fact) -> bool:
        if fact.text in texts:
            return True
        if fact.subject not in subjects:
            return False
        return bool(fact.relation and (fact.subject, fact.relation) in asked) or bool(named.search(fact.text))

    return answers


def _embedded(relevance: Relevance, texts: Sequence[str]) -> Vectors:
    return np.ascontiguousarray(relevance(texts), dtype=np.float32)
