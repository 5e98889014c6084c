"""Items of /v1/responses: from what a client sent to what is kept, and to the turns that the model is shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from kan.tools import ChatMessage, ToolCall
from server.http.errors import invalid
from server.http.schemas.items import CallItem, CallOutputItem, ItemText, MessageItem, SentItem
from server.service.responses import Item, Prefix

NewId = Callable[[Prefix], str]


def of_text(text: str, new_id: NewId) -> Item:
    """An input that is a string is a user's message."""
    return _message(new_id("msg"), "user", text)


def of_sent(item: SentItem, new_id: NewId) -> Item | None:
    """As it is kept and listed; None: it is passed over. References are resolved by whoever calls."""
    if isinstance(item, MessageItem):
        return _message(new_id("msg"), item.role, _text(item.content or ""))
    if isinstance(item, CallItem):
        return {
            "id": new_id("fc"),
            "type": "function_call",
            "status": "completed",
            "call_id": item.call_id,
            "name": item.name,
            "arguments": item.arguments,
        }
    if isinstance(item, CallOutputItem):
        return {
            "id": new_id("fco"),
            "type": "function_call_output",
            "status": "completed",
            "call_id": item.call_id,
            "output": _text(item.output),
        }
    return None


def turns(instructions: str | None, items: Sequence[Item]) -> tuple[ChatMessage, ...]:
    """Calls belong to the assistant's turn that they follow."""
    return tuple(_turns(instructions, items))


def check_calls(items: Sequence[Item], before: int) -> None:
    """Every output answers a call that was made before it. `before`: so many items are of earlier responses.

    Raises ApiError (400).
    """
    made: set[str] = set()
    for place, item in enumerate(items):
        if item["type"] == "function_call":
            made.add(item["call_id"])
        elif item["type"] == "function_call_output" and item["call_id"] not in made:
            param = f"input[{max(0, place - before)}].call_id"
            raise invalid(f"{param}: answers no call before it", param, "invalid_value")


def _turns(instructions: str | None, items: Sequence[Item]) -> Iterator[ChatMessage]:
    if instructions:
        yield ChatMessage("system", instructions)
    said, calls, open_turn = "", list[ToolCall](), False
    for item in items:
        kind = item["type"]
        if open_turn and kind != "function_call":
            yield ChatMessage("assistant", said, tuple(calls))
            said, calls, open_turn = "", [], False
        if kind == "function_call":
            calls.append(ToolCall(item["name"], item["arguments"]))
            open_turn = True
        elif kind == "function_call_output":
            yield ChatMessage("tool", item["output"])
        elif item["role"] == "assistant":
            said, open_turn = _written(item), True
        else:
            yield ChatMessage("system" if item["role"] == "developer" else item["role"], _written(item))
    if open_turn:
        yield ChatMessage("assistant", said, tuple(calls))


def _message(item_id: str, role: str, text: str) -> Item:
    part: dict[str, Any] = {"type": "input_text", "text": text}
    if role == "assistant":
        part = {"type": "output_text", "text": text, "annotations": []}
    return {"id": item_id, "type": "message", "role": role, "status": "completed", "content": [part]}


def _written(item: Item) -> str:
    return "".join(part["text"] for part in item["content"])


def _text(content: str | list[ItemText]) -> str:
    return content if isinstance(content, str) else "".join(part.text for part in content)
