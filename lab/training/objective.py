"""The loss of φ on a batch of examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from kan.knowledge.phi import Phi
from kan.model import Batch, KANModel
from kan.patterns import SqrtBlocks, pattern_of
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
    """Reply tokens' cross-entropy, weighted; for an example with a teacher, the divergence of the next-token
    distributions from the teacher's, KL(teacher ‖ student), over the whole reply.

    The teacher is the frozen model with the gold facts alone: what is mounted beside them should change nothing. Where
    no gold fact is mounted, it is the model with no facts at all: φ should make it ignore what is mounted. An example
    with fits for its teacher is followed with `followed`, the φ that the run began with.
    """

    def __init__(self, model: KANModel, bank: FactBank, followed: Phi | None = None) -> None:
        pattern = pattern_of(model.config)
        self._pattern = pattern if isinstance(pattern, SqrtBlocks) else None
        self._model = model
        self._bank = bank
        self._followed = followed

    def __call__(self, examples: Sequence[Example], phi: Phi | None) -> Outcome:
        logits, targets = self._logits(examples, self._starts(examples), phi)
        owner = torch.repeat_interleave(torch.tensor([len(one.reply) for one in examples]))
        answerable = torch.tensor([one.answerable for one in examples])
        losses = F.cross_entropy(logits, targets, reduction="none")
        taught = torch.tensor([one.teacher is not None for one in examples])[owner]
        if bool(taught.any()):
            losses = losses.masked_scatter(taught, self._divergence(examples, logits[taught]))
        weights = torch.tensor([weight for one in examples for weight in one.weights], dtype=losses.dtype)
        weights = weights.where(~taught, 1.0)
        total = torch.zeros(len(examples), dtype=losses.dtype)
        per_example = total.index_add(0, owner, losses * weights) / total.index_add(0, owner, weights)
        lengths = torch.bincount(owner)
        hits = torch.zeros(len(examples)).index_add(0, owner, (logits.argmax(-1) == targets).float()) == lengths
        return Outcome(
            loss=per_example.mean(),
            reply_loss=_mean(per_example[answerable]),
            exact=_mean(hits[answerable].float()),
        )

    @torch.no_grad()
    def divergences(self, examples: Sequence[Example], phi: Phi | None) -> list[float]:
        """Of each example, which must have a teacher: mean over the reply's tokens of KL(teacher ‖ student), nats."""
        logits, _ = self._logits(examples, self._starts(examples), phi)
        lengths = [len(one.reply) for one in examples]
        return [one.mean().item() for one in torch.split(self._divergence(examples, logits), lengths)]

    def _divergence(self, examples: Sequence[Example], logits: Tensor) -> Tensor:
        """Of each reply token of the examples that have a teacher, in nats. logits [those tokens, vocabulary]"""
        taught = [one for one in examples if one.teacher is not None]
        starts = self._starts(taught)  # where the longest fact is mounted is no matter of φ: both begin behind it
        wanted = torch.empty_like(logits)
        with_phi = torch.tensor([bool(one.teacher_fits) for one in taught])
        rows_with_phi = torch.repeat_interleave(with_phi, torch.tensor([len(one.reply) for one in taught]))
        for phi, chosen, rows in ((None, ~with_phi, ~rows_with_phi), (self._followed, with_phi, rows_with_phi)):
            if bool(chosen.any()):
                some = [(taught[place], starts[place]) for place in chosen.nonzero().flatten().tolist()]
                wanted[rows] = self._teachers_logits(some, phi)
        student, teacher = logits.log_softmax(-1), wanted.log_softmax(-1)
        return F.kl_div(student, teacher, reduction="none", log_target=True).sum(-1)

    @torch.no_grad()
    def _teachers_logits(self, taught: Sequence[tuple[Example, int]], phi: Phi | None) -> Tensor:
        """Of examples with the positions of their first tokens."""
        alone = [replace(one, facts=one.teacher or (), fits=one.teacher_fits) for one, _ in taught]
        return self._logits(alone, [start for _, start in taught], phi)[0]

    def _starts(self, examples: Sequence[Example]) -> list[int]:
        """Positions of the first tokens: behind the longest fact."""
        lengths = [max((self._bank.length(text) for text in one.facts), default=0) for one in examples]
        return [self._bank.first_position + length for length in lengths]

    def _rows(self, examples: Sequence[Example], starts: list[int]) -> tuple[Rows, Tensor, Tensor]:
        """Rows of all prompts and replies; which rows predict a reply token, and that token."""
        tokens = [[*one.prompt, *one.reply[:-1]] for one in examples]
        places: list[int] = []
        start = 0
        for one, sequence in zip(examples, tokens, strict=True):
            places += range(start + len(one.prompt) - 1, start + len(sequence))
            start += len(sequence)
        targets = torch.tensor([token for one in examples for token in one.reply])
        return Rows.of(tokens, starts).to(self._model.device), torch.tensor(places), targets

    def _logits(self, examples: Sequence[Example], starts: list[int], phi: Phi | None) -> tuple[Tensor, Tensor]:
        """[reply tokens, vocabulary] on the CPU, where they are compared, and the reply tokens."""
        rows, places, targets = self._rows(examples, starts)
        adapter = None if phi is None else phi.adapter
        knowledge = self._bank.knowledge([one.facts for one in examples], adapter)
        bias = None if phi is None else _bias(phi, examples).to(self._model.device)
        attention = DenseAttention(rows, knowledge, bias, self._pattern)
        batch = Batch(rows.tokens, rows.positions, attention, outputs=places.to(self._model.device))
        return self._model.logits(self._model.forward(batch)).cpu(), targets


def _mean(values: Tensor) -> float:
    return values.mean().item() if len(values) else 0.0


def _bias(phi: Phi, examples: Sequence[Example]) -> Tensor:
    """[layers, H, S, 1 + most facts], the preamble's column zero."""
    width = 1 + max(len(one.facts) for one in examples)
    return torch.stack([F.pad(phi(one.fits), (1, width - 1 - len(one.facts))) for one in examples], dim=2)
