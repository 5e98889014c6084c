"""√n attention: the routed kernels against the plain definition in float64, whatever is in a step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from kan.attention import PAGE_SIZE, Prefix, SequenceRows, pages_for
from kan.kernels import torch_kernels
from kan.kernels.block_means import BlockMeans
from kan.kernels.reference import ReferenceAttention, seen
from kan.kernels.torch_kernels import TorchKernels
from kan.model import KANModel
from kan.patterns import Pattern, SqrtBlocks, Way, causal
from tests.kan.attention_case import Case, case
from tests.kan.layout import Layout
from tests.kan.remembered import Remembered
from tests.tiny import base_logits, tiny_config, tiny_tensors

REFERENCE = TorchKernels(ReferenceAttention)
AS_SERVED = {
    0: None, 4095: None, 4096: (0, 32), 4351: (0, 32), 4352: (0, 38), 5120: (0, 56), 6143: (0, 74), 6144: (0, 80),
    16383: (0, 80), 16384: (1, 40), 65535: (1, 40), 65536: (2, 20), 131072: (2, 20), 2**22: (5, 2), 2**26: (7, 1),
}  # fmt: skip
SMALL = SqrtBlocks(chosen=2, threshold=0, smallest=PAGE_SIZE)
"""Rows are routed from place 80 on, and have larger blocks from 1,024 on."""


@contextmanager
def served_by(pattern: Pattern) -> Iterator[None]:
    """Caches that are made meanwhile have this pattern."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch_kernels, "pattern_of", lambda _: pattern)
        yield


def run(
    given_: Case, pattern: Pattern, kernels: TorchKernels, layer: int = 0, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, list[Tensor]]:
    with served_by(pattern):
        return given_.run(kernels if kernels is REFERENCE else Remembered(kernels), dtype, layer)


@st.composite
def long_cases(draw: st.DrawFn) -> Case:
    """Prompts and single rows behind contexts of very different lengths, about where their way changes."""
    computed = st.one_of(st.integers(0, 200), st.integers(1010, 1040))
    counts = st.one_of(st.just(1), st.integers(1, 40))
    lengths = st.lists(st.integers(0, 40), max_size=3)
    return case(
        draw(st.integers(0, 2**31)),
        draw(st.lists(st.tuples(lengths, computed, counts), min_size=1, max_size=4)),
        kv_heads=draw(st.sampled_from([1, 2])),
        group=draw(st.integers(1, 3)),
        d=draw(st.sampled_from([2, 6])),
        bias=draw(st.sampled_from([None, 1.0, 20.0, torch.inf])),
        layers=2,
    )


TWO_TOKENS = case(0, [([], 1030, 1)] * 2, kv_heads=2, group=1, d=2, bias=None, layers=2)
"""Decoding two sequences of a model without grouped queries."""


@settings(max_examples=25)
@example(drawn=TWO_TOKENS, chosen=1, threshold=0)
@given(drawn=long_cases(), chosen=st.integers(1, 4), threshold=st.sampled_from([0, 100, 1024]))
def test_routed_equals_reference(drawn: Case, chosen: int, threshold: int) -> None:
    pattern = SqrtBlocks(chosen, threshold, PAGE_SIZE)
    expected, expected_masses = run(drawn, pattern, REFERENCE, layer=1)
    found, masses = run(drawn, pattern, TorchKernels(), layer=1)
    tolerance = 1e-11 + 8 * torch.finfo(torch.float64).eps * drawn.largest_bias
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(masses, expected_masses, atol=tolerance, rtol=tolerance)


OVER_A_LEVEL = case(0, [([], 1010, 15)], kv_heads=1, group=1, d=2, bias=None, layers=2)
"""Rows up to the first of those with larger blocks."""


