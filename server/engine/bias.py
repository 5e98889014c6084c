"""What φ makes of the facts of a request: the one place where engines get it."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from kan.knowledge.phi import Phi
from server.engine.protocol import MountedFact


def bias_of(phi: Phi | None, mounted: Sequence[MountedFact]) -> Tensor | None:
    """φ [layers, heads, mounted] in q·k units (before the 1/√d of Eq. 1); None means no bias."""
    return None if phi is None else phi([one.fit for one in mounted])
