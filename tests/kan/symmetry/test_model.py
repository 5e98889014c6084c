"""A whole model with a group: f(h·x) = h·f(x), knowledge pages and φ included; and it is an ordinary decoder."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kan.checkpoint.directory import expected_tensors
from kan.config import KANConfig
from kan.kernels.reference import ReferenceAttention
from kan.kernels.torch_attention import TorchAttention
from kan.kernels.torch_kernels import TorchKernels
from kan.model import KANModel
from kan.symmetry import linear
from kan.symmetry.group import group_of
from tests.kan.layout import Layout
from tests.kan.symmetry.models import (
    ACTIONS,
    grouped_config,
    grouped_model,
    moved,
    moved_heads,
    moved_logits,
    moved_tokens,
    ordinary_model,
)
from tests.tiny import base_logits, tiny_config, tiny_tensors

EXACT = 1e-10
PREAMBLE = [1, 50, 51]
CONTEXT = [7, 10, 99, 20, 12, 11, 40]
FACTS = [[60, 10, 20], [11, 41, *([70] * 16), 13], [14]]

SHAPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "grouped queries": {"num_heads": 6, "num_kv_heads": 2},
    "biases, own head": {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": False},
    "one copy": {"copies": 1, "num_heads": 1, "num_kv_heads": 1},
}


CASES = [*((name, "plain") for name in ACTIONS), *(("symmetric(3)", shape) for shape in SHAPES if shape != "plain")]


@pytest.fixture(params=CASES, ids=" ".join)
def config(request: pytest.FixtureRequest) -> KANConfig:
    name, shape = request.param
    return grouped_config(name, **SHAPES[shape])


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=EXACT, rtol=EXACT)


def test_it_is_an_ordinary_decoder_with_its_weights_written_out(config: KANConfig) -> None:
    weights = tiny_tensors(config, dtype=torch.float64)
    expected = base_logits(ordinary_model(config, weights), CONTEXT)
    close(base_logits(KANModel(config, weights, dtype=torch.float64), CONTEXT), expected)


def test_so_it_is_by_the_transform(config: KANConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "FOURIER_FROM", 0)
    weights = tiny_tensors(config, dtype=torch.float64)
    model = KANModel(config, weights, dtype=torch.float64)
    expected = base_logits(ordinary_model(config, weights), CONTEXT)
    close(base_logits(model, CONTEXT), expected)


def test_exchanged_tokens_give_exchanged_logits(config: KANConfig) -> None:
    model = grouped_model(config)
    expected = base_logits(model, CONTEXT)
    for element in range(config.group_order):
        found = base_logits(model, moved_tokens(CONTEXT, config, element))
        close(found, moved_logits(expected, config, element))


def test_the_comparison_would_notice(config: KANConfig) -> None:
    """An ordinary model of the same size does not commute, and exchanged tokens do change the logits of this one."""
    model = grouped_model(config)
    found = base_logits(model, moved_tokens(CONTEXT, config, 1))
    assert not torch.allclose(found, base_logits(model, CONTEXT), atol=1e-3)
    plain = dataclasses.replace(config, group="trivial", group_action=())
    ordinary = KANModel(plain, tiny_tensors(plain, dtype=torch.float64), dtype=torch.float64)
    expected = moved_logits(base_logits(ordinary, CONTEXT), config, 1)
    assert not torch.allclose(base_logits(ordinary, moved_tokens(CONTEXT, config, 1)), expected, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "attention"), [*((name, TorchAttention) for name in ACTIONS), ("symmetric(3)", ReferenceAttention)]
)
@settings(max_examples=5)
@given(data=st.data())
def test_knowledge_is_exchanged_with_its_words(name: str, attention: Any, data: st.DataObject) -> None:
    """A fact whose words are exchanged has pages exchanged; a question exchanged with the facts has that answer."""
    config = grouped_config(name, num_heads=4, num_kv_heads=2)
    model = grouped_model(config, TorchKernels(attention), seed=data.draw(st.integers(0, 9)))
    element = data.draw(st.integers(0, config.group_order - 1))
    facts = data.draw(st.lists(st.sampled_from(FACTS), max_size=3))
    values = data.draw(st.lists(st.floats(-9, 9), min_size=len(facts), max_size=len(facts)))
    phi = torch.tensor([0.0, *values], dtype=torch.float64).expand(config.num_layers, config.num_heads, -1)
    phi = phi * torch.linspace(0.5, 2.0, config.num_heads, dtype=torch.float64)[:, None]

    def answer(by: int) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Logits, attention masses, and of every fact [layers, K and V, tokens, H_kv, d]."""
        layout, pages = Layout(model), []
        parts = [layout.run(PREAMBLE)[0]]
        for fact in facts:
            captured: list[tuple[Tensor, Tensor]] = []
            tokens = moved_tokens(fact, config, by)
            parts.append(layout.run(tokens, len(PREAMBLE), parts[:1], captured=captured)[0])
            pages.append(torch.stack([torch.stack(kinds) for kinds in captured]))
        position = len(PREAMBLE) + max(map(len, facts), default=0)
        _, logits, mass = layout.run(moved_tokens(CONTEXT, config, by), position, parts, phi)
        return logits, mass, pages

    logits, mass, pages = answer(0)
    exchanged_logits, exchanged_mass, exchanged_pages = answer(element)
    group = group_of(name)
    for one, other in zip(pages, exchanged_pages, strict=True):
        assert one.shape == other.shape
        close(other, moved_heads(one, group, element))
    close(exchanged_mass, mass)
    close(exchanged_logits, moved_logits(logits, config, element))


