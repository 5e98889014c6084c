"""How every JSON endpoint reads and writes."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import orjson
from fastapi import APIRouter
from fastapi.routing import APIRoute
from pydantic_core import from_json
from starlette.requests import Request
from starlette.responses import Response

from server.http.errors import ApiError, invalid
from server.http.schemas.errors import ErrorResponse

ERRORS: dict[int | str, dict[str, Any]] = {status: {"model": ErrorResponse} for status in ("4XX", "5XX")}

MAX_QUOTED = 64
"""Characters of a foreign name that are repeated to who sent it."""


class StrictRequest(Request):
    """JSON to the letter: UTF-8 only, no NaN or Infinity, no bottomless nesting."""

    async def json(self) -> Any:
        body = await self.body()
        try:
            # Not orjson, which rounds integers beyond 64 bits.
            return from_json(body, allow_inf_nan=False)
        except ValueError as error:
            raise invalid(f"The body is not JSON: {error}", code="invalid_json") from error


class StrictRoute(APIRoute):
    """Reads bodies as StrictRequest does, and only bodies that say they are JSON."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()
        takes_json = self.body_field is not None

        async def handle(request: Request) -> Response:
            if takes_json:
                _require_json(request)
            return await handler(StrictRequest(request.scope, request.receive))

        return handle


async def refuse_unknown_query(request: Request) -> None:
    """A dependency of every route: a mistyped parameter must not do to the default what was meant for something else.

    Raises ApiError (400) for a query parameter that the route does not have, or that is given twice.
    """
    known = {field.alias for field in request.scope["route"].dependant.query_params}
    for name in request.query_params:
        if name not in known:
            raise invalid(f"Unknown query parameter: {name}", name[:MAX_QUOTED], "unknown_parameter")
        if len(request.query_params.getlist(name)) > 1:
            raise invalid(f"{name}: is given twice", name, "invalid_value")


def strict_router() -> APIRouter:
    """A router of StrictRoutes, whose errors are documented."""
    return APIRouter(route_class=StrictRoute, responses=ERRORS)


def streamable(model: object, data: str = "a chunk as JSON; [DONE] at the end") -> dict[int | str, dict[str, Any]]:
    """Documents a response that is `model`, or a stream of events. Before OpenAPI 3.2 a stream's schema is that of each
    event; `data` says what it holds."""
    described = {"type": "string", "description": data}
    event = {"type": "object", "properties": {"data": described}, "required": ["data"]}
    return {200: {"model": model, "content": {"text/event-stream": {"schema": event}}}}


def json_response(content: Any) -> Response:
    """`content` is made of plain JSON types and goes out as it is."""
    return Response(orjson.dumps(content), media_type="application/json")


def _require_json(request: Request) -> None:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(
            415,
            "The body must be application/json.",
            type="invalid_request_error",
            code="unsupported_media_type",
        )
