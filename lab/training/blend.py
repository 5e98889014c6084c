"""Part of the way back from a trained φ to the one before: `gap`, that nobody trained, or the one it was trained from.

    φ' = s φ + (1 - s) rest        D', U', b' = the same of the adapters, with a share a of their own

What is trained on some kinds of questions reads those better and others worse. The mean of the weights before and after
keeps most of what was won and loses less elsewhere (Wortsman et al., Robust fine-tuning of zero-shot models, 2022).
"""

from __future__ import annotations

from dataclasses import replace

from kan.knowledge.adapter import Adapter
from kan.knowledge.phi import Phi


def blended(phi: Phi, rest: Phi, share: float, adapter_share: float) -> Phi:
    """`share` of φ and `adapter_share` of its adapter, both in [0, 1], the rest of `rest` and its adapter.

    The model and the encoder stay those of φ. Raises ValueError if the two are not of one shape.
    """
    if phi.coefficients.shape != rest.coefficients.shape:
        raise ValueError(f"φ of {tuple(phi.coefficients.shape)} and of {tuple(rest.coefficients.shape)} do not blend")
    coefficients = share * phi.coefficients + (1 - share) * rest.coefficients
    return replace(phi, coefficients=coefficients, adapter=_blended(phi.adapter, rest.adapter, adapter_share))


def _blended(one: Adapter | None, rest: Adapter | None, share: float) -> Adapter | None:
    """What has no adapter changes nothing, whatever the other's `down` reads."""
    if one is None or rest is None:
        return _weakened(one, share) or _weakened(rest, 1 - share)
    if one.up.shape != rest.up.shape:
        raise ValueError(f"adapters of rank {one.up.shape[1]} and {rest.up.shape[1]} do not blend")
    return Adapter(
        share * one.down + (1 - share) * rest.down,
        share * one.up + (1 - share) * rest.up,
        share * one.shift + (1 - share) * rest.shift,
    )


def _weakened(adapter: Adapter | None, share: float) -> Adapter | None:
    return adapter and Adapter(adapter.down, share * adapter.up, share * adapter.shift)
