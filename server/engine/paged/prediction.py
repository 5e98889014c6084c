"""What the model says of generations' next tokens: logits, in which words that are equal by symmetry are equal."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from kan.model import KANModel
from kan.symmetry.ties import Ties
from server.engine.paged.sequence import Generation


class Predictions:
    """Owned by the engine's thread."""

    def __init__(self, model: KANModel, preamble: Sequence[int]) -> None:
        self._logits = model.logits
        action = model.config.vocabulary_action
        self._ties = Ties(action) if len(action.moved) else None
        self._preamble = preamble

    def next(self, generations: Sequence[Generation], hidden: Tensor) -> Tensor:
        """Behind all tokens of each: hidden [rows, hidden] -> logits [rows, vocab]."""
        logits = self._logits(hidden)
        if self._ties is None:
            return logits
        read = [self._ties.fixing([*self._mounted(one), one.tokens]) for one in generations]
        return self._ties.level(logits, np.stack(read))

    def along(self, generation: Generation, first: int, hidden: Tensor) -> Tensor:
        """Behind its token `first` and those that follow: hidden [rows, hidden] -> logits [rows, vocab]."""
        logits = self._logits(hidden)
        if self._ties is None:
            return logits
        tokens = generation.tokens
        before = self._ties.fixing([*self._mounted(generation), tokens[:first]])
        return self._ties.level(logits, self._ties.along(before, tokens[first : first + len(hidden)]))

    def _mounted(self, generation: Generation) -> list[Sequence[int]]:
        facts = [mounted.fact.tokens for mounted in generation.request.facts]
        return [self._preamble, *facts] if facts else []
