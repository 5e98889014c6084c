"""The choices of one request, each on its own way from admission through the engine."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import replace
from typing import TypeAlias

from server.engine.protocol import Engine, GenerationRequest, TokenChunk
from server.service.account import Account
from server.service.admission import Admission, Place
from server.service.errors import InvalidRequest
from server.service.merge import merge
from server.service.require_grounded import nothing_mounted

Stream: TypeAlias = AsyncIterator[TokenChunk]


class Choices:
    """A place in the queue for each request to the engine; the first place has a slot."""

    def __init__(
        self,
        engine: Engine,
        admission: Admission,
        places: Sequence[Place],
        requests: Sequence[GenerationRequest],
        account: Account,
    ) -> None:
        self._engine = engine
        self._admission = admission
        self._places = places
        self._requests = requests
        self._account = account
        self._streams: dict[int, Stream] = {}
        """Of choices that have been submitted."""
        self._submitted: dict[int, float] = {}
        """When, on time.monotonic()'s clock."""

    def start(self, *, only_grounded: bool) -> AsyncGenerator[tuple[int, TokenChunk], None]:
        """(choice, chunk), as they come. `only_grounded`: without facts the model need not be asked.

        The first choice is submitted by this call: what the engine refuses is refused before anything is answered.
        Raises InvalidRequest and EngineError; so does iterating.
        """
        hopeless = [only_grounded and not request.facts for request in self._requests]
        if not hopeless[0]:
            self._submit(0)
        return merge([self._refused(i) if without else self._chunks(i) for i, without in enumerate(hopeless)])

    async def aclose(self) -> None:
        """Nothing is left in the engine afterwards."""
        for stream in self._streams.values():
            # Closing is how the engine is told to stop; the protocol's iterators are generators in all but name.
            aclose = getattr(stream, "aclose", None)
            if aclose is not None:
                await aclose()

    async def _chunks(self, choice: int) -> AsyncGenerator[TokenChunk, None]:
        place = self._places[choice]
        if choice not in self._streams:
            with self._account.during("queue"):
                await place.turn()
            self._submit(choice)
        first_at = None
        try:
            async for chunk in self._streams[choice]:
                first_at = first_at or self._first(choice, chunk)
                if chunk.queue_seconds is not None:
                    chunk = replace(chunk, queue_seconds=place.waited + chunk.queue_seconds)
                yield chunk
        finally:
            if first_at is not None:
                self._account.spent("decode", first_at)
        self._admission.leave(place)

    def _first(self, choice: int, chunk: TokenChunk) -> float:
        """Account for what came before a choice's first chunk; when that is, on time.monotonic()'s clock."""
        now, submitted = time.monotonic(), self._submitted[choice]
        admitted = submitted + (chunk.queue_seconds or 0.0)
        self._account.spent("queue", submitted, admitted)
        self._account.spent("prefill", admitted, now)
        return now

    def _refused(self, choice: int) -> AsyncGenerator[TokenChunk, None]:
        self._admission.leave(self._places[choice])
        return nothing_mounted()

    def _submit(self, choice: int) -> None:
        self._submitted[choice] = time.monotonic()
        try:
            self._streams[choice] = self._engine.generate(self._requests[choice])
        except ValueError as error:  # a parameter that only the engine can judge
            raise InvalidRequest(str(error), str(error).partition(":")[0]) from error
