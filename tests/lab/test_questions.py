"""What every set of questions promises, and what its own module does."""

from __future__ import annotations

import gzip
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lab.questions import counterfact, factbook, squad
from lab.questions.counterfact_phrases import relation_of, stem_of
from lab.questions.factbook_relations import phrasing_of
from lab.questions.factbook_values import value_of
from lab.questions.question import SPLITS, Pool, parts_of, split_of
from lab.questions.rows import DataError
from lab.questions.sources import DATASETS, load_pool
from lab.questions.wording import choose
from tests.lab.question_files import write_question_files

FILES = {"factbook": factbook.FACTS_FILE, "counterfact": counterfact.FILE, "squad": squad.FILE}
COUNT = 60


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_question_files(tmp_path_factory.mktemp("data"))


@pytest.fixture(params=DATASETS)
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
            assert all(part in question.reply for part in parts_of(question.answers[0]))
            assert all(question.answers)
            said = question.text + question.reply + "".join(question.facts)
            assert "{" not in said
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
            cwd=Path(__file__).parents[2],
            env={"PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    ]
    assert printed[0] == printed[1] != ""


def test_replies_come_in_several_styles(dataset: str, directory: Path) -> None:
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


def test_one_value_per_subject_and_relation(dataset: str, directory: Path) -> None:
    facts = load_pool(dataset, directory, "train", questions=200, seed=0).facts
    keys = [(fact.subject, fact.relation) for fact in facts if fact.relation]
    assert len(set(keys)) == len(keys)


def test_split_ignores_spelling() -> None:
    assert split_of("The Bahamas") == split_of("the bahamas") == split_of("Bahamas")
    assert split_of("Côte d'Ivoire") == split_of("cote d ivoire")
    shares = [split_of(f"subject {number}") for number in range(5000)]
    assert [round(shares.count(split) / 5000, 1) for split in SPLITS] == [0.8, 0.1, 0.1]


def test_test_has_wordings_that_training_has_not() -> None:
    wordings = tuple("abcdefgh")
    seen = {split: {choose(wordings, split, random.Random(n)) for n in range(200)} for split in SPLITS}
    assert seen["train"] == seen["dev"] == set("abcdef")
    assert seen["test"] == set("abcdefgh")


@pytest.mark.parametrize(
    ("relation", "raw", "text", "answers", "numeric"),
    [
        ("Birth rate", "35.23 births/1,000 population (2021 est.)", "35.23 births per 1,000 people", ("35.23",), True),
        ("Area - total", "210,981 sq km", "210,981 square kilometers", ("210,981", "210981"), True),
        ("Land use - arable", "arable land: 3.1% (2018 est.)", "3.1%", ("3.1",), True),
        (
            "Net migration rate",
            "-0.52 migrant(s)/1,000 population",
            "-0.52 migrants per 1,000 people",
            ("-0.52",),
            True,
        ),
        ("GDP", "$112.212 billion (2024 est.)", "$112.212 billion", ("112.212 billion",), True),
        ("Balance", "-$5.4 billion (2022 est.)", "-$5.4 billion", ("-$5.4 billion",), True),
        ("Suffrage", "18 years of age; universal", "18 years of age", ("18",), True),
        ("Internet country code", ".om", ".om", (".om",), True),
        ("Independence", "9 July 1961 (from X)", "9 July 1961", ("9 July 1961", "July 9, 1961"), True),
        ("National holiday", "Sea Day (or Day), 2 June (1946)", "Sea Day, on 2 June", ("Sea Day",), False),
        ("Exchange rates - Currency", "Oru dollars (ORD) per US dollar -", "Oru dollars", ("Oru dollars",), False),
        ("Elevation - highest point", "Mount Oru 1,857 m", "Mount Oru", ("Mount Oru",), False),
        (
            "Executive branch - head of government",
            "Prime Minister Ana ORU-SELL Pardo (since 1 May 2024)",
            "Prime Minister Ana Oru-Sell Pardo",
            ("Ana Oru-Sell Pardo", "Oru-Sell"),
            False,
        ),
        (
            "Diplomatic representation in the US - telephone",
            "[1] (202) 555-0100; [1] (202) 555-0101",
            "[1] (202) 555-0100",
            ("[1] (202) 555-0100", "(202) 555-0100"),
            True,
        ),
    ],
)
def test_values(relation: str, raw: str, text: str, answers: tuple[str, ...], numeric: bool) -> None:
    value = value_of(relation, raw)
    assert value is not None
    assert (value.text, value.answers, value.numeric) == (text, answers, numeric)


@pytest.mark.parametrize(
    "raw",
    [
        "NA",
        "none",
        "yes",
        "0 km",
        "(2022 est.) less than 1",
        "x" * 61,
        "180 Oru (plus police), 20 Sell",
        "29,640 km 2 lines",
        "",
    ],
)
def test_unclean_values_are_skipped(raw: str) -> None:
    assert value_of("Railways - total", raw) is None


def test_phrases_of_relations_nobody_wrote_wordings_for() -> None:
    assert phrasing_of("Ports - large").noun == "ports (large)"
    assert phrasing_of("Exports - Exports 2021").noun == "2021 exports"
    assert phrasing_of("GDP deflator").noun == "GDP deflator"


def test_factbook_edits(directory: Path) -> None:
    edits = factbook.load_edits(directory, "train", 200, seed=0)
    assert edits == factbook.load_edits(directory, "train", 200, seed=0)
    assert {split_of(edit.question.subject) for edit in edits} == {"train"}
    assert {edit.question.relation for edit in edits} == {"Airports", "Median age - total"}
    for edit in edits:
        new_fact = edit.question.facts[0]
        assert edit.old_answers[0] in edit.old_fact
        assert edit.old_answers[0] not in new_fact
        assert edit.question.answers[0] in new_fact
        assert edit.old_fact.replace(edit.old_answers[0], edit.question.answers[0]) == new_fact


def test_counterfact_edits(directory: Path) -> None:
    edits = counterfact.load_counterfact_edits(directory, "test", 50, seed=0)
    assert edits
    for edit in edits:
        assert edit.question.facts[0].endswith(f"{edit.question.answers[0]}.")
        assert edit.ground_truth not in edit.question.facts[0]
        assert edit.question.subject in edit.question.text
        assert edit.paraphrase
        assert edit.locality_prompt
        assert edit.locality_ground_truth


@pytest.mark.parametrize(
    ("prompt", "stem", "relation"),
    [
        ("What is the twin city of Oru? It is", "The twin city of {} is", "twin city"),
        ("Oru, who plays the position", "{} plays the position of", "position in a team"),
        ("Oru, developed by", "{} was developed by", "maker"),
        ("Oru, that was founded in", "{} was founded in", "origin"),
        ("The mother tongue of Oru is", "The mother tongue of {} is", "language of a person"),
        ("Oru died in", "{} died in", "death"),
        ("Oru, the", None, ""),
        ("Oru owner", None, ""),
        ("Is Oru the same as Oru in", None, ""),
    ],
)
def test_counterfact_stems(prompt: str, stem: str | None, relation: str) -> None:
    assert stem_of(prompt, "Oru") == stem
    if stem:
        assert relation_of(stem)[0] == relation


def test_squad_leaves_out_long_paragraphs_and_answers(directory: Path) -> None:
    pool = load_pool("squad", directory, "train", questions=500, seed=0)
    assert all(len(fact.text) <= squad.MAX_CHARACTERS for fact in pool.facts)
    assert {question.numeric for question in pool.questions} == {True, False}
    assert not any("too long" in question.text for question in pool.questions)


@pytest.mark.parametrize("dataset", FILES)
@pytest.mark.parametrize(
    ("line", "complaint"),
    [("{", "not JSON"), ("[]", "not an object"), ("{}", "must be a string"), ('{"subject": 1, "title": 1}', "must be")],
)
def test_a_bad_row_is_named(tmp_path: Path, directory: Path, dataset: str, line: str, complaint: str) -> None:
    path = tmp_path / FILES[dataset]
    with gzip.open(directory / FILES[dataset], "rt", encoding="utf-8") as file:
        first = file.readline()
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write(f"{first}\n{line}\n")
    with pytest.raises(DataError, match=re.escape(f"{path}, line 3: ") + ".*" + complaint):
        load_pool(dataset, tmp_path, "train", questions=5, seed=0)


@pytest.mark.parametrize("dataset", FILES)
def test_files_that_cannot_be_read_are_named(tmp_path: Path, directory: Path, dataset: str) -> None:
    path = tmp_path / FILES[dataset]
    whole = (directory / FILES[dataset]).read_bytes()
    for content in (None, b"plain text", whole[: len(whole) // 2], whole[:-8] + bytes([whole[-8] ^ 1]) + whole[-7:]):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(DataError, match=re.escape(str(path))):
            load_pool(dataset, tmp_path, "train", questions=5, seed=0)


def test_text_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / factbook.FACTS_FILE
    path.write_bytes(gzip.compress(b'{"subject": "\xff"}\n'))
    with pytest.raises(DataError, match="not UTF-8"):
        load_pool("factbook", tmp_path, "train", questions=5, seed=0)


def test_arguments_are_checked(directory: Path) -> None:
    with pytest.raises(ValueError, match="unknown set of questions 'trivia'; there are factbook, "):
        load_pool("trivia", directory, "train", questions=5, seed=0)
    with pytest.raises(ValueError, match="at least 1"):
        load_pool("synthetic", None, "train", questions=0, seed=0)
    with pytest.raises(DataError, match="factbook need a directory"):
        load_pool("factbook", None, "train", questions=5, seed=0)
