"""Finite groups and their actions: the axioms, and what follows of them for any action."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kan.symmetry.action import Action, regular
from kan.symmetry.group import MAX_ORDER, FiniteGroup, group_of, permutation_group

ORDERS = {
    "trivial": 1,
    "cyclic(1)": 1,
    "cyclic(2)": 2,
    "cyclic(7)": 7,
    "dihedral(3)": 6,
    "dihedral(4)": 8,
    "symmetric(2)": 2,
    "symmetric(3)": 6,
    "symmetric(5)": 120,
    "cyclic(4) x cyclic(2)": 8,
    "cyclic(2) x cyclic(2) x cyclic(2)": 8,
    "symmetric(3) x dihedral(4)": 48,
}
names = st.sampled_from(list(ORDERS))


@pytest.mark.parametrize(("name", "order"), ORDERS.items())
def test_named_groups(name: str, order: int) -> None:
    group = group_of(name)
    assert (group.name, group.order) == (name, order)
    assert (group.table[np.arange(order), group.inverses] == 0).all()
    assert (group.table[group.inverses, np.arange(order)] == 0).all()


@pytest.mark.parametrize(
    ("name", "commutative"),
    [("cyclic(6)", True), ("cyclic(4) x cyclic(2)", True), ("symmetric(3)", False), ("dihedral(4)", False)],
)
def test_which_groups_commute(name: str, commutative: bool) -> None:
    table = group_of(name).table
    assert bool((table == table.T).all()) is commutative


def test_symmetric_3_is_dihedral_3() -> None:
    """As many elements of each order, which tells groups of six apart."""

    def orders(group: FiniteGroup) -> list[int]:
        found = []
        for element in range(group.order):
            power, count = element, 1
            while power:
                power, count = int(group.table[power, element]), count + 1
            found.append(count)
        return sorted(found)

    assert orders(group_of("symmetric(3)")) == orders(group_of("dihedral(3)")) == [1, 2, 2, 2, 3, 3]
    assert orders(group_of("cyclic(6)")) == [1, 2, 3, 3, 6, 6]


REFUSED = (
    *("", "Z2", "cyclic", "cyclic()", "cyclic(0)", "cyclic(-2)", "cyclic(2)x cyclic(2)", "cyclic(2) x trivial"),
    *("dihedral(2)", "symmetric(1)", "symmetric(6)", "cyclic(121)", "dihedral(61)", "cyclic(11) x cyclic(11)"),
)


@pytest.mark.parametrize("name", REFUSED)
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="must"):
        group_of(name)


@pytest.mark.parametrize(
    ("table", "generators", "axiom"),
    [
        ([[0, 1]], (1,), "square"),
        ([[0, 1], [1, 2]], (1,), "closure"),
        ([[1, 0], [0, 1]], (1,), "0 is the identity"),
        ([[0, 1], [1, 1]], (1,), "inverse"),
        ([[0, 1], [1, 0]], (), "generate"),
    ],
)
def test_each_axiom_is_checked(table: list[list[int]], generators: tuple[int, ...], axiom: str) -> None:
    with pytest.raises(ValueError, match=rf"^no group: .*{axiom}"):
        FiniteGroup("wrong", np.array(table), generators)


def test_a_loop_that_is_not_associative_is_no_group() -> None:
    """The smallest Latin square with an identity that is no group has five elements."""
    table = [[0, 1, 2, 3, 4], [1, 0, 3, 4, 2], [2, 4, 0, 1, 3], [3, 2, 4, 0, 1], [4, 3, 1, 2, 0]]
    with pytest.raises(ValueError, match=r"no group: .*a·b"):
        FiniteGroup("loop", np.array(table), (1, 2))


def test_permutations_generate_no_more_than_is_bounded() -> None:
    with pytest.raises(ValueError, match=f"at most {MAX_ORDER}"):
        permutation_group("symmetric(8)", [[*range(1, 8), 0], [1, 0, *range(2, 8)]])


@st.composite
def actions(draw: st.DrawFn) -> Action:
    """Of any of the groups on cosets of random subgroups side by side: every action is one of those, points renamed."""
    group = group_of(draw(names))
    cosets = [
        _on_cosets(group, draw(st.lists(st.integers(0, group.order - 1), max_size=2)))
        for _ in range(draw(st.integers(1, 3)))
    ]
    starts = np.cumsum([0, *(one.shape[1] for one in cosets)])
    table = np.concatenate([one + start for one, start in zip(cosets, starts, strict=False)], axis=1)
    renamed = np.array(draw(st.permutations(range(table.shape[1]))))
    return Action(group, renamed[table[:, np.argsort(renamed)]])


def _on_cosets(group: FiniteGroup, generators: list[int]) -> np.ndarray:
    subgroup = {0}
    while (grown := subgroup | {int(group.table[a, b]) for a in subgroup for b in generators}) != subgroup:
        subgroup = grown
    cosets = {frozenset(group.table[a, sorted(subgroup)].tolist()) for a in range(group.order)}
    place = {element: index for index, coset in enumerate(sorted(map(sorted, cosets))) for element in coset}
    least = [min(element for element, at in place.items() if at == index) for index in range(len(cosets))]
    return np.array([[place[int(group.table[g, one])] for one in least] for g in range(group.order)])


@given(action=actions())
def test_orbits_and_stabilisers(action: Action) -> None:
    group, orbits = action.group, action.orbits
    assert sorted(point for orbit in orbits for point in orbit) == list(range(action.points))
    for point in range(action.points):
        orbit, stabiliser = action.orbit(point), action.stabiliser(point)
        assert orbit in orbits
        assert len(orbit) * len(stabiliser) == group.order  # Lagrange
        assert 0 in stabiliser
        assert {int(group.table[a, b]) for a in stabiliser for b in stabiliser} == set(stabiliser)
    assert set(action.kernel) == set.intersection(*(set(action.stabiliser(x)) for x in range(action.points)))
    assert set(action.moved.tolist()) == {point for orbit in orbits if len(orbit) > 1 for point in orbit}
    fixed_points = (action.table == np.arange(action.points)).sum()
    assert fixed_points == len(orbits) * group.order  # Burnside


@given(action=actions())
def test_every_element_permutes(action: Action) -> None:
    table, group = action.table, action.group
    assert (np.sort(table) == np.arange(action.points)).all()
    for g in range(group.order):
        assert (table[group.table[g]] == table[g][table]).all()  # (g·h)·x = g·(h·x)


@given(action=actions())
def test_an_action_is_known_by_its_generators(action: Action) -> None:
    generators = [_cycles(action.table[generator].tolist()) for generator in action.group.generators]
    assert (Action.from_cycles(action.group, action.points, generators).table == action.table).all()


def _cycles(permutation: list[int]) -> list[list[int]]:
    left, found = set(range(len(permutation))), []
    while left:
        cycle = [min(left)]
        while (following := permutation[cycle[-1]]) != cycle[0]:
            cycle.append(following)
        left -= set(cycle)
        found.append(cycle)
    return [cycle for cycle in found if len(cycle) > 1]


@given(name=names)
def test_the_regular_action_is_free(name: str) -> None:
    action = regular(group_of(name))
    assert len(action.orbits) == 1
    assert action.stabiliser(0) == (0,)
    assert len(action.kernel) == 1


def test_no_permutations_at_all_leave_everything_in_place() -> None:
    action = Action.from_cycles(group_of("symmetric(3)"), 5, ())
    assert len(action.kernel) == math.factorial(3)
    assert action.moved.size == 0


@pytest.mark.parametrize(
    ("name", "cycles", "why"),
    [
        ("cyclic(3)", [[[0, 1]]], "do not multiply"),
        ("cyclic(4)", [[[0, 1, 2]]], "do not multiply"),
        ("symmetric(3)", [[[0, 1, 2]]], "has 2 generators, not 1"),
        ("symmetric(3)", [[[0, 1, 2]], [[3, 4]]], "do not multiply"),
        ("cyclic(2)", [[[0, 5]]], "from 0 to 4"),
        ("cyclic(2)", [[[0, -1]]], "from 0 to 4"),
        ("cyclic(2)", [[[0, 1], [1, 2]]], "different points"),
        ("cyclic(2)", [[[3, 3]]], "different points"),
    ],
)
def test_what_is_no_action_is_refused(name: str, cycles: list[list[list[int]]], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Action.from_cycles(group_of(name), 5, cycles)


def test_the_identity_moves_nothing() -> None:
    with pytest.raises(ValueError, match="identity"):
        Action(group_of("cyclic(2)"), np.array([[1, 0], [0, 1]]))
