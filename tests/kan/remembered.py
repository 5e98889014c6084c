"""Caches that hold keys which no step has computed, with the means that steps would have made of their blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from kan.attention import SequenceRows
from kan.kernels.operations import Kernels


class Remembered:
    """Of `Kernels` what a `Case` needs: makes caches."""

    def __init__(self, kernels: Kernels) -> None:
        self._kernels = kernels

    def new_cache(self, *arguments: Any) -> Any:
        cache: Any = self._kernels.new_cache(*arguments)
        return _Cache(cache)


@dataclass
class _Cache:
    cache: Any

    def write(self, pages: Sequence[int], keys: Tensor, values: Tensor) -> None:
        self.cache.write(pages, keys, values)

    def write_small(self, pages: Sequence[int], keys: Tensor, values: Tensor) -> None:
        self.cache.write_small(pages, keys, values)

    def attention(self, sequences: Sequence[SequenceRows]) -> Any:
        routed = self.cache.attention(sequences)
        means = getattr(routed, "_means", None)
        before = [replace(one, computed=0, count=one.computed) for one in sequences if one.computed]
        if means is not None and before:
            completed = means.completed(before)
            for layer, kv in enumerate(routed._layers):
                means.refresh(layer, kv.kv, completed)
        return routed
