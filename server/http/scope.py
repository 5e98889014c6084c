"""What is noted about a request in its ASGI scope, by whoever knows it, for whoever needs it."""

from __future__ import annotations

from starlette.types import Scope

from server.service.access import Access
from server.service.account import Account


def request_id(scope: Scope) -> str:
    """The client's X-Request-Id, or one made here."""
    return str(scope["kalmagrove.request_id"])


def started(scope: Scope) -> float:
    """When the request came, on time.monotonic()'s clock."""
    return float(scope["kalmagrove.started"])


def access(scope: Scope) -> Access:
    """What the caller may read and edit."""
    found: Access = scope["kalmagrove.access"]
    return found


def account(scope: Scope) -> Account:
    """What the request did so far."""
    found: Account = scope["kalmagrove.account"]
    return found


def note_route(scope: Scope, path: str) -> None:
    """Which route it would have been, where the router was not asked."""
    scope["kalmagrove.route"] = path


def route_of(scope: Scope) -> str:
    """The route as it is documented, because the path may hold a fact's id; "none" if there is none."""
    return str(scope.get("kalmagrove.route") or getattr(scope.get("route"), "path", "none"))


def note_refusal(scope: Scope, code: str) -> None:
    """Why the request is refused, for the metrics."""
    scope["kalmagrove.refusal"] = code
