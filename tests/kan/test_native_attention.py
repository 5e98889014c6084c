"""The compiled attention against Eq. 1 in float64, on the same bfloat16 input. Bounds as in `test_native.py`."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from kan.attention import PAGE_SIZE
from kan.kernels.native import NativeKernels
from kan.kernels.reference import ReferenceAttention
from kan.kernels.small_pages import CacheLayer
from kan.kernels.torch_kernels import TorchKernels
from kan.quantization import Bits
from tests.kan.attention_case import Case, case, cases
from tests.kan.native_truth import Truth, columns_of
from tests.kan.test_native import ROUND32, kernels, threads, within

__all__ = ["kernels", "threads"]


def run(kernels: NativeKernels, given_: Case) -> tuple[Tensor, list[Tensor]]:
    return given_.run(kernels, torch.bfloat16)


def check(kernels: NativeKernels, given_: Case) -> None:
    out, masses = run(kernels, given_)
    parts = out.split([one.count for one in given_.sequences])
    for index, (found, mass) in enumerate(zip(parts, masses, strict=True)):
        truth = Truth.of(given_, index)
        assert within(found, truth.out, truth.out_bound)
        assert within(mass, truth.mass, truth.mass_bound)


@settings(max_examples=150)
@given(drawn=cases(d=(32, 64, 96, 128, 256), most_rows=40))
def test_whatever_is_in_a_step(kernels: NativeKernels, drawn: Case) -> None:
    check(kernels, drawn)


LONG = {
    "decoding": [([800, 700], 3000 + 17 * i, 1) for i in range(8)],
    "prefill": [([900], 2900, 200)],
    "both": [([40], 1000, 1), ([500, 300], 0, 70), ([20], 3, 1)],
    "very long": [([40_000], 39_000, 3)],
}


@pytest.mark.parametrize("sequences", LONG.values(), ids=LONG)
@pytest.mark.parametrize("bias", [None, 5.0], ids=["plain", "phi"])
def test_thousands_of_columns(
    kernels: NativeKernels, sequences: list[tuple[list[int], int, int]], bias: float | None
) -> None:
    check(kernels, case(3, sequences, bias=bias))


def test_as_the_reference(kernels: NativeKernels) -> None:
    """The truth above is a formula of its own: here is the one that torch's attention is compared with."""
    mixed = case(7, [([20, 3], 5, 1), ([20, 33], 0, 6), ([], 18, 1)], kv_heads=2, bias=4.0)
    out, masses = run(kernels, mixed)
    expected, expected_masses = mixed.run(TorchKernels(ReferenceAttention), torch.float64)
    assert (out.double() - expected).abs().max() < 0.03
    for found, exact in zip(masses, expected_masses, strict=True):
        torch.testing.assert_close(found.double(), exact, atol=1e-5, rtol=1e-5)


def test_softmax_is_exact_to_float32(kernels: NativeKernels) -> None:
    """With no products, weights are softmax(φ / √d) alone: the exponential has nothing to hide behind."""
    phi = torch.linspace(-700, 0, 512)[torch.randperm(512, generator=torch.Generator().manual_seed(1))]
    bare = case(1, [([1] * 512, 0, 1)], group=1)
    (sequence,) = bare.sequences
    prefix = replace(sequence.prefix, phi=phi.view(1, 1, 512))
    bare = replace(bare, qkv=torch.zeros_like(bare.qkv), sequences=[replace(sequence, prefix=prefix)])
    _, (mass,) = run(kernels, bare)
    exact = torch.softmax(torch.cat((phi, torch.zeros(1))).double() / 8, dim=-1)[:-1]
    # φ/8 and its distance from the largest are rounded to at most ROUND32 · 87.5; the rest are a few operations.
    assert within(mass, exact, exact * ROUND32 * (phi.double().abs() / 8 + 16))


def test_without_knowledge(kernels: NativeKernels) -> None:
    plain = case(5, [([], 20, 4), ([], 0, 7)], kv_heads=3)
    check(kernels, plain)
    assert [mass.shape for mass in run(kernels, plain)[1]] == [(0,), (0,)]


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("n", [1, 5, 64])
@pytest.mark.parametrize("bits", [4, 8])
def test_same_bits_every_time_and_with_any_number_of_threads(kernels: NativeKernels, n: int, bits: Bits) -> None:
    sequences = [([200, 90], 150, n), ([55] * 4, 10, 1), ([300], 0, n)]
    repeated = case(11, sequences, kv_heads=3, bias=3.0, small=0.5, bits=bits)
    results = []
    for count in (1, 2, 1, 2, 2, 3):
        torch.set_num_threads(count)
        results.append(run(kernels, repeated))
    first, first_masses = results[0]
    for out, masses in results:
        assert torch.equal(out, first)
        assert all(torch.equal(*pair) for pair in zip(masses, first_masses, strict=True))


