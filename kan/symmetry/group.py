"""A finite group by its Cayley table."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, reduce

import numpy as np
from numpy.typing import NDArray

Table = NDArray[np.int64]

TRIVIAL = "trivial"
MAX_ORDER = 120
"""Of symmetric(5). Channels come in copies of as many."""

_FACTOR = re.compile(r"(cyclic|dihedral|symmetric)\(([1-9][0-9]{0,2})\)")


@dataclass(frozen=True, eq=False)
class FiniteGroup:
    """Elements 0 … n-1, of which 0 is the identity.

    name        as `group_of` reads it
    table       [n, n]: table[a, b] = a·b
    generators  elements of which all others are products

    Raises ValueError naming the axiom that does not hold.
    """

    name: str
    table: Table
    generators: tuple[int, ...]

    def __post_init__(self) -> None:
        n, elements = self.order, np.arange(self.order)
        _require(self.table.shape == (n, n) and n > 0, "a Cayley table is square")
        _require(bool(((self.table >= 0) & (self.table < n)).all()), "products are elements (closure)")
        _require(bool((self.table[0] == elements).all() and (self.table[:, 0] == elements).all()), "0 is the identity")
        _require(bool((np.sort(self.table) == elements).all()), "every element has an inverse")
        _require(bool((self.table[self.table] == self.table[:, self.table]).all()), "(a·b)·c = a·(b·c)")
        _require(len(self.steps) == n - 1, "the generators generate the group")

    @property
    def order(self) -> int:
        return len(self.table)

    @cached_property
    def inverses(self) -> Table:
        """[n]: table[a, inverses[a]] = 0"""
        return np.asarray(np.argmin(self.table, axis=1))

    @cached_property
    def steps(self) -> tuple[tuple[int, int, int], ...]:
        """(element, an earlier one, which generator): element = earlier · generator, for all but the identity."""
        return tuple(self._walk())

    def _walk(self) -> Iterator[tuple[int, int, int]]:
        reached = [0]
        for element in reached:
            for index, generator in enumerate(self.generators):
                product = int(self.table[element, generator])
                if product not in reached:
                    reached.append(product)
                    yield product, element, index

    def __mul__(self, other: FiniteGroup) -> FiniteGroup:
        """The direct product: (a, b) is element a·|other| + b; this one's generators come first."""
        n, m = self.order, other.order
        table = self.table[:, None, :, None] * m + other.table[None, :, None, :]
        generators = (*(m * one for one in self.generators), *other.generators)
        return FiniteGroup(f"{self.name} x {other.name}", table.reshape(n * m, n * m), generators)


def permutation_group(name: str, generators: Sequence[Sequence[int]]) -> FiniteGroup:
    """The group that permutations of 0 … m-1 generate, each the list of where they take the points.

    a·b is first b, then a. ValueError if there are more than MAX_ORDER elements.
    """
    found = [tuple(range(len(generators[0])))]
    for element in found:
        for generator in map(tuple, generators):
            product = tuple(element[point] for point in generator)
            if product not in found:
                found.append(product)
        _check_order(len(found))
    place = {element: index for index, element in enumerate(found)}
    table = [[place[tuple(a[point] for point in b)] for b in found] for a in found]
    return FiniteGroup(name, np.array(table), tuple(place[tuple(one)] for one in generators))


def trivial() -> FiniteGroup:
    """The identity alone."""
    return FiniteGroup(TRIVIAL, np.zeros((1, 1), np.int64), ())


def cyclic(n: int) -> FiniteGroup:
    """Turns of n points. Its generator is one step."""
    return permutation_group(f"cyclic({n})", [_turn(n)])


def dihedral(n: int) -> FiniteGroup:
    """Turns and reflections of a polygon of n ≥ 3 corners, 2n elements. Its generators: one step, one reflection."""
    if n < 3:
        raise ValueError("must have at least 3 corners")
    return permutation_group(f"dihedral({n})", [_turn(n), [-point % n for point in range(n)]])


def symmetric(n: int) -> FiniteGroup:
    """All permutations of n ≥ 2 points. Its generators: one step of all of them, and the exchange of the first two
    (of two points, that alone)."""
    if n < 2:
        raise ValueError("must permute at least 2 points")
    exchange = [1, 0, *range(2, n)]
    return permutation_group(f"symmetric({n})", [exchange] if n == 2 else [_turn(n), exchange])


_KINDS = {"cyclic": cyclic, "dihedral": dihedral, "symmetric": symmetric}


@lru_cache(maxsize=64)
def group_of(name: str) -> FiniteGroup:
    """By its name: `trivial`; `cyclic(n)`, `dihedral(n)`, `symmetric(n)`, or products, as `cyclic(4) x cyclic(2)`.

    ValueError for any other text, and for groups of more than MAX_ORDER elements.
    """
    if name == TRIVIAL:
        return trivial()
    factors = [_FACTOR.fullmatch(factor) for factor in name.split(" x ")]
    if not all(factors):
        raise ValueError("must be 'trivial' or of the form 'cyclic(4)', 'dihedral(4)', 'symmetric(3)' or 'A x B'")
    groups = [_KINDS[factor[1]](int(factor[2])) for factor in factors if factor]
    _check_order(math.prod(group.order for group in groups))
    return reduce(FiniteGroup.__mul__, groups)


def _turn(n: int) -> list[int]:
    return [(point + 1) % n for point in range(n)]


def _check_order(order: int) -> None:
    if order > MAX_ORDER:
        raise ValueError(f"must have at most {MAX_ORDER} elements")


def _require(holds: bool, axiom: str) -> None:
    if not holds:
        raise ValueError(f"no group: it must hold that {axiom}")
