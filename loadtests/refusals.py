"""How a request fails, as its client tells it."""

from __future__ import annotations

import json

import httpx


class RequestError(Exception):
    """The server refused a request, broke off a stream or answered with something that is no answer."""


class Refused(RequestError):
    """429: the server is full."""

    def __init__(self, message: str, retry_after: str | None) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        """The header of this name, as it came."""


def refusal(what: str, response: httpx.Response) -> RequestError:
    """Of an error response that has been read."""
    message = f"{what}: {response.status_code} {reason(response.text)}"
    if response.status_code == httpx.codes.TOO_MANY_REQUESTS:
        return Refused(message, response.headers.get("retry-after"))
    return RequestError(message)


def reason(text: str) -> str:
    """The message of an OpenAI error object, or the start of whatever came instead."""
    try:
        return str(json.loads(text)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return text[:200]