@settings(max_examples=20)
@example(drawn=OVER_A_LEVEL)
@given(drawn=long_cases())
def test_enough_blocks_are_dense_attention(drawn: Case) -> None:
    expected = run(drawn, causal, TorchKernels())
    found = run(drawn, replace(SMALL, chosen=100), TorchKernels())
    # The same sums; where rows have blocks of two sizes, products of fewer rows, which MKL rounds otherwise.
    torch.testing.assert_close(found, expected, atol=1e-14, rtol=1e-13)


class Eager(SqrtBlocks):
    """Routes also where there are just as many blocks to choose from as are chosen."""

    def way(self, place: int) -> Way | None:
        return Way(0, self.chosen)


@settings(max_examples=20)
@given(
    seed=st.integers(0, 2**31),
    parts=st.lists(st.integers(0, 40), max_size=3),
    chosen=st.integers(1, 5),
    offset=st.integers(0, 15),
    bias=st.sampled_from([None, 20.0, torch.inf]),
)
def test_all_blocks_chosen_are_dense_attention(
    seed: int, parts: list[int], chosen: int, offset: int, bias: float | None
) -> None:
    """The routed products themselves, one row and several, with nothing left out."""
    start = (chosen + 2) * PAGE_SIZE + offset
    for count in {1, PAGE_SIZE - offset}:
        drawn = case(seed, [(parts, start, count)], kv_heads=2, group=3, d=6, bias=bias)
        expected, expected_masses = run(drawn, causal, REFERENCE)
        found, masses = run(drawn, Eager(chosen, 0, PAGE_SIZE), TorchKernels())
        torch.testing.assert_close(found, expected, atol=1e-11, rtol=1e-11)
        torch.testing.assert_close(masses, expected_masses, atol=1e-11, rtol=1e-11)


def test_something_is_left_out() -> None:
    far = case(4, [([20], 300, 5)], kv_heads=2, d=6, bias=1.0)
    dense, _ = run(far, causal, REFERENCE)
    found, _ = run(far, SMALL, TorchKernels())
    assert (found - dense).abs().max() > 1e-2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lower_precision(dtype: torch.dtype) -> None:
    """Blocks are chosen in float32 at the least, from what the cache holds: so the choices are the same, and what is
    left is the rounding that dense attention has on the same input."""
    rounded = case(1, [([20, 3], 200, 30), ([7], 150, 1), ([], 90, 1)], kv_heads=3, bias=20.0)
    errors = []
    for pattern in (causal, SMALL):
        found, _ = run(rounded, pattern, TorchKernels(), dtype=dtype)
        assert found.dtype == dtype
        errors.append(found.double() - run(rounded, pattern, REFERENCE)[0])
    dense, routed = (float(error.square().mean().sqrt()) for error in errors)
    assert 0 < routed < 3 * dense


def model(**changed: Any) -> KANModel:
    config = tiny_config(num_heads=6, num_kv_heads=2, head_dim=6, **changed)
    return KANModel(config, tiny_tensors(config, dtype=torch.float64), dtype=torch.float64)


TOKENS = torch.randint(3, 259, (180,), generator=torch.Generator().manual_seed(8)).tolist()


@settings(max_examples=20)
@given(chunks=st.lists(st.integers(1, 60), max_size=8))
@example(chunks=[1] * 179)
@example(chunks=[80, *[1] * 99])
def test_chunks_are_the_whole(chunks: list[int]) -> None:
    """A prompt at once, in chunks, and token by token, over pages in no order."""
    chunks = [stop - start for start, stop in pairwise([0, *accumulate(chunks)]) if stop < len(TOKENS)]
    with served_by(SMALL):
        whole = base_logits(model(), TOKENS)
        found = base_logits(model(), TOKENS, chunks)
    torch.testing.assert_close(found, whole, atol=1e-10, rtol=1e-10)
    assert not torch.allclose(whole, base_logits(model(), TOKENS), atol=1e-2)


def test_chunks_are_the_whole_where_blocks_double() -> None:
    one = model(num_layers=1, max_position_embeddings=2048)
    tokens = torch.randint(3, 259, (1070,), generator=torch.Generator().manual_seed(9)).tolist()
    with served_by(SMALL):
        whole = base_logits(one, tokens)
        found = base_logits(one, tokens, [500, 30, 1, 479, 20, *[1] * 20])
    torch.testing.assert_close(found, whole, atol=1e-10, rtol=1e-10)


