"""Tiny models with a group, what its elements do to them, and the ordinary model that they are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kan.checkpoint.directory import Checkpoint, expected_tensors
from kan.config import KANConfig
from kan.kernels.operations import Kernels
from kan.layers import rotary_table
from kan.model import KANModel
from kan.symmetry.group import FiniteGroup, group_of
from kan.symmetry.linear import dense
from tests.tiny import tiny_checkpoint, tiny_config, tiny_tensors

ACTIONS: dict[str, tuple[tuple[tuple[int, ...], ...], ...]] = {
    "cyclic(2)": (((10, 11), (20, 21)),),
    "cyclic(5)": (((10, 11, 12, 13, 14),),),
    "symmetric(3)": (((10, 11, 12),), ((10, 11), (40, 41))),
    "dihedral(4)": (((10, 11, 12, 13),), ((11, 13),)),
    "cyclic(4) x cyclic(2)": (((10, 11, 12, 13), (30, 31)), ((20, 21), (22, 23))),
}
"""Orbits of all kinds of stabilisers: of symmetric(3), 40 and 41 are exchanged by the odd elements only."""


def grouped(name: str, *, copies: int = 3, **overrides: Any) -> dict[str, Any]:
    """Settings with odd numbers of copies of the regular representation everywhere."""
    order = group_of(name).order
    sizes = {"hidden_size": copies * order, "intermediate_size": 5 * order, "head_dim": 2 * order}
    return {"group": name, "group_action": ACTIONS[name], **sizes, **overrides}


def grouped_config(name: str, **settings: Any) -> KANConfig:
    """See `grouped`."""
    return tiny_config(**grouped(name, **settings))


def grouped_checkpoint(directory: Path, name: str, **settings: Any) -> Checkpoint:
    """See `grouped` and `tiny_checkpoint`."""
    return tiny_checkpoint(directory, **grouped(name, **settings))


def grouped_model(config: KANConfig, kernels: Kernels | None = None, seed: int = 0) -> KANModel:
    weights = tiny_tensors(config, seed, torch.float64)
    return KANModel(config, weights, dtype=torch.float64, kernels=kernels)


def moved(x: Tensor, group: FiniteGroup, element: int) -> Tensor:
    """h·x of x [..., n · c]"""
    places = group.table[group.inverses[element]]
    channels = x.shape[-1] // group.order
    return x.view(*x.shape[:-1], group.order, channels)[..., places, :].reshape(x.shape)


def moved_heads(x: Tensor, group: FiniteGroup, element: int) -> Tensor:
    """The same of keys or values [..., d], whose channels are [2, n, c]."""
    return moved(x.view(*x.shape[:-1], 2, x.shape[-1] // 2), group, element).view(x.shape)


def moved_tokens(tokens: list[int], config: KANConfig, element: int) -> list[int]:
    table = config.vocabulary_action.table
    return [int(table[element, token]) for token in tokens]


def moved_logits(logits: Tensor, config: KANConfig, element: int) -> Tensor:
    """[R, words]: the logit of v goes to h·v."""
    out = torch.empty_like(logits)
    out[:, torch.from_numpy(config.vocabulary_action.table[element])] = logits
    return out


def ordinary_model(config: KANConfig, weights: dict[str, Tensor]) -> KANModel:
    """The same function without any symmetry in its layers: every weight written out."""
    plain = replace(config, group="trivial", group_action=())
    written = {name: _written_out(name, tensor, config) for name, tensor in weights.items()}
    assert {name: tuple(one.shape) for name, one in written.items()} == expected_tensors(plain)
    model = KANModel(plain, written, dtype=torch.float64)
    model.rotary = rotary_table(config, torch.float64, None)
    return model


def _written_out(name: str, tensor: Tensor, config: KANConfig) -> Tensor:
    group = group_of(config.group)
    if "embed_tokens" in name or "lm_head" in name:
        inverse = torch.from_numpy(config.vocabulary_action.table[group.inverses])
        return torch.cat([tensor[inverse[g]] for g in range(group.order)], dim=1)
    written = tensor.repeat(group.order) if tensor.ndim == 1 else dense(group, tensor)
    if any(f"{one}_proj" in name for one in "qkv"):
        return written[_head_order(len(written), config)]
    if "o_proj.weight" in name:
        return written[:, _head_order(written.shape[1], config)]
    return written


def _head_order(width: int, config: KANConfig) -> Tensor:
    """Where the channels of heads [planes, 2, n, c] are among [n, planes, 2, c]."""
    order = config.group_order
    planes, channels = width // config.head_dim, config.head_dim // (2 * order)
    return torch.arange(width).view(order, planes, 2, channels).permute(1, 2, 0, 3).reshape(-1)
