"""The choices of one request, each on its own way from admission through the engine."""

from __future__ import annotations

import asyncio
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
    """A place in the queue for each request to the engine, or for each of the first; the others get theirs when it is
    given up. The first place has a slot."""

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
        self._places = set(places)
        """Held, or waited for."""
        self._free: asyncio.Queue[Place] = asyncio.Queue()
        """Of no choice yet, in the order in which they will have a slot."""
        for place in places:
            self._free.put_nowait(place)
        self._placeless = len(requests)
        """Choices that have yet to get one."""
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
        self._placeless -= sum(hopeless)
        while self._free.qsize() > self._placeless:
            self._leave(self._free.get_nowait())
        chunks: list[AsyncGenerator[TokenChunk, None]] = []
        for choice, without in enumerate(hopeless):
            place = None
            if choice == 0 and not without:
                place = self._taken(self._free.get_nowait())
                self._submit(choice)
            chunks.append(nothing_mounted() if without else self._chunks(choice, place))
        return merge(chunks)

    async def aclose(self) -> None:
        """Nothing is left in the engine afterwards, and no place is held."""
        for stream in self._streams.values():
            # Closing is how the engine is told to stop; the protocol's iterators are generators in all but name.
            aclose = getattr(stream, "aclose", None)
            if aclose is not None:
                await aclose()
        for place in list(self._places):
            self._leave(place)

    async def _chunks(self, choice: int, place: Place | None) -> AsyncGenerator[TokenChunk, None]:
        """`place`: of a choice that has been submitted."""
        if place is None:
            with self._account.during("queue"):
                place = self._taken(await self._free.get())
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
        self._give_up(place)

    def _taken(self, place: Place) -> Place:
        self._placeless -= 1
        return place

    def _give_up(self, place: Place) -> None:
        """For the next choice that has none: it queues like anybody else."""
        if self._placeless <= self._free.qsize():
            self._leave(place)
            return
        self._places.discard(place)
        successor = self._admission.again(place)
        self._places.add(successor)
        self._free.put_nowait(successor)

    def _leave(self, place: Place) -> None:
        self._places.discard(place)
        self._admission.leave(place)

    def _first(self, choice: int, chunk: TokenChunk) -> float:
        """Account for what came before a choice's first chunk; when that is, on time.monotonic()'s clock."""
        now, submitted = time.monotonic(), self._submitted[choice]
        admitted = submitted + (chunk.queue_seconds or 0.0)
        self._account.spent("queue", submitted, admitted)
        self._account.spent("prefill", admitted, now)
        return now

    def _submit(self, choice: int) -> None:
        self._submitted[choice] = time.monotonic()
        try:
            self._streams[choice] = self._engine.generate(self._requests[choice])
        except ValueError as error:  # a parameter that only the engine can judge
            raise InvalidRequest(str(error), str(error).partition(":")[0]) from error
