"""Facts to mount for a question: its own and the hardest wrong ones, ranked as a server's retrieval ranks them."""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from kan.knowledge.fit import Fit, fits
from kb.index.lexical import Corpus, Living
from kb.index.postings import Postings
from kb.index.search import BM25_WEIGHT, COVERED_WEIGHT
from kb.index.terms import question_of
from lab.questions.question import Fact, Pool, Question, parts_of

Vectors = NDArray[np.float32]


class Relevance(Protocol):
    """ρ, the sentence encoder."""

    def __call__(self, texts: Sequence[str], /) -> Vectors:
        """Unit vectors, float32 [len(texts), dim]."""
        ...


@dataclass(frozen=True, slots=True)
class Mounted:
    """Facts as retrieval returns them, best first."""

    question: Question
    facts: tuple[str, ...]
    fits: tuple[Fit, ...]
    gold: tuple[int, ...]
    """Places of the gold facts in `facts`; () when they are absent."""

    @property
    def scores(self) -> tuple[float, ...]:
        """question embedding · fact embedding, of each fact"""
        return tuple(fit.relevance for fit in self.fits)


@dataclass(frozen=True, slots=True)
class _Ranking:
    """How texts fit a question [dim]: columns over all of them."""

    question: Vectors
    texts: Sequence[str]
    places: Mapping[str, int]
    vectors: Vectors
    covered: NDArray[np.float64]
    fused: NDArray[np.float64]

    def best_first(self, places: Sequence[int]) -> list[int]:
        """As hybrid retrieval ranks them; equals in the order given."""
        order = np.argsort(-self.fused[list(places)], kind="stable")
        return [places[int(index)] for index in order]


class Distractors:
    """The facts of a pool, and what to mount for a question beside its own."""

    def __init__(self, pool: Pool, relevance: Relevance) -> None:
        self._relevance = relevance
        self._facts = pool.facts
        self._texts = [fact.text for fact in pool.facts]
        self._vectors = _embedded(relevance, self._texts)
        self._postings = Postings.of(self._texts)
        self._places = {fact.text: place for place, fact in enumerate(pool.facts)}
        self._by_relation: defaultdict[str, list[int]] = defaultdict(list)
        for place, fact in enumerate(pool.facts):
            self._by_relation[fact.relation].append(place)
        asked = list(dict.fromkeys(question.text for question in pool.questions))
        vectors = _embedded(relevance, asked) if asked else ()
        self._questions: dict[str, Vectors] = dict(zip(asked, vectors, strict=True))

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
        ranking = self._ranking(question)
        candidates = (
            self._candidates(question, ranking, same_relation)
            if base is None
            else iter(ranking.best_first(rng.sample(range(len(self._facts)), min(base, len(self._facts)))))
        )
        chosen = self._wrong(question, candidates, distractors)
        if with_gold:
            chosen += [ranking.places[text] for text in question.facts]
        rng.shuffle(chosen)
        ordered = ranking.best_first(chosen)
        facts = tuple(ranking.texts[place] for place in ordered)
        gold = tuple(place for place, text in enumerate(facts) if text in question.facts)
        found = fits(ranking.question, ranking.vectors[ordered], ranking.covered[ordered].tolist(), facts)
        return Mounted(question, facts, found, gold)

    def _ranking(self, question: Question) -> _Ranking:
        """Of all facts of the pool, and those of the question's that are from elsewhere behind them."""
        others = [text for text in question.facts if text not in self._places]
        texts, vectors = self._texts, self._vectors
        parts = [Living(self._postings, None)]
        if others:
            texts, vectors = [*texts, *others], np.concatenate((vectors, _embedded(self._relevance, others)))
            parts.append(Living(Postings.of(others), None))
        asked = self._question_vector(question)
        found = Corpus(parts).relevances(question_of(question.text))
        columns = (one.of(np.arange(len(one.part.postings.lengths))) for one in found)
        bm25, covered = (np.concatenate(column) for column in zip(*columns, strict=True))
        fused = vectors @ asked + BM25_WEIGHT * bm25 + COVERED_WEIGHT * covered
        places = self._places | {text: len(self._texts) + number for number, text in enumerate(others)}
        return _Ranking(asked, texts, places, vectors, covered, fused)

    def _wrong(self, question: Question, candidates: Iterator[int], count: int) -> list[int]:
        """The first `count` places, fewer if there are no more, whose facts do not answer the question."""
        answers = _answer_check(question, self._gold(question))
        chosen: dict[int, None] = {}
        while len(chosen) < count and (place := next(candidates, None)) is not None:
            if place not in chosen and not answers(self._facts[place]):
                chosen[place] = None
        return list(chosen)

    def _candidates(self, question: Question, ranking: _Ranking, same_relation: bool) -> Iterator[int]:
        """Places of all facts of the pool, the hardest first; some come twice."""
        if same_relation:
            relations = {question.relation, *(fact.relation for fact in self._gold(question))} - {""}
            alike = [place for relation in sorted(relations) for place in self._by_relation.get(relation, ())]
            yield from ranking.best_first(sorted(alike))
        yield from ranking.best_first(range(len(self._facts)))

    def _gold(self, question: Question) -> list[Fact]:
        places = (self._places.get(text) for text in question.facts)
        return [self._facts[place] for place in places if place is not None]

    def _question_vector(self, question: Question) -> Vectors:
        known = self._questions.get(question.text)
        if known is not None:
            return known
        vector: Vectors = _embedded(self._relevance, [question.text])[0]
        return vector


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
