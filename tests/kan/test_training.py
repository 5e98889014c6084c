"""Training φ: the differentiable decoder is the served one, and what is learned is learned reproducibly."""

from __future__ import annotations

import pytest
import torch

from kan.checkpoint import Checkpoint
from kan.model import KANModel
from kan.prompt import PromptBuilder
from kan.training.decoder import FrozenDecoder, Rows
from kan.training.fact_bank import FactBank
from tests.kan.layout import Layout

FACTS = ["Mara Lindqvist runs Zorvex.", "Kelmar is in Oslo, by the sea.", "The fare is 12 crowns."]


@pytest.fixture(scope="module")
def exact(tiny: Checkpoint) -> tuple[FrozenDecoder, KANModel, PromptBuilder]:
    weights = tiny.tensors()
    return (
        FrozenDecoder(tiny.config, weights, torch.float64),
        KANModel(tiny.config, weights, dtype=torch.float64),
        PromptBuilder.from_checkpoint(tiny),
    )


@pytest.mark.parametrize("mounted", [(), (0,), (0, 1, 2), (2, 0)])
def test_decoder_is_the_served_model(
    exact: tuple[FrozenDecoder, KANModel, PromptBuilder], mounted: tuple[int, ...]
) -> None:
    decoder, model, prompt = exact
    question = prompt.tokenizer.encode("Who runs Zorvex?")
    phi = torch.randn(model.config.num_layers, model.config.num_heads, 1 + len(mounted), dtype=torch.float64) * 4
    phi[:, :, 0] = 0

    layout = Layout(model)
    preamble, _, _ = layout.run(list(prompt.preamble))
    start = len(prompt.preamble)
    parts = [layout.run(list(prompt.fact(FACTS[one])), start, [preamble])[0] for one in mounted]
    first = start + max((part.tokens for part in parts), default=0)
    _, wanted, _ = layout.run(question, first, [preamble, *parts], phi)

    bank = FactBank(decoder, prompt)
    bank.add(FACTS)
    other = [FACTS[1]]  # another sequence beside it, longer and shorter at once: padding must not be seen
    rows = Rows.of([question, question[:3]], [first, start + bank.length(FACTS[1])])
    width = 1 + max(len(mounted), 1)
    both = torch.zeros(*phi.shape[:2], 2, width, dtype=torch.float64)
    both[:, :, 0, : phi.shape[-1]] = phi
    knowledge = bank.knowledge([[FACTS[one] for one in mounted], other])
    found = decoder.logits(decoder.hidden(rows, knowledge, both, None))[: len(question)]
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)
