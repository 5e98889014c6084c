"""SCAN by code: as many commands as were published, meaning what they were published to mean."""

from __future__ import annotations

from collections import Counter

import pytest

from lab.questions.scan import DIRECTIONS, SPLITS, VERBS, commands

PUBLISHED = {
    "add-jump": (14_670, 7_706),
    "add-turn-left": (21_890, 1_208),
    "around-right": (15_225, 4_476),
    "length": (16_990, 3_920),
}
"""Train and test, of the files of the published data set."""

EXAMPLES = {
    "jump": "I_JUMP",
    "jump left": "I_TURN_LEFT I_JUMP",
    "turn left twice": "I_TURN_LEFT I_TURN_LEFT",
    "jump around right": "I_TURN_RIGHT I_JUMP I_TURN_RIGHT I_JUMP I_TURN_RIGHT I_JUMP I_TURN_RIGHT I_JUMP",
    "turn opposite right": "I_TURN_RIGHT I_TURN_RIGHT",
    "jump opposite left and walk thrice": "I_TURN_LEFT I_TURN_LEFT I_JUMP I_WALK I_WALK I_WALK",
    "jump opposite left after walk around left": "I_TURN_LEFT I_WALK I_TURN_LEFT I_WALK I_TURN_LEFT I_WALK "
    "I_TURN_LEFT I_WALK I_TURN_LEFT I_TURN_LEFT I_JUMP",
}
"""From the data set's description."""


def test_all_commands() -> None:
    assert len(commands()) == len({one.text for one in commands()}) == 20_910
    assert max(len(one.actions) for one in commands()) == 48


@pytest.mark.parametrize(("text", "actions"), EXAMPLES.items())
def test_what_they_mean(text: str, actions: str) -> None:
    (found,) = [one for one in commands() if one.text == text]
    assert " ".join(found.actions) == actions


@pytest.mark.parametrize("name", SPLITS)
def test_splits_are_as_large_as_published(name: str) -> None:
    split = SPLITS[name]()
    assert (len(split.train), len(split.test)) == PUBLISHED[name]
    assert not {one.text for one in split.train} & {one.text for one in split.test}


@pytest.mark.parametrize(("name", "primitive"), [("add-jump", "jump"), ("add-turn-left", "turn left")])
def test_one_example_in_ten_is_the_new_primitive(name: str, primitive: str) -> None:
    split = SPLITS[name]()
    counts = Counter(one.text for one in split.train)
    assert 10 * counts.pop(primitive) == len(split.train)
    assert set(counts.values()) == {1}
    assert not any(primitive in text for text in counts)
    assert all(primitive in one.text for one in split.test)


def test_the_language_has_the_symmetry_of_its_words() -> None:
    """Verbs exchanged in a command are verbs exchanged in what it means; so are directions."""
    exchanged = {"walk": "look", "look": "run", "run": "jump", "jump": "walk", "left": "right", "right": "left"}
    meaning = {**VERBS, **DIRECTIONS}
    actions = {meaning[one]: meaning[other] for one, other in exchanged.items()}
    known = {one.text: one.actions for one in commands()}
    for one in commands():
        text = " ".join(exchanged.get(word, word) for word in one.text.split())
        assert known[text] == tuple(actions[action] for action in one.actions)
