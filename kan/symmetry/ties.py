"""Words that a model cannot tell apart, because nothing that it has read does: their logits are equal but for rounding.

If h leaves every token of a text where it is, f(text) = f(h·text) = h·f(text): words that h exchanges get one logit.
Computed, they differ in the last bits, by whatever else is in the batch. Here they become equal in those, too, so that
what comes after (the best word, the order of alternatives) is decided by a rule and not by chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kan.symmetry.action import Action

Fixing = NDArray[np.bool_]
"""[n] or [rows, n]: which elements leave everything that was read where it is."""


class Ties:
    """Of one action on words."""

    def __init__(self, action: Action) -> None:
        self._table = action.table
        self._fixed: Fixing = (action.table == action.table[0]).T.copy()
        self._moving: Fixing = ~self._fixed.all(axis=0)

    def fixing(self, texts: Sequence[Sequence[int]]) -> Fixing:
        """[n], of all tokens of these texts together."""
        each = [self._fixed[list(text)].all(axis=0) for text in texts]
        return np.logical_and.reduce(each, axis=0, initial=True) if each else np.ones(len(self._table), np.bool_)

    def along(self, before: Fixing, text: Sequence[int]) -> Fixing:
        """[tokens, n]: up to each token of `text`, which comes behind what `before` [n] is of."""
        return np.logical_and(before, np.logical_and.accumulate(self._fixed[list(text)], axis=0))

    def level(self, logits: Tensor, fixing: Fixing) -> Tensor:
        """logits [rows, words], fixing [rows, n] -> the same, where a word has the logit of the first one that it is
        tied with."""
        rows = [row.tobytes() if (row & self._moving).any() else b"" for row in fixing]
        if not any(rows):
            return logits
        parts = []
        for kind, alike in groupby(range(len(rows)), rows.__getitem__):
            some = list(alike)
            part = logits[some[0] : some[-1] + 1]
            if kind:
                first = self._table[np.frombuffer(kind, np.bool_)].min(axis=0)
                part = part.index_select(1, torch.from_numpy(first))
            parts.append(part)
        return torch.cat(parts)
