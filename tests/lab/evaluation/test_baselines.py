"""The baselines φ is compared with."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch

from kan.attention import PAGE_SIZE, Prefix
from kan.checkpoint.directory import Checkpoint
from kan.kernels.torch_attention import TorchAttention
from kan.kernels.torch_kernels import TorchKernels
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
from tests.kan.attention_case import case


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_tempered_attention(temperature: float, dtype: torch.dtype) -> None:
    """Against the ordinary one: with keys of the facts' pages made hotter, by hand."""
    plain = case(0, [([10, 12], 5, 3)], kv_heads=2, group=2, d=8)
    (sequence,) = plain.sequences
    phi = torch.tensor((0.0, 0.7)).expand(1, 4, 2)  # the first part is the preamble
    prefix = Prefix((0, 1), (10, 12), phi)
    plain = replace(plain, kv=plain.kv.double(), sequences=[replace(sequence, prefix=prefix)])
    hot = plain.kv.clone()
    hot[0, :, PAGE_SIZE : 2 * PAGE_SIZE] /= temperature
    tempered = TorchKernels(partial(TorchAttention, attend=tempered_attention(temperature)))
    found, (mass,) = plain.run(tempered, dtype)
    expected, (expected_mass,) = replace(plain, kv=hot).run(TorchKernels(), dtype)
    torch.testing.assert_close(found, expected, rtol=1.3e-6, atol=1e-5)  # its scores are float32, whatever the model
    torch.testing.assert_close(mass, expected_mass, rtol=1.3e-6, atol=1e-5)


def test_a_temperature_leaves_the_model_as_it_was(model: KANModel) -> None:
    before = model.kernels
    tempered = with_temperature(model, 0.5)
    assert tempered.kernels is not before
    assert model.kernels is before
    assert tempered.layers is model.layers
    assert with_temperature(model, 1.0) is model
