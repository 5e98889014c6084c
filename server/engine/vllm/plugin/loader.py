"""Loading mounted facts into a request's blocks: from disk or memory, rotated to their places, with φ in their keys."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from kan.knowledge.adapter import Adapter
from kan.knowledge.pages import PageContent, PageContentError, page_path, read_pages
from kan.rope import rotate
from server.engine.vllm.plugin.shard import Shard, slots_of
from server.engine.vllm.plugin.transfer import Mount, Segment

log = logging.getLogger("kalmagrove.vllm")


@dataclass(frozen=True)
class Load:
    """Knowledge tokens from `first` on into `blocks`, a request's, which begin with token 0."""

    mount: Mount
    first: int
    blocks: list[int]


class Loader:
    """One worker's. Page content stays in memory, the most recently used of it up to `cache_bytes`.

    adapter     for this worker's layers
    """

    def __init__(
        self, shard: Shard, directory: Path, cache_bytes: int, block_size: int, adapter: Adapter | None
    ) -> None:
        self._shard = shard
        self._directory = directory
        self._adapter = adapter
        self._limit = cache_bytes
        self._block_size = block_size
        self._cache: OrderedDict[str, PageContent] = OrderedDict()
        self._cached_bytes = 0
        self._failed: set[int] = set()

    def load(self, loads: Sequence[Load]) -> None:
        """Fill the blocks of every request whose content is there and whole; the others' blocks count as failed."""
        for load in loads:
            try:
                self._load(load)
            except (OSError, PageContentError) as error:
                log.error("mounted knowledge could not be loaded: %s", error)
                self._failed.update(load.blocks)

    def take_failed_blocks(self) -> set[int]:
        failed, self._failed = self._failed, set()
        return failed

    def _load(self, load: Load) -> None:
        preamble, *facts = load.mount.segments
        contents = [self._content(preamble, None), *(self._content(fact, self._adapter) for fact in facts)]
        wanted = slice(load.first, load.mount.tokens)
        positions = torch.tensor(load.mount.positions[wanted])
        keys = self._own([content.keys for content in contents], wanted)
        values = self._own([content.values for content in contents], wanted)
        cos, sin = self._shard.rotary.at(positions)
        wide_keys, wide_values = self._widened(rotate(keys, cos, sin), values, load.mount, wanted)
        slots = slots_of(load.blocks, load.first, load.mount.tokens, self._block_size).to(self._shard.device)
        for layer, k, v in zip(self._shard.layers, wide_keys, wide_values, strict=True):
            # The backend's own writer: how it lays out its cache is its own affair.
            layer.write_cache(layer, k, v, layer.kv_cache, slots)

    def _content(self, segment: Segment, adapter: Adapter | None) -> PageContent:
        if segment.key in self._cache:
            self._cache.move_to_end(segment.key)
            return self._cache[segment.key]
        path = page_path(self._directory, segment.key)
        try:
            content = read_pages(path, self._shard.page_shape(segment.tokens), self._shard.dtype)
        except PageContentError as error:
            raise PageContentError(f"{path}: {error}") from error
        if adapter is not None:
            content = adapter(content)
        self._cache[segment.key] = content
        self._cached_bytes += _bytes(content)
        while self._cached_bytes > self._limit and len(self._cache) > 1:
            self._cached_bytes -= _bytes(self._cache.popitem(last=False)[1])
        return content

    def _own(self, parts: Sequence[Tensor], wanted: slice) -> Tensor:
        """[layers, tokens, all K/V heads, d] of every segment -> one tensor, of this rank's heads."""
        return torch.cat([part[:, :, self._shard.kv_heads] for part in parts], dim=1)[:, wanted]

    def _widened(self, keys: Tensor, values: Tensor, mount: Mount, wanted: slice) -> tuple[Tensor, Tensor]:
        """Both [layers, tokens, H_kv, d] -> the same with the attention's head size, φ in the keys' channels."""
        layer = self._shard.layers[0]
        extra = layer.head_size - layer.head_dim
        wide_keys, wide_values = F.pad(keys, (0, extra)), F.pad(values, (0, extra))
        if mount.phi is not None:
            phi = self._phi_channels(mount, layer.group)[:, wanted]
            high = phi.to(keys.dtype)
            low = (phi - high.to(phi.dtype)).to(keys.dtype)
            wide_keys[..., layer.head_dim : layer.head_dim + 2 * layer.group] = torch.cat((high, low), dim=-1)
        device = self._shard.device
        return wide_keys.to(device), wide_values.to(device)

    def _phi_channels(self, mount: Mount, group: int) -> Tensor:
        """[own layers, knowledge tokens, own K/V heads, group] float32: 0 on the preamble."""
        assert mount.phi is not None
        shard = self._shard
        flat = torch.frombuffer(bytearray(mount.phi), dtype=torch.float32)
        phi = flat.view(shard.total_layers, -1, len(mount.facts))
        own = phi[shard.first_layer : shard.first_layer + len(shard.layers), shard.heads]
        lengths = torch.tensor([segment.tokens for segment in mount.segments])
        spread = F.pad(own, (1, 0)).repeat_interleave(lengths, dim=-1)
        return spread.view(len(shard.layers), -1, group, mount.tokens).permute(0, 3, 1, 2)


def _bytes(content: PageContent) -> int:
    return content.keys.nbytes + content.values.nbytes
