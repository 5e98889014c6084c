"""Where engines get φ from."""

from __future__ import annotations

import torch

from kan.knowledge.fit import Fit
from kan.knowledge.phi import FEATURES, Phi
from server.engine.bias import bias_of
from server.engine.protocol import FactTokens, MountedFact


def test_the_bias_is_phi_of_everything_known_about_the_facts() -> None:
    phi = Phi(torch.randn(2, 4, len(FEATURES), 5, generator=torch.Generator().manual_seed(1)))
    fits = (Fit(0.7, 0.3, 0.0), Fit(0.4, 0.6, -0.1), Fit(0.4, 0.1, 0.5))
    mounted = [MountedFact(FactTokens(str(place), (1,)), fit) for place, fit in enumerate(fits)]
    found = bias_of(phi, mounted)
    assert found is not None
    assert torch.equal(found, phi(fits))
    assert found.shape == (2, 4, 3)


def test_without_phi_there_is_no_bias() -> None:
    assert bias_of(None, [MountedFact(FactTokens("k", (1,)), Fit(0.5))]) is None
