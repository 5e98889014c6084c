"""From scheduled chunks to one forward pass."""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass

import torch
from torch import Tensor

from kan.attention import SequenceRows
from kan.kernels.operations import Cache
from kan.model import Batch
from kan.page_pool import PagePool
from server.engine.paged.scheduler import Chunk
from server.engine.paged.sequence import Encoding, Generation


@dataclass(frozen=True, slots=True)
class Placed:
    """Where a chunk's rows went, and where its outputs are: the hidden states of its last rows."""

    chunk: Chunk
    rows: slice
    outputs: slice
    mass: Tensor
    """[parts]: attention of its last row on each part of its prefix, once the pass is done."""


class BatchBuilder:
    def __init__(self, pool: PagePool, cache: Cache) -> None:
        self._pool = pool
        self._cache = cache

    def build(self, chunks: Items[Chunk]) -> tuple[Batch, list[Placed]]:
        """Single rows come first, shortest sequence first: kernels may compute those of like length together."""
        single = sorted((chunk for chunk in chunks if chunk.count == 1), key=_columns)
        ordered = [*single, *(chunk for chunk in chunks if chunk.count > 1)]
        attention = self._cache.attention([self._rows(chunk) for chunk in ordered])
        placed: list[Placed] = []
        outputs: list[int] = []
        end = 0
        for chunk, mass in zip(ordered, attention.masses, strict=True):
            start, end = end, end + chunk.count
            wanted = range(end - _outputs(chunk), end)
            placed.append(Placed(chunk, slice(start, end), slice(len(outputs), len(outputs) + len(wanted)), mass))
            outputs += wanted
        batch = Batch(
            tokens=torch.tensor([token for chunk in ordered for token in _tokens(chunk)]),
            positions=torch.tensor([position for chunk in ordered for position in _positions(chunk)]),
            attention=attention,
            captured=[] if any(isinstance(chunk.sequence, Encoding) for chunk in ordered) else None,
            outputs=None if len(outputs) == end else torch.tensor(outputs, dtype=torch.int64),
        )
        return batch, placed

    def _rows(self, chunk: Chunk) -> SequenceRows:
        one = chunk.sequence
        rows = SequenceRows(one.prefix, one.pages, one.computed, chunk.count)
        shared = [page for page in rows.written if not self._pool.is_writable(page)]
        assert not shared, f"pages {shared} are shared and must not be written"
        return rows


def _columns(chunk: Chunk) -> int:
    return chunk.sequence.columns


def _outputs(chunk: Chunk) -> int:
    """How many of the chunk's last rows are read: those that predict a token somebody asks for."""
    sequence = chunk.sequence
    if not isinstance(sequence, Generation):
        return 0
    if sequence.choice.scores_prompt:
        return chunk.count
    return int(chunk.count == sequence.pending)


def _tokens(chunk: Chunk) -> list[int]:
    sequence = chunk.sequence
    return sequence.tokens[sequence.computed : sequence.computed + chunk.count]


def _positions(chunk: Chunk) -> range:
    first = chunk.sequence.first_position + chunk.sequence.computed
    return range(first, first + chunk.count)
