"""A question with mounted facts, and cells, of nobody."""

from __future__ import annotations

from kan.knowledge.fit import Fit
from lab.evaluation.cells import Cell, Outcome
from lab.questions.mounting import Mounted
from lab.questions.question import Question

QUESTION = Question(
    "synthetic", "Mara", "age", "How old is Mara?", ("42",), "42", ("Mara is 42 years old.",), numeric=True
)
FACTS = ("Tove is 12.", "Mara is 42 years old.", "Line 4 is late.")
FITS = (Fit(0.9, 0.4, 0), Fit(0.8, 0.2, 0.3), Fit(0.1, -0.1, 0.1))
MOUNTED = Mounted(QUESTION, FACTS, fits=FITS, gold=(1,))


def cell(condition: str, right: list[bool], distractors: int = 7, dataset: str = "synthetic") -> Cell:
    outcomes = [Outcome(f"q{place}", "reply", one, False, place % 2 == 0) for place, one in enumerate(right)]
    return Cell(dataset, condition, distractors, tuple(outcomes), 1.5)
