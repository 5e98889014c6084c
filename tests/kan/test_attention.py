"""The fast kernel against the plain float64 one."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kan.attention import PAGE_SIZE
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
