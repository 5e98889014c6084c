"""Exact match on SCAN, by greedy decoding.

Greedy decoding gives a reply exactly if each of its tokens is the likeliest after those before it, the token that ends
it included. So one pass over the right reply tells, and nothing needs to be generated. Of equally likely tokens it is
the first, and words that symmetry makes equal are equal, as the engine has it (`server/engine/paged/prediction.py`).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from kan.model import KANModel
from kan.symmetry.ties import Ties
from lab.errors import PlanError
from lab.questions.scan import SPLITS, Command
from lab.questions.scan_words import NEW_VERBS
from lab.training.lm.sample import Sample, lay_out
from lab.training.lm.scan import ScanSamples

TOGETHER = 128
"""Samples of one pass."""

Advance = Callable[[int], None]
"""So many more are done."""


def drawn_commands(split: str, count: int, seed: int) -> list[Command]:
    """Commands of the split's test part: `count` drawn at random, or all, if there are no more or `count` is 0.

    Raises PlanError for a split that does not exist.
    """
    if split not in SPLITS:
        raise PlanError(f"split must be one of {', '.join(SPLITS)}, not {split!r}")
    commands = list(SPLITS[split]().test)
    return commands if not 0 < count < len(commands) else random.Random(seed).sample(commands, count)


def taught_samples(samples: ScanSamples, commands: Sequence[Command], seed: int) -> list[Sample]:
    """The commands with verbs that mounted facts teach, the new ones among them that training never had."""
    rng = random.Random(seed)
    return [samples.taught(command, NEW_VERBS, rng) for command in commands]


@torch.inference_mode()
def exact(model: KANModel, samples: Sequence[Sample], preamble: Sequence[int], advance: Advance) -> list[bool]:
    """Of each sample whether greedy decoding gives its reply."""
    order = sorted(range(len(samples)), key=lambda place: len(samples[place]))  # of like length: little padding
    found = [False] * len(samples)
    ties = Ties(model.config.vocabulary_action)
    for start in range(0, len(order), TOGETHER):
        places = order[start : start + TOGETHER]
        some = [samples[place] for place in places]
        laid = lay_out(some, preamble)
        logits = _levelled(laid.logits(model), ties, some, preamble)
        for place, one in zip(places, laid.exact(logits).tolist(), strict=True):
            found[place] = one
        advance(len(places))
    return found


def _levelled(logits: Tensor, ties: Ties, samples: Sequence[Sample], preamble: Sequence[int]) -> Tensor:
    """logits [O, vocabulary] of all tokens of these replies, one after the other: those that tie are equal."""
    read = []
    for one in samples:
        before = ties.fixing([*([preamble, *one.facts] if one.facts else []), one.prompt])
        read += [before[None], ties.along(before, one.reply[:-1])]
    return ties.level(logits, np.concatenate(read))
