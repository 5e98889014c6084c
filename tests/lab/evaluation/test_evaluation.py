"""Whole runs on a tiny model, and each part of the evaluation by itself."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from lab.evaluation import locality, order
from lab.evaluation.evaluation import Watcher, evaluate
from lab.evaluation.journal import Journal
from lab.evaluation.knowledge_base import KnowledgeBase
from lab.evaluation.plan import Plan
from lab.evaluation.report import Report
from lab.evaluation.run import describe
from lab.evaluation.statistics import bootstrap
from lab.evaluation.subject import Respondent, Setup, Subject
from server.settings import Settings
from tests.lab.evaluation.invented import MOUNTED

SMALL = Plan(data=None, sets=("synthetic",), distractors=(0, 2), questions=3, dev_questions=2, parts=("table", "order"))


def run(plan: Plan, subject: Subject, journal: Journal, told: list[str]) -> Report:
    report = Report(describe(subject, plan))
    watcher = Watcher(
        lambda what, _: told.append(what) or (lambda _: None),  # type: ignore[func-returns-value]
        told.append,
        lambda done: told.append(done.condition),
        lambda _: None,
    )
    asyncio.run(evaluate(plan, subject, Settings(), report, journal, watcher))
    return report


def test_a_whole_run(subject: Subject, tmp_path: Path) -> None:
    path, told = tmp_path / "run.partial.jsonl", []
    report = run(SMALL, subject, Journal(path, {}, resume=False), told)
    # Three rows do not depend on distractors.
    assert len(report.cells) == 3 + 7 * 2
    assert report.tuned is not None
    assert {len(one.outcomes) for one in report.cells} == {3}
    assert report.cell("synthetic", "none", 2) is report.cell("synthetic", "none", 0)
    in_float64, in_float32 = report.findings
    assert in_float64.figures["largest |Δ log probability|"] < 1e-9
    assert in_float32.figures["largest |Δ log probability|"] < 1e-3
    again: list[str] = []
    resumed = run(replace(SMALL, parts=("table",)), subject, Journal(path, {}, resume=True), again)
    assert resumed.cells == report.cells
    assert not any("tuning" in line for line in again)


def test_retrieval_is_measured_on_every_set_and_on_many_names(subject: Subject) -> None:
    plan = replace(SMALL, parts=("retrieval",))
    found = run(plan, subject, Journal(None, {}, resume=False), []).findings
    assert [one.title.split(",")[0] for one in found] == ["retrieval: synthetic", "retrieval: names-10k"]


def test_page_bits(subject: Subject) -> None:
    plan = replace(SMALL, parts=("page_bits",))
    (found,) = run(plan, subject, Journal(None, {}, resume=False), told := []).findings
    assert told == ["page bits: synthetic"]
    moved = [found.figures[f"{bits} bits: median |Δ log probability| of the first token"] for bits in (8, 4)]
    assert all(isinstance(one, float) for one in moved)
    assert 0 < moved[0] < moved[1] < 1, "pages are rounded, and not much"  # type: ignore[operator]


def test_one_engine_serves_consecutive_cells(subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from server.engine.paged.embedded import EmbeddedEngine

    started: list[object] = []
    monkeypatch.setattr(
        "lab.evaluation.subject.EmbeddedEngine", lambda *args: started.append(args[0]) or EmbeddedEngine(*args)
    )
    plan = replace(SMALL, parts=("table",), only=("none", "prompt", "zero", "ceiling", "learned"), questions=1)
    run(plan, subject, Journal(None, {}, resume=False), [])
    assert len(started) == 2


def test_locality_where_nothing_is_mounted(subject: Subject, respondent: Respondent, tmp_path: Path) -> None:
    base = KnowledgeBase(tmp_path / "base", subject.encoder, top_k=8, min_score=1.0, min_best_score=1.0, max_gap=4.0)
    base.upsert({"a": "Mara runs the depot.", "b": "Line 4 is late."})
    done: list[int] = []
    setup = Setup(subject.model, subject.learned)
    found = asyncio.run(locality.measure(base, ["Who?", "What?"], setup, respondent, done.append))
    assert found.figures["KL (nats) of the first token: p90"] == 0
    assert found.figures["same reply"] == bootstrap([True, True])
    assert sum(done) == 4
    base.close()


def test_locality_where_facts_are_mounted(subject: Subject, respondent: Respondent, tmp_path: Path) -> None:
    base = KnowledgeBase(tmp_path / "base", subject.encoder, top_k=8, min_score=-1.0, min_best_score=-1.0, max_gap=4.0)
    base.upsert({"a": "Mara runs the depot.", "b": "Line 4 is late."})
    base.upsert({"a": "Tove runs the depot."})
    assert {one.text for one in base.ask("Who?").facts} == {"Tove runs the depot.", "Line 4 is late."}
    setup = Setup(subject.model, subject.learned)
    found = asyncio.run(locality.measure(base, ["Who?", "What?"], setup, respondent, lambda _: None))
    median = found.figures["KL (nats) of the first token: median"]
    assert isinstance(median, float)
    assert 0 < median < 50
    base.close()


def test_grounding_is_fitted_to_cases_that_are_kept(subject: Subject, tmp_path: Path) -> None:
    plan = replace(SMALL, parts=("grounding",), questions=2, cases=tmp_path / "cases.jsonl")
    report = run(plan, subject, Journal(None, {}, resume=False), told := [])
    assert [one.title.split(":")[0] for one in report.findings] == ["grounded", "require_grounded"] * 2
    assert told == ["grounding: synthetic, dev", "grounding: synthetic, test"]
    assert report.grounding is not None
    assert report.grounding.phi_digest == subject.learned.digest
    assert report.grounding.fitted_to["cases"] == {"synthetic": 30}
    kept = plan.cases.read_bytes() if plan.cases else b""
    assert run(plan, subject, Journal(None, {}, resume=False), []).grounding == report.grounding
    assert plan.cases is not None
    assert plan.cases.read_bytes() == kept


def test_order_counts_only_common_contexts(subject: Subject, respondent: Respondent) -> None:
    setup = Setup(subject.model, None)
    found = asyncio.run(order.measure([MOUNTED], setup, respondent, 1, lambda _: None))
    assert found.figures["same reply"] == bootstrap([True] * order.PERMUTATIONS)