@pytest.mark.parametrize("bits", [4, 8])
def test_a_row_does_not_depend_on_its_company(kernels: NativeKernels, bits: Bits) -> None:
    """Sequences without the others, and rows of a prefill one at a time: the same bits."""
    sequences = [([20, 30], 9, 40), ([55], 70, 1), ([16, 5], 0, 12)]
    whole = case(13, sequences, kv_heads=2, bias=2.0, small=0.7, bits=bits)
    out, masses = run(kernels, whole)
    for index, rows in enumerate(out.split([40, 1, 12])):
        alone, (mass,) = run(kernels, whole.alone(index))
        assert torch.equal(alone, rows)
        assert torch.equal(mass, masses[index])
    sequence = whole.sequences[0]
    cache = whole.new_cache(kernels, torch.bfloat16)
    cos, sin = torch.ones(1, 1, 64), torch.zeros(1, 1, 64)
    for row in range(40):
        step = cache.attention([replace(sequence, computed=9 + row, count=1)])
        assert torch.equal(step(0, whole.qkv[row : row + 1], cos, sin).view(out[row].shape), out[row])


def test_what_is_not_seen_does_not_matter(kernels: NativeKernels) -> None:
    """Padding of mounted pages, of the context's last page, and pages that are nobody's."""
    padded = case(17, [([20, 5], 18, 3), ([3], 0, 1)], kv_heads=2, group=2, bias=1.0)
    out, masses = run(kernels, padded)
    kept = {slot for one in padded.sequences for slot in columns_of(one, padded.kv.shape[2])[0]}
    hostile = padded.kv.clone()
    hostile[:, :, [slot for slot in range(hostile.shape[2]) if slot not in kept]] = 3e38
    again, masses_again = run(kernels, replace(padded, kv=hostile))
    assert len(kept) < hostile.shape[2] - 50
    assert torch.equal(out, again)
    assert all(torch.equal(*pair) for pair in zip(masses, masses_again, strict=True))


@pytest.mark.parametrize("page", [-1, 100, 2**40])
@pytest.mark.parametrize("mounted", [True, False])
def test_refuses_pages_outside_the_cache(kernels: NativeKernels, page: int, mounted: bool) -> None:
    wrong = case(23, [([5, 20], 20, 2)])
    (sequence,) = wrong.sequences
    if mounted:
        sequence = replace(sequence, prefix=replace(sequence.prefix, pages=(*sequence.prefix.pages[:2], page)))
    else:
        sequence = replace(sequence, pages=[page, *sequence.pages[1:]])
    with pytest.raises(IndexError, match="outside the cache"):
        run(kernels, replace(wrong, sequences=[sequence]))


@pytest.mark.parametrize(("bits", "length"), [(8, 40), (4, 80)])
def test_refuses_small_pages_outside_the_cache(kernels: NativeKernels, bits: Bits, length: int) -> None:
    """The last one there is has two blocks, or four, and there is no further one."""
    wrong = case(23, [([length], 20, 2)], small=1.0, bits=bits)
    (sequence,) = wrong.sequences
    pages = wrong.kv.shape[2] // PAGE_SIZE + wrong.small_kv.shape[2]
    for last, refused in ((pages - 1, False), (pages, True), (-1, True)):
        prefix = replace(sequence.prefix, pages=(sequence.prefix.pages[0], last))
        with pytest.raises(IndexError, match="outside the cache") if refused else nullcontext():
            run(kernels, replace(wrong, sequences=[replace(sequence, prefix=prefix)]))


def test_refuses_numbers_of_other_bits(kernels: NativeKernels) -> None:
    """The library is told how small pages lie: it must not divide by what it does not know."""
    arguments = [torch.zeros(16, 32, dtype=torch.bfloat16)] * 3
    for bits in (0, 2, 16, -8):
        failure = kernels._attention(
            *(one.data_ptr() for one in arguments), *[None] * 7, *[0, 1, 1, 32, 1, 0, 0, 0], bits
        )
        assert failure == 1


@pytest.mark.parametrize("part", ["q", "cache", "sequences", "table", "mass"])
def test_refuses_tensors_of_another_type(kernels: NativeKernels, part: str) -> None:
    good = {
        "q": torch.zeros(2, 3, 32, dtype=torch.bfloat16),
        "cache": torch.zeros(2, 1, 4, PAGE_SIZE, 32, dtype=torch.bfloat16),
        "sequences": torch.tensor([[0, 2, 0, 1, 0, 0, -1, 0, 1]]),
        "table": torch.tensor([[3, 0, -1, 0]]),
        "mass": torch.zeros(3),
    }
    call = partial(attend_to, kernels)
    call(**good)
    tensor = good[part]
    for wrong in (tensor.double(), tensor.repeat_interleave(2, dim=-1)[..., ::2][..., :-1], tensor.double()[..., ::2]):
        with pytest.raises(ValueError, match="expected"):
            call(**{**good, part: wrong})


def attend_to(kernels: NativeKernels, *, cache: Tensor, **given_: Tensor) -> None:
    kernels.attention(cache=CacheLayer.of(cache), phi=None, **given_)
