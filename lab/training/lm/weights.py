"""All weights of a model as leaves of a gradient, and the one decoder made of them.

With a group the free parameters are the leaves. Each step writes the matrices out that they stand for, and computes
with those: for many rows that is far less to move than laying every row out once for each element, as serving does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from kan.checkpoint.directory import expected_tensors
from kan.config import KANConfig
from kan.kernels.operations import Product
from kan.kernels.torch_kernels import TorchKernels
from kan.layers import EquivariantLayers, Layers, Linear, OrdinaryLayers
from kan.model import KANModel
from kan.symmetry.group import FiniteGroup
from kan.symmetry.linear import dense


class TrainableLinear:
    """`Product` whose weight [out, in] and bias [out] have gradients."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None, *, packed: bool = False) -> None:
        """Nothing is laid out anew: the weight is another one at the next step."""
        self._weight = weight
        self._bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self._weight, self._bias)

    def plus(self, x: Tensor, residual: Tensor) -> Tensor:
        return residual + self(x)


def written_out(group: FiniteGroup, weight: Tensor, bias: Tensor | None, linear: Linear) -> Product:
    """A compressed weight [o, n · c] as the ordinary layer of the matrix that it stands for."""
    return linear(dense(group, weight), None if bias is None else bias.repeat(group.order))


class Trainable:
    """A model as a function of its weights. Stateless but for what follows from its shape."""

    def __init__(self, config: KANConfig, dtype: torch.dtype, device: torch.device | None = None) -> None:
        self._config = config
        self._dtype = dtype
        self._device = device
        self._kernels = TorchKernels(make_linear=TrainableLinear)
        self._layers = _layers(config, self._kernels)

    def __call__(self, weights: Mapping[str, Tensor]) -> KANModel:
        """The served decoder, computing in `dtype`, differentiable in `weights` (usually float32)."""
        return KANModel(
            self._config, weights, dtype=self._dtype, kernels=self._kernels, device=self._device, layers=self._layers
        )


def initial_weights(config: KANConfig, seed: int) -> dict[str, Tensor]:
    """Float32, under the names of `expected_tensors`: normal, scaled so that activations keep their size.

    What leads back into the residual stream begins smaller by √(2 · layers), as in GPT-2 (Radford et al., 2019).
    """
    generator = torch.Generator().manual_seed(seed)
    back = 1 / math.sqrt(2 * config.num_layers)
    weights = {}
    for name, shape in expected_tensors(config).items():
        if name.endswith("norm.weight"):
            weights[name] = torch.ones(shape)
        elif name.endswith(".bias"):
            weights[name] = torch.zeros(shape)
        else:
            fan_in = config.hidden_size if name == "lm_head.weight" else shape[1]
            deviation = 1.0 if name == "model.embed_tokens.weight" else 1 / math.sqrt(fan_in)
            deviation *= back if "o_proj" in name or "down_proj" in name else 1.0
            weights[name] = torch.randn(shape, generator=generator) * deviation
    return weights


def _layers(config: KANConfig, kernels: TorchKernels) -> Layers:
    if config.group_order == 1:
        return OrdinaryLayers(kernels.linear)
    return EquivariantLayers(config, kernels.linear, written_out)
