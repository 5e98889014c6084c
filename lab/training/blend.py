"""Part of the way back from a trained φ to the one that nobody trained.

    φ' = s φ + (1 - s) gap        D', U', b' = D, a U, a b of the adapter

What is trained on some kinds of questions reads those better and others worse. The mean of the weights before and after
keeps most of what was won and loses less elsewhere (Wortsman et al., Robust fine-tuning of zero-shot models, 2022).
"""

from __future__ import annotations

from dataclasses import replace

from kan.knowledge.adapter import Adapter
from kan.knowledge.phi import Phi, gap_phi


def blended(phi: Phi, share: float, adapter_share: float, head_dim: int) -> Phi:
    """`share` of φ, the rest of `gap`, and `adapter_share` of its adapter; both in [0, 1].

    The model and the encoder stay those of φ.
    """
    layers, heads, _, knots = phi.coefficients.shape
    plain = gap_phi(layers, heads, head_dim, knots).coefficients
    coefficients = share * phi.coefficients + (1 - share) * plain
    return replace(phi, coefficients=coefficients, adapter=phi.adapter and _weakened(phi.adapter, adapter_share))


def _weakened(adapter: Adapter, share: float) -> Adapter:
    return Adapter(adapter.down, share * adapter.up, share * adapter.shift)
