"""Small pages: what is read is what was written, to half a scale, whatever kernels read it."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kan.attention import PAGE_SIZE, Prefix, SequenceRows, pages_for
from kan.kernels.choice import choose_kernels
from kan.kernels.memory import page_bytes
from kan.kernels.native import KernelsUnavailable
from kan.kernels.paged_cache import PagedCache
from kan.kernels.small_pages import CacheLayer, scale_bytes, tokens_per_small_page, write_small
from kan.quantization import GROUPINGS, Bits
from tests.tiny import tiny_config

DTYPES = (torch.bfloat16, torch.float32, torch.float64)
BITS: tuple[Bits, ...] = (4, 8)
HEADS = 3


@given(
    tokens=st.integers(1, 150),
    dtype=st.sampled_from(DTYPES),
    bits=st.sampled_from(BITS),
    width=st.sampled_from([6, 64]),
    layers=st.integers(1, 3),
    seed=st.integers(0, 2**31),
)
def test_what_is_read_is_what_was_rounded(
    tokens: int, dtype: torch.dtype, bits: Bits, width: int, layers: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    per_page, grouping = tokens_per_small_page(dtype, bits), GROUPINGS[bits]
    pages = (torch.randperm(12, generator=generator)[: pages_for(tokens, per_page)]).tolist()
    cache = [
        CacheLayer.of(torch.randn(2, HEADS, 12, PAGE_SIZE, width, generator=generator).to(dtype), bits)
        for _ in range(layers)
    ]
    before = [layer.kv.clone() for layer in cache]
    keys, values = torch.randn(2, layers, tokens, HEADS, width, generator=generator).to(dtype)
    write_small(cache, pages, keys, values)
    in_page = per_page // PAGE_SIZE
    blocks = [page * in_page + block for page in pages for block in range(in_page)]
    for index, layer in enumerate(cache):
        found = [one.flatten(1, 2)[:, :tokens].transpose(0, 1) for one in layer.small_blocks(torch.tensor(blocks))]
        for start, end in pairwise([*range(0, tokens, per_page), tokens]):
            expected = grouping.widen_keys(*grouping.keys(keys[index, start:end]), dtype)
            assert torch.equal(found[0][start:end], expected), "a page's keys depend on that page alone"
        assert torch.equal(found[1], grouping.widen_values(*grouping.values(values[index]), dtype))
        others = [page for page in range(12) if page not in pages]
        assert torch.equal(layer.kv[:, :, others], before[index][:, :, others])


def test_a_small_page_takes_as_much_more_as_its_numbers_take_less() -> None:
    assert [[tokens_per_small_page(dtype, bits) for dtype in DTYPES] for bits in BITS] == [
        [64, 128, 256],
        [32, 64, 128],
    ]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("width", [12, 64])
def test_memory_is_counted(dtype: torch.dtype, bits: Bits, width: int) -> None:
    config = tiny_config(head_dim=width)
    layer = CacheLayer.of(torch.zeros(2, config.num_kv_heads, 5, PAGE_SIZE, width, dtype=dtype), bits)
    steps = (layer.key_steps.nbytes + layer.value_steps.nbytes) // 5
    assert steps == config.num_kv_heads * scale_bytes(width, dtype, bits)
    assert page_bytes(config, dtype, bits) - page_bytes(config, dtype) == config.num_layers * steps


@pytest.mark.parametrize(("bits", "kilobytes"), [(4, 7.92), (8, 12.06)])
def test_how_much_memory_a_token_takes(bits: Bits, kilobytes: float) -> None:
    """Of a full page, as in SmolLM2-135M in bfloat16; in the model's own numbers 23.04 KB."""
    config = tiny_config(num_layers=30, num_heads=9, num_kv_heads=3, head_dim=64)
    tokens = tokens_per_small_page(torch.bfloat16, bits)
    assert page_bytes(config, torch.bfloat16, bits) / tokens == pytest.approx(1000 * kilobytes, rel=1e-3)
    assert page_bytes(config, torch.bfloat16) / PAGE_SIZE == 23_040


@pytest.mark.parametrize("bits", BITS)
def test_too_few_pages_are_refused(bits: Bits) -> None:
    attention = lambda *_: None  # noqa: E731
    cache = PagedCache(tiny_config(), lambda q, k: k <= q, 4, torch.float32, attention, bits)  # type: ignore[arg-type, return-value]
    keys = torch.zeros(2, tokens_per_small_page(torch.float32, bits) + 1, 2, 12)
    with pytest.raises(AssertionError, match="as many pages"):
        cache.write_small([1], keys, keys)


@pytest.mark.parametrize("kernels_name", ["torch", "native"])
@pytest.mark.parametrize("bits", BITS)
def test_a_page_that_was_small_once(kernels_name: Literal["torch", "native"], bits: Bits) -> None:
    """Its bytes may be NaN for a context that takes it and does not fill it."""
    config = tiny_config(
        num_layers=1, hidden_size=192, num_heads=3, num_kv_heads=1, head_dim=64, intermediate_size=64, vocab_size=8
    )
    try:
        kernels = choose_kernels(kernels_name, config, torch.bfloat16)
    except KernelsUnavailable as error:
        pytest.skip(str(error))
    generator = torch.Generator().manual_seed(1)
    small = torch.randn(2, 1, tokens_per_small_page(torch.bfloat16, bits), 1, 64, generator=generator).bfloat16()
    qkv = torch.randn(3, 5, 64, generator=generator).bfloat16()
    cos, sin = torch.ones(3, 1, 64), torch.zeros(3, 1, 64)
    outputs = []
    for once_small in (False, True):
        cache = kernels.new_cache(config, 2, torch.bfloat16, bits)
        if once_small:
            cache.write_small([1], *small)
            kv = cache._layers[0].kv  # type: ignore[attr-defined]
            assert not kv[:, :, 1].isfinite().all(), "this test would show nothing"
        outputs.append(cache.attention([SequenceRows(Prefix(), [1], 0, 3)])(0, qkv, cos, sin))
    assert torch.equal(*outputs)
    cache.write_small([1], *small)
    cache.write([1], *small[:, :, :3])
    assert kv[:, :, 1].isfinite().all()
