"""What a request or a fact must satisfy before the engine's thread ever sees it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kan.attention import PAGE_SIZE, pages_for
from server.engine.decoding.sampling import check_sampling
from server.engine.protocol import EngineInfo, FactTokens, GenerationRequest, RequestTooLarge


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """The bounds that a model sets. Methods raise RequestTooLarge or ValueError."""

    info: EngineInfo
    preamble_tokens: int
    max_fact_tokens: int

    def check_facts(self, facts: Sequence[FactTokens]) -> None:
        longest = min(self.max_fact_tokens, self.info.context_length - self.preamble_tokens)  # positions that there are
        for fact in facts:
            if not 0 < len(fact.tokens) <= longest:
                raise RequestTooLarge(f"a fact may have 1 to {longest} tokens, not {len(fact.tokens)}")
            self._check_tokens("facts", fact.tokens)

    def check_request(self, request: GenerationRequest) -> None:
        if not request.prompt:
            raise ValueError("prompt: must hold at least one token")
        check_sampling(request.sampling, self.info.vocab_size)
        self._check_tokens("prompt", request.prompt)
        self.check_facts([mounted.fact for mounted in request.facts])
        if not all(math.isfinite(number) for mounted in request.facts for number in mounted.fit):
            raise ValueError("facts: a score is not a finite number")
        self._check_positions(request)

    def _check_positions(self, request: GenerationRequest) -> None:
        knowledge = self.info.knowledge_positions(self.preamble_tokens, _lengths(request))
        if _own(request) + knowledge > self.info.context_length:
            raise RequestTooLarge(
                f"{len(request.prompt)} prompt tokens, {request.sampling.max_tokens} to generate and {knowledge} "
                f"positions of knowledge exceed the context of {self.info.context_length} tokens"
            )

    def _check_tokens(self, field: str, tokens: Iterable[int]) -> None:
        for token in tokens:
            if not 0 <= token < self.info.vocab_size:
                raise ValueError(f"{field}: token {token} is not in the vocabulary of {self.info.vocab_size}")


@dataclass(frozen=True, slots=True)
class PageLimits:
    """The bound that a page pool sets.

    Raises ValueError itself if the pool cannot hold the preamble, an edit and one request.
    """

    pages: int
    preamble_tokens: int
    max_fact_tokens: int
    fact_tokens_per_page: int = PAGE_SIZE

    def __post_init__(self) -> None:
        least = pages_for(self.preamble_tokens) + 2 * pages_for(self.max_fact_tokens) + 2
        if self.pages < least:
            raise ValueError(f"pages: this model needs at least {least}, not {self.pages}")

    def check_request(self, request: GenerationRequest) -> None:
        """RequestTooLarge if the request could never have all its pages."""
        facts = sum(pages_for(length, self.fact_tokens_per_page) for length in _lengths(request))
        needed = pages_for(_own(request)) + pages_for(self.preamble_tokens) + facts
        available = self.pages - pages_for(self.max_fact_tokens)
        if needed > available:
            raise RequestTooLarge(
                f"the request needs {needed} pages of {PAGE_SIZE} tokens; the cache has {available} to give"
            )


def _lengths(request: GenerationRequest) -> list[int]:
    return [len(mounted.fact.tokens) for mounted in request.facts]


def _own(request: GenerationRequest) -> int:
    return len(request.prompt) + request.sampling.max_tokens
