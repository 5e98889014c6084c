"""The answer to a request for a response, as it is written: whole, or as events. It is kept before its end is told."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from server.engine.protocol import TokenChunk
from server.http.answer import Answer
from server.http.logprobs import token_logprobs
from server.http.response_writer import ResponseWriter, Written
from server.http.schemas.items import UrlCitation
from server.http.schemas.knowledge import cited_span, knowledge_report
from server.http.schemas.responses import ResponseObject, ResponseRequest, ResponseUsage
from server.http.streaming import named_event
from server.service.responses import Item, item_id
from server.service.run import Job, Run
from server.service.tool_calls import CallReader
from server.services import Context

_CODES = {"invalid_request_error": "invalid_prompt", "rate_limit_error": "rate_limit_exceeded"}
"""OpenAI has few codes for a response that failed; the message says the rest."""


@dataclass(frozen=True, slots=True)
class Draft:
    """What is settled before anything is said."""

    head: ResponseObject
    before: list[Item]
    """The conversation that it answers."""
    own: int
    """So many items of it have ids of this response."""
    keep: bool


class ResponseReply:
    """Writes the answer to one request. `calls`: it may call functions."""

    def __init__(self, context: Context, body: ResponseRequest, draft: Draft, *, calls: bool) -> None:
        self._context = context
        self._body = body
        self._draft = draft
        self._tokenizer = context.services.prompt.tokenizer
        self._answer = Answer(CallReader() if calls else None)
        places = iter(range(draft.own, 2**16))
        self._writer = ResponseWriter(draft.head, lambda kind: item_id(draft.head["id"], kind, next(places)))

    async def whole(self, job: Job) -> ResponseObject:
        """The response in one piece."""
        written: Written = {}
        async with aclosing(self._written(job)) as events:
            async for one in events:
                written = one
        response: ResponseObject = written["response"]
        return response

    async def events(self, job: Job) -> AsyncGenerator[bytes, None]:
        """The response as events."""
        async with aclosing(self._written(job)) as events:
            async for one in events:
                yield named_event(one)

    def failure(self, body: Mapping[str, Any]) -> bytes:
        """The last event, given the error response that it would have been."""
        error = body["error"]
        return named_event(self._writer.failure(_CODES.get(error["type"], "server_error"), error))

    async def _written(self, job: Job) -> AsyncGenerator[Written, None]:
        """Nothing before the first token: until then whatever goes wrong is an ordinary error response."""
        async with self._context.completions.run(job) as run:
            async for _, chunk in run.chunks:
                for one in self._taken(chunk):
                    yield one
            response, citations = self._ended(run), self._citations(run)
        for one in self._writer.end(response, citations):
            yield one
        if self._draft.keep:  # no slot is held while the disk is waited for
            kept = await self._context.responses.keep(job.caller, dict(response), self._draft.before)
            response["store"] = kept
        yield self._writer.last(response)

    def _taken(self, chunk: TokenChunk) -> list[Written]:
        beginning = [] if self._writer.begun else self._writer.begin()
        events = self._answer.take(chunk)
        told = token_logprobs(self._tokenizer, chunk.logprobs or ()) if self._body.alternatives is not None else []
        return [*beginning, *self._writer.take(events, self._answer.calls, told)]

    def _citations(self, run: Run) -> list[UrlCitation]:
        return [{"type": "url_citation", **cited_span(one)} for one in run.citations(0, self._answer.text)]

    def _ended(self, run: Run) -> ResponseObject:
        """All but its output."""
        cut = self._answer.finish_reason == "length"
        response: ResponseObject = {
            **self._draft.head,
            "status": "incomplete" if cut else "completed",
            "completed_at": None if cut else int(time.time()),
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "usage": _usage(run),
        }
        if self._answer.timed_out:
            response["ended_by"] = "deadline"
        report = run.report(0)
        if report is not None:
            response["knowledge"] = knowledge_report(report)
        return response


def _usage(run: Run) -> ResponseUsage:
    return {
        "input_tokens": run.prompt_tokens,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": run.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": run.prompt_tokens + run.completion_tokens,
    }
