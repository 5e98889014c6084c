"""What a request or a fact must satisfy before the engine's thread ever sees it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from server.engine.options import EngineOptions
from server.engine.protocol import FactTokens, GenerationRequest, RequestTooLarge
from server.engine.sampling import check_sampling
from server.engine.sequence import pages_for


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """The bounds that a model and its engine's options set. Methods raise RequestTooLarge or ValueError.

    Raises ValueError itself if the page pool cannot hold the preamble, an edit and one request.
    """

    options: EngineOptions
    context_length: int
    vocab_size: int
    preamble_tokens: int

    def __post_init__(self) -> None:
        least = pages_for(self.preamble_tokens) + 2 * pages_for(self.options.max_fact_tokens) + 2
        if self.options.pages < least:
            raise ValueError(f"pages: this model needs at least {least}, not {self.options.pages}")

    def check_facts(self, facts: Sequence[FactTokens]) -> None:
        longest = self.options.max_fact_tokens
        for fact in facts:
            if not 0 < len(fact.tokens) <= longest:
                raise RequestTooLarge(f"a fact may have 1 to {longest} tokens, not {len(fact.tokens)}")
            self._check_tokens("facts", fact.tokens)

    def check_request(self, request: GenerationRequest) -> None:
        if not request.prompt:
            raise ValueError("prompt: must hold at least one token")
        check_sampling(request.sampling, self.vocab_size)
        self._check_tokens("prompt", request.prompt)
        self.check_facts([mounted.fact for mounted in request.facts])
        if not all(math.isfinite(mounted.score) for mounted in request.facts):
            raise ValueError("facts: a score is not a finite number")
        self._check_room(request)

    def _check_room(self, request: GenerationRequest) -> None:
        lengths = [len(mounted.fact.tokens) for mounted in request.facts]
        own = len(request.prompt) + request.sampling.max_tokens
        layout = self.preamble_tokens + max(lengths) if lengths else 0
        if own + layout > self.context_length:
            raise RequestTooLarge(
                f"{len(request.prompt)} prompt tokens, {request.sampling.max_tokens} to generate and {layout} "
                f"positions of knowledge exceed the context of {self.context_length} tokens"
            )
        pages = pages_for(own) + pages_for(self.preamble_tokens) + sum(map(pages_for, lengths))
        available = self.options.pages - pages_for(self.options.max_fact_tokens)
        if pages > available:
            raise RequestTooLarge(f"the request needs {pages} pages of 16 tokens; the cache has {available} to give")

    def _check_tokens(self, field: str, tokens: Iterable[int]) -> None:
        for token in tokens:
            if not 0 <= token < self.vocab_size:
                raise ValueError(f"{field}: token {token} is not in the vocabulary of {self.vocab_size}")
