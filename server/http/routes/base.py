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


def strict_router() -> APIRouter:
    """A router of StrictRoutes, whose errors are documented."""
    return APIRouter(route_class=StrictRoute, responses=ERRORS)


def streamable(model: object) -> dict[int | str, dict[str, Any]]:
    """Documents a response that is `model`, or a stream of events."""
    return {200: {"model": model, "content": {"text/event-stream": {"schema": {"type": "string"}}}}}


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
