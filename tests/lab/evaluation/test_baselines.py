"""The baselines φ is compared with."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from kan.attention import PAGE_SIZE
from kan.checkpoint.directory import Checkpoint
from kan.kernels.cpu import paged_attention
from kan.knowledge.fit import Fit
from kan.model import KANModel
from lab.evaluation.baselines import (
    constant_phi,
    kblam_phi,
    oracle_phi,
    scaled_phi,
    tempered_attention,
    with_temperature,
)


@pytest.fixture(scope="module")
def model(tiny: Checkpoint) -> KANModel:
    return KANModel(tiny.config, tiny.tensors())


def bias_of(model: KANModel, phi: Any, relevances: list[float]) -> torch.Tensor:
    """[m]: what φ adds to the scores; the same in all layers and heads."""
    values = phi([Fit(one) for one in relevances]) / math.sqrt(model.config.head_dim)
    assert torch.equal(values, values[:1, :1].expand_as(values))
    return values[0, 0]


def test_constants(model: KANModel) -> None:
    assert bias_of(model, constant_phi(model, -1.5), [0.1, 0.9, -0.4]).tolist() == pytest.approx([-1.5] * 3)
    for count in (1, 2, 8, 16):
        bias = bias_of(model, kblam_phi(model, 20.0), [0.5] * count)
        assert bias.tolist() == pytest.approx([math.log(20 / count)] * count, abs=1e-5)
    assert bias_of(model, scaled_phi(model, 3.0), [0.5]).tolist() == pytest.approx([math.log(3)])
    assert 0 < bias_of(model, scaled_phi(model, 1.0), [0.5]).item() < 1e-5


def test_the_oracle_hides_all_but_gold(model: KANModel) -> None:
    phi = oracle_phi(model)
    assert bias_of(model, phi, [1.0]).tolist() == [0]
    assert bias_of(model, phi, [-1.0, 1.0, -1.0]).tolist() == pytest.approx([-1e4, 0, -1e4])
    assert bias_of(model, phi, [1.0, -1.0, 1.0]).tolist() == pytest.approx([0, -1e4, 0])


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_tempered_attention(temperature: float) -> None:
    """Against the ordinary kernel: with queries that are hotter on fact columns only, by hand."""
    generator = torch.Generator().manual_seed(0)
    sequences, n, heads, kv_heads, d, pages = 2, 3, 4, 2, 8, 3
    q = torch.randn(sequences, n, heads, d, generator=generator)
    kv = torch.randn(2, kv_heads, 7, PAGE_SIZE, d, generator=generator)
    table = torch.tensor([[0, 1, 2], [3, 4, 5]])
    mask = torch.zeros(sequences, n, pages * PAGE_SIZE)
    mask[:, :, -5:] = -torch.inf
    phi = torch.zeros(heads, sequences, 2 * PAGE_SIZE)
    phi[:, :, PAGE_SIZE:] = 0.7  # the second page is a fact, the first a preamble, the third the context
    hot = kv.clone()
    hot[0][:, table[:, 1]] /= temperature
    mass, expected_mass = torch.zeros(2, sequences, 2 * PAGE_SIZE)
    out = tempered_attention(temperature)(q, kv, table, mask, phi, mass)
    expected = paged_attention(q, hot, table, mask, phi, expected_mass)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(mass, expected_mass)


def test_a_temperature_leaves_the_model_as_it_was(model: KANModel) -> None:
    before = model.kernels
    tempered = with_temperature(model, 0.5)
    assert tempered.kernels is not before
    assert model.kernels is before
    assert tempered.layers is model.layers
    assert with_temperature(model, 1.0) is model
