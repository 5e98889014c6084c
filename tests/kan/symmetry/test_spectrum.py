"""Irreducible representations: what they must be, and that none is missing."""

from __future__ import annotations

import numpy as np
import pytest

from kan.symmetry.group import group_of, permutation_group
from kan.symmetry.spectrum import spectrum

SIZES: dict[str, list[tuple[bool, int, int]]] = {
    "trivial": [(False, 1, 1)],
    "cyclic(2)": [(False, 2, 1)],
    "cyclic(7)": [(False, 1, 1), (True, 3, 1)],
    "cyclic(8)": [(False, 2, 1), (True, 3, 1)],
    "symmetric(3)": [(False, 2, 1), (False, 1, 2)],
    "dihedral(4)": [(False, 4, 1), (False, 1, 2)],
    "symmetric(4)": [(False, 2, 1), (False, 1, 2), (False, 2, 3)],
    "symmetric(5)": [(False, 2, 1), (False, 2, 4), (False, 2, 5), (False, 1, 6)],
    "cyclic(4) x cyclic(2)": [(False, 4, 1), (True, 2, 1)],
    "symmetric(3) x cyclic(3)": [(False, 2, 1), (False, 1, 2), (True, 2, 1), (True, 1, 2)],
}
"""Complex or not, how many, of which dimension: from the character tables."""


@pytest.mark.parametrize("name", SIZES)
def test_kinds_and_sizes(name: str) -> None:
    found = spectrum(group_of(name))
    assert [(one.complex, len(one.parts), one.size) for one in found] == SIZES[name]


@pytest.mark.parametrize("name", SIZES)
def test_they_multiply_as_the_group_does(name: str) -> None:
    group = group_of(name)
    for kind in spectrum(group):
        for parts in kind.parts:
            matrices = parts[0] if not kind.complex else np.block([[parts[0], -parts[1]], [parts[1], parts[0]]])
            products = matrices[:, None] @ matrices[None]
            assert np.abs(products - matrices[group.table]).max() < 1e-12
            assert np.abs(matrices @ matrices.transpose(0, 2, 1) - np.eye(matrices.shape[-1])).max() < 1e-12


@pytest.mark.parametrize("name", SIZES)
def test_the_transform_is_orthogonal(name: str) -> None:
    matrix = np.concatenate([one.transform for one in spectrum(group_of(name))])
    assert np.abs(matrix @ matrix.T - np.eye(len(matrix))).max() < 1e-12


def test_quaternions_are_refused() -> None:
    group = permutation_group("quaternions", [[1, 2, 3, 0, 5, 6, 7, 4], [4, 7, 6, 5, 2, 1, 0, 3]])
    assert group.order == 8
    with pytest.raises(ValueError, match="quaternionic"):
        spectrum(group)
