"""Which facts are mounted beside the right ones."""

from __future__ import annotations

import hashlib
import random
import re
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from kan.knowledge.fit import fits
from kb.facts import Upsert
from kb.store import Store
from lab.questions.mounting import Distractors
from lab.questions.question import Fact, Pool, Question
from lab.questions.sources import load_pool


def hashed(texts: Sequence[str]) -> NDArray[np.float32]:
    """Unit vectors of hashed words: texts with words in common are near each other."""
    vectors = np.full((len(texts), 256), 1e-3, dtype=np.float32)
    for row, text in zip(vectors, texts, strict=True):
        for word in re.findall(r"\w+", text.casefold()):
            row[int.from_bytes(hashlib.sha256(word.encode()).digest()[:2], "big") % 256] += 1
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def ask(text: str, subject: str, relation: str, answer: str, *facts: str) -> Question:
    return Question("synthetic", subject, relation, text, (answer,), answer, facts, numeric=False)


FACTS = (
    Fact("Zorvex is based in Oslo.", "Zorvex", "seat"),
    Fact("Kelmar is based in Turin.", "Kelmar", "seat"),
    Fact("Dunor is based in Oslo.", "Dunor", "seat"),
    Fact("Zorvex has its seat in Oslo.", "Zorvex", "seat"),
    Fact("Visitors of Zorvex come to Oslo.", "Zorvex", ""),
    Fact("Visitors of Zorvex get coffee.", "Zorvex", ""),
    Fact("Zorvex makes violins.", "Zorvex", "product"),
    Fact("Rain fell in May.", "weather", "rain"),
)
QUESTION = ask("Where is Zorvex based?", "Zorvex", "seat", "Oslo", FACTS[0].text)
TINY = Distractors(Pool("synthetic", (QUESTION,), FACTS), hashed)


@pytest.fixture(scope="module")
def pool() -> Pool:
    return load_pool("synthetic", None, "dev", questions=200, seed=1)


@pytest.fixture(scope="module")
def distractors(pool: Pool) -> Distractors:
    return Distractors(pool, hashed)


def test_gold_is_mounted_and_found(pool: Pool, distractors: Distractors) -> None:
    for question in pool.questions[:50]:
        mounted = distractors.mount(question, 7, rng=random.Random(0))
        assert len(mounted.facts) == len(set(mounted.facts)) == 8
        assert [mounted.facts[place] for place in mounted.gold] == list(question.facts)


def test_without_gold_it_is_absent(pool: Pool, distractors: Distractors) -> None:
    for question in pool.questions[:50]:
        mounted = distractors.mount(question, 8, with_gold=False, rng=random.Random(0))
        assert mounted.gold == ()
        assert len(mounted.facts) == 8
        assert not set(question.facts).intersection(mounted.facts)


class Hashed:
    """`hashed` as an encoder of a store."""

    fingerprint, dimension = "hashed", 256

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return hashed(texts)


def test_chosen_and_ranked_as_a_server_finds_them(pool: Pool, distractors: Distractors, tmp_path: Path) -> None:
    subjects = {fact.text: fact.subject for fact in pool.facts}
    with Store.open(tmp_path, Hashed()) as store:
        store.apply([Upsert(f"f{place}", "default", fact.text) for place, fact in enumerate(pool.facts)])
        for question in pool.questions[:20]:
            (vector,) = hashed([question.text])
            found = store.snapshot.search("default", vector, 60, -1.0, time.time(), text=question.text)
            hits = {hit.fact.text: hit for hit in found}
            mounted = distractors.mount(question, 7, rng=random.Random(0))
            expected = fits(
                vector, hashed(mounted.facts), [hits[text].lexical for text in mounted.facts], mounted.facts
            )
            np.testing.assert_allclose(mounted.fits, expected, atol=1e-6)
            ranks = [hits[text].rank_score for text in mounted.facts]
            assert ranks == pytest.approx(sorted(ranks, reverse=True), abs=1e-6)
            # Of what ranks above the last distractor, only what answers the question as well is left out.
            last = min(rank for place, rank in enumerate(ranks) if place not in mounted.gold)
            skipped = {text for text in hits if hits[text].rank_score > last + 1e-6} - set(mounted.facts)
            assert {subjects[text] for text in skipped} <= {question.subject}


