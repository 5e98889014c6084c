"""What one step of training sees: samples, and how they lie in one forward pass.

A sample with facts has the layout that a server gives it (`kan/prompt.py`): preamble, facts, context. All facts begin
at the same position and see the preamble and themselves; the context begins behind the longest and sees everything. So
what is learned is to read pages, and gradients reach the weights that make them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from kan.model import Batch, KANModel
from lab.training.differentiable import DenseAttention, Knowledge, Rows

CONTEXT = -1
"""The part that is no fact; 0 is the preamble, 1 … the facts."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Tokens. `prompt` is what follows the facts, if there are any; `reply` ends with the token that ends it."""

    prompt: Sequence[int]
    reply: Sequence[int]
    facts: Sequence[Sequence[int]] = ()

    def __len__(self) -> int:
        return sum(map(len, self.facts)) + len(self.prompt) + len(self.reply)


class Samples(Protocol):
    """What is learned from. The samples of a step depend on the step alone."""

    @property
    def preamble(self) -> Sequence[int]: ...

    def batch(self, step: int, size: int) -> list[Sample]:
        """`size` samples of one step, or of a fixed sample if the step is negative."""
        ...


@dataclass(frozen=True, slots=True)
class Laid:
    """Samples as rows of one pass.

    apart     as in DenseAttention; None where no sample has facts
    outputs   [O] rows that predict a token of a reply
    targets   [O] those tokens
    owners    [O] of which sample they are
    """

    rows: Rows
    apart: Tensor | None
    outputs: Tensor
    targets: Tensor
    owners: Tensor

    def to(self, device: torch.device) -> Laid:
        apart = None if self.apart is None else self.apart.to(device)
        return Laid(
            self.rows.to(device), apart, self.outputs.to(device), self.targets.to(device), self.owners.to(device)
        )

    def logits(self, model: KANModel) -> Tensor:
        """[O, vocabulary]"""
        knowledge = Knowledge.none(model, self.rows.sequences)
        attention = DenseAttention(self.rows, knowledge, None, apart=self.apart)
        return model.logits(
            model.forward(Batch(self.rows.tokens, self.rows.positions, attention, outputs=self.outputs))
        )

    def exact(self, logits: Tensor) -> Tensor:
        """[samples] bool: every token of the reply is the likeliest. So greedy decoding gives the reply."""
        wrong = logits.argmax(-1) != self.targets
        return torch.zeros(self.rows.sequences, device=wrong.device).index_add(0, self.owners, wrong.float()) == 0


def lay_out(samples: Sequence[Sample], preamble: Sequence[int]) -> Laid:
    """`preamble`: what comes before the facts of samples that have some."""
    each = [_Row.of(one, preamble) for one in samples]
    rows = Rows.of([one.tokens for one in each], [0] * len(each))
    positions = torch.tensor([position for one in each for position in one.positions])
    ends = list(accumulate(len(one.tokens) for one in each))
    replies = [len(one.reply) for one in samples]
    return Laid(
        rows=replace(rows, positions=positions),
        apart=_apart([one.parts for one in each]) if any(one.facts for one in samples) else None,
        outputs=torch.cat([torch.arange(end - count, end) for end, count in zip(ends, replies, strict=True)]),
        targets=torch.tensor([token for one in samples for token in one.reply]),
        owners=torch.repeat_interleave(torch.tensor(replies)),
    )


@dataclass(frozen=True, slots=True)
class _Row:
    """One sample's tokens but the last, their positions, and the part that each belongs to."""

    tokens: list[int]
    positions: list[int]
    parts: list[int]

    @classmethod
    def of(cls, sample: Sample, preamble: Sequence[int]) -> _Row:
        before = [(0, 0, preamble)] if sample.facts else []
        after = len(preamble) if sample.facts else 0
        facts = [(number, after, fact) for number, fact in enumerate(sample.facts, 1)]
        start = after + max(map(len, sample.facts), default=0)
        context = (CONTEXT, start, [*sample.prompt, *sample.reply[:-1]])
        parts = [*before, *facts, context]
        return cls(
            tokens=[token for _, _, tokens in parts for token in tokens],
            positions=[first + place for _, first, tokens in parts for place in range(len(tokens))],
            parts=[part for part, _, tokens in parts for _ in tokens],
        )


def _apart(parts: Sequence[list[int]]) -> Tensor:
    """[S, n, n]: a fact does not see another."""
    owner = pad_sequence([torch.tensor(one) for one in parts], batch_first=True, padding_value=CONTEXT)
    queries, keys = owner[:, :, None], owner[:, None, :]
    return (queries != CONTEXT) & (keys != queries) & (keys != 0)
