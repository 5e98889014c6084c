"""Eq. 1 is plain attention with one more key channel per query head of a group: what the vLLM engine rests on."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor


def with_key_channel(q: Tensor, k: Tensor, v: Tensor, phi: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Eq. 1 as plain attention: q' = [q, one-hot], k' = [k, φ], v' = [v, 0], scale still 1/√d.

    q [H, n, d], k and v [H_kv, T, d], phi [H, T] -> the same with d + group channels, where group = H / H_kv.
    The one-hot of a query head picks its own φ out of the group's channels. Cut the output back to d.
    """
    group = q.shape[0] // k.shape[0]
    pick = torch.eye(group, dtype=q.dtype).repeat(k.shape[0], 1)
    channels = phi.reshape(k.shape[0], group, -1).transpose(1, 2).to(k.dtype)
    return (
        torch.cat((q, pick[:, None].expand(-1, q.shape[1], -1)), dim=-1),
        torch.cat((k, channels), dim=-1),
        torch.cat((v, v.new_zeros(*v.shape[:2], group)), dim=-1),
    )


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