@pytest.mark.parametrize("name", ACTIONS)
def test_hidden_states_are_exchanged(name: str) -> None:
    config = grouped_config(name)
    model = grouped_model(config)

    def hidden(tokens: list[int]) -> Tensor:
        found: list[Tensor] = []
        model_logits, model.logits = model.logits, lambda x: found.append(x) or x  # type: ignore[method-assign]
        base_logits(model, tokens)
        model.logits = model_logits  # type: ignore[method-assign]
        return found[0]

    expected = hidden(CONTEXT)
    for element in range(config.group_order):
        close(hidden(moved_tokens(CONTEXT, config, element)), moved(expected, group_of(name), element))


@pytest.mark.parametrize("name", ACTIONS)
def test_gradients_of_an_exchanged_example_are_the_same(name: str) -> None:
    """So training on one sentence is training on its whole orbit."""
    config = grouped_config(name, attention_bias=True, tie_word_embeddings=False)
    weights = {key: one.requires_grad_() for key, one in tiny_tensors(config, dtype=torch.float64).items()}

    def gradients(element: int) -> tuple[Tensor, ...]:
        model = KANModel(config, weights, dtype=torch.float64, packed=False, kernels=TorchKernels(_no_cache))
        tokens = moved_tokens(CONTEXT, config, element)
        logits = base_logits(model, tokens[:-1])
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor(tokens[1:]))
        return torch.autograd.grad(loss, list(weights.values()))

    expected = gradients(0)
    assert all(bool(one.any()) for one in expected)
    for element in range(1, config.group_order):
        for found, one in zip(gradients(element), expected, strict=True):
            close(found, one)


def _no_cache(layers: Any, pattern: Any, sequences: Any) -> Any:
    """Causal attention of one whole sequence, differentiable."""

    def attention(layer: int, qkv: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        from kan.rope import rotate

        kv_heads = layers[0].kv.shape[1]
        turned = rotate(qkv[:, :-kv_heads], cos, sin).transpose(0, 1)
        values = qkv[:, -kv_heads:].transpose(0, 1)
        queries, keys = turned[:-kv_heads], turned[-kv_heads:]
        sharing = len(queries) // kv_heads
        scores = queries @ keys.repeat_interleave(sharing, 0).transpose(1, 2) / keys.shape[-1] ** 0.5
        seen = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
        weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
        return (weights @ values.repeat_interleave(sharing, 0)).transpose(0, 1).flatten(1)

    return attention


@pytest.mark.parametrize("name", ACTIONS)
def test_chunks_do_not_matter(name: str) -> None:
    model = grouped_model(grouped_config(name))
    close(base_logits(model, CONTEXT, (1, 3)), base_logits(model, CONTEXT))


@pytest.mark.parametrize("packed", [False, True])
def test_in_float32(packed: bool) -> None:
    config = grouped_config("cyclic(4) x cyclic(2)", copies=4)
    weights = tiny_tensors(config)
    exact = base_logits(KANModel(config, weights, dtype=torch.float64), CONTEXT)
    found = base_logits(KANModel(config, weights, packed=packed), CONTEXT)
    assert (found.double() - exact).abs().max() < 1e-4 * exact.abs().max()


def test_a_group_of_one_element_is_no_group() -> None:
    """Bit for bit."""
    config = tiny_config()
    single = dataclasses.replace(config, group="cyclic(1)")
    weights = tiny_tensors(config)
    assert torch.equal(base_logits(KANModel(single, weights), CONTEXT), base_logits(KANModel(config, weights), CONTEXT))


@pytest.mark.parametrize("name", ACTIONS)
def test_one_number_in_n_is_free(name: str) -> None:
    config = grouped_config(name, attention_bias=True, mlp_bias=True, tie_word_embeddings=False)
    plain = dataclasses.replace(config, group="trivial", group_action=())

    def numbers(one: KANConfig) -> int:
        return sum(torch.Size(shape).numel() for shape in expected_tensors(one).values())

    assert numbers(plain) == config.group_order * numbers(config)
