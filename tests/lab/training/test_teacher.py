"""The frozen model's own replies."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from kan.checkpoint.directory import Checkpoint
from kb.encoder.minilm import MiniLMEncoder
from lab.evaluation.subject import Subject
from lab.questions.question import Question
from lab.training.teacher import own_replies

FACT = "Mara Lindqvist runs Zorvex."


@pytest.fixture
def subject(tiny: Checkpoint) -> Subject:
    return Subject.load(tiny, MiniLMEncoder(), None, "none", "float32")


async def test_replies_are_asked_for_once_and_kept(subject: Subject, tmp_path: Path) -> None:
    file = tmp_path / "teacher.json"
    one = Question("set", "Zorvex", "", "Tell me of Zorvex.", ("Mara Lindqvist",), "", (FACT,), False)
    other = replace(one, text="Explain Zorvex.")
    told: list[int] = []
    found = await own_replies(subject, [one, other, one], file, told.append)
    kept = json.loads(file.read_text("utf-8"))
    assert len(kept) == 2
    assert set(found.values()) == {reply for reply in kept.values() if reply}
    assert sum(told) == 3

    file.write_text(json.dumps(dict(zip(kept, ["It is Mara Lindqvist.", ""], strict=True))), "utf-8")
    assert await own_replies(subject, [one, other], file, told.append) == {one: "It is Mara Lindqvist."}
