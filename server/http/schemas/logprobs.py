"""Log probabilities of tokens, as chat completions and responses have them."""

from __future__ import annotations

from typing_extensions import TypedDict


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
