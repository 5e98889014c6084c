"""Torch's attention against the plain float64 one, whatever is in a step."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings

from kan.attention import Prefix, SequenceRows
from kan.kernels import torch_kernels
from kan.kernels.reference import ReferenceAttention
from kan.kernels.torch_kernels import TorchKernels
from tests.kan.attention_case import Case, case, cases

REFERENCE = TorchKernels(ReferenceAttention)


@settings(max_examples=60)
@given(drawn=cases(d=(2, 6, 16), most_rows=9, layers=2))
def test_torch_equals_reference(drawn: Case) -> None:
    expected, expected_masses = drawn.run(REFERENCE, torch.float64, layer=1)
    found, masses = drawn.run(TorchKernels(), torch.float64, layer=1)
    tolerance = 1e-12 + 4 * torch.finfo(torch.float64).eps * drawn.largest_bias
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(masses, expected_masses, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.bfloat16, 6e-2)])
def test_torch_in_lower_precision(dtype: torch.dtype, tolerance: float) -> None:
    """The input is rounded first, so what is left is the kernel's own error (values are of order 1)."""
    rounded = case(1, [([20, 16, 3], 9, 4), ([20], 30, 1), ([7, 7], 2, 1)], kv_heads=3, bias=20.0)
    found, _ = rounded.run(TorchKernels(), dtype)
    expected, _ = rounded.run(REFERENCE, torch.float64)
    assert found.dtype == dtype
    assert (found.double() - expected).abs().max() < tolerance


def test_single_rows_of_unlike_length_are_not_padded_to_the_longest() -> None:
    """Neighbours share products where that costs little: what must not happen is work for a thousand empty columns."""
    ragged = case(3, [([10], computed, 1) for computed in (3, 40, 3000, 3100)], kv_heads=2)
    cache = TorchKernels().new_cache(ragged.config, ragged.kv.shape[2] // 16, torch.float32)
    attention = cache.attention(ragged.sequences)
    assert [piece.rows for piece in attention.pieces] == [2, 2]  # type: ignore[attr-defined]
    found, _ = ragged.run(TorchKernels(), torch.float64)
    torch.testing.assert_close(found, ragged.run(REFERENCE, torch.float64)[0], atol=1e-12, rtol=1e-12)


def test_any_pattern(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who sees whom is said in one place: a row that sees its three nearest context tokens and all that is mounted."""
    mixed = case(9, [([20, 3], 5, 9), ([], 18, 1), ([4], 30, 1)], kv_heads=2, bias=3.0)
    causal, _ = mixed.run(TorchKernels(), torch.float64)
    monkeypatch.setattr(torch_kernels, "pattern_of", lambda _: lambda query, key: (key <= query) & (key > query - 3))
    expected, expected_masses = mixed.run(REFERENCE, torch.float64)
    found, masses = mixed.run(TorchKernels(), torch.float64)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(masses, expected_masses, atol=1e-12, rtol=1e-12)
    assert not torch.allclose(found, causal, atol=1e-2)


def test_rows_are_remembered_where_later_rows_look_for_them() -> None:
    """One sequence at once, and token by token through the same pages."""
    whole = case(5, [([20, 5], 0, 20)], kv_heads=2, bias=2.0)
    (sequence,) = whole.sequences
    expected, _ = whole.run(REFERENCE, torch.float64)
    cache = TorchKernels().new_cache(whole.config, whole.kv.shape[2] // 16, torch.float64)
    cache.write(range(whole.kv.shape[2] // 16), *whole.kv.double())
    cos, sin = torch.ones(1, 1, 64, dtype=torch.float64), torch.zeros(1, 1, 64, dtype=torch.float64)
    for row in range(20):
        attention = cache.attention([replace(sequence, computed=row, count=1)])
        found = attention(0, whole.qkv[row : row + 1].double(), cos, sin)
        torch.testing.assert_close(found.view(expected[row].shape), expected[row], atol=1e-12, rtol=1e-12)


def test_what_a_prefix_says_of_its_pages() -> None:
    prefix = Prefix((9, 4, 7), (17, 0, 16))
    assert prefix.columns == 48
    assert prefix.table.tolist() == [[9, 16, 0, 0], [4, 1, 0, 0], [7, 16, 2, 0]]
    assert Prefix().table.shape == (0, 4)


def test_the_table_of_small_pages() -> None:
    prefix = Prefix((9, 4, 7, 2), (16, 33, 5), per_page=(16, 32, 32))
    assert prefix.table.tolist() == [[9, 16, 0, 0], [8, 16, 1, 1], [9, 16, 1, 1], [14, 1, 1, 1], [4, 5, 2, 1]]
    assert prefix.columns == 5 * 16
    for pages in ((9,), (9, 4, 7)):
        with pytest.raises(ValueError, match="as many pages as its parts fill"):
            _ = Prefix(pages, (33,), per_page=(32,)).table


def test_where_rows_go() -> None:
    rows = SequenceRows(Prefix(), [5, 2, 8, 11], 14, 3)
    assert rows.slots == [5 * 16 + 14, 5 * 16 + 15, 2 * 16]
    assert rows.context == [5, 2]
    assert rows.written == [5, 2]
    assert SequenceRows(Prefix(), [5, 2, 8], 16, 1).written == [2]
