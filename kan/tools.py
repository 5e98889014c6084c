"""Functions that a model may call, as text in its prompt and in its answers: the form that Hermes models began.

A call is `<tool_call>`, a JSON object with name and arguments on a line of its own, `</tool_call>`. Models whose chat
template shows tools in that form get them from it; all others by the system message that is made here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

Role = Literal["system", "user", "assistant", "tool"]
ROLES = ("system", "user", "assistant", "tool")
CALL = "<tool_call>"
CALL_END = "</tool_call>"
NAME = '{"name": "'
ARGUMENTS = '", "arguments": '
"""What stands before a call's name, and between it and its arguments."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A function. `parameters` is a JSON schema."""

    name: str
    description: str
    parameters: Mapping[str, Any]

    @property
    def as_openai(self) -> dict[str, Any]:
        """As templates and models know it."""
        function = {"name": self.name, "description": self.description, "parameters": self.parameters}
        return {"type": "function", "function": function}

    @property
    def json(self) -> str:
        """The same as a line of text."""
        return json.dumps(self.as_openai, ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call. `arguments` is JSON, as far as whoever wrote it knew how to write that."""

    name: str
    arguments: str

    @property
    def as_openai(self) -> dict[str, Any]:
        """As templates know it: with arguments that are no text, if they can be read."""
        try:
            arguments = json.loads(self.arguments)
        except (ValueError, RecursionError):  # brackets within brackets, thousands of them
            arguments = self.arguments
        return {"type": "function", "function": {"name": self.name, "arguments": arguments}}

    @property
    def text(self) -> str:
        """As a model writes it."""
        return f"{CALL}\n{NAME}{self.name}{ARGUMENTS}{self.arguments or '{}'}}}\n{CALL_END}"


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One turn of a conversation. `content` is data: no spelling in it ever becomes a control token."""

    role: Role
    content: str
    tool_calls: tuple[ToolCall, ...] = field(default=())
    """Of the assistant; turns of the role `tool` answer them."""

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise ValueError(f"role must be one of {', '.join(ROLES)}, not {self.role!r}")


def in_words(messages: Sequence[ChatMessage], tools: Sequence[Tool]) -> list[ChatMessage]:
    """The same conversation for a template that knows system, user and assistant only."""
    turns: list[ChatMessage] = []
    for message in messages:
        turn = _in_words(message)
        if turn.role == "user" and message.role == "tool" and turns and turns[-1].role == "user":
            turns[-1] = replace(turns[-1], content=f"{turns[-1].content}\n{turn.content}")
        else:
            turns.append(turn)
    if not tools:
        return turns
    own = turns.pop(0).content.rstrip() if turns and turns[0].role == "system" else ""
    return [ChatMessage("system", f"{own}\n\n{_explained(tools)}".lstrip()), *turns]


def _in_words(message: ChatMessage) -> ChatMessage:
    if message.role == "tool":
        return ChatMessage("user", f"<tool_response>\n{message.content}\n</tool_response>")
    if message.tool_calls:
        parts = [message.content, *(call.text for call in message.tool_calls)]
        return ChatMessage(message.role, "\n".join(part for part in parts if part))
    return message


def _explained(tools: Iterable[Tool]) -> str:
    return (
        "You may call these functions to answer the user. Each line describes one:\n<tools>\n"
        + "\n".join(tool.json for tool in tools)
        + f"\n</tools>\nTo call a function, reply with its name and its arguments in this form:\n{CALL}\n"
        + f"{NAME}<function name>{ARGUMENTS}<arguments as a JSON object>}}\n{CALL_END}"
    )
