"""The events of one response in OpenAI's order: items open one after the other, grow, and are closed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from server.http.answer import Call
from server.http.schemas.items import OutputCall, OutputItem, OutputMessage, OutputText, Status, UrlCitation
from server.http.schemas.logprobs import ChatTokenLogprob
from server.http.schemas.responses import ResponseObject
from server.service.responses import Prefix
from server.service.tool_calls import Argued, Called, Event, Said

Written = dict[str, Any]
"""One event, ready to be sent."""


@dataclass(slots=True)
class _Message:
    id: str
    text: str = ""
    logprobs: list[ChatTokenLogprob] = field(default_factory=list)
    annotations: list[UrlCitation] = field(default_factory=list)

    def part(self) -> OutputText:
        return {
            "type": "output_text",
            "text": self.text,
            "annotations": list(self.annotations),
            "logprobs": list(self.logprobs),
        }

    def written(self, status: Status) -> OutputMessage:
        content = [] if status == "in_progress" else [self.part()]
        return {"id": self.id, "type": "message", "role": "assistant", "status": status, "content": content}


@dataclass(slots=True)
class _Call:
    id: str
    call: Call

    def written(self, status: Status) -> OutputCall:
        return {
            "id": self.id,
            "type": "function_call",
            "status": status,
            "call_id": self.call.id,
            "name": self.call.name,
            # What is begun has no arguments yet, although all of them may have come in the same piece.
            "arguments": "" if status == "in_progress" else self.call.arguments,
        }


class ResponseWriter:
    """Every event is made here, numbered in order; what was said is nowhere kept twice."""

    def __init__(self, head: ResponseObject, new_id: Callable[[Prefix], str]) -> None:
        """`head`: the response before anything was said."""
        self._head = head
        self._new_id = new_id
        self._number = 0
        self._open: _Message | _Call | None = None
        self._pending: list[ChatTokenLogprob] = []
        self._done: list[OutputItem] = []

    @property
    def begun(self) -> bool:
        """Whether anything was written."""
        return self._number > 0

    def begin(self) -> list[Written]:
        """Before all others."""
        return [self._of_response("created", self._head), self._of_response("in_progress", self._head)]

    def take(
        self, events: Iterable[Event], calls: Sequence[Call], logprobs: Sequence[ChatTokenLogprob]
    ) -> Iterator[Written]:
        """What came new. `calls`: all so far. Log probabilities go with the text that they became."""
        self._pending += logprobs
        for one in events:
            if isinstance(one, Said):
                yield from self._said(one.text)
            elif isinstance(one, Called):
                yield from self._close("completed")
                self._pending.clear()
                yield from self._opened(_Call(self._new_id("fc"), calls[one.number]))
            else:
                yield self._argued(one)

    def end(self, response: ResponseObject, citations: Sequence[UrlCitation]) -> Iterator[Written]:
        """After all others but the last. `response` says how it ended; its output is filled in here. `citations` are of
        the one message, if all that was said is in one."""
        if self._open is None and not self._done:
            yield from self._opened(_Message(self._new_id("msg")))
        if isinstance(self._open, _Message) and not self._done:
            yield from self._cited(self._open, citations)
        yield from self._close("incomplete" if response["status"] == "incomplete" else "completed")
        response["output"] = self._done

    def last(self, response: ResponseObject) -> Written:
        """The last one."""
        return self._of_response(response["status"], response)

    def failure(self, code: str, error: Written) -> Written:
        """The last one, where something went wrong. `error`: in the shape of an error response."""
        if not self.begun:
            return self._event("error", code=error["code"], message=error["message"], param=error["param"], error=error)
        failed: ResponseObject = {
            **self._head,
            "status": "failed",
            "store": False,
            "error": {"code": code, "message": error["message"]},
            "output": self._done,
        }
        return self._of_response("failed", failed)

    def _said(self, text: str) -> Iterator[Written]:
        if not isinstance(self._open, _Message):
            yield from self._close("completed")
            yield from self._opened(_Message(self._new_id("msg")))
        message = self._open
        assert isinstance(message, _Message)
        logprobs, self._pending = self._pending, []
        message.text += text
        message.logprobs += logprobs
        yield self._of_part("output_text.delta", message, delta=text, logprobs=logprobs)

    def _cited(self, message: _Message, citations: Sequence[UrlCitation]) -> Iterator[Written]:
        for number, one in enumerate(citations):
            message.annotations.append(one)
            yield self._of_part("output_text.annotation.added", message, annotation_index=number, annotation=one)

    def _argued(self, one: Argued) -> Written:
        assert self._open is not None
        return self._of_item("function_call_arguments.delta", item_id=self._open.id, delta=one.text)

    def _opened(self, item: _Message | _Call) -> Iterator[Written]:
        self._open = item
        yield self._of_item("output_item.added", item=item.written("in_progress"))
        if isinstance(item, _Message):
            yield self._of_part("content_part.added", item, part=item.part())

    def _close(self, status: Status) -> Iterator[Written]:
        item = self._open
        if isinstance(item, _Message):
            item.logprobs += self._pending  # of tokens that were no text
            self._pending = []
            yield self._of_part("output_text.done", item, text=item.text, logprobs=list(item.logprobs))
            yield self._of_part("content_part.done", item, part=item.part())
        elif isinstance(item, _Call):
            arguments = item.call.arguments
            yield self._of_item(
                "function_call_arguments.done", item_id=item.id, name=item.call.name, arguments=arguments
            )
        if item is not None:
            written = item.written(status)
            yield self._of_item("output_item.done", item=written)
            self._done.append(written)
            self._open = None

    def _of_part(self, kind: str, message: _Message, **fields: Any) -> Written:
        return self._of_item(kind, item_id=message.id, content_index=0, **fields)

    def _of_item(self, kind: str, **fields: Any) -> Written:
        return self._event(f"response.{kind}", output_index=len(self._done), **fields)

    def _of_response(self, kind: str, response: ResponseObject) -> Written:
        return self._event(f"response.{kind}", response=response)

    def _event(self, kind: str, **fields: Any) -> Written:
        event = {"type": kind, "sequence_number": self._number, **fields}
        self._number += 1
        return event
