"""√n attention of the compiled library against its definition in float64, on the same bfloat16 input."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kan.attention import PAGE_SIZE
from kan.kernels import native
from kan.kernels.native import NativeKernels
from kan.patterns import Pattern, SqrtBlocks, Way, causal
from tests.kan.attention_case import Case, case
from tests.kan.native_truth import Truth
from tests.kan.remembered import Remembered
from tests.kan.test_native import kernels, threads, within

__all__ = ["kernels", "threads"]

SMALL = SqrtBlocks(chosen=2, threshold=0, smallest=PAGE_SIZE)
"""Rows are routed from place 80 on, and have larger blocks from 1,024 on."""


@contextmanager
def served_by(pattern: Pattern) -> Iterator[None]:
    """Caches that are made meanwhile have this pattern."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "pattern_of", lambda _: pattern)
        yield


def run(kernels: NativeKernels, given_: Case, pattern: Pattern = SMALL) -> tuple[Tensor, list[Tensor]]:
    with served_by(pattern):
        return given_.run(Remembered(kernels), torch.bfloat16)


def check(kernels: NativeKernels, given_: Case, pattern: Pattern) -> None:
    out, masses = run(kernels, given_, pattern)
    parts = out.split([one.count for one in given_.sequences])
    for index, (found, mass) in enumerate(zip(parts, masses, strict=True)):
        truth = Truth.of(given_, index, pattern)
        clear = truth.clear
        assert within(found[clear], truth.out[clear], truth.out_bound[clear])
        if clear[-1]:
            assert within(mass, truth.mass, truth.mass_bound)


@st.composite
def long_cases(draw: st.DrawFn) -> Case:
    """Prompts and single rows behind contexts of very different lengths, about where their way changes."""
    computed = st.one_of(st.integers(0, 200), st.integers(1010, 1040))
    counts = st.one_of(st.just(1), st.integers(1, 40))
    lengths = st.lists(st.integers(0, 40), max_size=3)
    return case(
        draw(st.integers(0, 2**31)),
        draw(st.lists(st.tuples(lengths, computed, counts), min_size=1, max_size=3)),
        kv_heads=draw(st.sampled_from([1, 2])),
        group=draw(st.sampled_from([1, 3, 8, 9])),
        d=draw(st.sampled_from([32, 64, 96])),
        bias=draw(st.sampled_from([None, 1.0, 20.0, torch.inf])),
        small=draw(st.sampled_from([0.0, 0.5])),
        bits=draw(st.sampled_from([4, 8])),
    )


@settings(max_examples=40)
@given(drawn=long_cases(), chosen=st.integers(1, 4), threshold=st.sampled_from([0, 100, 1024]))
def test_whatever_is_in_a_step(kernels: NativeKernels, drawn: Case, chosen: int, threshold: int) -> None:
    check(kernels, drawn, SqrtBlocks(chosen, threshold, PAGE_SIZE))


@pytest.mark.parametrize("sequences", [[([900, 20], 5000, 1)] * 3, [([40], 4080, 50)]], ids=["decoding", "prefill"])
def test_thousands_of_columns(kernels: NativeKernels, sequences: list[tuple[list[int], int, int]]) -> None:
    """As served: blocks of four pages, 32 of them."""
    check(kernels, case(3, sequences, bias=5.0), SqrtBlocks(32, 4096))


@settings(max_examples=20)
@given(drawn=long_cases())
def test_enough_blocks_are_full_attention_to_the_bit(kernels: NativeKernels, drawn: Case) -> None:
    expected, expected_masses = run(kernels, drawn, causal)
    found, masses = run(kernels, drawn, replace(SMALL, chosen=100))
    assert torch.equal(found, expected)
    assert all(torch.equal(*pair) for pair in zip(masses, expected_masses, strict=True))


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
def test_all_blocks_chosen_are_full_attention(
    kernels: NativeKernels, seed: int, parts: list[int], chosen: int, offset: int, bias: float | None
) -> None:
    """The routed way itself with nothing left out."""
    start = (chosen + 2) * PAGE_SIZE + offset
    for count in {1, PAGE_SIZE - offset}:
        drawn = case(seed, [(parts, start, count)], kv_heads=2, bias=bias)
        out, (mass,) = run(kernels, drawn, Eager(chosen, 0, PAGE_SIZE))
        truth = Truth.of(drawn, 0, causal)
        assert within(out, truth.out, truth.out_bound)
        assert within(mass, truth.mass, truth.mass_bound)


