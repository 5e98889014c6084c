"""What a training step sees."""

from __future__ import annotations

import random

import pytest

from kan.checkpoint.directory import Checkpoint
from kan.prompt import ChatMessage, PromptBuilder
from lab.questions.mounting import Distractors
from lab.questions.sources import load_pool
from lab.training.examples import ASIDE, Example, Sampler, Source, answer_spans
from tests.lab.questions.test_mounting import hashed


@pytest.fixture(scope="module")
def prompt(tiny: Checkpoint) -> PromptBuilder:
    return PromptBuilder.from_checkpoint(tiny)


@pytest.fixture(scope="module")
def examples(prompt: PromptBuilder) -> list[Example]:
    sources = []
    for name in ("synthetic", "two_fact"):
        pool = load_pool(name, None, "train", questions=60, seed=1)
        sources.append(Source(pool, Distractors(pool, hashed), 0.5))
    return Sampler(sources, prompt, end_token=0, seed=1).batch(0, 60)


def test_spans_of_answers() -> None:
    assert answer_spans(b"It is 42 km.", ("42 km", "42")) == [(6, 11)]
    assert answer_spans(b"It is 42.", ("42 km", "42")) == [(6, 8)]
    assert answer_spans("Aña and Jo.".encode(), ("Aña & Jo",)) == [(0, 4), (9, 11)]
    assert answer_spans(b"Jo.", ("Ann & Jo",)) == []
    assert answer_spans(b"Jo.", ()) == []


def test_the_answer_weighs_most(examples: list[Example], prompt: PromptBuilder) -> None:
    """Tokens of full weight spell the answer and little else; in a reply in a sentence, others weigh less."""
    pools = [load_pool(name, None, "train", questions=60, seed=1) for name in ("synthetic", "two_fact")]
    answers = {(tuple(prompt.tokenizer.encode(q.reply))): q.answers for pool in pools for q in pool.questions}
    mixed = 0
    for one in examples:
        assert len(one.weights) == len(one.reply)
        assert set(one.weights) <= {1.0, ASIDE}
        assert one.weights[-1] == ASIDE  # the end of the reply
        heavy = prompt.tokenizer.decode([t for t, w in zip(one.reply, one.weights, strict=True) if w == 1.0])
        wanted = answers[tuple(one.reply[:-1])]
        assert any(all(part in heavy for part in answer.split(" & ")) for answer in wanted)
        mixed += len(heavy) < len(prompt.tokenizer.decode(one.reply))
    assert mixed > len(examples) / 4


def test_a_step_depends_on_its_number_alone(examples: list[Example], prompt: PromptBuilder) -> None:
    pool = load_pool("synthetic", None, "train", questions=30, seed=1)
    sources = [Source(pool, Distractors(pool, hashed), 1.0)]
    one, other = (Sampler(sources, prompt, 0, seed=1) for _ in range(2))
    other.batch(3, 2)
    random.seed(7)
    assert one.batch(5, 4) == other.batch(5, 4)
    assert one.batch(5, 4) != one.batch(6, 4)


def test_the_frozen_models_words_are_followed_where_there_are_no_others(prompt: PromptBuilder) -> None:
    pool = load_pool("synthetic", None, "train", questions=20, seed=1)
    taught = dict.fromkeys(pool.questions[:10], "By its own words.")
    sources = [Source(pool, Distractors(pool, hashed), 1.0)]
    by_prompt = {
        tuple(prompt.chat([ChatMessage("user", one.text)], with_knowledge=True)): one for one in pool.questions
    }
    seen = set()
    for one in Sampler(sources, prompt, 0, seed=1, taught=taught).batch(0, 80):
        question = by_prompt[tuple(one.prompt)]
        words = prompt.tokenizer.decode(one.reply[:-1])
        assert words == taught.get(question, question.reply)
        if one.answerable:
            assert one.teacher == (question.facts if question in taught else None)
        else:
            assert not set(question.facts) & set(one.facts)
        seen.add((question in taught, one.answerable))
    assert len(seen) == 4


def test_a_set_that_is_followed_is_read_as_its_gold_facts_alone_are(prompt: PromptBuilder) -> None:
    sources, taught = [], {}
    for name in ("synthetic", "two_fact"):
        pool = load_pool(name, None, "train", questions=20, seed=1)
        sources.append(Source(pool, Distractors(pool, hashed), 0.5))
        taught |= dict.fromkeys(pool.questions, "By its own words.")
    facts = {tuple(sorted(one.facts)) for one in sources[1].pool.questions}
    followed = Sampler(sources, prompt, 0, seed=1, taught=taught, followed={"two_fact"}).batch(0, 60)
    read = [one for one in followed if one.teacher_fits]
    assert {tuple(sorted(one.teacher or ())) for one in read} <= facts
    assert all(len(one.teacher_fits) == len(one.teacher or ()) == 2 for one in read)
    assert any(one.teacher and not one.teacher_fits for one in followed)


def test_every_fact_has_its_fit_and_some_questions_none_that_answers(examples: list[Example]) -> None:
    assert all(len(one.fits) == len(one.facts) for one in examples)
    assert {one.answerable for one in examples} == {True, False}
    assert max(len(one.facts) for one in examples) > 10 > 2 > min(len(one.facts) for one in examples)
