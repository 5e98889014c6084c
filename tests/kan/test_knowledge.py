"""What mounting knowledge must mean, whatever computes it: the properties of Eq. 1 over pages, in float64."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kan.kernels.reference import ReferenceAttention
from kan.kernels.torch_attention import TorchAttention
from kan.kernels.torch_kernels import TorchKernels
from kan.model import KANModel
from tests.kan.layout import Layout, Part
from tests.tiny import tiny_config, tiny_tensors

EXACT = 1e-10
PREAMBLE = [1, 40, 41, 42, 43]
CONTEXT = [7, 99, 30, 120, 8]
FACTS = [[60, 61, 62], [70] * 18, [80, 81, 82, 83, 90, 91], [101]]


@pytest.fixture(scope="module", params=[TorchAttention, ReferenceAttention])
def model(request: pytest.FixtureRequest) -> KANModel:
    config = tiny_config(num_heads=6, num_kv_heads=2, head_dim=8)
    weights = tiny_tensors(config, dtype=torch.float64)
    return KANModel(config, weights, dtype=torch.float64, kernels=TorchKernels(request.param))


def mount(layout: Layout, facts: list[list[int]]) -> tuple[list[Part], int]:
    """Encode preamble and facts; returns the prefix and the position where the context starts."""
    preamble, _, _ = layout.run(PREAMBLE)
    parts = [layout.run(fact, len(PREAMBLE), [preamble])[0] for fact in facts]
    return [preamble, *parts], len(PREAMBLE) + max(map(len, facts), default=0)


def answer(model: KANModel, facts: list[list[int]], phi: torch.Tensor | None = None) -> torch.Tensor:
    layout = Layout(model)
    prefix, position = mount(layout, facts)
    return layout.run(CONTEXT, position, prefix, phi)[1]


def bias(model: KANModel, *values: float) -> torch.Tensor:
    """The same φ in every layer, scaled a little differently per head: [layers, H, 1 + facts]."""
    heads = 1 + 0.1 * torch.arange(model.config.num_heads, dtype=torch.float64)
    row = torch.tensor((0.0, *values), dtype=torch.float64)
    return (heads[:, None] * row).expand(model.config.num_layers, -1, -1)


def test_no_knowledge_is_the_base_model(model: KANModel) -> None:
    whole = Layout(model).run(PREAMBLE + CONTEXT)[1][-len(CONTEXT) :]
    assert torch.allclose(answer(model, []), whole, atol=EXACT, rtol=0)


@pytest.mark.parametrize("fact", FACTS)
def test_one_fact_is_the_same_tokens_in_one_sequence(model: KANModel, fact: list[int]) -> None:
    whole = Layout(model).run(PREAMBLE + fact + CONTEXT)[1][-len(CONTEXT) :]
    assert torch.allclose(answer(model, [fact]), whole, atol=EXACT, rtol=0)


def test_two_facts_are_not_one_sequence(model: KANModel) -> None:
    """The control of the test above: facts do not see each other, so joined text must differ."""
    whole = Layout(model).run(PREAMBLE + FACTS[0] + FACTS[2] + CONTEXT)[1][-len(CONTEXT) :]
    assert not torch.allclose(answer(model, [FACTS[0], FACTS[2]]), whole, atol=1e-3, rtol=0)


def test_any_order_of_the_facts_gives_the_same_logits(model: KANModel) -> None:
    values = [3.0, -2.0, 0.5, 9.0]
    expected = answer(model, FACTS, bias(model, *values))
    for order in itertools.permutations(range(len(FACTS))):
        permuted = answer(model, [FACTS[i] for i in order], bias(model, *(values[i] for i in order)))
        assert torch.allclose(permuted, expected, atol=EXACT, rtol=0)


def test_phi_at_minus_infinity_removes_a_fact(model: KANModel) -> None:
    """Swapping the K/V of such a fact for noise changes nothing; at φ = 0 it does."""

    def with_noise(value: float) -> tuple[torch.Tensor, torch.Tensor]:
        results = []
        for noisy in (False, True):
            layout = Layout(model)
            prefix, position = mount(layout, FACTS[:3])
            if noisy:
                generator = torch.Generator().manual_seed(5)
                shape = (model.config.num_layers, prefix[2].tokens, model.config.num_kv_heads, model.config.head_dim)
                noise = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
                layout.cache.write(prefix[2].pages, *noise)
            results.append(layout.run(CONTEXT, position, prefix, bias(model, 1.0, value, -1.0))[1])
        return results[0], results[1]

    clean, noisy = with_noise(-torch.inf)
    assert torch.equal(clean, noisy)
    clean, noisy = with_noise(0.0)
    assert not torch.allclose(clean, noisy, atol=1e-3, rtol=0)


def test_phi_at_minus_infinity_is_the_fact_absent(model: KANModel) -> None:
    """As long as the context keeps its place: FACTS[1] is the longest, so it is not the one removed."""
    removed = answer(model, FACTS[:3], bias(model, 1.0, 2.0, -torch.inf))
    absent = answer(model, FACTS[:2], bias(model, 1.0, 2.0))
    assert torch.allclose(removed, absent, atol=EXACT, rtol=0)


def test_phi_zero_is_no_phi_and_phi_matters(model: KANModel) -> None:
    none = answer(model, FACTS)
    assert torch.allclose(answer(model, FACTS, bias(model, 0, 0, 0, 0)), none, atol=EXACT, rtol=0)
    assert not torch.allclose(answer(model, FACTS, bias(model, 4, 0, 0, 0)), none, atol=1e-3, rtol=0)


@settings(max_examples=20, deadline=None)
@given(split=st.integers(1, len(CONTEXT) - 1))
def test_chunked_prefill_continues_where_it_stopped(split: int) -> None:
    config = tiny_config()
    model = KANModel(config, tiny_tensors(config, dtype=torch.float64), dtype=torch.float64)
    layout = Layout(model)
    head, _, _ = layout.run(CONTEXT[:split])
    tail = layout.run(CONTEXT[split:], split, [head])[1]
    whole = Layout(model).run(CONTEXT)[1]
    assert torch.allclose(tail, whole[split:], atol=EXACT, rtol=0)


def test_attention_mass_adds_up_and_follows_phi(model: KANModel) -> None:
    layout = Layout(model)
    prefix, position = mount(layout, FACTS)
    total = model.config.num_layers * model.config.num_heads
    mass = layout.run(CONTEXT, position, prefix)[2] / total
    assert 0 < mass.sum() < 1
    raised = layout.run(CONTEXT, position, prefix, bias(model, 30, 0, 0, 0))[2] / total
    assert raised[1] > mass[1]
    assert raised[2:].max() < mass[2:].min()
