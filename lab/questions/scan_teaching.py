"""Commands whose verbs are taught by facts: new verbs, and old ones that now mean something else.

"walk twice and look" becomes "dax twice and look" with the fact "dax means I_RUN": I_RUN I_RUN I_LOOK. Facts about
other verbs stand beside those that are needed.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from lab.questions.scan import VERBS, Command
from lab.questions.scan_words import NEW_VERBS, meaning

TRAINED_VERBS = NEW_VERBS[:-1]
"""The last new verb is never trained: what is known of it follows from the symmetry, and from facts."""
NEW, CHANGED = 0.6, 0.2
"""Shares of verbs that a new one takes the place of, and of those whose meaning a fact changes; the rest stay."""
MOST_OTHERS = 3
"""Facts about verbs that the command does not have."""


@dataclass(frozen=True, slots=True)
class Taught:
    """facts: at least one, those that are needed and others, in no order."""

    text: str
    actions: tuple[str, ...]
    facts: tuple[str, ...]


def taught(command: Command, new_verbs: Sequence[str], rng: random.Random) -> Taught:
    """The command with some of its verbs taught. `new_verbs`: at least as many as a command has verbs (2)."""
    verbs = [verb for verb in VERBS if verb in command.text.split()]
    unused = rng.sample(list(new_verbs), len(new_verbs))
    words, actions, facts = {}, {}, {}
    for verb in verbs:
        kind = rng.random()
        word = unused.pop() if kind < NEW else verb
        words[verb], actions[VERBS[verb]] = word, VERBS[verb]
        if kind < NEW + CHANGED:
            facts[word] = actions[VERBS[verb]] = rng.choice(list(VERBS.values()))
    others = [one for one in (*known_verbs(command), *unused) if one not in words.values()]
    for word in rng.sample(others, min(len(others), rng.randint(0 if facts else 1, MOST_OTHERS))):
        facts[word] = rng.choice(list(VERBS.values()))
    lines = [meaning(word, action) for word, action in facts.items()]
    return Taught(
        text=" ".join(words.get(word, word) for word in command.text.split()),
        actions=tuple(actions.get(action, action) for action in command.actions),
        facts=tuple(rng.sample(lines, len(lines))),
    )


def known_verbs(command: Command) -> list[str]:
    """Verbs that facts about others may be of: those that need not be held out of a split that tests `jump`."""
    return [verb for verb in VERBS if verb != "jump" or verb in command.text.split()]
