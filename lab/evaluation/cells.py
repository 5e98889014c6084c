"""What is measured: one set of questions under one condition, with one number of distractors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lab.evaluation.measures import contains, exact_match
from lab.evaluation.statistics import Estimate, bootstrap, paired_difference
from lab.evaluation.subject import Reply
from lab.questions.question import Question


@dataclass(frozen=True, slots=True)
class Outcome:
    """One reply, judged."""

    question: str
    reply: str
    right: bool
    exact: bool
    numeric: bool

    @classmethod
    def of(cls, question: Question, reply: Reply) -> Outcome:
        return cls(
            question.text,
            reply.text,
            contains(reply.text, question.answers, question.numeric),
            exact_match(reply.text, question.answers, question.numeric),
            question.numeric,
        )


@dataclass(frozen=True, slots=True)
class Cell:
    """All replies of a cell. Cells of the same set hold the same questions in the same order."""

    dataset: str
    condition: str
    distractors: int
    outcomes: tuple[Outcome, ...]
    seconds: float

    @property
    def key(self) -> tuple[str, str, int]:
        return (self.dataset, self.condition, self.distractors)

    def right(self, seed: int = 0) -> Estimate:
        """Share of replies that contain the answer."""
        return bootstrap([one.right for one in self.outcomes], seed)

    def exact(self, seed: int = 0) -> Estimate:
        return bootstrap([one.exact for one in self.outcomes], seed)

    def numeric(self, seed: int = 0) -> Estimate | None:
        """Share right among questions for numbers and identifiers; None without such questions."""
        values = [one.right for one in self.outcomes if one.numeric]
        return bootstrap(values, seed) if values else None

    def above(self, other: Cell, seed: int = 0) -> Estimate:
        """Paired difference of the shares right. Raises ValueError unless the questions are the same."""
        if [one.question for one in self.outcomes] != [one.question for one in other.outcomes]:
            raise ValueError(f"{self.key} and {other.key} were asked different questions")
        return paired_difference(_right(self.outcomes), _right(other.outcomes), seed)


def _right(outcomes: Sequence[Outcome]) -> list[float]:
    return [float(one.right) for one in outcomes]