def test_same_relation_of_other_subjects(pool: Pool, distractors: Distractors) -> None:
    by_text = {fact.text: fact for fact in pool.facts}
    for question in pool.questions[:50]:
        mounted = distractors.mount(question, 4, with_gold=False, same_relation=True, rng=random.Random(0))
        for text in mounted.facts:
            assert by_text[text].relation == question.relation
            assert by_text[text].subject != question.subject


def test_same_relation_is_topped_up_with_the_nearest_others() -> None:
    mounted = TINY.mount(QUESTION, 4, with_gold=False, same_relation=True, rng=random.Random(0))
    assert len(mounted.facts) == 4
    assert {FACTS[1].text, FACTS[2].text} < set(mounted.facts)
    assert FACTS[6].text in mounted.facts


def test_two_facts_have_distractors_of_both_relations() -> None:
    pool = load_pool("two_fact", None, "train", questions=60, seed=1)
    by_text = {fact.text: fact for fact in pool.facts}
    found = Distractors(pool, hashed)
    question = next(q for q in pool.questions if " > " in q.relation)
    gold = [by_text[text] for text in question.facts]
    mounted = found.mount(question, 5, with_gold=False, same_relation=True, rng=random.Random(0))
    assert {by_text[text].relation for text in mounted.facts} <= {fact.relation for fact in gold}
    asked = {(fact.subject, fact.relation) for fact in gold}
    assert not asked & {(by_text[text].subject, by_text[text].relation) for text in mounted.facts}


@pytest.mark.parametrize("same_relation", [False, True])
def test_no_answer_leaks(same_relation: bool) -> None:
    """Neither the same statement in other words nor another fact of the subject that names the answer."""
    mounted = TINY.mount(QUESTION, 100, with_gold=False, same_relation=same_relation, rng=random.Random(0))
    assert set(mounted.facts) == {FACTS[place].text for place in (1, 2, 5, 6, 7)}


def test_an_answer_inside_a_longer_word_is_no_leak() -> None:
    question = ask("What does Zorvex pour?", "Zorvex", "drink", "coff", "Zorvex pours coff.")
    assert FACTS[5].text in TINY.mount(question, 100, rng=random.Random(0)).facts


def test_questions_and_facts_from_elsewhere() -> None:
    question = ask("Who leads Zorvex?", "Zorvex", "chief", "Mara Lind", "Mara Lind leads Zorvex.")
    mounted = TINY.mount(question, 2, rng=random.Random(0))
    assert [mounted.facts[place] for place in mounted.gold] == ["Mara Lind leads Zorvex."]
    assert len(mounted.facts) == 3


def test_a_small_base_has_the_nearest_of_a_few(pool: Pool, distractors: Distractors) -> None:
    """Worse distractors than all facts offer, none of them an answer; no more than there are."""
    mean = {}
    for base in (None, 12):
        scores = []
        for question in pool.questions[:20]:
            mounted = distractors.mount(question, 5, base=base, rng=random.Random(question.text))
            assert len(mounted.facts) == 6
            assert [mounted.facts[place] for place in mounted.gold] == list(question.facts)
            scores += [score for place, score in enumerate(mounted.scores) if place not in mounted.gold]
        mean[base] = np.mean(scores)
    assert mean[12] < mean[None] - 0.1
    assert set(TINY.mount(QUESTION, 9, base=99, rng=random.Random(0)).facts) == {
        FACTS[place].text for place in (0, 1, 2, 5, 6, 7)
    }


def test_no_distractors() -> None:
    assert TINY.mount(QUESTION, 0, rng=random.Random(0)).facts == QUESTION.facts


def test_the_same_for_the_same_random_numbers(pool: Pool, distractors: Distractors) -> None:
    first, second = ([distractors.mount(q, 7, rng=rng) for q in pool.questions] for rng in _two_alike())
    assert first == second


def _two_alike() -> tuple[random.Random, random.Random]:
    return random.Random(5), random.Random(5)
