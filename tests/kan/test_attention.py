"""The fast kernel against the plain float64 one, and Eq. 1 against plain attention with one more key channel."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from kan.attention import PAGE_SIZE, with_key_channel
from kan.kernels import cpu, reference

PAGES = 12


def inputs(
    sequences: int, n: int, kv_heads: int, group: int, d: int, table: int, knowledge: int, dtype: torch.dtype, seed: int
) -> dict[str, torch.Tensor | None]:
    """Random input with hostile parts: pages in any order and shared, padded columns, rows that see one column only."""
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    heads, columns = kv_heads * group, table * PAGE_SIZE
    mask = torch.where(noise(sequences, n, columns) > 1, -torch.inf, 0.0)
    mask[..., 0] = 0
    mask[0, 0, 1:] = -torch.inf
    return {
        "q": (3 * noise(sequences, n, heads, d)).to(dtype),
        "kv": noise(2, kv_heads, PAGES, PAGE_SIZE, d).to(dtype),
        "pages": torch.randint(0, PAGES, (sequences, table), generator=generator),
        "mask": mask.to(torch.float64 if dtype == torch.float64 else torch.float32),
        "phi": 20 * noise(heads, sequences, knowledge) if knowledge else None,
        "mass": torch.zeros(sequences, knowledge, dtype=torch.float64),
    }


shapes = st.tuples(
    st.integers(1, 5),
    st.integers(1, 7),
    st.sampled_from([1, 2, 3]),
    st.sampled_from([1, 3, 4]),
    st.sampled_from([2, 5, 16]),
    st.integers(1, 6),
)


@settings(max_examples=40, deadline=None)
@given(shape=shapes, share=st.floats(0, 1), seed=st.integers(0, 2**31))
def test_cpu_kernel_equals_reference(shape: tuple[int, int, int, int, int, int], share: float, seed: int) -> None:
    knowledge = int(share * shape[-1] * PAGE_SIZE)
    wanted = inputs(*shape, knowledge, torch.float64, seed)
    given_ = {name: None if tensor is None else tensor.clone() for name, tensor in wanted.items()}
    expected = reference.paged_attention(**wanted)  # type: ignore[arg-type]
    found = cpu.paged_attention(**given_)  # type: ignore[arg-type]
    assert torch.allclose(found, expected, atol=1e-12, rtol=1e-12)
    assert torch.allclose(given_["mass"], wanted["mass"], atol=1e-12, rtol=1e-12)  # type: ignore[arg-type]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.bfloat16, 6e-2)])
def test_cpu_kernel_in_lower_precision(dtype: torch.dtype, tolerance: float) -> None:
    """The input is rounded first, so what is left is the kernel's own error (values are of order 1)."""
    exact = inputs(3, 4, 3, 3, 64, 5, 48, dtype, 1)
    found = cpu.paged_attention(**{name: None if t is None else t.clone() for name, t in exact.items()})  # type: ignore[arg-type]
    doubled = {
        name: t.double() if name in ("q", "kv", "mask", "phi") and t is not None else t for name, t in exact.items()
    }
    expected = reference.paged_attention(**doubled)  # type: ignore[arg-type]
    assert found.dtype == dtype
    assert (found.double() - expected).abs().max() < tolerance


@settings(max_examples=30, deadline=None)
@given(kv_heads=st.integers(1, 3), group=st.integers(1, 4), seed=st.integers(0, 2**31))
def test_key_channel_form_equals_additive_form(kv_heads: int, group: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    heads, n, columns, d = kv_heads * group, 3, 11, 8
    q = torch.randn(heads, n, d, generator=generator, dtype=torch.float64)
    k = torch.randn(kv_heads, columns, d, generator=generator, dtype=torch.float64)
    v = torch.randn(kv_heads, columns, d, generator=generator, dtype=torch.float64)
    phi = 10 * torch.randn(heads, columns, generator=generator, dtype=torch.float64)

    scores = (q @ k.repeat_interleave(group, 0).transpose(1, 2) + phi[:, None]) / d**0.5
    additive = torch.softmax(scores, -1) @ v.repeat_interleave(group, 0)

    q2, k2, v2 = with_key_channel(q, k, v, phi)
    assert q2.shape[-1] == k2.shape[-1] == v2.shape[-1] == d + group
    plain = F.scaled_dot_product_attention(
        q2, k2.repeat_interleave(group, 0), v2.repeat_interleave(group, 0), scale=1 / d**0.5
    )
    assert torch.allclose(plain[..., :d], additive, atol=1e-12, rtol=1e-12)
    assert torch.equal(plain[..., d:], torch.zeros_like(plain[..., d:]))
