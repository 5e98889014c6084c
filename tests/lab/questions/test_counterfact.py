"""CounterFact rows as questions: stems, relations and edits."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.questions import counterfact
from lab.questions.counterfact_phrases import relation_of, stem_of


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
