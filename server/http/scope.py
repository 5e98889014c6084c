"""What is noted about a request in its ASGI scope, by whoever knows it, for whoever needs it."""

from __future__ import annotations

from starlette.types import Scope


def request_id(scope: Scope) -> str:
    """The client's X-Request-Id, or one made here."""
    return str(scope["kalmagrove.request_id"])


def started(scope: Scope) -> float:
    """When the request came, on time.monotonic()'s clock."""
    return float(scope["kalmagrove.started"])


def note_refusal(scope: Scope, code: str) -> None:
    """Why the request is refused, for the metrics."""
    scope["kalmagrove.refusal"] = code
