"""Embedding and head under a vocabulary action: they commute, and are the dense table's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cpu.linear import Linear
from kan.symmetry.action import Action
from kan.symmetry.group import group_of
from kan.symmetry.words import Embedding, Head
from tests.kan.symmetry.models import ACTIONS, moved

WORDS = 50
EVERY_WORD = Action.from_cycles(group_of("cyclic(2)"), 6, [[[0, 5], [1, 4], [2, 3]]])
CASES = {name: Action.from_cycles(group_of(name), WORDS, cycles) for name, cycles in ACTIONS.items()} | {
    "every word": EVERY_WORD,
    "no word": Action.from_cycles(group_of("symmetric(3)"), WORDS, ()),
}


@pytest.fixture(params=CASES.values(), ids=list(CASES))
def action(request: pytest.FixtureRequest) -> Action:
    found: Action = request.param
    return found


def weight_of(action: Action) -> Tensor:
    generator = torch.Generator().manual_seed(4)
    return torch.randn(action.points, 3, generator=generator, dtype=torch.float64)


def test_a_word_exchanged_is_embedded_as_the_word_is_exchanged(action: Action) -> None:
    embedding, words = Embedding(action, weight_of(action)), torch.arange(action.points)
    for element in range(action.group.order):
        found = embedding(torch.from_numpy(action.table[element]))
        assert torch.equal(found, moved(embedding(words), action.group, element))


def test_words_of_one_orbit_share_their_numbers(action: Action) -> None:
    embedded = Embedding(action, weight_of(action))(torch.arange(action.points))
    for orbit in action.orbits:
        assert len(embedded[list(orbit)].unique()) == 3 * len(orbit)


def test_the_head_is_the_embedding_turned_round(action: Action) -> None:
    """Tied: logits are inner products with all embeddings."""
    weight, n = weight_of(action), action.group.order
    x = torch.randn(4, 3 * n, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    expected = x @ Embedding(action, weight)(torch.arange(action.points)).T
    head = Head(action, weight, Linear)
    torch.testing.assert_close(head(x), expected, atol=1e-12, rtol=1e-12)
    for element in range(n):
        found = head(moved(x, action.group, element))[:, torch.from_numpy(action.table[element])]
        torch.testing.assert_close(found, head(x), atol=1e-12, rtol=1e-12)


def test_gradients(action: Action) -> None:
    weight, n = weight_of(action).requires_grad_(), action.group.order
    x = torch.randn(4, 3 * n, generator=torch.Generator().manual_seed(6), dtype=torch.float64).requires_grad_()
    upstream = torch.randn(4, action.points, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    expected = x @ Embedding(action, weight)(torch.arange(action.points)).T
    found = torch.autograd.grad(Head(action, weight, Linear)(x), (x, weight), upstream)
    torch.testing.assert_close(found, torch.autograd.grad(expected, (x, weight), upstream), atol=1e-12, rtol=1e-12)
