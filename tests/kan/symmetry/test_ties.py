"""Words that are equal by symmetry get equal logits, and no others do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kan.model import KANModel
from kan.symmetry.ties import Ties
from tests.kan.symmetry.models import grouped
from tests.tiny import base_logits, tiny_config, tiny_tensors

SETTINGS = grouped("cyclic(4) x cyclic(2)", copies=6, num_heads=4, num_kv_heads=2)
CYCLES = (((10, 11, 12, 13), (20, 21, 22, 23)), ((30, 31), (40, 41)))
"""The first generator turns eight words, the second four others."""
CONFIG = tiny_config(**(SETTINGS | {"group_action": CYCLES}))
PLAIN = (3, 4, 5, 50, 60)
words = st.lists(st.sampled_from([*PLAIN, 10, 12, 21, 30, 41]), min_size=1, max_size=6)


@pytest.fixture(scope="module")
def model() -> KANModel:
    return KANModel(CONFIG, tiny_tensors(CONFIG, dtype=torch.float64), dtype=torch.float64)


@given(text=words)
def test_ties_are_those_of_the_model(model: KANModel, text: list[int]) -> None:
    """Equal but for rounding before, equal to the bit afterwards; nothing moves by more than rounding."""
    logits = base_logits(model, text)
    ties = Ties(CONFIG.vocabulary_action)
    levelled = ties.level(logits, ties.along(ties.fixing([]), text))
    torch.testing.assert_close(levelled, logits, atol=1e-9, rtol=0)
    for row in range(len(text)):
        read = set(text[: row + 1])
        for orbit in (*CYCLES[0], *CYCLES[1]):
            generator = 0 if orbit in CYCLES[0] else 1
            untouched = not read & {word for cycle in CYCLES[generator] for word in cycle}
            assert (len(set(levelled[row, list(orbit)].tolist())) == 1) == untouched


@given(before=words, text=words)
def test_what_is_fixed_does_not_depend_on_the_cut(before: list[int], text: list[int]) -> None:
    ties = Ties(CONFIG.vocabulary_action)
    together = ties.fixing([before, text])
    assert np.array_equal(ties.along(ties.fixing([before]), text)[-1], together)
    assert np.array_equal(ties.fixing([[*before, *text], []]), together)


def test_half_of_an_orbit_may_be_tied() -> None:
    """What leaves one pair where it is still exchanges words of another orbit, two by two."""
    config = tiny_config(**(SETTINGS | {"group_action": (((10, 11, 12, 13), (20, 21)), ())}))
    ties = Ties(config.vocabulary_action)
    logits = torch.arange(259.0)[None]
    found = ties.level(logits, ties.fixing([[20]])[None])[0, [10, 11, 12, 13, 20, 21]]
    assert found.tolist() == [10, 11, 10, 11, 20, 21]
