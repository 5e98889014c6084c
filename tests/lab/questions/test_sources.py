"""What every set of questions promises."""

from __future__ import annotations

import hashlib
import itertools
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lab.errors import DataError
from lab.questions.names import LETTERS
from lab.questions.question import SPLITS, Pool, parts_of, split_of
from lab.questions.sources import DATASETS, load_pool

COUNT = 60


@pytest.fixture(params=[name for name in DATASETS if name != "news"])
def dataset(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def pools(dataset: str, directory: Path) -> dict[str, Pool]:
    return {split: load_pool(dataset, directory, split, questions=COUNT, seed=3) for split in SPLITS}


def test_questions_and_facts_are_whole(pools: dict[str, Pool], dataset: str) -> None:
    for pool in pools.values():
        texts = [fact.text for fact in pool.facts]
        assert pool.questions
        assert len(pool.questions) <= COUNT
        assert len(set(texts)) == len(texts)
        for question in pool.questions:
            assert pool.dataset == question.dataset == dataset
            assert set(question.facts) <= set(texts)
            assert len(question.facts) == (2 if dataset == "two_fact" else 1)
            assert bool(question.reply) == (dataset != "prose")
            assert all(part in question.reply for part in parts_of(question.answers[0]) if question.reply)
            assert all(question.answers)
            said = question.text + question.reply + "".join(question.facts)
            assert not {"{", "}"} & set(said)
            assert "\n" not in said
            assert "  " not in said


def test_every_answer_stands_in_a_fact(pools: dict[str, Pool]) -> None:
    for pool in pools.values():
        for question in pool.questions:
            together = " ".join(question.facts)
            assert all(part in together for part in parts_of(question.answers[0]))


def test_a_pool_has_its_splits_subjects_only(pools: dict[str, Pool]) -> None:
    for split, pool in pools.items():
        assert {split_of(fact.subject) for fact in pool.facts} == {split}
        assert {split_of(question.subject) for question in pool.questions} == {split}


def test_splits_share_no_subject_and_no_fact(pools: dict[str, Pool]) -> None:
    for first, second in (("train", "dev"), ("train", "test"), ("dev", "test")):
        assert not {f.text for f in pools[first].facts} & {f.text for f in pools[second].facts}
        assert not {f.subject for f in pools[first].facts} & {f.subject for f in pools[second].facts}


def test_the_same_arguments_give_the_same_pool(pools: dict[str, Pool], dataset: str, directory: Path) -> None:
    assert load_pool(dataset, directory, "train", questions=COUNT, seed=3) == pools["train"]
    assert load_pool(dataset, directory, "train", questions=COUNT, seed=4) != pools["train"]


@pytest.mark.parametrize(
    ("dataset", "digest"),
    [
        ("factbook", "5ca875ec1d75e581"),
        ("counterfact", "4e79bbc2c1a3763b"),
        ("squad", "2bdcd8dd18dcc3fd"),
        ("synthetic", "01d60a670eb144a0"),
        ("two_fact", "eb5b8fa3875ed351"),
    ],
)
def test_pools_stay_as_they_were(dataset: str, digest: str, directory: Path) -> None:
    """What was measured on these questions can be compared with what is measured now."""
    found = hashlib.sha256()
    for split, seed in itertools.product(SPLITS, range(3)):
        found.update(repr(load_pool(dataset, directory, split, questions=60, seed=seed)).encode())
    assert found.hexdigest()[:16] == digest


def test_the_same_pool_in_another_process() -> None:
    program = (
        "from lab.questions.sources import load_pool\n"
        "print(load_pool('two_fact', None, 'dev', questions=20, seed=1).questions)"
    )
    printed = [
        subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parents[3],
            env={"PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    ]
    assert printed[0] == printed[1] != ""


def test_replies_come_in_several_styles(dataset: str, directory: Path) -> None:
    if dataset in ("prose", "town"):
        pytest.skip("nothing is learned from the replies of these questions")
    pool = load_pool(dataset, directory, "train", questions=300, seed=0)
    bare = sum(
        len(q.reply.split()) <= max(len(" and ".join(parts_of(q.answers[0])).split()) + 1, 3) for q in pool.questions
    )
    assert 0.05 < bare / len(pool.questions) < 0.6
    told = [q for q in pool.questions if re.search(r"briefly|short|few words|Just the answer|Only the value", q.text)]
    assert told


def test_generated_relations_have_many_subjects() -> None:
    pool = load_pool("synthetic", None, "test", questions=600, seed=0)
    by_relation: dict[str, set[str]] = {}
    for fact in pool.facts:
        by_relation.setdefault(fact.relation, set()).add(fact.subject)
    assert len(by_relation) >= 20
    assert min(map(len, by_relation.values())) >= 16
    assert 0.3 < sum(q.numeric for q in pool.questions) / len(pool.questions) < 0.8


def test_many_names_differ_in_a_letter_or_a_word() -> None:
    pool = load_pool("names-10k", None, "test", questions=50, seed=0)
    assert len(pool.facts) == 10_000
    words = {fact.subject.split()[0] for fact in pool.facts}
    with_neighbour = sum(
        any(
            word[:place] + letter + word[place + 1 :] in words - {word}
            for place in range(1, len(word))
            for letter in LETTERS
        )
        for word in words
    )
    assert with_neighbour > len(words) / 3
    subjects = {fact.subject for fact in pool.facts}
    assert len(words) < 0.8 * len(subjects)


def test_one_value_per_subject_and_relation(dataset: str, directory: Path) -> None:
    facts = load_pool(dataset, directory, "train", questions=200, seed=0).facts
    keys = [(fact.subject, fact.relation) for fact in facts if fact.relation]
    assert len(set(keys)) == len(keys)


def test_arguments_are_checked(directory: Path) -> None:
    with pytest.raises(ValueError, match="unknown set of questions 'trivia'; there are factbook, "):
        load_pool("trivia", directory, "train", questions=5, seed=0)
    with pytest.raises(ValueError, match="at least 1"):
        load_pool("synthetic", None, "train", questions=0, seed=0)
    with pytest.raises(DataError, match="factbook need a directory"):
        load_pool("factbook", None, "train", questions=5, seed=0)
