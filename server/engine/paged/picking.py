"""The next tokens of a step's sequences. One whose grammar takes its time holds up nobody else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import wait
from typing import TypeAlias

from torch import Tensor

from server.engine.decoding.sampling import SampledToken, greedy
from server.engine.paged.sequence import Generation, Stage
from server.engine.protocol import GrammarTooComplex

PATIENCE_S = 0.002
"""How long a step waits for masks that the model overtook; what is later still is picked in a step to come."""
Picked: TypeAlias = tuple[Generation, SampledToken | GrammarTooComplex]


class TokenPicker:
    """Owned by the engine's thread."""

    def __init__(self, logits: Callable[[Sequence[Generation], Tensor], Tensor]) -> None:
        """`logits`: of generations and their last tokens' hidden states [rows, hidden], as float32 [rows, vocab]."""
        self._logits = logits
        self._late: dict[Generation, Tensor] = {}
        """Logits [vocab] of those whose mask is not there yet."""

    def pick(self, generations: Sequence[Generation], hidden: Tensor) -> list[Picked]:
        """A token for each row of `hidden` [rows, hidden], but for those whose mask is late."""
        logits = self._logits(generations, hidden)
        plain = [one.choice.plain_greedy for one in generations]
        told = [of_row and one.choice.tells_logprob for of_row, one in zip(plain, generations, strict=True)]
        best = greedy(logits, told)
        wait([one.choice.constraint.mask for one in generations if one.choice.constraint is not None], PATIENCE_S)
        picked: list[Picked] = []
        for row, one in enumerate(generations):
            self._late.pop(one, None)  # computed anew, after a preemption
            if not _ready(one):
                self._late[one] = logits[row].clone()
            else:
                picked.append((one, best[row]) if plain[row] else _sampled(one, logits[row]))
        return picked

    def late(self) -> list[Picked]:
        """Tokens of those that were late, and are not any more."""
        come = [one for one in self._late if one.stage is Stage.ENDED or _ready(one)]
        rows = [(one, self._late.pop(one)) for one in come]
        return [_sampled(one, row) for one, row in rows if one.stage is not Stage.ENDED]

    def forget(self) -> None:
        """All of them have ended."""
        self._late.clear()


def _ready(generation: Generation) -> bool:
    constraint = generation.choice.constraint
    return constraint is None or constraint.mask.done()


def _sampled(generation: Generation, logits: Tensor) -> Picked:
    try:
        return generation, generation.choice.sample(logits)
    except GrammarTooComplex as error:
        return generation, error
