"""The embedded engine serves a model with a group: what holds of a question holds of it with the words exchanged."""

from __future__ import annotations

from pathlib import Path

import pytest

from kan.knowledge.phi import gap_phi
from kan.prompt import PromptBuilder
from tests.engine.harness import World, answers, flat, one_by_one
from tests.kan.symmetry.models import grouped
from tests.tiny import tiny_checkpoint, tiny_tokenizer_json

WORDS = "XQJZ"
"""None of them is in the preamble or the templates, which no element may change."""


@pytest.fixture(scope="module")
def symmetric(tmp_path_factory: pytest.TempPathFactory) -> World:
    from kan.tokenizer import Tokenizer

    cycle = tuple(Tokenizer(tiny_tokenizer_json()).encode(word)[0] for word in WORDS)
    settings = grouped("cyclic(4) x cyclic(2)", copies=6, num_heads=4, num_kv_heads=2)
    action = ((cycle,), ())
    checkpoint = tiny_checkpoint(tmp_path_factory.mktemp("group"), **(settings | {"group_action": action}))
    prompt = PromptBuilder.from_checkpoint(checkpoint)
    assert not set(cycle) & set(prompt.preamble)
    return World(checkpoint, prompt)


def turned(text: str) -> str:
    return text.translate(str.maketrans(WORDS, WORDS[1:] + WORDS[:1]))


QUESTIONS = (("Is it X or J?", ("X is a Q.", "J runs.")), ("ZZ", ()), ("Q " * 20, ("A ZJ and an X " * 3,)))


async def test_answers_are_exchanged_with_the_words(symmetric: World) -> None:
    """Scores of facts are given with their texts' lengths here, which exchanging words does not change."""
    phi = gap_phi(symmetric.checkpoint.config.num_layers, 4, symmetric.checkpoint.config.head_dim)

    async with symmetric.engine(phi=phi) as engine:
        plain = await one_by_one(
            engine, [symmetric.request(question, *facts, max_tokens=6) for question, facts in QUESTIONS]
        )
        exchanged = await answers(
            engine,
            [symmetric.request(turned(question), *map(turned, facts), max_tokens=6) for question, facts in QUESTIONS],
        )
        assert engine.info.kernels == "torch"
    for one, other in zip(plain, exchanged, strict=True):
        assert other.text == turned(one.text)
        assert flat(other.logprobs) == pytest.approx(flat(one.logprobs), abs=1e-9)
        assert other.attention == pytest.approx(one.attention, abs=1e-9)
    assert any(set(WORDS) & set(one.text) for one in plain), "no word that could be exchanged was answered"


async def test_a_model_with_a_group_is_read_from_disk_pages(symmetric: World, tmp_path: Path) -> None:
    """Encoded by one engine, mounted by the next."""
    request = symmetric.request("Is it X?", "X is a Q.", logprobs=2)
    async with symmetric.engine(page_dir=tmp_path) as engine:
        first = await one_by_one(engine, [request])
    async with symmetric.engine(page_dir=tmp_path) as engine:
        again = await one_by_one(engine, [symmetric.request("Is it X?", "X is a Q.", logprobs=2)])
    assert first[0].tokens == again[0].tokens
