"""What a run trains, in units in which one learning rate suits all of a kind."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kan.knowledge.adapter import Adapter, new_adapter
from kan.knowledge.phi import Phi


@dataclass(frozen=True, slots=True)
class Units:
    """head_dim of the model; magnitude [layers, 1, 2 · H_kv · d]: of what an adapter changes."""

    head_dim: int
    magnitude: Tensor


class Parameters:
    """Leaf tensors: φ in units of the attention score, the adapter in units of what it changes."""

    def __init__(self, start: Phi, units: Units, adapter_rank: int, seed: int) -> None:
        self._template = start
        self._scale = math.sqrt(units.head_dim)
        self._magnitude = units.magnitude.double()
        self.splines = (start.coefficients / self._scale).requires_grad_()
        self.adapter: list[Tensor] = []
        adapter = start.adapter or (new_adapter(self._magnitude, adapter_rank, seed) if adapter_rank else None)
        if adapter is not None:
            scaled = (
                adapter.down * self._magnitude.transpose(1, 2),
                adapter.up / self._magnitude,
                adapter.shift / self._magnitude,
            )
            self.adapter = [one.to(self.splines.dtype).requires_grad_() for one in scaled]

    @property
    def phi(self) -> Phi:
        """Differentiable in all leaves."""
        adapter = None
        if self.adapter:
            down, up, shift = self.adapter
            magnitude = self._magnitude.to(down.dtype)
            adapter = Adapter(down / magnitude.transpose(1, 2), up * magnitude, shift * magnitude)
        return replace(self._template, coefficients=self.splines * self._scale, adapter=adapter)

    def state(self) -> dict[str, Tensor]:
        named = {"splines": self.splines, **{f"adapter.{place}": one for place, one in enumerate(self.adapter)}}
        return {name: tensor.detach() for name, tensor in named.items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            self.splines.copy_(state["splines"])
            for place, one in enumerate(self.adapter):
                one.copy_(state[f"adapter.{place}"])
