"""What a learned φ is compared with: constants, one temperature, an oracle. Biases here are in units of the scores."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from kan.attention import PAGE_SIZE
from kan.kernels.small_pages import CacheLayer
from kan.kernels.torch_attention import Attend, Group, TorchAttention, keys_and_values
from kan.kernels.torch_kernels import TorchKernels
from kan.knowledge.phi import FEATURES, RANGES, Phi, zero_phi
from kan.model import KANModel

ORACLE_BIAS = -1e4
MARK = 1e-6
"""A bias that changes nothing, but tells fact columns from others (see `tempered_attention`)."""


def constant_phi(model: KANModel, bias: float) -> Phi:
    """The same bias on every fact."""
    return _from_feature(model, "relevance", lambda _: bias)


def kblam_phi(model: KANModel, constant: float) -> Phi:
    """KBLaM's bias: log C - log N for N mounted facts, the same in all layers and heads."""
    return _from_feature(model, "log_count", lambda log_count: math.log(constant) - log_count)


def oracle_phi(model: KANModel) -> Phi:
    """Only the best fact is seen. Mount gold facts with score 1 and the others with -1."""
    return _from_feature(model, "lead", lambda lead: ORACLE_BIAS if lead < -1e-6 else 0.0)


def scaled_phi(model: KANModel, scale: float) -> Phi:
    """All facts' weights before normalisation times `scale`; marks fact columns even where the scale is 1."""
    return constant_phi(model, math.log(scale) or MARK)


def with_temperature(model: KANModel, temperature: float) -> KANModel:
    """The same weights with `tempered_attention`. The only place that exchanges a model's attention."""
    if temperature == 1.0:
        return model
    tempered = copy.copy(model)
    tempered.kernels = TorchKernels(partial(TorchAttention, attend=tempered_attention(temperature)))
    return tempered


def tempered_attention(temperature: float) -> Attend:
    """Eq. 1 with q·k divided by `temperature` on fact columns: those whose φ is not zero in some head."""

    def attend(q: Tensor, cache: CacheLayer, group: Group, layer: int) -> tuple[Tensor, Tensor]:
        sequences, n, heads, d = q.shape
        kv_heads = cache.kv.shape[1]
        shared = heads // kv_heads
        keys, values = (one.view(kv_heads, sequences, -1, d) for one in keys_and_values(cache, group))
        queries = q.view(sequences, n, kv_heads, shared, d).permute(2, 0, 3, 1, 4).flatten(2, 3)
        scores = (queries @ keys.transpose(-1, -2)).float().view(kv_heads, sequences, shared, n, -1) / math.sqrt(d)
        known = group.parts.shape[1] * PAGE_SIZE
        if group.phi is not None:
            phi = group.phi[layer].repeat_interleave(PAGE_SIZE, dim=-1)
            heat = torch.where((phi != 0).any(0), 1 / temperature, 1.0)
            bias = phi.view(kv_heads, shared, sequences, known).transpose(1, 2).unsqueeze(3)
            scores[..., :known] = scores[..., :known] * heat[:, None, None] + bias / math.sqrt(d)
        weights = torch.softmax(scores + group.mask[:, None], dim=-1)
        out = weights.flatten(2, 3).to(values.dtype) @ values
        out = out.view(kv_heads, sequences, shared, n, d).permute(1, 3, 0, 2, 4).reshape(sequences, n, heads, d)
        return out, weights[..., -1, :known].sum(2).sum(0)

    return attend


def _from_feature(model: KANModel, feature: str, bias: Callable[[float], float]) -> Phi:
    """φ of one feature, piecewise linear through `bias` at its knots; the same in all layers and heads."""
    config = model.config
    phi = zero_phi(config.num_layers, config.num_heads)
    low, high = RANGES[feature]
    knots = torch.linspace(low, high, phi.coefficients.shape[-1]).tolist()
    biases = torch.tensor([bias(knot) for knot in knots])
    phi.coefficients[:, :, FEATURES.index(feature)] = math.sqrt(config.head_dim) * biases
    return phi
