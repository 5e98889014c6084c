"""Between a trained φ and the untrained one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kan.knowledge.adapter import Adapter, new_adapter
from kan.knowledge.fit import Fit
from kan.knowledge.phi import Phi, gap_phi
from lab.training.blend import blended

HEAD_DIM = 8
GAP = gap_phi(2, 3, HEAD_DIM)


def trained(*, adapter: bool) -> Phi:
    plain = gap_phi(2, 3, HEAD_DIM)
    generator = torch.Generator().manual_seed(1)
    coefficients = plain.coefficients + torch.randn(plain.coefficients.shape, generator=generator)
    learned = new_adapter(torch.ones(2, 1, 16), rank=2, seed=0)
    up, shift = (torch.randn(one.shape, generator=generator) for one in (learned.up, learned.shift))
    return Phi(coefficients, "model", "encoder", replace(learned, up=up, shift=shift) if adapter else None)


@given(share=st.floats(0, 1), relevances=st.lists(st.floats(-0.2, 1), min_size=1, max_size=5))
def test_every_bias_lies_between(share: float, relevances: list[float]) -> None:
    phi = trained(adapter=False)
    fits = [Fit(one, 0.1, 0.2, 0.3, 40.0) for one in relevances]
    expected = share * phi(fits) + (1 - share) * GAP(fits)
    torch.testing.assert_close(blended(phi, GAP, share, 1.0)(fits), expected, atol=1e-4, rtol=1e-4)


def test_the_update_of_keys_and_values_shrinks_with_the_share() -> None:
    phi = trained(adapter=True)
    flat = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(2))

    def update(one: Phi) -> torch.Tensor:
        assert one.adapter is not None
        return torch.baddbmm(one.adapter.shift, flat @ one.adapter.down, one.adapter.up)

    torch.testing.assert_close(update(blended(phi, GAP, 1.0, 0.25)), 0.25 * update(phi))


@pytest.mark.parametrize("adapter", [True, False])
def test_all_of_it_is_the_same_and_it_stays_of_its_model(adapter: bool) -> None:
    phi = trained(adapter=adapter)
    assert blended(phi, GAP, 1.0, 1.0).digest == phi.digest
    half = blended(phi, GAP, 0.5, 0.5)
    assert half.digest != phi.digest
    assert (half.model_fingerprint, half.encoder_fingerprint) == ("model", "encoder")


def test_two_trained_ones_meet_half_way() -> None:
    one = trained(adapter=True)
    assert one.adapter is not None
    moved = replace(
        one,
        coefficients=one.coefficients + 2.0,
        adapter=Adapter(one.adapter.down + 2.0, one.adapter.up - 4.0, one.adapter.shift + 6.0),
    )
    half = blended(moved, one, 0.5, 0.5)
    torch.testing.assert_close(half.coefficients, one.coefficients + 1.0)
    for found, start, change in zip(half.tensors().values(), one.tensors().values(), (1, 1, -2, 3), strict=True):
        torch.testing.assert_close(found, start + change)
    assert blended(moved, one, 0.0, 0.0).tensors().keys() == one.tensors().keys()
    torch.testing.assert_close(blended(trained(adapter=False), one, 1.0, 0.75).adapter.up, 0.25 * one.adapter.up)  # type: ignore[union-attr]


def test_what_is_of_another_shape_does_not_blend() -> None:
    with pytest.raises(ValueError, match="do not blend"):
        blended(trained(adapter=False), gap_phi(2, 4, HEAD_DIM), 0.5, 0.5)
    one = trained(adapter=True)
    assert one.adapter is not None
    wide = replace(one, adapter=new_adapter(torch.ones(2, 1, 16), rank=3, seed=0))
    with pytest.raises(ValueError, match="rank 2 and 3"):
        blended(one, wide, 0.5, 0.5)
