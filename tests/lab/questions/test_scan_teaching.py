"""Commands with taught verbs mean what their facts say."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from lab.questions.scan import VERBS, add_jump, commands
from lab.questions.scan_teaching import TRAINED_VERBS, Taught, taught
from lab.questions.scan_words import NEW_VERBS

LANGUAGE = {one.text: one.actions for one in commands()}


def meanings(one: Taught) -> dict[str, str]:
    pairs = [(word, action) for word, _, action in (fact.partition(" means ") for fact in one.facts)]
    assert len({word for word, _ in pairs}) == len(pairs), "no verb is taught twice"
    return dict(pairs)


def understood(one: Taught) -> tuple[str, ...]:
    """By the grammar: with its verbs put back, of which each stands for an action that only it has."""
    known = {**VERBS, **meanings(one)}
    used = [word for word in one.text.split() if word in known]
    stands_for = dict(zip(dict.fromkeys(used), VERBS, strict=False))
    plain = " ".join(stands_for.get(word, word) for word in one.text.split())
    means = {VERBS[verb]: known[word] for word, verb in stands_for.items()}
    return tuple(means.get(action, action) for action in LANGUAGE[plain])


@given(st.integers(0, len(LANGUAGE) - 1), st.integers(0, 2**32))
def test_the_actions_are_those_of_the_facts(place: int, seed: int) -> None:
    one = taught(commands()[place], NEW_VERBS, random.Random(seed))
    assert one.facts
    assert one.actions == understood(one)
    new = {word for word in one.text.split() if word in NEW_VERBS}
    assert new <= meanings(one).keys(), "a new verb means nothing without a fact"


def test_what_is_tested_is_never_taught_in_training() -> None:
    rng = random.Random(0)
    for command in add_jump().train[:3000]:
        one = taught(command, TRAINED_VERBS, rng)
        assert NEW_VERBS[-1] not in " ".join((one.text, *one.facts))
        if "jump" in one.text.split() or "jump" in meanings(one):
            assert command.text == "jump"


def test_all_kinds_occur() -> None:
    rng = random.Random(1)
    found = [taught(command, TRAINED_VERBS, rng) for command in commands()[:2000]]
    assert {len(one.facts) for one in found} == set(range(1, 6))
    changed = [one for one in found if any(VERBS.get(word, action) != action for word, action in meanings(one).items())]
    idle = [one for one in found if not meanings(one).keys() & set(one.text.split())]
    assert changed
    assert idle
