"""/v1/models, /v1/embeddings, /tokenize, /detokenize."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

from server.http.schemas.base import Integer, OpenAIRequest
from server.http.schemas.completions import TokenId
from server.http.schemas.messages import Messages

ModelName = Annotated[str, Field(min_length=1, max_length=256)]
EmbeddedText = Annotated[str, Field(min_length=1)]


class Model(TypedDict):
    """One model."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(TypedDict):
    """All models."""

    object: Literal["list"]
    data: list[Model]


MAX_INPUTS = 2048


def _no_token_ids(texts: Any) -> Any:
    """They are of the sender's tokenizer, which is another one."""
    if isinstance(texts, list) and texts and isinstance(texts[0], int | list):
        message = (
            "must be text: this model's tokenizer is not the one that made these token ids. LangChain sends text "
            "with OpenAIEmbeddings(check_embedding_ctx_length=False)"
        )
        raise PydanticCustomError("unsupported", message)
    return texts


class EmbeddingRequest(OpenAIRequest):
    """Texts to embed with the encoder that retrieval uses (ρ)."""

    model: ModelName
    input: Annotated[
        EmbeddedText | Annotated[list[EmbeddedText], Field(min_length=1, max_length=MAX_INPUTS, fail_fast=True)],
        BeforeValidator(_no_token_ids),
    ]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[Integer, Field(ge=1, le=65536)] | None = None
    """Only the encoder's own dimension."""

    @property
    def texts(self) -> list[str]:
        """The inputs as a list."""
        return [self.input] if isinstance(self.input, str) else self.input


class Embedding(TypedDict):
    """One vector: floats, or base64 of little-endian float32."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingUsage(TypedDict):
    """Word pieces of the encoder."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(TypedDict):
    """The response."""

    object: Literal["list"]
    model: str
    data: list[Embedding]
    usage: EmbeddingUsage


class TokenizeRequest(OpenAIRequest):
    """A text, or a conversation as the model would get it without knowledge."""

    model: ModelName | None = None
    prompt: str | None = None
    messages: Messages | None = None

    @model_validator(mode="after")
    def _check_one(self) -> TokenizeRequest:
        if (self.prompt is None) == (self.messages is None):
            raise PydanticCustomError("inconsistent", "give either prompt or messages", {"param": "prompt"})
        return self


class TokenizeResponse(TypedDict):
    """Token ids of the model's own tokenizer."""

    tokens: list[int]
    count: int
    max_model_len: int


class DetokenizeRequest(OpenAIRequest):
    """Token ids."""

    model: ModelName | None = None
    tokens: Annotated[list[TokenId], Field(max_length=2**20, fail_fast=True)]


class DetokenizeResponse(TypedDict):
    """Their text, control tokens included."""

    prompt: str
