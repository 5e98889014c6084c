"""√n attention in training: what it attends to is what the server attends to, and gradients are the slopes of that."""

from __future__ import annotations

import torch
from torch import Tensor

from kan.checkpoint.directory import Checkpoint
from kan.model import Batch, KANModel
from kan.prompt import PromptBuilder
from lab.training.differentiable import DenseAttention, Rows, frozen_model
from lab.training.fact_bank import FactBank
from tests.kan.layout import Layout
from tests.kan.test_sqrt_attention import SMALL, served_by

FACTS = ["Mara Lindqvist runs Zorvex.", "The fare is 12 crowns."]
CONTEXT = torch.randint(3, 259, (150,), generator=torch.Generator().manual_seed(4)).tolist()


def test_training_attends_as_serving_does(tiny: Checkpoint) -> None:
    """Behind facts with φ, beside a shorter sequence, whose padding nobody may see."""
    frozen = frozen_model(tiny.config, tiny.tensors(), torch.float64)
    prompt = PromptBuilder.from_checkpoint(tiny)
    phi = 4 * torch.randn(tiny.config.num_layers, tiny.config.num_heads, 3, dtype=torch.float64)
    phi[:, :, 0] = 0
    with served_by(SMALL):
        layout = Layout(KANModel(tiny.config, tiny.tensors(), dtype=torch.float64))
        preamble, _, _ = layout.run(list(prompt.preamble))
        start = len(prompt.preamble)
        parts = [layout.run(list(prompt.fact(fact)), start, [preamble])[0] for fact in FACTS]
        first = start + max(part.tokens for part in parts)
        _, wanted, _ = layout.run(CONTEXT, first, [preamble, *parts], phi)

    bank = FactBank(frozen, prompt)
    bank.add(FACTS)
    rows = Rows.of([CONTEXT, CONTEXT[:97]], [first, first])
    knowledge = bank.knowledge([FACTS, FACTS])
    both = phi.unsqueeze(2).expand(-1, -1, 2, -1)
    found = {
        pattern: frozen.logits(
            frozen.forward(Batch(rows.tokens, rows.positions, DenseAttention(rows, knowledge, both, pattern)))
        )
        for pattern in (SMALL, None)
    }
    torch.testing.assert_close(found[SMALL][: len(CONTEXT)], wanted, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found[SMALL][len(CONTEXT) :], wanted[:97], rtol=1e-9, atol=1e-9)
    assert not torch.allclose(found[None], found[SMALL], atol=1e-2)


def test_gradients_are_slopes(tiny: Checkpoint) -> None:
    """In φ and in what keys, queries and values are made of; a step too small to change a choice."""
    frozen = frozen_model(tiny.config, tiny.tensors(), torch.float64)
    bank = FactBank(frozen, PromptBuilder.from_checkpoint(tiny))
    bank.add(FACTS)
    rows, knowledge = Rows.of([CONTEXT[:110]], [40]), bank.knowledge([FACTS])
    cos, sin = frozen.rotary.at(rows.positions)
    generator = torch.Generator().manual_seed(1)
    planes = tiny.config.num_heads + 2 * tiny.config.num_kv_heads
    qkv = torch.randn(110, planes, tiny.config.head_dim, dtype=torch.float64, generator=generator)
    phi = torch.randn(tiny.config.num_heads, 1, 3, dtype=torch.float64, generator=generator)

    def of_last_rows(qkv: Tensor, phi: Tensor) -> Tensor:
        of_layers = phi.expand(tiny.config.num_layers, -1, -1, -1)
        return DenseAttention(rows, knowledge, of_layers, SMALL)(0, qkv, cos, sin)[-9:].sin().sum()

    inputs = (qkv.requires_grad_(), phi.requires_grad_())
    assert torch.autograd.gradcheck(of_last_rows, inputs, fast_mode=True)
