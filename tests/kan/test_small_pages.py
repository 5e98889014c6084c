"""Small pages: what is read is what was written, to half a scale, whatever kernels read it."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kan.attention import PAGE_SIZE, pages_for
from kan.kernels.memory import page_bytes
from kan.kernels.paged_cache import PagedCache
from kan.kernels.small_pages import CacheLayer, scale_bytes, tokens_per_small_page, write_small
from kan.quantization import dequantize, quantize
from tests.tiny import tiny_config

DTYPES = (torch.bfloat16, torch.float32, torch.float64)
HEADS, WIDTH = 3, 6


@given(
    tokens=st.integers(1, 150),
    dtype=st.sampled_from(DTYPES),
    layers=st.integers(1, 3),
    seed=st.integers(0, 2**31),
)
def test_what_is_read_is_what_was_rounded(tokens: int, dtype: torch.dtype, layers: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    per_page = tokens_per_small_page(dtype)
    pages = (torch.randperm(12, generator=generator)[: pages_for(tokens, per_page)]).tolist()
    cache = [
        CacheLayer.of(torch.randn(2, HEADS, 12, PAGE_SIZE, WIDTH, generator=generator).to(dtype)) for _ in range(layers)
    ]
    before = [layer.kv.clone() for layer in cache]
    keys, values = torch.randn(2, layers, tokens, HEADS, WIDTH, generator=generator).to(dtype)
    write_small(cache, pages, keys, values)
    blocks = [page * dtype.itemsize + block for page in pages for block in range(dtype.itemsize)]
    for index, layer in enumerate(cache):
        found = [one.flatten(1, 2)[:, :tokens].transpose(0, 1) for one in layer.small_blocks(torch.tensor(blocks))]
        for start, end in pairwise([*range(0, tokens, per_page), tokens]):
            expected = dequantize(*quantize(keys[index, start:end], 0), dtype)
            assert torch.equal(found[0][start:end], expected), "a channel of a page has one scale"
        assert torch.equal(found[1], dequantize(*quantize(values[index], 2), dtype)), "a token has one scale"
        others = [page for page in range(12) if page not in pages]
        assert torch.equal(layer.kv[:, :, others], before[index][:, :, others])


def test_a_small_page_takes_as_much_more_as_its_numbers_take_less() -> None:
    assert [tokens_per_small_page(dtype) for dtype in DTYPES] == [32, 64, 128]


@pytest.mark.parametrize("dtype", DTYPES)
def test_memory_is_counted(dtype: torch.dtype) -> None:
    config = tiny_config()
    layer = CacheLayer.of(torch.zeros(2, config.num_kv_heads, 5, PAGE_SIZE, config.head_dim, dtype=dtype))
    scales = (layer.key_scales.nbytes + layer.value_scales.nbytes) // 5
    assert scales == config.num_kv_heads * scale_bytes(config.head_dim, dtype)
    more = page_bytes(config, dtype, small=True) - page_bytes(config, dtype)
    assert more == config.num_layers * scales


def test_too_few_pages_are_refused() -> None:
    cache = PagedCache(tiny_config(), lambda q, k: k <= q, 4, torch.float32, lambda *_: None)  # type: ignore[arg-type, return-value]
    keys = torch.zeros(2, 65, 2, 12)
    with pytest.raises(AssertionError, match="as many pages"):
        cache.write_small([1], keys, keys)
