"""Samples of SCAN: the commands of a split's training part in an order of their own for every epoch."""

from __future__ import annotations

import random
from collections.abc import Sequence

from kan.prompt import ChatMessage, PromptBuilder
from lab.questions.scan import Command
from lab.questions.scan_teaching import TRAINED_VERBS, taught
from lab.questions.scan_words import reply
from lab.training.lm.sample import Sample


class ScanSamples:
    """`Samples` of commands.

    `share`     of samples whose verbs are taught by facts that come with them
    """

    def __init__(
        self, commands: Sequence[Command], prompt: PromptBuilder, end_token: int, *, share: float, seed: int
    ) -> None:
        self._commands = commands
        self.prompt = prompt
        self._end_token = end_token
        self._share = share
        self._seed = seed
        self._epoch = -1
        self._order: list[int] = []

    @property
    def preamble(self) -> Sequence[int]:
        return self.prompt.preamble

    def batch(self, step: int, size: int) -> list[Sample]:
        """A negative step has commands drawn at random, none twice in one batch."""
        rng = random.Random(f"{self._seed}:{step}")
        if step < 0:
            chosen = rng.sample(self._commands, min(size, len(self._commands)))
        else:
            chosen = [self._at(place) for place in range(step * size, (step + 1) * size)]
        return [self._sample(command, rng) for command in chosen]

    def plain(self, command: Command) -> Sample:
        """Without facts."""
        return self._laid(command.text, command.actions, ())

    def taught(self, command: Command, new_verbs: Sequence[str], rng: random.Random) -> Sample:
        """With verbs that facts teach."""
        one = taught(command, new_verbs, rng)
        return self._laid(one.text, one.actions, one.facts)

    def _sample(self, command: Command, rng: random.Random) -> Sample:
        return self.taught(command, TRAINED_VERBS, rng) if rng.random() < self._share else self.plain(command)

    def _at(self, place: int) -> Command:
        """Of all epochs, one after the other."""
        epoch, index = divmod(place, len(self._commands))
        if epoch != self._epoch:
            everyone = range(len(self._commands))
            self._order = random.Random(f"{self._seed}:epoch {epoch}").sample(everyone, len(everyone))
            self._epoch = epoch
        return self._commands[self._order[index]]

    def _laid(self, text: str, actions: Sequence[str], facts: Sequence[str]) -> Sample:
        return Sample(
            prompt=self.prompt.chat([ChatMessage("user", text)], with_knowledge=bool(facts)),
            reply=[*self.prompt.tokenizer.encode(reply(actions)), self._end_token],
            facts=[self.prompt.fact(fact) for fact in facts],
        )
