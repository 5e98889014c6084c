"""What every request has in common: strict types, no unknown fields, and how tokens are picked.

Collections stop at their first bad item (`fail_fast`), and of unknown fields one is told: an error for each of a
million would hold up everybody for seconds.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError, PydanticKnownError

from server.engine.protocol import SamplingParams
from server.http.schemas.foreign import without_foreign

MAX_STOPS = 16
MAX_TOP_LOGPROBS = 20
MAX_BIASES = 1024


def _integral(value: Any) -> Any:
    """Some clients have no integers: to JSON, and to us, 1.0 is 1."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Integer = Annotated[int, BeforeValidator(_integral)]


def with_one_unknown(values: dict[str, Any], known: Collection[str]) -> dict[str, Any]:
    """Without unknown members but the first, which is enough to refuse all."""
    surplus = set([name for name in values if name not in known][1:])
    return {name: value for name, value in values.items() if name not in surplus} if surplus else values


def one_unknown_of(known: Collection[str]) -> BeforeValidator:
    """The same for a TypedDict."""
    return BeforeValidator(lambda values: with_one_unknown(values, known) if isinstance(values, dict) else values)


class Request(BaseModel):
    """Base of all request bodies."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, protected_namespaces=(), allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _check_names(cls, values: Any) -> Any:
        return cls._with_one_unknown(values) if isinstance(values, dict) else values

    @classmethod
    def _with_one_unknown(cls, values: dict[str, Any]) -> dict[str, Any]:
        return with_one_unknown(values, cls.model_fields)  # looked up once: it is slow


class StreamOptions(Request):
    """How to stream."""

    include_usage: bool | None = None
    """One more chunk at the end, with the usage and no choices."""
    include_obfuscation: bool | None = None
    """Accepted; nothing is obfuscated."""


class OpenAIRequest(Request):
    """A request whose sender may use fields of other APIs that mean nothing here."""

    @model_validator(mode="before")
    @classmethod
    def _check_names(cls, values: Any) -> Any:
        """Drops what is foreign and means nothing."""
        if not isinstance(values, dict):
            return values
        return cls._with_one_unknown(without_foreign(values, cls.model_fields))


def at_most(most: int) -> BeforeValidator:
    """So many members of an object: counts before looking at any."""

    def count(values: Any) -> Any:
        if isinstance(values, dict) and len(values) > most:
            counts = {"field_type": "Dictionary", "max_length": most, "actual_length": len(values)}
            raise PydanticKnownError("too_long", counts)
        return values

    return BeforeValidator(count)


class SamplingRequest(OpenAIRequest):
    """How to pick tokens and how to return them; the part that chat and plain completions share."""

    model: Annotated[str, Field(min_length=1, max_length=256)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[Integer, Field(ge=1, le=128)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[Integer, Field(ge=-1, le=2**31)] | None = None
    """Extension. 0 and -1: off."""
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    """Extension."""
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    """Extension."""
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logit_bias: (
        Annotated[
            dict[
                Annotated[str, Field(pattern=r"^[0-9]{1,9}$")],
                Annotated[float, Field(ge=-100, le=100)],
            ],
            Field(max_length=MAX_BIASES),
            at_most(MAX_BIASES),
        ]
        | None
    ) = None
    stop: (
        Annotated[str, Field(min_length=1, max_length=512)]
        | Annotated[
            list[Annotated[str, Field(min_length=1, max_length=512)]],
            Field(max_length=MAX_STOPS, fail_fast=True),
        ]
        | None
    ) = None
    seed: Annotated[Integer, Field(ge=-(2**63), le=2**63 - 1)] | None = None
    ignore_eos: bool | None = None
    """Extension: go on to max_tokens."""

    @model_validator(mode="after")
    def _check_stream_options(self) -> SamplingRequest:
        if self.stream_options is not None and not self.stream:
            raise PydanticCustomError("inconsistent", "is only allowed with stream: true", {"param": "stream_options"})
        return self

    @property
    def include_usage(self) -> bool:
        """Whether the stream ends with a usage chunk."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    @property
    def choices(self) -> int:
        """Answers per prompt."""
        return self.n or 1

    def sampling(self, max_tokens: int, logprobs: int | None, prompt_logprobs: int | None) -> SamplingParams:
        """Engine parameters. The seed is that of the first choice."""
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        return SamplingParams(
            max_tokens=max_tokens,
            temperature=_or(self.temperature, 1.0),
            top_p=_or(self.top_p, 1.0),
            top_k=max(0, self.top_k or 0),
            min_p=self.min_p or 0.0,
            seed=self.seed,
            repetition_penalty=_or(self.repetition_penalty, 1.0),
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            logit_bias={int(token): bias for token, bias in (self.logit_bias or {}).items()},
            stop=stop,
            ignore_eos=bool(self.ignore_eos),
            logprobs=logprobs,
            prompt_logprobs=prompt_logprobs,
        )


def _or(value: float | None, default: float) -> float:
    return default if value is None else value
