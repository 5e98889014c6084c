"""The store's scenario, on few facts and with a fast encoder."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

from kb.index import namespace, quantized
from lab.questions.names import companies
from loadtests.report import Report
from loadtests.store import Scene, StorePlan
from tests.kb.hashing import HashEncoder


def test_everything_is_measured(tmp_path: Path) -> None:
    report = Report("store", "", "")
    with mock.patch.object(quantized, "QUANTIZED_ROWS", 100), mock.patch.object(namespace, "DELTA_ROWS", 4):
        Scene(StorePlan(150, 10, 1), tmp_path / "kb", HashEncoder(), report).measure(lambda *_: None)
    assert report.failures == []
    assert len(report.series) == 8
    assert report.figures["recall of 8 against exact, dense"] == 1.0  # each of so few vectors is read
    assert report.figures["disk per fact (bytes): index segments"] > 0
    assert report.figures["start after kill -9 (s)"] > 0


def test_facts_of_companies_are_as_many_as_asked_for_and_differ() -> None:
    told = companies(333, 1)
    assert len({fact.text for fact, _ in told}) == 333
    assert all(fact.text in question.facts for fact, question in told)
