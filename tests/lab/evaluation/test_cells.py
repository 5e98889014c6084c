"""Judged replies, and the journal that keeps them."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.errors import ResumeError
from lab.evaluation.cells import Outcome
from lab.evaluation.journal import Journal
from lab.evaluation.subject import Reply
from tests.lab.evaluation.invented import QUESTION, cell


def test_an_outcome_is_judged() -> None:
    assert Outcome.of(QUESTION, Reply("She is 42.", (), ())).right
    assert not Outcome.of(QUESTION, Reply("She is 420.", (), ())).right
    assert Outcome.of(QUESTION, Reply("42", (), ())).exact


def test_cells() -> None:
    ours, theirs = cell("learned", [True, True, True, False]), cell("prompt", [True, False, False, False])
    assert ours.right().mean == 0.75
    assert ours.above(theirs).mean == 0.5
    numeric = ours.numeric()
    assert numeric is not None
    assert (numeric.mean, numeric.n) == (1, 2)
    with pytest.raises(ValueError, match="different questions"):
        ours.above(cell("prompt", [True]))


def test_a_journal_is_continued(tmp_path: Path) -> None:
    path = tmp_path / "run.partial.jsonl"
    first = Journal(path, {"model": "a"}, resume=False)
    first.set_tuned({"kblam_constant": 10.0, "temperature": 0.5, "scale": 1.0})
    first.add(cell("zero", [True]))
    with path.open("a", encoding="utf-8") as file:
        file.write('{"cell": {"dataset": "cut o')
    second = Journal(path, {"model": "a"}, resume=True)
    assert second.cells == first.cells
    assert second.tuned == first.tuned
    second.add(cell("learned", [False]))
    assert len(Journal(path, {"model": "a"}, resume=True).cells) == 2
    with pytest.raises(ResumeError, match=r"run\.partial\.jsonl"):
        Journal(path, {"model": "b"}, resume=True)
    assert Journal(path, {"model": "b"}, resume=False).cells == {}


def test_a_journal_is_continued_with_another_phi(tmp_path: Path) -> None:
    """What does not depend on φ stands; the rest is of one φ only."""
    path = tmp_path / "run.partial.jsonl"
    first = Journal(path, {}, "one", resume=False)
    first.add(cell("zero", [True]))
    first.add(cell("learned", [False]), uses_phi=True)
    second = Journal(path, {}, "two", resume=True)
    assert [key[1] for key in second.cells] == ["zero"]
    second.add(cell("learned", [True]), uses_phi=True)
    for phi, right in (("one", 0), ("two", 1)):
        cells = Journal(path, {}, phi, resume=True).cells
        assert [key[1] for key in cells] == ["zero", "learned"]
        assert [one.right().mean for one in cells.values()] == [1, right]
