"""SCAN (Lake and Baroni, 2018): all commands of its grammar with the actions they mean, and its splits.

    C → S and S | S after S | S        S → V twice | V thrice | V
    V → U | U d | turn d | U opposite d | turn opposite d | U around d | turn around d
    U → walk | look | run | jump       d → left | right

"Around right" is the split of Loula, Baroni and Lake (2018). What it tests are primitives in a pattern never seen with
them; commands that have the pattern with `turn` are in neither part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

VERBS = {"walk": "I_WALK", "look": "I_LOOK", "run": "I_RUN", "jump": "I_JUMP"}
DIRECTIONS = {"left": "I_TURN_LEFT", "right": "I_TURN_RIGHT"}
REPEATS = {"": 1, " twice": 2, " thrice": 3}
LONGEST_TRAINED = 22
"""Actions, in the split by length."""
PRIMITIVE_SHARE = 10
"""One example in so many of a training part is the new primitive alone."""


@dataclass(frozen=True, slots=True)
class Command:
    """phrases: the V that it consists of, one or two."""

    text: str
    actions: tuple[str, ...]
    phrases: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Split:
    """What is trained on, some commands many times, and what is tested."""

    train: Sequence[Command]
    test: Sequence[Command]


@lru_cache(maxsize=1)
def commands() -> tuple[Command, ...]:
    """All 20,910, in the order of the grammar."""
    single = [
        Command(phrase + repeat, count * actions, (phrase,))
        for phrase, actions in _phrases()
        for repeat, count in REPEATS.items()
    ]
    return (*single, *_joined(single))


def add_jump() -> Split:
    """`jump` is trained alone, and tested in all commands that have more."""
    return _added_primitive("jump", lambda command: "jump" in command.text.split())


def add_turn_left() -> Split:
    """The same with `turn left`: `turn opposite left` and `turn around left` are trained in full."""
    return _added_primitive("turn left", lambda command: "turn left" in command.phrases)


def around_right() -> Split:
    """`around right` is not trained at all, and tested with the four verbs."""
    held_out = {f"{verb} around right" for verb in VERBS}
    without = [one for one in commands() if "turn around right" not in one.phrases]
    return _parted(without, lambda command: bool(held_out & set(command.phrases)))


def by_length() -> Split:
    """Up to LONGEST_TRAINED actions are trained, longer ones tested."""
    return _parted(commands(), lambda command: len(command.actions) > LONGEST_TRAINED)


SPLITS: Mapping[str, Callable[[], Split]] = {
    "add-jump": add_jump,
    "add-turn-left": add_turn_left,
    "around-right": around_right,
    "length": by_length,
}


def _phrases() -> Iterator[tuple[str, tuple[str, ...]]]:
    """The 34 phrases V and their actions."""
    for verb, action in VERBS.items():
        yield verb, (action,)
    doing = {"turn": (), **{verb: (action,) for verb, action in VERBS.items()}}
    for (verb, done), (direction, turn) in product(doing.items(), DIRECTIONS.items()):
        yield f"{verb} {direction}", (turn, *done)
        yield f"{verb} opposite {direction}", (turn, turn, *done)
        yield f"{verb} around {direction}", 4 * (turn, *done)


def _joined(single: Sequence[Command]) -> Iterator[Command]:
    for first, second in product(single, single):
        phrases = first.phrases + second.phrases
        yield Command(f"{first.text} and {second.text}", first.actions + second.actions, phrases)
        yield Command(f"{first.text} after {second.text}", second.actions + first.actions, phrases)


def _parted(among: Sequence[Command], tested: Callable[[Command], bool]) -> Split:
    return Split([one for one in among if not tested(one)], [one for one in among if tested(one)])


def _added_primitive(primitive: str, has_it: Callable[[Command], bool]) -> Split:
    split = _parted(commands(), has_it)
    alone = next(one for one in split.test if one.text == primitive)
    copies = round(len(split.train) / (PRIMITIVE_SHARE - 1))
    return Split([*split.train, *copies * [alone]], [one for one in split.test if one is not alone])
