"""POST /v1/chat/completions."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from kan.prompt import ChatMessage
from server.engine.protocol import SamplingParams, TokenChunk, TokenLogprob
from server.http.logprobs import chat_logprobs
from server.http.routes.base import json_response, streamable, strict_router
from server.http.schemas.chat import (
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatDelta,
    ChatLogprobs,
    ChatRequest,
    Message,
)
from server.http.schemas.knowledge import KnowledgeRequest, knowledge_report
from server.http.schemas.usage import usage
from server.http.scope import account, request_id, started
from server.http.streaming import DONE, EventStream, event
from server.service.prompts import Conversation
from server.service.run import Job, Run
from server.services import CallerDep, Context, ContextDep

router = strict_router()


@router.post("/v1/chat/completions", responses=streamable(ChatCompletion))
async def chat_completions(body: ChatRequest, request: Request, context: ContextDep, caller: CallerDep) -> Response:
    """Answer a conversation from live knowledge."""
    context.require_model(body.model)
    reply = ChatReply(context, body)
    job = Job(
        request_id=request_id(request.scope),
        caller=caller,
        endpoint="chat",
        started=started(request.scope),
        sources=(conversation(body.messages),),
        choices=body.choices,
        knowledge=(body.knowledge or KnowledgeRequest()).options,
        account=account(request.scope),
        sampling=lambda room: _sampling(body, room),
    )
    if body.stream:
        return await EventStream.start(reply.events(job), context.settings.stream_keep_alive_s)
    return json_response(await reply.whole(job))


def conversation(messages: Sequence[Message]) -> Conversation:
    """OpenAI renamed the system role for newer models; it means the same."""
    return Conversation(
        tuple(
            ChatMessage("system" if message.role == "developer" else message.role, message.text) for message in messages
        )
    )


def _sampling(body: ChatRequest, room: int) -> SamplingParams:
    return body.sampling(body.token_limit or room, body.alternatives, None)


class ChatReply:
    """Writes the answer to one request."""

    def __init__(self, context: Context, body: ChatRequest) -> None:
        self._context = context
        self._body = body
        self._tokenizer = context.services.prompt.tokenizer
        self._id = f"chatcmpl-{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._fingerprint = context.fingerprint

    async def whole(self, job: Job) -> ChatCompletion:
        """The response in one piece."""
        texts = [""] * job.choices
        logprobs: list[list[TokenLogprob]] = [[] for _ in range(job.choices)]
        reasons: dict[int, Any] = {}
        async with self._context.completions.run(job) as run:
            async for index, chunk in run.chunks:
                texts[index] += chunk.text
                logprobs[index] += chunk.logprobs or ()
                reasons[index] = chunk.finish_reason
            report = run.report(0)
        choices: list[ChatChoice] = [
            {
                "index": index,
                "message": {"role": "assistant", "content": text, "refusal": None, "annotations": []},
                "logprobs": self._logprobs(logprobs[index]),
                "finish_reason": reasons[index],
            }
            for index, text in enumerate(texts)
        ]
        completion: ChatCompletion = {
            "id": self._id,
            "object": "chat.completion",
            "created": self._created,
            "model": self._body.model,
            "system_fingerprint": self._fingerprint,
            "choices": choices,
            "usage": usage(run.prompt_tokens, run.completion_tokens),
        }
        if report is not None:
            completion["knowledge"] = knowledge_report(report)
        return completion

    async def events(self, job: Job) -> AsyncGenerator[bytes, None]:
        """The response as events. The role goes out with the first text: it has nothing to say before."""
        begun: set[int] = set()
        async with self._context.completions.run(job) as run:
            async for index, chunk in run.chunks:
                data = b"" if index in begun else self._chunk(index, {"role": "assistant", "content": ""})
                begun.add(index)
                if chunk.text or chunk.logprobs:
                    data += self._chunk(index, {"content": chunk.text}, chunk.logprobs or ())
                if chunk.finish_reason is not None:
                    data += self._last(run, index, chunk)
                if data:
                    yield data
            if self._body.include_usage:
                total = usage(run.prompt_tokens, run.completion_tokens)
                yield event({**self._head([]), "usage": total})
            yield DONE

    def _last(self, run: Run, index: int, chunk: TokenChunk) -> bytes:
        choice: ChatChunkChoice = {
            "index": index,
            "delta": {},
            "logprobs": None,
            "finish_reason": chunk.finish_reason,
        }
        head = self._head([choice])
        report = run.report(0) if run.complete else None
        if report is not None:
            head["knowledge"] = knowledge_report(report)
        return event(head)

    def _chunk(self, index: int, delta: ChatDelta, logprobs: Sequence[TokenLogprob] = ()) -> bytes:
        written = self._logprobs(logprobs) if logprobs else None
        choice: ChatChunkChoice = {"index": index, "delta": delta, "logprobs": written, "finish_reason": None}
        return event(self._head([choice]))

    def _head(self, choices: list[ChatChunkChoice]) -> ChatChunk:
        head: ChatChunk = {
            "id": self._id,
            "object": "chat.completion.chunk",
            "created": self._created,
            "model": self._body.model,
            "system_fingerprint": self._fingerprint,
            "choices": choices,
        }
        if self._body.include_usage:
            head["usage"] = None
        return head

    def _logprobs(self, tokens: Sequence[TokenLogprob]) -> ChatLogprobs | None:
        return chat_logprobs(self._tokenizer, tokens) if self._body.logprobs else None
