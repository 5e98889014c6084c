"""The body of every answer that is no success."""

from __future__ import annotations

from typing_extensions import TypedDict


class ErrorDetail(TypedDict):
    """What went wrong, and where."""

    message: str
    type: str
    param: str | None
    """The request field: facts[3].text"""
    code: str | None


class ErrorResponse(TypedDict):
    """OpenAI's error object."""

    error: ErrorDetail