def test_something_is_left_out(kernels: NativeKernels) -> None:
    far = case(4, [([20], 300, 5)], kv_heads=2, bias=1.0)
    assert (run(kernels, far)[0].double() - run(kernels, far, causal)[0].double()).abs().max() > 0.03


@pytest.mark.usefixtures("threads")
def test_a_row_depends_neither_on_its_company_nor_on_threads(kernels: NativeKernels) -> None:
    """Sequences without the others, rows of a prefill one at a time, any number of threads: the same bits."""
    whole = case(13, [([20, 30], 1000, 60), ([55], 270, 1), ([16, 5], 120, 12)], kv_heads=2, bias=2.0, small=0.7)
    out, masses = run(kernels, whole)
    for count in (1, 3):
        torch.set_num_threads(count)
        assert torch.equal(run(kernels, whole)[0], out)
    for index, rows in enumerate(out.split([60, 1, 12])):
        alone, (mass,) = run(kernels, whole.alone(index))
        assert torch.equal(alone, rows)
        assert torch.equal(mass, masses[index])
    sequence = whole.sequences[0]
    for row in range(60):
        step = replace(whole, sequences=[replace(sequence, computed=1000 + row, count=1)], qkv=whole.qkv[row : row + 1])
        kv = whole.kv.clone()
        slots = torch.tensor(sequence.slots[:row], dtype=torch.int64)
        heads = whole.config.num_heads
        kv[:, 0, slots] = whole.qkv[:row, heads:].view(row, 2, 2, 64).transpose(0, 1)
        assert torch.equal(run(kernels, replace(step, kv=kv))[0][0], out[row])


def test_equal_blocks_are_chosen_in_order(kernels: NativeKernels) -> None:
    """All keys alike: the first of the blocks between are the best."""
    alike = case(2, [([], 300, 1)])
    kv = torch.ones_like(alike.kv)
    kv[1] = 0
    (sequence,) = alike.sequences
    for block in (1, 2):
        kv[1, 0, sequence.pages[block] * PAGE_SIZE : (sequence.pages[block] + 1) * PAGE_SIZE] = 7
    alike = replace(alike, kv=kv, qkv=torch.ones_like(alike.qkv).index_fill(1, torch.tensor([4]), 0))
    out, _ = run(kernels, alike)
    seen = 4 * PAGE_SIZE + 300 % PAGE_SIZE + 1
    torch.testing.assert_close(out.float(), torch.full(out.shape, 7 * 2 * PAGE_SIZE / seen), atol=0, rtol=2**-7)


@pytest.mark.parametrize("level", [1, 7, 2**40])
def test_refuses_rows_with_too_few_blocks(kernels: NativeKernels, level: int, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = case(23, [([5], 90, 2)])
    pattern = SqrtBlocks(chosen=3, threshold=0, smallest=PAGE_SIZE)
    monkeypatch.setattr(SqrtBlocks, "way", lambda self, place: Way(level, 3))
    with pytest.raises(IndexError, match="too few blocks"):
        run(kernels, wrong, pattern)


def test_means_are_of_what_the_steps_stored(kernels: NativeKernels) -> None:
    """Prompt in chunks, then token by token: as at once."""
    whole = case(6, [([], 0, 200)], kv_heads=2)
    (sequence,) = whole.sequences
    out, _ = run(kernels, whole)
    with served_by(SMALL):
        cache = whole.new_cache(kernels, torch.bfloat16)
    cos, sin = torch.ones(200, 1, 64), torch.zeros(200, 1, 64)
    first = 0
    for count in (70, 3, 50, 60, *[1] * 17):
        step = cache.attention([replace(sequence, computed=first, count=count)])
        rows = slice(first, first + count)
        found = step(0, whole.qkv[rows].contiguous(), cos[:count], sin[:count])
        assert torch.equal(found.view(out[rows].shape), out[rows])
        first += count
