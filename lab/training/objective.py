"""The loss of φ on a batch of examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from kan.knowledge.phi import Phi
from kan.model import Batch, KANModel
from lab.training.differentiable import DenseAttention, Rows
from lab.training.examples import Example
from lab.training.fact_bank import FactBank


@dataclass(frozen=True, slots=True)
class Outcome:
    """loss: differentiable in φ and its adapter.

    exact: share of answerable examples whose reply is, token by token, the likeliest.
    """

    loss: Tensor
    reply_loss: float
    exact: float


class Objective:
    """Reply tokens' cross-entropy, weighted, where a gold fact is mounted.

    Where none is, φ should make the model ignore what is mounted: the divergence of its next-token distributions from
    those it has with no facts at all.
    """

    def __init__(self, model: KANModel, bank: FactBank) -> None:
        self._model = model
        self._bank = bank

    def __call__(self, examples: Sequence[Example], phi: Phi | None) -> Outcome:
        rows, replies, targets = self._rows(examples)
        logits = self._logits(examples, rows, replies, phi)
        owner = torch.repeat_interleave(torch.tensor([len(one.reply) for one in examples]))
        answerable = torch.tensor([one.answerable for one in examples])
        losses = F.cross_entropy(logits, targets, reduction="none")
        unanswerable = ~answerable[owner]
        if bool(unanswerable.any()):
            with torch.no_grad():
                alone = self._logits([_without_facts(one) for one in examples], rows, replies, None)
            divergence = F.kl_div(logits.log_softmax(-1), alone.log_softmax(-1), reduction="none", log_target=True).sum(
                -1
            )
            losses = torch.where(unanswerable, divergence, losses)
        weights = torch.tensor([weight for one in examples for weight in one.weights], dtype=losses.dtype)
        weights = weights.where(~unanswerable, 1.0)
        total = torch.zeros(len(examples), dtype=losses.dtype)
        per_example = total.index_add(0, owner, losses * weights) / total.index_add(0, owner, weights)
        lengths = torch.bincount(owner)
        hits = torch.zeros(len(examples)).index_add(0, owner, (logits.argmax(-1) == targets).float()) == lengths
        return Outcome(
            loss=per_example.mean(),
            reply_loss=_mean(per_example[answerable]),
            exact=_mean(hits[answerable].float()),
        )

    def _rows(self, examples: Sequence[Example]) -> tuple[Rows, Tensor, Tensor]:
        """Rows of all prompts and replies; which rows predict a reply token, and that token."""
        tokens = [[*one.prompt, *one.reply[:-1]] for one in examples]
        starts = [self._bank.first_position + self._longest(one) for one in examples]
        places: list[int] = []
        start = 0
        for one, sequence in zip(examples, tokens, strict=True):
            places += range(start + len(one.prompt) - 1, start + len(sequence))
            start += len(sequence)
        targets = torch.tensor([token for one in examples for token in one.reply])
        return Rows.of(tokens, starts).to(self._model.device), torch.tensor(places), targets

    def _longest(self, example: Example) -> int:
        return max((self._bank.length(text) for text in example.facts), default=0)

    def _logits(self, examples: Sequence[Example], rows: Rows, places: Tensor, phi: Phi | None) -> Tensor:
        """[reply tokens, vocabulary] on the CPU, where they are compared."""
        adapter = None if phi is None else phi.adapter
        knowledge = self._bank.knowledge([one.facts for one in examples], adapter)
        bias = None if phi is None else _bias(phi, examples).to(self._model.device)
        attention = DenseAttention(rows, knowledge, bias)
        batch = Batch(rows.tokens, rows.positions, attention, outputs=places.to(self._model.device))
        return self._model.logits(self._model.forward(batch)).cpu()


def _mean(values: Tensor) -> float:
    return values.mean().item() if len(values) else 0.0


def _bias(phi: Phi, examples: Sequence[Example]) -> Tensor:
    """[layers, H, S, 1 + most facts], the preamble's column zero."""
    width = 1 + max(len(one.facts) for one in examples)
    return torch.stack([F.pad(phi(one.fits), (1, width - 1 - len(one.facts))) for one in examples], dim=2)


def _without_facts(example: Example) -> Example:
    return replace(example, facts=(), fits=())
