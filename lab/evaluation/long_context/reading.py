"""What a model makes of a long text: of every token how likely it was, with any pattern of attention."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kan.attention import Prefix, SequenceRows, pages_for
from kan.model import Batch, KANModel

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


def with_attention(model: KANModel, *, blocks: int | None, threshold: int) -> KANModel:
    """The same weights; `blocks` of √n attention, or None for full attention."""
    changed = copy.copy(model)
    attention = "full" if blocks is None else "sqrt"
    changed.config = replace(
        model.config, attention=attention, attention_blocks=blocks or 1, attention_threshold=threshold
    )
    return changed


@torch.inference_mode()
def read(model: KANModel, tokens: Sequence[int], last: int, advance: Advance) -> Reading:
    """The last `last` tokens, each predicted from all before it, in chunks through a paged cache as served."""
    cache = model.new_cache(pages_for(len(tokens)))
    ids, pages = torch.tensor(tokens), range(pages_for(len(tokens)))
    first = len(tokens) - last - 1
    losses, likeliest = [], []
    for start in range(0, len(tokens) - 1, CHUNK):
        stop = min(start + CHUNK, len(tokens) - 1)
        wanted = torch.arange(min(max(start, first), stop), stop)
        attention = cache.attention([SequenceRows(Prefix(), pages, start, stop - start)])
        batch = Batch(ids[start:stop], torch.arange(start, stop), attention, outputs=wanted - start)
        hidden = model.forward(batch)
        if len(wanted):
            logits, following = model.logits(hidden), ids[wanted + 1]
            losses.append(torch.nn.functional.cross_entropy(logits, following, reduction="none"))
            likeliest.append(logits.argmax(-1) == following)
        advance(stop - start)
    return Reading(torch.cat(losses), torch.cat(likeliest))
