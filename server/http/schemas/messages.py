"""Messages of a conversation, as clients send them: their own, and ours given back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from server.http.schemas.base import Request
from server.http.schemas.foreign import without_bookkeeping

MAX_MESSAGES = 1024
MAX_CALLS = 128
"""Of one message."""
MAX_PARTS = 4096
"""Of all messages together: to look at tens of thousands would hold up everybody."""


class SentBack(Request):
    """What clients keep and send again: with bookkeeping of their own, which is passed over."""

    @model_validator(mode="before")
    @classmethod
    def _check_names(cls, values: Any) -> Any:
        return cls._without_bookkeeping(values)

    @classmethod
    def _without_bookkeeping(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return cls._with_one_unknown(without_bookkeeping(values, cls.model_fields))


class TextPart(SentBack):
    """Part of a message. Only text is understood; a refusal of ours or another server's is text as well."""

    type: Literal["text"]
    text: str

    @model_validator(mode="before")
    @classmethod
    def _check_names(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("type") == "refusal":
            values = {"type": "text", "text": values.get("refusal")}
        return cls._without_bookkeeping(values)


class SentFunction(SentBack):
    """What was called. Arguments are JSON, if the model that wrote them knew how."""

    name: Annotated[str, Field(min_length=1, max_length=256)]
    arguments: str = ""


class SentCall(SentBack):
    """A call of an earlier answer."""

    id: Annotated[str, Field(min_length=1, max_length=256)]
    type: Literal["function"] = "function"
    function: SentFunction


class Message(SentBack):
    """One turn. What says nothing (null, empty, or a client's own bookkeeping) is passed over."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Annotated[
        str | Annotated[list[TextPart], Field(max_length=MAX_MESSAGES, fail_fast=True)] | None,
        Field(validate_default=True),
    ] = None
    """Only an assistant's may be empty."""
    refusal: str | None = None
    """What an assistant said in place of its content."""
    tool_calls: Annotated[list[SentCall], Field(max_length=MAX_CALLS, fail_fast=True)] | None = None
    """An assistant's."""
    tool_call_id: Annotated[str, Field(max_length=256)] | None = None
    """What a tool's message answers."""
    name: str | None = None
    """Accepted; the model does not see it."""

    @field_validator("content")
    @classmethod
    def _check_content(cls, content: Any, info: ValidationInfo) -> Any:
        if info.data.get("role", "assistant") != "assistant":
            if content is None:
                raise PydanticCustomError("missing", "is missing")
            if content == []:
                raise PydanticCustomError("too_short", "should have at least 1 item")
        return content

    @property
    def text(self) -> str:
        """The content as one string."""
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or self.refusal or ""


def _few_parts(messages: Any) -> Any:
    """Counts before looking at any."""
    if isinstance(messages, list):
        contents = (message.get("content") for message in messages if isinstance(message, dict))
        count = sum(len(content) for content in contents if isinstance(content, list))
        if count > MAX_PARTS:
            raise PydanticCustomError(
                "too_long", "have {count} parts; at most {most} together", {"count": count, "most": MAX_PARTS}
            )
    return messages


def check_calls(messages: Sequence[Message]) -> None:
    """Every tool's message answers a call that was made before it. Raises PydanticCustomError."""
    made: set[str] = set()
    for place, message in enumerate(messages):
        if message.role == "tool" and message.tool_call_id not in made:
            error = "answers no call of an assistant's message before it"
            raise PydanticCustomError("inconsistent", error, {"param": f"messages[{place}].tool_call_id"})
        if message.tool_calls and message.role != "assistant":
            error = "are an assistant's only"
            raise PydanticCustomError("inconsistent", error, {"param": f"messages[{place}].tool_calls"})
        made.update(call.id for call in message.tool_calls or ())


Messages = Annotated[
    list[Message], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True), BeforeValidator(_few_parts)
]
