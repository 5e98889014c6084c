"""A low-rank update of knowledge tokens' keys and values, learned together with φ.

    [k', v'] = [k, v] + [k, v] D U + b        per layer; k before RoPE, all K/V heads side by side

It is applied when a fact's pages are put into a cache, so that page content stays what the plain model computes.
Context tokens and the preamble are never touched: without mounted facts the model is exactly the one it was.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from kan.config import KANConfig
from kan.knowledge.pages import PageContent, write_whole

NAMES = ("adapter.down", "adapter.up", "adapter.shift")
"""Of its tensors in a file."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """With W = 2 · H_kv · d, the numbers a token has in one layer:

    down    [layers, W, rank]
    up      [layers, rank, W]
    shift   [layers, 1, W]
    """

    down: Tensor
    up: Tensor
    shift: Tensor

    def __call__(self, content: PageContent) -> PageContent:
        """The same content, updated."""
        flat = torch.cat((content.keys.flatten(2), content.values.flatten(2)), dim=-1)
        down, up, shift = (one.to(flat.device, flat.dtype) for one in (self.down, self.up, self.shift))
        keys, values = (flat + torch.baddbmm(shift, flat @ down, up)).chunk(2, dim=-1)
        return PageContent(keys.reshape(content.keys.shape), values.reshape(content.values.shape))

    def fits(self, config: KANConfig) -> bool:
        """Whether the shapes are those of an adapter for this model."""
        layers, width, rank = config.num_layers, 2 * config.num_kv_heads * config.head_dim, self.down.shape[-1:]
        shapes = [(layers, width, *rank), (layers, *rank, width), (layers, 1, width)]
        return [tuple(tensor.shape) for tensor in (self.down, self.up, self.shift)] == shapes

    def to(self, dtype: torch.dtype) -> Adapter:
        """In the numbers of what it is to update, so that this need not be done at every use."""
        return Adapter(self.down.to(dtype), self.up.to(dtype), self.shift.to(dtype))

    def of_layers(self, first: int, count: int) -> Adapter:
        """The part for some of the model's layers."""
        own = slice(first, first + count)
        return Adapter(self.down[own], self.up[own], self.shift[own])

    def tensors(self) -> dict[str, Tensor]:
        return dict(zip(NAMES, (self.down, self.up, self.shift), strict=True))

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Adapter | None:
        """None if there is no adapter among them. Raises ValueError if only part of one is."""
        there = [name for name in NAMES if name in tensors]
        if there and len(there) < len(NAMES):
            raise ValueError(f"of an adapter only {', '.join(there)}")
        return cls(*(tensors[name].float() for name in NAMES)) if there else None


def new_adapter(magnitude: Tensor, rank: int, seed: int) -> Adapter:
    """One that changes nothing yet. magnitude [layers, 1, W]: of the numbers it will see."""
    layers, _, width = magnitude.shape
    noise = torch.randn(layers, width, rank, generator=torch.Generator().manual_seed(seed)) / math.sqrt(width)
    down = (noise / magnitude.transpose(1, 2)).float()
    return Adapter(down, torch.zeros(layers, rank, width), torch.zeros(layers, 1, width))


def save_adapter(adapter: Adapter, path: Path) -> None:
    """For other processes of this machine; what is shipped is in the file of φ. Raises OSError."""
    write_whole(path, save({name: tensor.contiguous() for name, tensor in adapter.tensors().items()}))


def load_adapter(path: Path) -> Adapter | None:
    """Raises OSError, SafetensorError or ValueError."""
    return Adapter.from_tensors(load_file(path))
