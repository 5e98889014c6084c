"""From scheduled chunks to the tensors of one forward pass.

Decoding sequences of similar length share one attention group; a longer chunk is a group of its own.
"""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kan.attention import PAGE_SIZE, AttentionGroup
from kan.model import Batch
from kan.page_pool import PagePool
from server.engine.paged.scheduler import Chunk
from server.engine.paged.sequence import Encoding, Generation, Prefix, Sequence


@dataclass(frozen=True, slots=True)
class Placed:
    """Where a chunk's rows went, and where its outputs are: the hidden states of its last rows."""

    chunk: Chunk
    rows: slice
    outputs: slice
    mass: Tensor
    """[K]: view of the group's attention mass for this sequence's prefix."""


class BatchBuilder:
    """Remembers the stacked φ of the last decoding groups, since they seldom change from step to step."""

    def __init__(self, pool: PagePool) -> None:
        self._pool = pool
        self._stacked: dict[tuple[int, ...], tuple[tuple[Prefix, ...], Tensor | None]] = {}

    def build(self, chunks: Items[Chunk]) -> tuple[Batch, list[Placed]]:
        single = sorted((chunk for chunk in chunks if chunk.count == 1), key=_columns)
        bundles = [*_bundles(single), *([chunk] for chunk in chunks if chunk.count > 1)]
        groups: list[AttentionGroup] = []
        placed: list[Placed] = []
        outputs: list[int] = []
        start = 0
        stacked = self._stacked
        self._stacked = {}
        for bundle in bundles:
            group = self._group(bundle, start, stacked)
            for index, chunk in enumerate(bundle):
                mass = group.mass[index, : chunk.sequence.prefix.columns]
                end = start + chunk.count
                wanted = range(end - _outputs(chunk), end)
                placed.append(Placed(chunk, slice(start, end), slice(len(outputs), len(outputs) + len(wanted)), mass))
                outputs += wanted
                start = end
            groups.append(group)
        ordered = [place.chunk for place in placed]
        batch = Batch(
            tokens=torch.tensor([token for chunk in ordered for token in _tokens(chunk)]),
            positions=torch.tensor([position for chunk in ordered for position in _positions(chunk)]),
            slots=torch.tensor([slot for chunk in ordered for slot in self._slots(chunk)]),
            groups=groups,
            captured=[] if any(isinstance(chunk.sequence, Encoding) for chunk in ordered) else None,
            outputs=None if len(outputs) == start else torch.tensor(outputs, dtype=torch.int64),
        )
        return batch, placed

    def _group(
        self,
        bundle: Items[Chunk],
        start: int,
        remembered: dict[tuple[int, ...], tuple[tuple[Prefix, ...], Tensor | None]],
    ) -> AttentionGroup:
        sequences = [chunk.sequence for chunk in bundle]
        longest = max(len(one.prefix.pages) + len(one.pages) for one in sequences)
        tables = [[*one.prefix.pages, *one.pages] for one in sequences]
        prefixes = tuple(one.prefix for one in sequences)
        key = tuple(map(id, prefixes))
        _, phi = self._stacked[key] = remembered.get(key) or (prefixes, _stack_phi(prefixes))
        return AttentionGroup(
            start=start,
            pages=torch.tensor([table + [0] * (longest - len(table)) for table in tables]),
            mask=torch.stack([_mask(chunk, longest * PAGE_SIZE) for chunk in bundle]),
            phi=phi,
            mass=torch.zeros(len(bundle), max(prefix.columns for prefix in prefixes)),
        )

    def _slots(self, chunk: Chunk) -> list[int]:
        sequence = chunk.sequence
        slots = []
        for index in range(sequence.computed, sequence.computed + chunk.count):
            page = sequence.pages[index // PAGE_SIZE]
            assert self._pool.is_writable(page), f"page {page} is shared and must not be written"
            slots.append(page * PAGE_SIZE + index % PAGE_SIZE)
        return slots


def _columns(chunk: Chunk) -> int:
    return chunk.sequence.columns


def _bundles(chunks: Items[Chunk]) -> list[list[Chunk]]:
    """Split chunks (sorted by columns) so that padding never much more than doubles a group's work."""
    bundles: list[list[Chunk]] = []
    for chunk in chunks:
        if bundles and _columns(chunk) <= 2 * _columns(bundles[-1][0]) + 256:
            bundles[-1].append(chunk)
        else:
            bundles.append([chunk])
    return bundles


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


def _mask(chunk: Chunk, columns: int) -> Tensor:
    """[n, columns]: the prefix's tokens, and of the sequence's own everything up to the row itself."""
    sequence: Sequence = chunk.sequence
    visible = sequence.prefix.columns + sequence.computed + 1
    mask = torch.zeros(chunk.count, columns)
    mask[:, : sequence.prefix.columns] = sequence.prefix.mask
    mask[:, visible:] = -torch.inf
    if chunk.count > 1:
        rows = torch.arange(chunk.count)
        own = mask[:, visible : visible + chunk.count - 1]
        own[rows[:, None] > rows[None, : chunk.count - 1]] = 0
    return mask


def _stack_phi(prefixes: Items[Prefix]) -> Tensor | None:
    """[layers, H, S, K], zero where a prefix is shorter or has no φ."""
    known = next((prefix.phi for prefix in prefixes if prefix.phi is not None), None)
    if known is None:
        return None
    if len(prefixes) == 1:
        return known.unsqueeze(2)
    width = max(prefix.columns for prefix in prefixes)
    empty = known.new_zeros(*known.shape[:2], 0)
    rows = [empty if prefix.phi is None else prefix.phi for prefix in prefixes]
    return torch.stack([F.pad(row, (0, width - row.shape[-1])) for row in rows], dim=2)
