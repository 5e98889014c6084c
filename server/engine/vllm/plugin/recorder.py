"""Recording a fact: its K and V are taken on their way into the cache, turned back by RoPE, and written to disk.

So the model that serves is the one that encodes: no second copy of it, and no reading of a backend's own cache layout.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from kan.knowledge.pages import PageContent, page_path, write_pages
from kan.rope import rotate
from server.engine.vllm.plugin.shard import Shard, slots_of
from server.engine.vllm.plugin.transfer import Record

log = logging.getLogger("kalmagrove.vllm")


@dataclass(frozen=True)
class Recording:
    """Tokens [start, end) of a request's `total` are computed in this step; token 0 is the first of `blocks`."""

    request: str
    record: Record
    total: int
    start: int
    end: int
    blocks: list[int]


@dataclass
class _Tape:
    """K (rotated) and V of one request, [own layers, tokens, own K/V heads, d], filled from front to back."""

    keys: Tensor
    values: Tensor


class Recorder:
    """One worker's. Every rank of a stage has the same plan, so they gather their heads in step."""

    def __init__(self, shard: Shard, directory: Path, block_size: int) -> None:
        self._shard = shard
        self._directory = directory
        self._block_size = block_size
        self._tapes: dict[str, _Tape] = {}
        self._plan: Sequence[Recording] = ()
        self._rows: list[Tensor] | None = None
        self._layers = {id(layer): index for index, layer in enumerate(shard.layers)}
        directory.mkdir(parents=True, exist_ok=True)

    def begin(self, plan: Sequence[Recording], ended: Sequence[str]) -> None:
        """A step is to run; nothing more will come for the requests that `ended`."""
        self._plan, self._rows = plan, None
        for name in ended:
            self._tapes.pop(name, None)

    def see(self, layer: object, keys: Tensor, values: Tensor, slots: Tensor) -> None:
        """K and V [rows, own K/V heads, head size] of one layer, on their way to `slots` [rows]."""
        if not self._plan:
            return
        if self._rows is None:
            self._rows = [_rows(slots, slots_of(r.blocks, r.start, r.end, self._block_size)) for r in self._plan]
        index, d = self._layers[id(layer)], self._shard.layers[0].head_dim
        for recording, rows in zip(self._plan, self._rows, strict=True):
            tape = self._tape(recording)
            tape.keys[index, recording.start : recording.end] = keys[rows, :, :d].cpu()
            tape.values[index, recording.start : recording.end] = values[rows, :, :d].cpu()

    def end(self) -> None:
        """The step has run: write what is complete. A failure is logged; whoever waits for the file misses it."""
        for recording in self._plan:
            if recording.end < recording.total or recording.request not in self._tapes:
                continue
            content = self._content(self._tapes.pop(recording.request), recording)
            if not self._shard.writes:
                continue
            try:
                write_pages(page_path(self._directory, recording.record.key), content)
            except OSError as error:
                log.error("page content could not be written: %s", error)
        self._plan = ()

    def _content(self, tape: _Tape, recording: Recording) -> PageContent:
        wanted = slice(recording.record.skip, recording.total)
        cos, sin = self._shard.rotary.at(torch.arange(recording.total)[wanted])
        keys = rotate(tape.keys[:, wanted], cos, -sin)
        return PageContent(self._shard.gather_heads(keys), self._shard.gather_heads(tape.values[:, wanted]))

    def _tape(self, recording: Recording) -> _Tape:
        if recording.request not in self._tapes:
            layer = self._shard.layers[0]
            shape = (len(self._shard.layers), recording.total, layer.num_kv_heads, layer.head_dim)
            new = _Tape(torch.empty(shape, dtype=self._shard.dtype), torch.empty(shape, dtype=self._shard.dtype))
            self._tapes[recording.request] = new
        return self._tapes[recording.request]


def _rows(slots: Tensor, wanted: Tensor) -> Tensor:
    """Row of each wanted slot."""
    matches = slots[None, :] == wanted.to(slots.device)[:, None]
    assert bool(matches.any(dim=1).all()), "a recorded token is not in the step"
    return matches.int().argmax(dim=1)
