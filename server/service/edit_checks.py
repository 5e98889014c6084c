"""What an edit must be before anything is done for it, and what its errors tell a client."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from kb.conditions import conflicts
from kb.errors import InvalidChange, Problem, VersionConflict
from kb.facts import Change, Upsert
from kb.metadata import has_surrogate
from kb.store import Store
from kb.validation import validate_batch
from server.engine.protocol import FactTokens
from server.service.pages import FactPages

SLICE_FACTS = 32
"""Of a large edit. Others get their turn in between."""


@dataclass(frozen=True, slots=True)
class Checked:
    """Valid changes, or some of them, and the facts to encode."""

    changes: tuple[Change, ...] = ()
    tokens: tuple[FactTokens | None, ...] = ()
    """One per change; None: nothing to encode."""

    @property
    def facts(self) -> list[FactTokens]:
        """What there is to encode."""
        return [fact for fact in self.tokens if fact is not None]

    def slices(self) -> Iterator[Checked]:
        """In the same order, SLICE_FACTS at most in each."""
        for start in range(0, len(self.changes), SLICE_FACTS):
            some = slice(start, start + SLICE_FACTS)
            yield Checked(self.changes[some], self.tokens[some])


class Check:
    """Valid changes and their tokens. Raises InvalidChange, VersionConflict and what `Store.require_log` does."""

    def __init__(self, store: Store, pages: FactPages, most_tokens: int) -> None:
        """`most_tokens`: in one fact."""
        self._store = store
        self._pages = pages
        self._most_tokens = most_tokens

    def __call__(self, changes: Sequence[Change], most: int | None = None) -> Checked:
        """Before any work: a refused edit must cost nothing. Blocks. `most`: changes, if not the store's limit."""
        self._store.require_log()
        limits = self._store.limits
        try:
            checked = validate_batch(changes, limits if most is None else replace(limits, batch_changes=most))
        except InvalidChange as error:
            raise self._with_tokens(error, changes) from error
        found = conflicts(checked, self._store.snapshot, time.time())
        if passed := [one for one in found if one.final]:  # the others may yet be what is expected
            raise VersionConflict(passed)
        tokens = [self._pages.tokens(change.text) if isinstance(change, Upsert) else None for change in checked]
        problems = [problem for index, fact in enumerate(tokens) if fact for problem in self._too_long(index, fact)]
        if problems:
            raise InvalidChange(problems)
        return Checked(checked, tuple(tokens))

    def _too_long(self, index: int, fact: FactTokens) -> Iterator[Problem]:
        if len(fact.tokens) > self._most_tokens:
            yield Problem(index, "text", self._bound(fact))

    def _bound(self, fact: FactTokens) -> str:
        most = self._most_tokens
        return f"has {len(fact.tokens)} tokens; at most {most} are allowed (?split=true makes several facts of it)"

    def _with_tokens(self, error: InvalidChange, changes: Sequence[Change]) -> InvalidChange:
        """Says of the first text that is too long in characters how many tokens it has: the bound that matters."""
        problems = list(error.problems)
        longest = self._store.limits.text_chars
        for place, problem in enumerate(problems):
            change = changes[problem.index] if problem.index < len(changes) else None
            if problem.field == "text" and isinstance(change, Upsert) and _is_long(change.text, longest):
                message = f"{problem.message}; it {self._bound(self._pages.tokens(change.text))}"
                problems[place] = replace(problem, message=message)
                break
        return InvalidChange(problems)


def _is_long(text: object, longest: int) -> bool:
    """Whether it is too long, and can be split into tokens at all."""
    return isinstance(text, str) and len(text) > longest and bool(text.strip()) and not has_surrogate(text)
