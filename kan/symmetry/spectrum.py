"""The irreducible representations of a finite group, and with them the Fourier transform of functions on it.

Real throughout. A representation that has a complex structure comes in halves: in the basis chosen here its matrices
are [[A, -B], [B, A]], so A and B say it all.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kan.symmetry.group import FiniteGroup

Floats = NDArray[np.float64]

EXACT = 1e-9
"""What rounding may leave of a zero."""
ATTEMPTS = 8


@dataclass(frozen=True, eq=False)
class Irreducibles:
    """All irreducible representations of one size and kind; d is their dimension, over ℂ if `complex`.

    parts   [k, 1, n, d, d] orthogonal matrices of every element; if complex, [k, 2, n, d, d]: A and B
    """

    complex: bool
    parts: Floats

    @property
    def size(self) -> int:
        """d"""
        return int(self.parts.shape[-1])

    @property
    def transform(self) -> Floats:
        """[k · parts · d · d, n]: orthonormal functions on the group, in the order (which, part, row, column).

        They are the first d rows of the real matrices, [A, -B] if complex.
        """
        k, parts, n, d, _ = self.parts.shape
        signed = self.parts * np.array([1.0, -1.0])[:parts, None, None, None]
        rows = signed.transpose(0, 1, 3, 4, 2).reshape(k * parts * d * d, n)
        return np.asarray(rows * np.sqrt(parts * d / n))


@lru_cache(maxsize=16)
def spectrum(group: FiniteGroup) -> tuple[Irreducibles, ...]:
    """Each once, by kind and size. Their `transform`s, one below the other, are an orthogonal matrix [n, n].

    Raises ValueError for a group that has a quaternionic representation (none that `group_of` knows does).
    """
    for seed in range(ATTEMPTS):
        found = _by_size(_decompose(group, np.random.default_rng(seed)))
        matrix = np.concatenate([one.transform for one in found])
        if matrix.shape == (group.order,) * 2 and np.abs(matrix @ matrix.T - np.eye(group.order)).max() < EXACT:
            return found
    raise ValueError(f"{group.name} could not be decomposed")


def _decompose(group: FiniteGroup, random: np.random.Generator) -> list[Floats]:
    """`parts` of each representation, [1 or 2, n, d, d].

    The eigenspaces of a random symmetric operator that commutes with the regular representation are irreducible.
    """
    n = group.order
    weights = random.standard_normal(n)
    operator = (weights + weights[group.inverses])[group.table[group.inverses]]  # from x[h] to y[g]: weight of g⁻¹h
    values, vectors = np.linalg.eigh(operator)
    starts = [0, *(np.flatnonzero(np.diff(values) > EXACT * n) + 1).tolist(), n]
    translate = group.table[group.inverses]  # (h·x)[g] = x[h⁻¹g]
    found: list[Floats] = []
    characters: list[Floats] = []
    for start, end in pairwise(starts):
        basis = vectors[:, start:end]
        matrices = np.einsum("ga,hgb->hab", basis, basis[translate])
        character = np.trace(matrices, axis1=1, axis2=2)
        if not any(np.abs(character - known).max() < EXACT * n for known in characters):
            characters.append(character)
            found.append(_parts(group, matrices, character, random))
    return found


def _parts(group: FiniteGroup, matrices: Floats, character: Floats, random: np.random.Generator) -> Floats:
    kind = round(float(character @ character) / group.order)
    if kind == 1:
        return matrices[None]
    if kind == 2:
        return _halves(matrices, random)
    raise ValueError(f"{group.name} has a quaternionic representation")


def _halves(matrices: Floats, random: np.random.Generator) -> Floats:
    """A and B of matrices [n, 2d, 2d] that are irreducible over ℝ but not over ℂ."""
    size = matrices.shape[-1]
    noise = random.standard_normal((size, size))
    mean = (matrices @ (noise - noise.T) @ matrices.transpose(0, 2, 1)).mean(axis=0)
    structure = mean / np.sqrt((mean * mean).sum() / size)  # its square is -1
    real: list[Any] = []
    for vector in random.standard_normal((size // 2, size)):
        taken = np.array([*real, *(structure @ one for one in real)]).reshape(-1, size)
        rest = vector - taken.T @ (taken @ vector)
        real.append(rest / np.linalg.norm(rest))
    basis = np.array(real)
    turned = basis @ matrices @ basis.T
    return np.stack((turned, basis @ structure.T @ matrices @ basis.T))


def _by_size(found: list[Floats]) -> tuple[Irreducibles, ...]:
    kinds = sorted({(len(parts) == 2, parts.shape[-1]) for parts in found})
    return tuple(
        Irreducibles(twofold, np.stack([one for one in found if (len(one) == 2, one.shape[-1]) == (twofold, size)]))
        for twofold, size in kinds
    )
