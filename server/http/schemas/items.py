"""Items of a conversation as /v1/responses has them: what clients send, ours given back, and how they are listed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

from server.http.schemas.knowledge import CitedSpan
from server.http.schemas.logprobs import ChatTokenLogprob
from server.http.schemas.messages import MAX_PARTS, SentBack

MAX_ITEMS = 1024
"""Of one request."""
Id = Annotated[str, Field(min_length=1, max_length=256)]


class ItemText(SentBack):
    """Part of a message. Only text is understood; a refusal is text as well."""

    type: Literal["input_text", "output_text"]
    text: str

    @classmethod
    def _understood(cls, values: dict[str, Any]) -> dict[str, Any]:
        return {"type": "output_text", "text": values.get("refusal")} if values.get("type") == "refusal" else values


Content = str | Annotated[list[ItemText], Field(max_length=MAX_ITEMS, fail_fast=True)]


class UntypedItem(SentBack):
    """One that need not say what it is."""

    @classmethod
    def _understood(cls, values: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in values.items() if name != "type" or value is not None}


class MessageItem(UntypedItem):
    """One turn."""

    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[Content | None, Field(validate_default=True)] = None
    """Only an assistant's may be empty."""

    @field_validator("content")
    @classmethod
    def _check_content(cls, content: Any, info: ValidationInfo) -> Any:
        if info.data.get("role", "assistant") != "assistant":
            if content is None:
                raise PydanticCustomError("missing", "is missing")
            if content == []:
                raise PydanticCustomError("too_short", "should have at least 1 item")
        return content


class CallItem(SentBack):
    """A function that was called. Arguments are JSON, if the model that wrote them knew how."""

    type: Literal["function_call"]
    call_id: Id
    name: Id
    arguments: str = ""


class CallOutputItem(SentBack):
    """What it gave back."""

    type: Literal["function_call_output"]
    call_id: Id
    output: Content


class ReferenceItem(UntypedItem):
    """An item of a response that is kept here, by its id."""

    type: Literal["item_reference"] = "item_reference"
    id: Id


class ReasoningItem(BaseModel):
    """Of another model: passed over, whatever it holds."""

    model_config = ConfigDict(extra="ignore", frozen=True)
    type: Literal["reasoning"]


SentItem: TypeAlias = MessageItem | CallItem | CallOutputItem | ReferenceItem | ReasoningItem
_TAGS: Mapping[str, str] = {
    "message": "message-item",
    "function_call": "call-item",
    "function_call_output": "output-item",
    "item_reference": "reference-item",
    "reasoning": "reasoning-item",
}
"""With a hyphen: no error names them as a part of the path."""


def _tag(item: Any) -> str:
    """Messages and references need not say what they are."""
    if not isinstance(item, Mapping):
        return "message-item"
    by_members = "item_reference" if "id" in item and "role" not in item and "content" not in item else "message"
    return _TAGS.get(str(item.get("type") or by_members), "message-item")


def _servable(items: Any) -> Any:
    """Counts before looking at any, and names what is not served."""
    if not isinstance(items, list):
        return items
    parts = 0
    for place, item in enumerate(items[:MAX_ITEMS]):
        if not isinstance(item, dict):
            continue
        kind = item.get("type")
        if isinstance(kind, str) and kind not in _TAGS:
            message = "items of the type {kind} are not supported by this server"
            raise PydanticCustomError("unsupported", message, {"param": f"input[{place}].type", "kind": kind[:64]})
        parts += sum(len(item[name]) for name in ("content", "output") if isinstance(item.get(name), list))
    if parts > MAX_PARTS:
        counts = {"count": parts, "most": MAX_PARTS}
        raise PydanticCustomError("too_long", "have {count} parts; at most {most} together", counts)
    return items


Items = Annotated[
    list[
        Annotated[
            Annotated[MessageItem, Tag("message-item")]
            | Annotated[CallItem, Tag("call-item")]
            | Annotated[CallOutputItem, Tag("output-item")]
            | Annotated[ReferenceItem, Tag("reference-item")]
            | Annotated[ReasoningItem, Tag("reasoning-item")],
            Discriminator(_tag),
        ]
    ],
    Field(min_length=1, max_length=MAX_ITEMS, fail_fast=True),
    BeforeValidator(_servable),
]


class UrlCitation(CitedSpan):
    """The same in OpenAI's newer shape."""

    type: Literal["url_citation"]


class OutputText(TypedDict):
    """What the model said."""

    type: Literal["output_text"]
    text: str
    annotations: list[UrlCitation]
    logprobs: list[ChatTokenLogprob]


Status = Literal["in_progress", "completed", "incomplete"]


class OutputMessage(TypedDict):
    """An item of the answer: text."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    status: Status
    content: list[OutputText]


class OutputCall(TypedDict):
    """An item of the answer: a function that is to be called."""

    id: str
    type: Literal["function_call"]
    status: Status
    call_id: str
    name: str
    arguments: str


OutputItem = OutputMessage | OutputCall
