"""The update of knowledge's keys and values: what it computes, and that nothing else is touched."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from kan.checkpoint.directory import Checkpoint
from kan.knowledge.adapter import NAMES, Adapter, load_adapter, new_adapter, save_adapter
from kan.knowledge.pages import PageContent
from kan.knowledge.phi import Phi, PhiError, load_phi, save_phi, zero_phi
from kan.model import Batch, KANModel
from kan.prompt import PromptBuilder
from lab.training.differentiable import DenseAttention, Knowledge, Rows, frozen_model
from lab.training.fact_bank import FactBank
from tests.kan.layout import Layout
from tests.tiny import tiny_checkpoint, tiny_config

LAYERS, KV_HEADS, D = 2, 2, 12
WIDTH = 2 * KV_HEADS * D
FACTS = ("Zorvex is run by Mara.", "A day ticket costs 6 crowns.", "Dogs ride for nothing.")


def random_adapter(seed: int = 0, rank: int = 3, size: float = 0.3) -> Adapter:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((LAYERS, WIDTH, rank), (LAYERS, rank, WIDTH), (LAYERS, 1, WIDTH))
    return Adapter(*(size * torch.randn(shape, generator=generator) for shape in shapes))


def content(tokens: int, seed: int) -> PageContent:
    generator = torch.Generator().manual_seed(seed)
    shape = (LAYERS, tokens, KV_HEADS, D)
    return PageContent(*(torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2)))


@settings(max_examples=30, deadline=None)
@given(tokens=st.integers(1, 9), rank=st.integers(1, 5), seed=st.integers(0, 99))
def test_every_token_is_updated_by_the_formula(tokens: int, rank: int, seed: int) -> None:
    adapter, plain = random_adapter(seed, rank), content(tokens, seed)
    updated = adapter(plain)
    for layer in range(LAYERS):
        for token in range(tokens):
            row = torch.cat((plain.keys[layer, token].flatten(), plain.values[layer, token].flatten()))
            change = row @ adapter.down[layer].double() @ adapter.up[layer].double() + adapter.shift[layer, 0].double()
            found = torch.cat((updated.keys[layer, token].flatten(), updated.values[layer, token].flatten()))
            torch.testing.assert_close(found, row + change, rtol=1e-12, atol=1e-12)


def test_a_new_one_changes_nothing_and_a_part_is_for_its_layers() -> None:
    plain = content(5, 1)
    fresh = new_adapter(torch.rand(LAYERS, 1, WIDTH) + 0.1, 4, seed=3)
    assert fresh.fits(tiny_config())
    assert torch.equal(fresh(plain).keys, plain.keys)
    assert torch.equal(fresh(plain).values, plain.values)
    whole = random_adapter()(plain)
    second = random_adapter().of_layers(1, 1)(PageContent(plain.keys[1:], plain.values[1:]))
    torch.testing.assert_close(second.keys, whole.keys[1:], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(second.values, whole.values[1:], rtol=1e-12, atol=1e-12)


def test_it_travels_by_itself_and_with_phi(tmp_path: Path) -> None:
    adapter, config = random_adapter(), tiny_config()
    save_adapter(adapter, tmp_path / "adapter")
    alone = load_adapter(tmp_path / "adapter")
    phi = replace(zero_phi(config.num_layers, config.num_heads), adapter=adapter)
    assert not phi.is_zero
    save_phi(phi, tmp_path / "phi")
    loaded = load_phi(tmp_path / "phi", config, model_fingerprint="", encoder_fingerprint="")
    for one in (alone, loaded.adapter):
        assert one is not None
        assert all(torch.equal(one.tensors()[name], adapter.tensors()[name]) for name in NAMES)
    assert loaded.digest == phi.digest != replace(phi, adapter=random_adapter(1)).digest


def test_what_is_partial_damaged_or_for_another_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "phi"

    def refused(phi: Phi, match: str) -> None:
        save_phi(phi, path)
        with pytest.raises(PhiError, match=match):
            load_phi(path, tiny_config(), model_fingerprint="", encoder_fingerprint="")

    phi = replace(zero_phi(2, 4), adapter=random_adapter())
    narrow = random_adapter()
    refused(replace(phi, adapter=Adapter(narrow.down[:, :-1], narrow.up, narrow.shift)), "adapter is of another shape")
    refused(replace(phi, adapter=Adapter(narrow.down, narrow.up, narrow.shift / 0)), "damaged")
    save_phi(phi, path)
    tensors = load_file(path)
    del tensors[NAMES[1]]
    save_file(tensors, path, {"format": "kalmagrove-phi-1"})
    with pytest.raises(PhiError, match="damaged"):
        load_phi(path, tiny_config(), model_fingerprint="", encoder_fingerprint="")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return tiny_checkpoint(tmp_path_factory.mktemp("tiny"))


def test_training_sees_what_serving_mounts(tiny: Checkpoint) -> None:
    """Facts' pages updated in a cache laid out by hand, against training's attention, in float64."""
    weights, adapter = tiny.tensors(), random_adapter()
    model, prompt = KANModel(tiny.config, weights, dtype=torch.float64), PromptBuilder.from_checkpoint(tiny)
    question = prompt.tokenizer.encode("Who runs Zorvex?")
    layout = Layout(model)
    preamble, _, _ = layout.run(list(prompt.preamble))
    start = len(prompt.preamble)
    parts = [layout.encoded(list(prompt.fact(text)), start, preamble, adapter) for text in FACTS]
    first = start + max(part.tokens for part in parts)
    _, wanted, _ = layout.run(question, first, [preamble, *parts])

    frozen = frozen_model(tiny.config, weights, torch.float64)
    bank = FactBank(frozen, prompt)
    bank.add(FACTS)
    rows = Rows.of([question], [first])

    def logits(knowledge: Knowledge) -> torch.Tensor:
        batch = Batch(rows.tokens, rows.positions, DenseAttention(rows, knowledge, None))
        return frozen.logits(frozen.forward(batch))

    found, plain_logits = logits(bank.knowledge([FACTS], adapter)), logits(bank.knowledge([FACTS]))
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)
    assert float((plain_logits - found).abs().max()) > 0.01
