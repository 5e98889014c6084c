"""Cases for `grounded`: collected, kept, fitted to, judged by."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from kan.knowledge.evidence import ATTENDED
from lab.errors import ResumeError
from lab.evaluation.grounded.cases import Case, CaseFile, MountedText
from lab.evaluation.grounded.collecting import GROUP, SIZES, UNANSWERABLE, collect, groups
from lab.evaluation.grounded.fitting import evidence_of, fit_grounding
from lab.evaluation.grounded.judging import Judged, judged_unseen, refusing, telling
from lab.evaluation.knowledge_base import KnowledgeBase
from lab.evaluation.statistics import Estimate
from lab.evaluation.subject import Respondent, Setup, Subject
from lab.questions.question import Fact, Pool, Question
from lab.questions.sources import load_pool

POOL = load_pool("synthetic", None, "dev", questions=3 * GROUP, seed=1)
CASE = Case(
    dataset="synthetic",
    split="test",
    number=0,
    question="How old is Mara?",
    answerable=True,
    facts_in_base=30,
    facts=(MountedText("Mara is 42 years old.", 0.8, 0.9, True), MountedText("Tove is 12.", 0.5, 0.1, False)),
    others=(0.4,),
    fact_mounted=True,
    reply="She is 42.",
    attention=(0.3, 0.1),
    logprobs=(-0.1, -0.4),
    right=True,
)
WRONG = replace(CASE, number=1, reply="She is 12.", logprobs=(-0.2, -3.0), right=False)
ELSEWHERE = replace(CASE, number=2, facts=CASE.facts[1:], attention=(0.1,), fact_mounted=False, right=False)
SILENT = replace(ELSEWHERE, number=3, answerable=False, facts=(), others=(), attention=(), logprobs=(), reply="")
CASES = [CASE, WRONG, ELSEWHERE, SILENT]


def test_a_third_of_the_questions_has_no_answer_in_its_base() -> None:
    for place, group in enumerate(groups(POOL, "dev", 3 * GROUP, seed=1)):
        assert group.first == place * GROUP
        assert sum(not group.answerable(question) for question in group.questions) == UNANSWERABLE
        assert len(group.facts) == min(SIZES[place], len(POOL.facts) - UNANSWERABLE)
        assert len(set(group.facts)) == len(group.facts)


def test_more_questions_leave_the_first_as_they_are() -> None:
    first, *_ = groups(POOL, "dev", 3 * GROUP, seed=1)
    assert [first] == list(groups(POOL, "dev", 1, seed=1))
    assert [first] != list(groups(POOL, "dev", 1, seed=2))


def test_questions_with_one_answer_are_all_answerable_or_none() -> None:
    """Several questions may be about one passage: it is in the base or not."""
    asked = tuple(
        Question("squad", "A", "", f"What is {place}?", ("x",), "x", (f"Passage {place % 4}.",), numeric=False)
        for place in range(GROUP)
    )
    pool = Pool("squad", asked, tuple(Fact(f"Passage {place}.", "A", "") for place in range(6)))
    (group,) = groups(pool, "test", GROUP, seed=1)
    absent = {question.facts for question in group.questions if not group.answerable(question)}
    assert absent.isdisjoint(question.facts for question in group.questions if group.answerable(question))


def collected(subject: Subject, respondent: Respondent, path: Path, advance: Callable[[int], None]) -> CaseFile:
    file = CaseFile(path / "cases.jsonl", {"seed": 1})

    def base(name: str) -> closing[KnowledgeBase]:
        bounds = {"min_score": -1.0, "min_best_score": -1.0, "max_gap": 0.1}
        return closing(KnowledgeBase(path / name, subject.encoder, top_k=4, **bounds))  # type: ignore[arg-type]

    setup = Setup(subject.model, subject.learned)
    asyncio.run(collect(POOL, "dev", GROUP, 1, base, setup, respondent, file, advance))
    return file


def test_cases_are_collected_once(subject: Subject, respondent: Respondent, tmp_path: Path) -> None:
    done: list[int] = []
    cases = collected(subject, respondent, tmp_path, done.append).of("synthetic", "dev", GROUP)
    assert [case.number for case in cases] == list(range(GROUP))
    assert sum(case.answerable for case in cases) == GROUP - UNANSWERABLE
    assert any(case.fact_mounted for case in cases)
    assert all(case.answerable for case in cases if case.fact_mounted)
    for case in cases:
        assert 1 <= len(case.facts) <= 4
        assert len(case.facts) + len(case.others) == 4
        assert len(case.attention) == len(case.facts)
        assert case.logprobs
        assert tuple(evidence_of(case).signals()) == ATTENDED
    other = Respondent(subject, tmp_path / "none")  # is not asked: it would have to be closed
    again = collected(subject, other, tmp_path, done.append)
    assert again.of("synthetic", "dev", GROUP) == cases
    assert done == [GROUP, GROUP]


def test_a_file_that_was_cut_off_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "cases.jsonl"
    CaseFile(path, {"seed": 1}).add(CASES)
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    file = CaseFile(path, {"seed": 1})
    assert file.of("synthetic", "test", 9) == CASES[:-1]
    assert SILENT.key not in file
    file.add([SILENT])
    assert path.read_bytes() == whole
    assert CaseFile(path, {"seed": 1}).of("synthetic", "test", 2) == CASES[:2]


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cases.jsonl"
    CaseFile(path, {"seed": 1}).add(CASES)
    with pytest.raises(ResumeError, match=r"cases\.jsonl.*other options"):
        CaseFile(path, {"seed": 2})
    path.write_text(path.read_text("utf-8").replace('"right": true', '"right": "perhaps"'), encoding="utf-8")
    with pytest.raises(ResumeError, match=r"cases\.jsonl: line 2 is no case"):
        CaseFile(path, {"seed": 1})


def test_a_kind_is_judged_by_what_was_fitted_to_others() -> None:
    """In one kind agreement is right, in the other it is wrong: each is judged as the other one would be."""
    here = [*CASES * 20]
    elsewhere = [replace(case, dataset="news", right=case.fact_mounted and not case.right) for case in here]
    judged = judged_unseen(here + elsewhere, CASES + elsewhere[:4])
    said = {(one.case.dataset, one.case.reply): one.judgement.follows_fact for one in judged if one.case.fact_mounted}
    of_right, of_wrong = (
        {dataset: said[dataset, reply] for dataset in ("synthetic", "news")} for reply in ("She is 42.", "She is 12.")
    )
    assert of_right["synthetic"] < 0.3 < 0.7 < of_right["news"]
    assert of_wrong["news"] < 0.3 < 0.7 < of_wrong["synthetic"]
    siblings = [replace(case, dataset="two_fact") for case in here]
    assert judged_unseen(siblings + elsewhere, CASES) == [one for one in judged if one.case.dataset == "synthetic"]


def test_what_is_told_of_a_set() -> None:
    grounding = fit_grounding([case for case in CASES * 20 if case.facts])
    judged = [Judged.of(case, grounding) for case in CASES * 20]
    figures = telling("synthetic", judged).figures
    for name in ("grounded: the reply is right", "fact_mounted: the right fact is mounted"):
        found = figures[f"AUROC of {name}"]
        assert isinstance(found, Estimate)
        assert found.mean == found.low == found.high == 1
    assert figures["expected calibration error"] < 0.1  # type: ignore[operator]
    refused = refusing("synthetic", judged).figures
    for name, share in (("refused", 0.75), ("unanswerable questions refused", 1.0), ("right answers refused", 0.0)):
        found = refused[f"0.5: {name}"]
        assert isinstance(found, Estimate)
        assert found.mean == share
    found = refused["0.5: right among those answered"]
    assert isinstance(found, Estimate)
    assert found.mean == 1


def test_without_facts_nothing_is_grounded() -> None:
    assert Judged.of(SILENT, fit_grounding([CASE, WRONG, ELSEWHERE])).judgement.grounded == 0
