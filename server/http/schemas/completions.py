"""/v1/completions."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

from server.engine.protocol import FinishReason
from server.http.schemas.base import MAX_TOP_LOGPROBS, Integer, SamplingRequest
from server.http.schemas.knowledge import KnowledgeReport, KnowledgeRequest
from server.http.schemas.structured import StructuredRequest
from server.http.schemas.usage import Usage

MAX_PROMPTS = 128
DEFAULT_MAX_TOKENS = 16

TokenId = Annotated[int, Field(ge=0, le=2**31 - 1)]
TokenIds = Annotated[list[TokenId], Field(min_length=1, max_length=2**20, fail_fast=True)]
Text = Annotated[str, Field(min_length=1)]


class CompletionRequest(SamplingRequest, StructuredRequest):
    """OpenAI's request, and `knowledge`."""

    prompt: (
        Text
        | TokenIds
        | Annotated[list[Text], Field(min_length=1, max_length=MAX_PROMPTS, fail_fast=True)]
        | Annotated[list[TokenIds], Field(min_length=1, max_length=MAX_PROMPTS, fail_fast=True)]
    )
    max_tokens: Annotated[Integer, Field(ge=0, le=2**31)] | None = None
    """0 only with echo: the prompt's own log probabilities."""
    echo: bool | None = None
    logprobs: Annotated[Integer, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    knowledge: KnowledgeRequest | None = None

    @model_validator(mode="after")
    def _check_together(self) -> CompletionRequest:
        if self.max_tokens == 0 and not self.echo:
            raise PydanticCustomError("inconsistent", "must be at least 1 without echo", {"param": "max_tokens"})
        if self.knowledge is not None and self.knowledge.citations:
            message = "is only there for chat completions, whose messages have annotations"
            raise PydanticCustomError("unsupported", message, {"param": "knowledge.citations"})
        return self

    @property
    def token_limit(self) -> int:
        """Most tokens to generate."""
        return DEFAULT_MAX_TOKENS if self.max_tokens is None else self.max_tokens

    @property
    def prompts(self) -> list[str | list[int]]:
        """The prompts, whichever of the four ways they were given in."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [[token for token in self.prompt if isinstance(token, int)]]
        return [prompt for prompt in self.prompt if not isinstance(prompt, int)]


class CompletionLogprobs(TypedDict):
    """Parallel lists over tokens; `text_offset` counts characters from the start of the choice's text."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(TypedDict):
    """One text, or a part of it in a stream."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: FinishReason | None
    ended_by: NotRequired[Literal["deadline"]]
    """Where that is why it has this length."""
    knowledge: NotRequired[KnowledgeReport]
    """Only where the request had several prompts, each with knowledge of its own."""


class Completion(TypedDict):
    """The response, and each event of a stream."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: NotRequired[Usage | None]
    knowledge: NotRequired[KnowledgeReport]
