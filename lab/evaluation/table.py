"""The main table: every set under every condition with every number of distractors."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lab.evaluation.cells import Cell, Outcome
from lab.evaluation.conditions import Condition
from lab.evaluation.journal import Journal
from lab.evaluation.material import Material
from lab.evaluation.subject import Advance, Respondent

CellDone = Callable[[Cell], None]


@dataclass(frozen=True, slots=True)
class Table:
    """What to measure of each set, with what. `questions` is the number per cell."""

    conditions: Sequence[Condition]
    distractors: Sequence[int]
    questions: int
    material: Material
    respondent: Respondent
    journal: Journal

    @property
    def places(self) -> list[tuple[Condition, int]]:
        """The cells of a set, in an order that needs each engine once. Where distractors have no influence, one
        cell stands for all."""
        return [
            (condition, count)
            for condition in self.conditions
            for count in (self.distractors if condition.uses_distractors else self.distractors[:1])
        ]

    async def measure(self, dataset: str, advance: Advance, done: CellDone) -> None:
        """Every cell of the set: from the journal, or else measured and added to it."""
        for condition, count in self.places:
            cell = self.journal.cells.get((dataset, condition.name, count))
            if cell is None:
                cell = await self._cell(dataset, condition, count, advance)
                self.journal.add(cell, uses_phi=condition.uses_phi)
            else:
                advance(len(cell.outcomes))
            done(cell)

    async def _cell(self, dataset: str, condition: Condition, count: int, advance: Advance) -> Cell:
        mounted = self.material.mounted(dataset, "test", self.questions, count)
        started = time.perf_counter()
        replies = await self.respondent.answers(condition.setup, [condition.view(one) for one in mounted], advance)
        outcomes = [Outcome.of(one.question, reply) for one, reply in zip(mounted, replies, strict=True)]
        return Cell(dataset, condition.name, count, tuple(outcomes), round(time.perf_counter() - started, 2))
