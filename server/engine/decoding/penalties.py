"""Logit bias and penalties: what a request adds to the logits before it samples.

The cost per token is one copy of the row, and otherwise proportional to the distinct tokens concerned.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from server.engine.protocol import SamplingParams


class LogitAdjustment:
    """Adds the bias, then the repetition penalty over prompt and generated tokens, then the presence and
    frequency penalties over generated tokens alone."""

    def __init__(self, params: SamplingParams, prompt: Sequence[int]) -> None:
        self._params = params
        self._bias_ids = np.array(list(params.logit_bias), dtype=np.intp)
        self._bias = np.array(list(params.logit_bias.values()), dtype=np.float32)
        self._repeats = params.repetition_penalty != 1
        self._penalizes = self._repeats or params.presence_penalty != 0 or params.frequency_penalty != 0
        self._seen = TokenCounts(prompt if self._repeats else ())

    @property
    def active(self) -> bool:
        """False if `apply` would always return the row it was given."""
        return self._penalizes or self._bias.size > 0

    def record(self, token_id: int) -> None:
        """Count a generated token."""
        if self._penalizes:
            self._seen.add(token_id)

    def apply(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """The adjusted row: a copy, or `logits` itself if there is nothing to adjust."""
        if not self.active:
            return logits
        adjusted = logits.copy()
        # A huge logit may become infinite, or a tiny penalty zero in float32: the order is still what was meant.
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            adjusted[self._bias_ids] += self._bias
            if self._penalizes:
                seen = self._seen.ids
                adjusted[seen] = self._penalized(adjusted[seen], self._seen.counts)
        return adjusted

    def _penalized(self, logits: NDArray[np.float32], counts: NDArray[np.float32]) -> NDArray[np.float32]:
        params = self._params
        if self._repeats:
            penalty = np.float32(params.repetition_penalty)
            logits = np.where(logits > 0, logits / penalty, logits * penalty)
        return (
            logits - np.float32(params.frequency_penalty) * counts - np.float32(params.presence_penalty) * (counts > 0)
        )


class TokenCounts:
    """Distinct tokens and how often each was generated (0: in the prompt only), in parallel arrays."""

    def __init__(self, prompt: Iterable[int]) -> None:
        self._slots = {token_id: slot for slot, token_id in enumerate(dict.fromkeys(prompt))}
        capacity = 2 * len(self._slots) + 64
        self._ids = np.zeros(capacity, dtype=np.intp)
        self._ids[: len(self._slots)] = list(self._slots)
        self._counts = np.zeros(capacity, dtype=np.float32)

    @property
    def ids(self) -> NDArray[np.intp]:
        """The distinct tokens, in order of first appearance."""
        return self._ids[: len(self._slots)]

    @property
    def counts(self) -> NDArray[np.float32]:
        """How often each of `ids` was generated."""
        return self._counts[: len(self._slots)]

    def add(self, token_id: int) -> None:
        """Count one more generated token."""
        slot = self._slots.setdefault(token_id, len(self._slots))
        if slot == self._ids.size:
            self._ids = np.concatenate([self._ids, np.zeros_like(self._ids)])
            self._counts = np.concatenate([self._counts, np.zeros_like(self._counts)])
        self._ids[slot] = token_id
        self._counts[slot] += 1
