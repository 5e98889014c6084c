"""/v1/chat/completions."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

from server.engine.protocol import FinishReason
from server.http.schemas.base import MAX_TOP_LOGPROBS, Request, SamplingRequest
from server.http.schemas.knowledge import KnowledgeReport, KnowledgeRequest
from server.http.schemas.usage import Usage

MAX_MESSAGES = 1024
MAX_PARTS = 4096
"""Of all messages together: to look at tens of thousands would hold up everybody."""


class TextPart(Request):
    """Part of a message. Only text is understood."""

    type: Literal["text"]
    text: str


class Message(Request):
    """One turn."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[TextPart], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]
    name: str | None = None
    """Accepted; the model does not see it."""
    refusal: None = None
    annotations: Annotated[list[None], Field(fail_fast=True)] | None = None
    """As in our own answers, so that they can be sent back; always empty."""

    @property
    def text(self) -> str:
        """The content as one string."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content)


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


Messages = Annotated[
    list[Message], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True), BeforeValidator(_few_parts)
]


class ChatRequest(SamplingRequest):
    """OpenAI's request, and `knowledge`."""

    messages: Messages
    max_tokens: Annotated[int, Field(ge=1, le=2**31)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=2**31)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    knowledge: KnowledgeRequest | None = None

    @model_validator(mode="after")
    def _check_together(self) -> ChatRequest:
        if self.top_logprobs is not None and not self.logprobs:
            raise PydanticCustomError("inconsistent", "needs logprobs: true", {"param": "top_logprobs"})
        if None not in (self.max_tokens, self.max_completion_tokens):
            message = "is given together with max_completion_tokens; give one of them"
            raise PydanticCustomError("inconsistent", message, {"param": "max_tokens"})
        return self

    @property
    def token_limit(self) -> int | None:
        """Most tokens to generate, if the client says."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def alternatives(self) -> int | None:
        """Log probabilities to report per token; None: not even of the token itself."""
        return (self.top_logprobs or 0) if self.logprobs else None


class TopLogprob(TypedDict):
    """An alternative."""

    token: str
    logprob: float
    bytes: list[int]


class ChatTokenLogprob(TypedDict):
    """One generated token."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TopLogprob]


class ChatLogprobs(TypedDict):
    """Of the tokens of a choice or chunk."""

    content: list[ChatTokenLogprob]
    refusal: None


class AssistantMessage(TypedDict):
    """The answer."""

    role: Literal["assistant"]
    content: str
    refusal: None
    annotations: list[None]


class ChatChoice(TypedDict):
    """One answer."""

    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason


class ChatCompletion(TypedDict):
    """The response when it is not streamed."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage
    knowledge: NotRequired[KnowledgeReport]


class ChatDelta(TypedDict, total=False):
    """What came new: the role first, then text, then nothing."""

    role: Literal["assistant"]
    content: str


class ChatChunkChoice(TypedDict):
    """Part of one answer."""

    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason | None


class ChatChunk(TypedDict):
    """One event of a stream."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChunkChoice]
    usage: NotRequired[Usage | None]
    knowledge: NotRequired[KnowledgeReport]
