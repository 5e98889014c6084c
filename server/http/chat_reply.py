"""The answer to a chat completion, as it is written: whole, or as events."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, Iterable, Sequence
from dataclasses import dataclass

from server.engine.protocol import TokenChunk, TokenLogprob
from server.http.answer import Answer
from server.http.logprobs import chat_logprobs
from server.http.schemas.chat import (
    Annotation,
    AssistantMessage,
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatDelta,
    ChatFinishReason,
    ChatLogprobs,
    ChatRequest,
)
from server.http.schemas.knowledge import cited_span, knowledge_report
from server.http.schemas.tools import CalledFunctionDelta, ToolCall
from server.http.schemas.usage import usage
from server.http.streaming import DONE, event
from server.service.run import Job, Run
from server.service.tool_calls import Argued, CallReader, Event, Said
from server.services import Context


@dataclass(slots=True)
class _Choice(Answer):
    """One of the answers."""

    begun: bool = False

    @property
    def chat_finish_reason(self) -> ChatFinishReason | None:
        """A call that was made to its end is another reason than text."""
        return "tool_calls" if self.finish_reason == "stop" and self.calls else self.finish_reason

    @property
    def tool_calls(self) -> list[ToolCall]:
        """As OpenAI's API has them."""
        return [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in self.calls
        ]


class ChatReply:
    """Writes the answer to one request. `calls`: it may call functions."""

    def __init__(self, context: Context, body: ChatRequest, *, calls: bool) -> None:
        self._context = context
        self._body = body
        self._tokenizer = context.services.prompt.tokenizer
        self._id = f"chatcmpl-{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._fingerprint = context.fingerprint
        self._choices = [_Choice(CallReader() if calls else None) for _ in range(body.choices)]

    async def whole(self, job: Job) -> ChatCompletion:
        """The response in one piece."""
        async with self._context.completions.run(job) as run:
            async for index, chunk in run.chunks:
                self._choices[index].take(chunk)
            report = run.report(0)
            choices = [self._choice(run, index, choice) for index, choice in enumerate(self._choices)]
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

    def _choice(self, run: Run, index: int, choice: _Choice) -> ChatChoice:
        assert choice.chat_finish_reason is not None
        text = None if choice.calls and not choice.text else choice.text
        annotations = self._annotations(run, index, choice)
        message: AssistantMessage = {
            "role": "assistant",
            "content": text,
            "refusal": None,
            "annotations": annotations,
        }
        if choice.calls:
            message["tool_calls"] = choice.tool_calls
        written: ChatChoice = {
            "index": index,
            "message": message,
            "logprobs": self._logprobs(choice.logprobs),
            "finish_reason": choice.chat_finish_reason,
        }
        if choice.timed_out:
            written["ended_by"] = "deadline"
        return written

    async def events(self, job: Job) -> AsyncGenerator[bytes, None]:
        """The response as events. The role goes out with the first text: it has nothing to say before."""
        async with self._context.completions.run(job) as run:
            async for index, chunk in run.chunks:
                data = b"".join(self._events(run, index, chunk))
                if data:
                    yield data
            if self._body.include_usage:
                total = usage(run.prompt_tokens, run.completion_tokens)
                yield event({**self._head([]), "usage": total})
            yield DONE

    def _events(self, run: Run, index: int, chunk: TokenChunk) -> Iterable[bytes]:
        choice = self._choices[index]
        if not choice.begun:
            choice.begun = True
            yield self._chunk(index, {"role": "assistant", "content": None if choice.reader else ""})
        logprobs = chunk.logprobs or ()
        deltas = [_delta(one, choice) for one in choice.take(chunk)]
        if logprobs and not deltas:
            deltas = [{"content": ""}]
        for delta in deltas:
            yield self._chunk(index, delta, logprobs)
            logprobs = ()
        if chunk.finish_reason is not None:
            if annotations := self._annotations(run, index, choice):
                yield self._chunk(index, {"annotations": annotations})
            yield self._last(run, index, choice)

    def _annotations(self, run: Run, index: int, choice: _Choice) -> list[Annotation]:
        """Of a choice that has ended."""
        return [{"type": "url_citation", "url_citation": cited_span(one)} for one in run.citations(index, choice.text)]

    def _last(self, run: Run, index: int, choice: _Choice) -> bytes:
        written: ChatChunkChoice = {
            "index": index,
            "delta": {},
            "logprobs": None,
            "finish_reason": choice.chat_finish_reason,
        }
        if choice.timed_out:
            written["ended_by"] = "deadline"
        head = self._head([written])
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


def _delta(one: Event, choice: _Choice) -> ChatDelta:
    """What is new, for who puts the pieces together."""
    if isinstance(one, Said):
        return {"content": one.text}
    if isinstance(one, Argued):
        return {"tool_calls": [{"index": one.number, "function": {"arguments": one.text}}]}
    call = choice.calls[one.number]
    function: CalledFunctionDelta = {"name": one.name, "arguments": ""}
    return {"tool_calls": [{"index": one.number, "id": call.id, "type": "function", "function": function}]}
