"""A finite group at work on a finite set: permutations, orbits, stabilisers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from kan.symmetry.group import FiniteGroup, Table

Cycles = Sequence[Sequence[int]]
"""A permutation: every point of a cycle goes to the next one, the last to the first; all others stay."""


@dataclass(frozen=True, eq=False)
class Action:
    """table [n, m]: table[g, x] = g·x for the points x = 0 … m-1.

    Raises ValueError, saying why, if this is no action: e·x = x, and (g·h)·x = g·(h·x).
    """

    group: FiniteGroup
    table: Table

    def __post_init__(self) -> None:
        points = np.arange(self.table.shape[1])
        if len(self.table) != self.group.order or not (self.table[0] == points).all():
            raise ValueError("the identity must leave every point where it is")
        for generator in self.group.generators:  # whatever holds of them holds of their products
            if not (self.table[self.group.table[:, generator]] == self.table[:, self.table[generator]]).all():
                raise ValueError(f"the permutations do not multiply as the elements of {self.group.name} do")

    @classmethod
    def from_cycles(cls, group: FiniteGroup, points: int, generators: Sequence[Cycles]) -> Action:
        """Of one permutation for each of the group's generators; of none at all if every point stays."""
        if not generators:
            return cls(group, np.tile(np.arange(points), (group.order, 1)))
        if len(generators) != len(group.generators):
            raise ValueError(f"{group.name} has {len(group.generators)} generators, not {len(generators)}")
        permutations = [_permutation(points, cycles) for cycles in generators]
        table = np.tile(np.arange(points), (group.order, 1))
        for element, earlier, generator in group.steps:
            table[element] = table[earlier][permutations[generator]]
        return cls(group, table)

    @property
    def points(self) -> int:
        return int(self.table.shape[1])

    def orbit(self, point: int) -> tuple[int, ...]:
        """Every place that the group takes it to, in ascending order."""
        return tuple(np.unique(self.table[:, point]).tolist())

    def stabiliser(self, point: int) -> tuple[int, ...]:
        """The elements that leave it where it is: as many as |G| / |orbit| (Lagrange)."""
        return tuple(np.flatnonzero(self.table[:, point] == point).tolist())

    @cached_property
    def orbits(self) -> tuple[tuple[int, ...], ...]:
        """Every point is in exactly one; by their least points."""
        return tuple(map(self.orbit, np.unique(self.table.min(axis=0)).tolist()))

    @cached_property
    def kernel(self) -> tuple[int, ...]:
        """The elements that leave every point where it is."""
        return tuple(np.flatnonzero((self.table == self.table[0]).all(axis=1)).tolist())

    @cached_property
    def moved(self) -> Table:
        """[moved points]: those that some element takes elsewhere."""
        return np.flatnonzero((self.table != self.table[0]).any(axis=0))


def regular(group: FiniteGroup) -> Action:
    """The group at work on itself from the left: g·x is the product."""
    return Action(group, group.table)


def _permutation(points: int, cycles: Cycles) -> Table:
    """[points]: where each goes."""
    listed = [point for cycle in cycles for point in cycle]
    if len(set(listed)) < len(listed) or not all(0 <= point < points for point in listed):
        raise ValueError(f"cycles must be of different points from 0 to {points - 1}")
    found = np.arange(points)
    for cycle in cycles:
        found[list(cycle)] = np.roll(cycle, -1)
    return found
