"""POST /v1/completions."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace

from starlette.requests import Request
from starlette.responses import Response

from server.engine.protocol import FinishReason, Grammar, SamplingParams, TokenChunk
from server.http.logprobs import CompletionLogprobsWriter, joined
from server.http.routes.base import json_response, streamable, strict_router
from server.http.schemas.completions import (
    Completion,
    CompletionChoice,
    CompletionLogprobs,
    CompletionRequest,
)
from server.http.schemas.knowledge import KnowledgeRequest, knowledge_report
from server.http.schemas.usage import usage
from server.http.scope import access, account, request_id, started
from server.http.streaming import DONE, EventStream, event
from server.service.prompts import Echo, Text
from server.service.run import Job, Run
from server.services import CallerDep, Context, ContextDep

router = strict_router()


@router.post("/v1/completions", responses=streamable(Completion))
async def completions(body: CompletionRequest, request: Request, context: ContextDep, caller: CallerDep) -> Response:
    """Continue a text, or several, from live knowledge."""
    context.require_model(body.model)
    deadline = started(request.scope) + context.settings.request_timeout_s
    grammar = await context.grammars.compile(caller, deadline, body.form)
    sources = tuple(
        Text(prompt if isinstance(prompt, str) else tuple(prompt), bool(body.echo)) for prompt in body.prompts
    )
    job = Job(
        request_id=request_id(request.scope),
        caller=caller,
        endpoint="completions",
        started=started(request.scope),
        sources=sources,
        choices=body.choices,
        knowledge=(body.knowledge or KnowledgeRequest()).options(access(request.scope)),
        account=account(request.scope),
        sampling=lambda room: _sampling(body, grammar),
    )
    reply = CompletionReply(context, body, sources)
    if body.stream:
        return await EventStream.start(reply.events(job), context.settings.stream_keep_alive_s)
    return json_response(await reply.whole(job))


def _sampling(body: CompletionRequest, grammar: Grammar | None) -> SamplingParams:
    """Nothing but the prompt's log probabilities still takes one step, whose token is then dropped."""
    prompt_logprobs = body.logprobs if body.echo else None
    return replace(body.sampling(max(1, body.token_limit), body.logprobs, prompt_logprobs), grammar=grammar)


@dataclass(slots=True)
class _Choice:
    """What has been written of one choice."""

    writer: CompletionLogprobsWriter
    text: str = ""
    logprobs: CompletionLogprobs | None = None
    finish_reason: FinishReason | None = None
    begun: bool = False
    timed_out: bool = False


class CompletionReply:
    """Writes the answer to one request."""

    def __init__(self, context: Context, body: CompletionRequest, sources: tuple[Text, ...]) -> None:
        self._context = context
        self._body = body
        self._sources = sources
        self._builder = context.services.prompt
        self._id = f"cmpl-{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._choices = [
            _Choice(CompletionLogprobsWriter(self._builder.tokenizer)) for _ in range(len(sources) * body.choices)
        ]

    async def whole(self, job: Job) -> Completion:
        """The response in one piece."""
        async with self._context.completions.run(job) as run:
            async for index, chunk in run.chunks:
                self._take(run, index, chunk)
            completion = self._head([self._written(run, index) for index in range(len(self._choices))])
            self._add_report(run, completion)
        completion["usage"] = usage(run.prompt_tokens, self._completion_tokens(run))
        return completion

    async def events(self, job: Job) -> AsyncGenerator[bytes, None]:
        """The response as events."""
        async with self._context.completions.run(job) as run:
            async for index, chunk in run.chunks:
                self._take(run, index, chunk)
                choice = self._choices[index]
                if not (choice.text or choice.logprobs or choice.finish_reason):
                    continue
                completion = self._head([self._written(run, index)])
                choice.text, choice.logprobs = "", None
                if run.complete:
                    self._add_report(run, completion)
                if self._body.include_usage:
                    completion["usage"] = None
                yield event(completion)
            if self._body.include_usage:
                total = usage(run.prompt_tokens, self._completion_tokens(run))
                yield event({**self._head([]), "usage": total})
            yield DONE

    def _take(self, run: Run, index: int, chunk: TokenChunk) -> None:
        """Add a chunk to its choice, and the echo before the first one."""
        choice = self._choices[index]
        if not choice.begun:
            choice.begun = True
            echo = run.prompts[index // self._body.choices].echo
            if echo is not None:
                self._echo(echo, choice, chunk)
        if self._body.token_limit > 0:
            choice.text += chunk.text
            if self._body.logprobs is not None and chunk.logprobs:
                new = choice.writer.generated(chunk.logprobs)
                choice.logprobs = joined(choice.logprobs, new) if choice.logprobs else new
        choice.timed_out = chunk.timed_out
        choice.finish_reason = "length" if chunk.finish_reason and not self._body.token_limit else chunk.finish_reason

    def _echo(self, echo: Echo, choice: _Choice, chunk: TokenChunk) -> None:
        choice.text += echo.text
        if self._body.logprobs is not None:
            # Before the client's tokens stand those that open a text or close the facts.
            known = chunk.prompt_logprobs
            choice.logprobs = choice.writer.prompt(echo.tokens, known[-len(echo.tokens) :] if known else None)

    def _written(self, run: Run, index: int) -> CompletionChoice:
        choice = self._choices[index]
        written: CompletionChoice = {
            "index": index,
            "text": choice.text,
            "logprobs": choice.logprobs,
            "finish_reason": choice.finish_reason,
        }
        if choice.timed_out:
            written["ended_by"] = "deadline"
        if len(self._sources) > 1 and choice.finish_reason is not None:
            report = run.report(index // self._body.choices)
            if report is not None:
                written["knowledge"] = knowledge_report(report)
        return written

    def _add_report(self, run: Run, completion: Completion) -> None:
        report = run.report(0) if len(self._sources) == 1 else None
        if report is not None:
            completion["knowledge"] = knowledge_report(report)

    def _completion_tokens(self, run: Run) -> int:
        return run.completion_tokens if self._body.token_limit else 0

    def _head(self, choices: list[CompletionChoice]) -> Completion:
        return {
            "id": self._id,
            "object": "text_completion",
            "created": self._created,
            "model": self._body.model,
            "system_fingerprint": self._context.fingerprint,
            "choices": choices,
        }
