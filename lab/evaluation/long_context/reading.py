"""What a model makes of a long text: of every token how likely it was, with any pattern of attention."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kan.attention import PAGE_SIZE, Prefix, SequenceRows, pages_for
from kan.kernels.paged_cache import PagedCache
from kan.model import Batch, KANModel
from kan.patterns import SqrtBlocks

CHUNK = 256
"""Tokens of one forward pass, as the engine takes them."""

Advance = Callable[[int], None]
"""So many more tokens are read."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Of the tokens asked for: the negative log probability of each, in nats, and whether it was the likeliest."""

    losses: Tensor
    likeliest: Tensor

    @property
    def loss(self) -> float:
        return float(self.losses.mean())

    @property
    def exact(self) -> bool:
        """True if greedy decoding gives all of them."""
        return bool(self.likeliest.all())


@torch.inference_mode()
def read(
    model: KANModel, tokens: Sequence[int], last: int, blocks: Sequence[int | None], threshold: int, advance: Advance
) -> list[Reading]:
    """The last `last` tokens, each predicted from all before it, in chunks through a paged cache as served: once for
    each number of `blocks` of √n attention, and for None by full attention.

    What lies before the threshold is the same for all of them, and read once.
    """
    config = replace(model.config, attention="sqrt", attention_blocks=1, attention_threshold=threshold)
    cache = model.kernels.new_cache(config, pages_for(len(tokens)), model.dtype)
    assert isinstance(cache, PagedCache), "only these can be looked at by several patterns"
    shared = min(threshold, len(tokens) - 1) // PAGE_SIZE * PAGE_SIZE
    asked = len(tokens) - last - 1
    dense = SqrtBlocks(len(tokens), threshold)
    before = _rows(model, cache.under(dense), tokens, range(shared), asked, advance)
    found = []
    for chosen in blocks:
        pattern = dense if chosen is None else replace(dense, chosen=chosen)
        behind = _rows(model, cache.under(pattern), tokens, range(shared, len(tokens) - 1), asked, advance)
        losses, likeliest = zip(*before, *behind, strict=True)
        found.append(Reading(torch.cat(losses), torch.cat(likeliest)))
    return found


def _rows(
    model: KANModel, cache: PagedCache, tokens: Sequence[int], rows: range, asked: int, advance: Advance
) -> list[tuple[Tensor, Tensor]]:
    """Of each chunk of `rows` what those from `asked` on say of the token behind them: its loss, and whether it is the
    likeliest."""
    ids, pages = torch.tensor(tokens), range(pages_for(len(tokens)))
    found = []
    for start in range(rows.start, rows.stop, CHUNK):
        stop = min(start + CHUNK, rows.stop)
        wanted = torch.arange(min(max(start, asked), stop), stop)
        attention = cache.attention([SequenceRows(Prefix(), pages, start, stop - start)])
        batch = Batch(ids[start:stop], torch.arange(start, stop), attention, outputs=wanted - start)
        hidden = model.forward(batch)
        if len(wanted):
            logits, following = model.logits(hidden), ids[wanted + 1]
            losses = torch.nn.functional.cross_entropy(logits, following, reduction="none")
            found.append((losses, logits.argmax(-1) == following))
        advance(stop - start)
    return found
