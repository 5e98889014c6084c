"""One answer in the making: what its tokens say, and what they call."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field

from server.engine.protocol import FinishReason, TokenChunk, TokenLogprob
from server.service.tool_calls import Called, CallReader, Event, Said


@dataclass(slots=True)
class Call:
    """Of a function, for the client to carry out."""

    id: str
    name: str
    arguments: str = ""
    """JSON, as far as it has come."""


@dataclass(slots=True)
class Answer:
    """What has come of it. Whichever endpoint asked writes it in its own way."""

    reader: CallReader | None
    """None: there is nothing to call, all is text."""
    text: str = ""
    calls: list[Call] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    last: TokenChunk | None = None

    def take(self, chunk: TokenChunk) -> list[Event]:
        """What the chunk brought; it is noted here as well."""
        self.logprobs += chunk.logprobs or ()
        self.last = chunk
        if self.reader is None:
            events: list[Event] = [Said(chunk.text)] if chunk.text else []
        else:
            events = [*self.reader.feed(chunk.text), *(self.reader.finish() if chunk.finish_reason else ())]
        for one in events:
            self._note(one)
        return events

    def _note(self, one: Event) -> None:
        if isinstance(one, Said):
            self.text += one.text
        elif isinstance(one, Called):
            self.calls.append(Call(f"call_{uuid.uuid4().hex}", one.name))
        else:
            self.calls[one.number].arguments += one.text

    @property
    def finish_reason(self) -> FinishReason | None:
        """None: it goes on."""
        return self.last.finish_reason if self.last else None

    @property
    def timed_out(self) -> bool:
        """Whether the deadline ended it."""
        return self.last is not None and self.last.timed_out
