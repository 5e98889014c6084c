"""/v1/chat/completions."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

from server.engine.protocol import FinishReason
from server.http.schemas.base import MAX_TOP_LOGPROBS, Integer, SamplingRequest
from server.http.schemas.knowledge import CitedSpan, KnowledgeReport, KnowledgeRequest
from server.http.schemas.logprobs import ChatTokenLogprob
from server.http.schemas.messages import Messages, check_calls
from server.http.schemas.structured import StructuredRequest
from server.http.schemas.tools import ToolCall, ToolCallDelta, ToolsRequest
from server.http.schemas.usage import Usage

ChatFinishReason = FinishReason | Literal["tool_calls"]


class ChatRequest(SamplingRequest, StructuredRequest, ToolsRequest):
    """OpenAI's request, and `knowledge`."""

    messages: Messages
    max_tokens: Annotated[Integer, Field(ge=1, le=2**31)] | None = None
    max_completion_tokens: Annotated[Integer, Field(ge=1, le=2**31)] | None = None
    add_generation_prompt: bool | None = None
    """Extension. False only with continue_final_message."""
    continue_final_message: bool | None = None
    """Extension: the last message is the beginning of the answer, which is to be gone on with."""
    logprobs: bool | None = None
    top_logprobs: Annotated[Integer, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    knowledge: KnowledgeRequest | None = None

    @model_validator(mode="after")
    def _check_together(self) -> ChatRequest:
        if self.top_logprobs and not self.logprobs:
            raise PydanticCustomError("inconsistent", "needs logprobs: true", {"param": "top_logprobs"})
        if self.max_tokens != self.max_completion_tokens and None not in (self.max_tokens, self.max_completion_tokens):
            message = "is given together with another max_completion_tokens; give one of them"
            raise PydanticCustomError("inconsistent", message, {"param": "max_tokens"})
        return self

    @model_validator(mode="after")
    def _check_messages(self) -> ChatRequest:
        check_calls(self.messages)
        return self

    @model_validator(mode="after")
    def _check_continued(self) -> ChatRequest:
        """`add_generation_prompt` is what vLLM calls the opposite."""
        if not self.continue_final_message:
            if self.add_generation_prompt is False:
                message = "may be false only with continue_final_message: true"
                raise PydanticCustomError("inconsistent", message, {"param": "add_generation_prompt"})
        elif self.add_generation_prompt:
            message = "cannot be true together with add_generation_prompt"
            raise PydanticCustomError("inconsistent", message, {"param": "continue_final_message"})
        elif self.tools:
            message = "cannot be true together with tools"
            raise PydanticCustomError("inconsistent", message, {"param": "continue_final_message"})
        elif self.messages[-1].role != "assistant":
            message = "needs a last message of the assistant's"
            raise PydanticCustomError("inconsistent", message, {"param": "continue_final_message"})
        return self

    @property
    def token_limit(self) -> int | None:
        """Most tokens to generate, if the client says."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def alternatives(self) -> int | None:
        """Log probabilities to report per token; None: not even of the token itself."""
        return (self.top_logprobs or 0) if self.logprobs else None


class ChatLogprobs(TypedDict):
    """Of the tokens of a choice or chunk."""

    content: list[ChatTokenLogprob]
    refusal: None


class Annotation(TypedDict):
    """OpenAI's shape."""

    type: Literal["url_citation"]
    url_citation: CitedSpan


class AssistantMessage(TypedDict):
    """The answer."""

    role: Literal["assistant"]
    content: str | None
    """None: it calls functions, and says nothing."""
    refusal: None
    annotations: list[Annotation]
    tool_calls: NotRequired[list[ToolCall]]


class ChatChoice(TypedDict):
    """One answer."""

    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: ChatFinishReason
    ended_by: NotRequired[Literal["deadline"]]
    """Where that is why it has this length."""


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
    content: str | None
    tool_calls: list[ToolCallDelta]
    annotations: list[Annotation]
    """All of the answer's, at once, behind its last text."""


class ChatChunkChoice(TypedDict):
    """Part of one answer."""

    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None
    finish_reason: ChatFinishReason | None
    ended_by: NotRequired[Literal["deadline"]]


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
