"""What the compiled attention should give, in float64, and how far from it rounding may take it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kan.attention import PAGE_SIZE, SequenceRows, pages_for, slot_of
from kan.kernels.reference import seen as seen_by
from kan.kernels.small_pages import tokens_per_small_page
from kan.patterns import Pattern, SqrtBlocks, causal
from kan.quantization import GROUPINGS
from tests.kan.attention_case import Case
from tests.kan.test_native import ROUND, ROUND32


@dataclass(frozen=True)
class Truth:
    """What the results for one sequence are exactly, and how far from it they may be.

    clear   [rows]: whether the blocks that a row chooses do not depend on how float32 rounds their scores
    """

    out: Tensor
    mass: Tensor
    out_bound: Tensor
    mass_bound: Tensor
    clear: Tensor

    @classmethod
    def of(cls, given_: Case, index: int, pattern: Pattern = causal) -> Truth:
        alone = given_.alone(index)
        (sequence,) = alone.sequences
        slots, owners, seen = columns_of(sequence, given_.kv.shape[2])
        clear = torch.ones(sequence.count, dtype=torch.bool)
        heads, kv_heads, d = (getattr(given_.config, name) for name in ("num_heads", "num_kv_heads", "head_dim"))
        rows = alone.qkv.double()
        kv = given_.kv[:, 0].double()
        known = rounded(given_)[:, 0].flatten(1, 2)
        own = torch.stack((rows[:, heads : heads + kv_heads], rows[:, heads + kv_heads :]))
        kv = torch.cat((kv.index_copy(1, torch.tensor(sequence.slots), own), known), dim=1)[:, slots].transpose(1, 2)
        keys, values = kv.repeat_interleave(heads // kv_heads, dim=1)  # [H, C, d]
        phi = torch.zeros(heads, 1, len(slots), dtype=torch.float64)
        if sequence.prefix.phi is not None and (owners >= 0).any():
            phi[..., owners >= 0] = sequence.prefix.phi[0].double()[:, None, owners[owners >= 0]]
        q = rows[:, :heads].transpose(0, 1)
        if isinstance(pattern, SqrtBlocks):
            mounted = len(slots) - sequence.computed - sequence.count
            seen, clear = _chosen(sequence, pattern, q.unflatten(0, (kv_heads, -1)), kv[0][:, mounted:], seen)
        scores = ((q @ keys.transpose(1, 2) + phi) / d**0.5).masked_fill(~seen, -torch.inf)
        weights = torch.softmax(scores, dim=-1)
        # A score is a sum of d products and φ; then its distance from the largest goes into an exponential.
        steps = (d + 4) * (q.abs() @ keys.abs().transpose(1, 2)) + 4 * phi.abs()
        slip = torch.where(weights > 0, ROUND32 * (steps / d**0.5 + 8), 0)
        slip = slip + (weights * slip).sum(-1, keepdim=True) + ROUND32 * (len(slots) / 16 + 16)
        drift = (weights * (slip + ROUND + ROUND32 * len(slots))) @ values.abs()
        out = (weights @ values).transpose(0, 1)
        by_part = torch.nn.functional.one_hot(owners + 1, len(sequence.prefix.lengths) + 1)[:, 1:].double()
        mass = (weights[:, -1] @ by_part).sum(0)
        return cls(
            out=out,
            mass=mass,
            out_bound=drift.transpose(0, 1) * (1 + ROUND) + ROUND * out.abs(),
            clear=clear,
            mass_bound=((weights * slip)[:, -1] @ by_part).sum(0) + ROUND32 * (heads + len(slots) / 16 + 16) * mass,
        )


def rounded(given_: Case) -> Tensor:
    """[2, layers, small pages, tokens, H_kv, d]: what small pages hold. The kernel rounds to bfloat16 as well:
    keys, and values of 4 bits."""
    grouping = GROUPINGS[given_.bits]
    tokens = tokens_per_small_page(torch.bfloat16, given_.bits)
    keys, values = given_.small_kv[..., :tokens, :, :].float()
    kind = torch.float64 if given_.bits == 8 else torch.bfloat16
    return torch.stack(
        (
            grouping.widen_keys(*grouping.keys(keys), torch.bfloat16).double(),
            grouping.widen_values(*grouping.values(values), kind).double(),
        )
    )


def columns_of(one: SequenceRows, plain: int) -> tuple[list[int], Tensor, Tensor]:
    """Slots of all columns, their parts (-1: context), and which of them each row sees. Those of small pages come after
    the `plain` ones."""
    slots, owners, first = [], [], 0
    for part, (length, per_page) in enumerate(zip(one.prefix.lengths, one.prefix.per_page, strict=True)):
        pages = one.prefix.pages[first : first + pages_for(length, per_page)]
        if per_page == PAGE_SIZE:
            slots += [slot_of(pages, token) for token in range(length)]
        else:
            starts = [plain + (page - plain // PAGE_SIZE) * per_page for page in pages]
            slots += [starts[token // per_page] + token % per_page for token in range(length)]
        owners += [part] * length
        first += len(pages)
    context = torch.arange(one.computed + one.count)
    causal = context <= context[one.computed :, None]
    seen = torch.cat((torch.ones(one.count, len(slots), dtype=torch.bool), causal), dim=1)
    slots += [slot_of(one.pages, token) for token in context.tolist()]
    return slots, torch.tensor([*owners, *[-1] * len(context)]), seen


def _chosen(one: SequenceRows, pattern: SqrtBlocks, q: Tensor, keys: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """q [H_kv, sharing, n, d], the context's keys [H_kv, context, d] -> of `seen` [n, columns] what is left [H, n,
    columns], and `Truth.clear`."""
    kv_heads, sharing, n, _ = q.shape
    context = keys.shape[1]
    left = seen.repeat(kv_heads, 1, 1)
    clear = torch.ones(n, dtype=torch.bool)
    for row in range(n):
        place = one.computed + row
        for head in range(kv_heads):
            places = seen_by(pattern, place, q[head, :, row], keys[head])
            left[head, row, -context:] = torch.zeros(context, dtype=torch.bool).index_fill(
                0, torch.tensor(places), True
            )
            clear[row] &= _is_clear(pattern, place, q[head, :, row], keys[head])
    return left.repeat_interleave(sharing, dim=0), clear


def _is_clear(pattern: SqrtBlocks, place: int, queries: Tensor, keys: Tensor) -> bool:
    way = pattern.way(place)
    if way is None:
        return True
    size = pattern.block(way.level)
    means = keys[size : (place // size - 1) * size].unflatten(0, (-1, size)).mean(1)
    sought = queries.sum(0)
    best = torch.sort(means @ sought, descending=True).values
    steps = size + len(queries) + len(sought)
    slip = ROUND32 * steps * float(keys.abs().amax() * queries.abs().sum())
    return len(best) <= way.chosen or float(best[way.chosen - 1] - best[way.chosen]) > 2 * slip
