"""A small segment finds the rows that are nearest."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kb.index.attributes import Attributes
from kb.index.ids import Ids
from kb.index.postings import Postings
from kb.index.segment import FlatSegment

ROWS, DIMENSION = 600, 32


def unit(rows: Any) -> Any:
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def vectors(spread: float) -> Any:
    """All directions, or narrow bundles."""
    source = np.random.default_rng(3)
    centres = np.repeat(source.standard_normal((6, DIMENSION)), ROWS // 6, axis=0)
    return unit(centres + spread * source.standard_normal((ROWS, DIMENSION)))


@pytest.mark.parametrize("spread", [3.0, 0.3, 1e-3, 0.0])
@pytest.mark.parametrize("living", [1.0, 0.5, 0.02])
def test_the_best_rows_are_the_exact_ones(spread: float, living: float) -> None:
    rows = vectors(spread)
    mask = np.random.default_rng(4).random(ROWS) < living
    alive = None if living == 1 else np.packbits(mask, bitorder="little")
    ids = Ids.of(f"{row:04d}" for row in range(ROWS))
    built = FlatSegment(ids, rows, np.full(ROWS, np.inf), Postings.of([""] * ROWS), Attributes.of([{}] * ROWS))
    for query in unit(rows[::37] + 0.05):
        exact = np.where(mask | (living == 1), rows.astype(np.float64) @ query, -np.inf)
        found = built.search(query, 8, alive)
        expected = np.sort(exact)[::-1][: min(8, np.isfinite(exact).sum())]
        np.testing.assert_allclose(np.sort(exact[found])[::-1], expected, atol=1e-6)
        assert len(set(found.tolist())) == len(found)
