"""/v1/rerank, as Jina's and Cohere's APIs have it, and /v1/score, as vLLM's has it."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired

from pydantic import Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

from server.http.schemas.base import Integer, OpenAIRequest
from server.http.schemas.messages import SentBack
from server.http.schemas.models import MAX_INPUTS, EmbeddedText, EmbeddingUsage, ModelName

Texts = Annotated[list[EmbeddedText], Field(min_length=1, max_length=MAX_INPUTS, fail_fast=True)]


class Document(SentBack):
    """A text that is an object."""

    text: EmbeddedText


class RerankRequest(OpenAIRequest):
    """Texts to put in order of relevance to a query."""

    model: ModelName
    query: EmbeddedText
    documents: Annotated[
        list[
            Annotated[
                Annotated[EmbeddedText, Tag("text-document")] | Annotated[Document, Tag("object-document")],
                Discriminator(lambda one: "object-document" if isinstance(one, dict) else "text-document"),
            ]
        ],
        Field(min_length=1, max_length=MAX_INPUTS, fail_fast=True),
    ]
    top_n: Annotated[Integer, Field(ge=1, le=2**31)] | None = None
    """At most so many results."""
    return_documents: bool | None = None

    @property
    def texts(self) -> list[str]:
        """The documents, as strings."""
        return [one if isinstance(one, str) else one.text for one in self.documents]


class ScoreRequest(OpenAIRequest):
    """Pairs of texts: one with one, one with each of several, or each with the one at its place."""

    model: ModelName
    text_1: EmbeddedText | Texts
    text_2: EmbeddedText | Texts

    @model_validator(mode="after")
    def _check_pairs(self) -> ScoreRequest:
        if len(self.first) not in (1, len(self.second)):
            raise PydanticCustomError("inconsistent", "should be one text, or as many as text_2", {"param": "text_1"})
        return self

    @property
    def first(self) -> list[str]:
        """As a list."""
        return [self.text_1] if isinstance(self.text_1, str) else self.text_1

    @property
    def second(self) -> list[str]:
        """As a list."""
        return [self.text_2] if isinstance(self.text_2, str) else self.text_2


class RankedDocument(TypedDict):
    """The text, where it was asked for."""

    text: str


class RankedResult(TypedDict):
    """One document."""

    index: int
    """Its place in the request."""
    relevance_score: float
    """Cosine of the angle between its vector and the query's: in [-1, 1]."""
    document: NotRequired[RankedDocument]


class BilledUnits(TypedDict):
    """As Cohere counts."""

    search_units: int


class TokensRead(TypedDict):
    """Likewise."""

    input_tokens: int


class RerankMeta(TypedDict):
    """What Cohere's clients read."""

    billed_units: BilledUnits
    tokens: TokensRead


class RerankResponse(TypedDict):
    """Best first."""

    id: str
    object: Literal["list"]
    model: str
    results: list[RankedResult]
    usage: EmbeddingUsage
    meta: RerankMeta


class Score(TypedDict):
    """Of one pair."""

    index: int
    object: Literal["score"]
    score: float
    """Cosine of the angle between the texts' vectors: in [-1, 1]."""


class ScoreResponse(TypedDict):
    """Pair by pair."""

    id: str
    object: Literal["list"]
    created: int
    model: str
    data: list[Score]
    usage: EmbeddingUsage
