"""How many parameters a model has, and how many its symmetry would let it do without."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

from kan.checkpoint.directory import expected_tensors
from kan.config import KANConfig
from kan.symmetry.group import TRIVIAL


@dataclass(frozen=True, slots=True)
class Counts:
    """Of the whole model.

    free        numbers in the checkpoint
    dense       numbers of an ordinary model of the same widths
    order       |G|
    stabiliser  |Stab_G(f)| of Eq. 2, with f the model as a function of tokens: the elements that leave every token
                where it is, counted from the vocabulary action; f cannot tell them from the identity
    least       Theorem 1: √(m · n) for every matrix of m inputs and n outputs, added up; a tied head is counted once.
                It is what one copy of the regular representation of a group of √(m · n) elements would leave.
    orbits      words by how many they are exchanged with: size of the orbit -> words
    """

    free: int
    dense: int
    order: int
    stabiliser: int
    least: int
    orbits: Mapping[int, int]

    @property
    def ratio(self) -> float:
        """Of the dense model's parameters to the free ones."""
        return self.dense / self.free

    @property
    def bound(self) -> float:
        """Eq. 2: |G| / |Stab_G(f)|, which is how many functions the group makes of f."""
        return self.order / self.stabiliser


def count(config: KANConfig) -> Counts:
    """From the shapes of the tensors, and from the group and its action themselves."""
    plain = expected_tensors(replace(config, group=TRIVIAL, group_action=()))
    action = config.vocabulary_action
    matrices = [shape for shape in plain.values() if len(shape) == 2]
    orbits = Counter(size for size in map(len, action.orbits) for _ in range(size))
    return Counts(
        free=sum(map(math.prod, expected_tensors(config).values())),
        dense=sum(map(math.prod, plain.values())),
        order=action.group.order,
        stabiliser=len(action.kernel),
        least=round(sum(math.sqrt(math.prod(shape)) for shape in matrices)),
        orbits=dict(sorted(orbits.items())),
    )