@given(counts=st.lists(st.one_of(st.just(1), st.integers(1, 90)), min_size=1, max_size=30), seed=st.integers(0, 99))
def test_means_are_kept_up_to_date(counts: list[int], seed: int) -> None:
    """Whatever the steps were, every complete block of every size has the mean of its keys."""
    n = sum(counts)
    config = tiny_config(num_heads=2, num_kv_heads=2, head_dim=2, max_position_embeddings=5000)
    means = BlockMeans(config, SMALL, pages_for(n), torch.float64)
    keys = torch.randn(2, pages_for(n) * PAGE_SIZE, 2, dtype=torch.float64)
    order = torch.randperm(pages_for(n), generator=torch.Generator().manual_seed(seed))
    kv = torch.zeros(2, 2, pages_for(n), PAGE_SIZE, 2, dtype=torch.float64)
    kv[0][:, order] = keys.view(2, -1, PAGE_SIZE, 2)
    for computed, end in pairwise([0, *accumulate(counts)]):
        rows = SequenceRows(Prefix(), order.tolist(), computed, end - computed)
        means.refresh(1, kv, means.completed([rows]))
    for level, size in enumerate([16, 32, 64]):
        last = order[size // PAGE_SIZE - 1 : n // PAGE_SIZE : size // PAGE_SIZE]
        expected = keys[:, : len(last) * size].view(2, -1, size, 2).mean(2)
        torch.testing.assert_close(means.of(1, level, last), expected, atol=1e-13, rtol=1e-13)


def test_the_order_of_mounted_facts_changes_nothing() -> None:
    one = model()
    phi = torch.randn(2, 6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    phi[..., 0] = 0
    with served_by(SMALL):
        layout = Layout(one)
        preamble, _, _ = layout.run(TOKENS[:11])
        first, second = (layout.run(fact, 11, [preamble])[0] for fact in (TOKENS[20:37], TOKENS[40:45]))
        _, logits, mass = layout.run(TOKENS[:150], 28, [preamble, first, second], phi)
        _, others, other_mass = layout.run(TOKENS[:150], 28, [preamble, second, first], phi[..., [0, 2, 1]])
    torch.testing.assert_close(others, logits, atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(other_mass[[0, 2, 1]], mass, atol=1e-10, rtol=1e-10)


def test_whoever_shares_pages_shares_their_means() -> None:
    """Two contexts with the same first 96 tokens, in the same pages; the pages behind them were somebody else's."""
    shared = 96
    cut = SMALL, case(6, [([], 0, 200)], kv_heads=2, d=6), case(7, [([], 0, 200)], kv_heads=2, d=6)
    pattern, one, other = cut
    (sequence,) = one.sequences
    joined = torch.cat((one.qkv[:shared], other.qkv[shared:])).double()
    expected, _ = run(replace(one, qkv=joined), pattern, REFERENCE)
    pages = list(sequence.pages[: shared // PAGE_SIZE])
    free = [*range(60, 60 + pages_for(200 - shared))]
    with served_by(pattern):
        cache = TorchKernels().new_cache(one.config, 80, torch.float64)
    cos, sin = torch.ones(1, 1, 6, dtype=torch.float64), torch.zeros(1, 1, 6, dtype=torch.float64)
    cache.attention([replace(sequence, pages=pages + free)])(0, one.qkv.double(), cos, sin)
    behind = replace(sequence, pages=pages + free[::-1], computed=shared, count=200 - shared)
    found = cache.attention([behind])(0, joined[shared:], cos, sin)
    torch.testing.assert_close(found.view(expected[shared:].shape), expected[shared:], atol=1e-11, rtol=1e-11)


class _Largest(TorchDispatchMode):
    """Remembers the number of elements of the largest tensor that any operation made."""

    numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor):
            self.numel = max(self.numel, out.untyped_storage().nbytes() // out.element_size())
        return out


def test_no_object_grows_with_the_square_of_the_length() -> None:
    largest = {}
    for n in (2048, 4096):
        config = tiny_config(num_heads=1, num_kv_heads=1, head_dim=2, num_layers=1, max_position_embeddings=n)
        with served_by(replace(SMALL, smallest=2 * PAGE_SIZE)), _Largest() as seen_sizes:
            cache = TorchKernels().new_cache(config, n // PAGE_SIZE, torch.float32)
            rows = SequenceRows(Prefix(), range(n // PAGE_SIZE), 0, n)
            cos, sin = torch.ones(n, 1, 2), torch.zeros(n, 1, 2)
            cache.attention([rows])(0, torch.randn(n, 3, 2), cos, sin)
        largest[n] = seen_sizes.numel
        assert largest[n] < n * n / 16
    assert largest[4096] < 2.5 * largest[2048]


@given(place=st.integers(0, 2**20), smallest=st.sampled_from([16, 64]))
def test_blocks_are_of_about_the_square_root(place: int, smallest: int) -> None:
    pattern = SqrtBlocks(1, 0, smallest)
    way = pattern.way(place)
    size = pattern.block(way.level if way else 0)
    assert size == smallest or size**2 <= place
    if way is not None:
        assert (2 * size) ** 2 > place


@given(
    first=st.integers(0, 3000),
    count=st.integers(1, 3000),
    chosen=st.integers(1, 200),
    threshold=st.sampled_from([0, 77, 1500]),
)
def test_spans_have_one_way_each(first: int, count: int, chosen: int, threshold: int) -> None:
    pattern = SqrtBlocks(chosen, threshold, PAGE_SIZE)
    spans = pattern.spans(first, first + count)
    assert [place for start, stop, _ in spans for place in range(start, stop)] == list(range(first, first + count))
    for start, stop, way in spans:
        assert {pattern.way(place) for place in range(start, stop)} == {way}
    assert all(one[2] != next_one[2] for one, next_one in pairwise(spans))
    routed = [place for place in range(first, first + count) if pattern.way(place)]
    assert not routed or routed[0] >= pattern.first_routed
    assert pattern.way(pattern.first_routed) is not None


@given(chosen=st.integers(1, 2**30), threshold=st.integers(0, 2**20), smallest=st.sampled_from([16, 64]))
def test_the_first_row_that_may_not_see_everything(chosen: int, threshold: int, smallest: int) -> None:
    pattern = SqrtBlocks(chosen, threshold, smallest)
    first = pattern.first_routed
    assert pattern.way(first) is not None
    assert all(way is None for _, _, way in pattern.spans(0, first))


@pytest.mark.parametrize(("place", "way"), AS_SERVED.items())
def test_how_many_blocks_are_chosen(place: int, way: tuple[int, int] | None) -> None:
    """From two fifths of 5,120 tokens at the threshold to all of them, and as many tokens in larger blocks."""
    assert SqrtBlocks(80, 4096).way(place) == way


def test_what_a_row_sees() -> None:
    """By hand: blocks of 16, the row at 150 is in block 9; the first, the two nearest and the best two between."""
    keys = torch.zeros(200, 1)
    keys[3 * 16 : 4 * 16] = 1
    keys[6 * 16 + 5] = 4
    keys[8 * 16 :] = 100
    blocks = sorted({place // 16 for place in seen(SMALL, 150, torch.tensor([[0.5], [0.5]]), keys)})
    assert blocks == [0, 3, 6, 8, 9]
    assert max(seen(SMALL, 150, torch.ones(1, 1), keys)) == 150
    assert seen(SMALL, 79, torch.ones(1, 1), keys) == list(range(80))


@pytest.mark.parametrize("bad", [{"chosen": 0}, {"threshold": -1}, {"smallest": 48}, {"smallest": 8}])
def test_bad_patterns_are_refused(bad: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="not"):
        replace(SMALL, **bad)
