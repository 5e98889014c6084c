"""Everything the service may answer that is not success, as OpenAI's error object.

ApiError (an HTTPException, so FastAPI lets it through while it reads a body)
  made by the functions below; `from_exception` translates what the service, engines, the store and validation raise.

ServiceError
├─ InvalidRequest         400, with its own code
│  └─ ContextTooLong      400 context_length_exceeded
├─ VersionUnavailable     409 knowledge_version_unavailable
├─ Overloaded             429 server_overloaded, Retry-After
└─ DeadlinePassed         504 timeout

{"error": {"message": …, "type": …, "param": "facts[3].text" | null, "code": …}}
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from kb.errors import (
    FactNotFound,
    InvalidChange,
    InvalidLine,
    KnowledgeError,
    Problem,
    StoreClosed,
    UnknownVersion,
    WriteFailed,
)
from server.engine.protocol import (
    DeadlineExceeded,
    EngineError,
    EngineUnavailable,
    RequestTooLarge,
)
from server.service.errors import DeadlinePassed, InvalidRequest, Overloaded, ServiceError, VersionUnavailable

MAX_MESSAGE = 500
"""Messages may quote what the client sent; no longer than this."""
MAX_PROBLEMS = 20
"""So many bad facts of a batch are named; the rest is counted."""


class ApiError(HTTPException):
    """A refusal with its status and OpenAI error object."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
        longest: int = MAX_MESSAGE,
    ) -> None:
        super().__init__(status, message, dict(headers or {}))
        self.body: dict[str, Any] = {
            "error": {"message": message[:longest], "type": type, "param": param, "code": code}
        }

    @property
    def code(self) -> str:
        """Short reason: the label of the refusals metric, hence one of few values."""
        return str(self.body["error"]["code"] or self.body["error"]["type"])

    def response(self) -> Response:
        """The error as an HTTP response."""
        content = orjson.dumps(self.body)
        return Response(content, self.status_code, self.headers, media_type="application/json")


def invalid(message: str, param: str | None = None, code: str | None = None, status: int = 400) -> ApiError:
    """The request is wrong; sending it again will not help."""
    return ApiError(status, message, type="invalid_request_error", code=code, param=param)


def context_too_long(message: str, param: str) -> ApiError:
    """Prompt, mounted facts and answer do not fit the context window."""
    return invalid(message, param, "context_length_exceeded")


def unauthenticated(message: str) -> ApiError:
    """No key, or an unknown one."""
    return ApiError(
        401,
        message,
        type="authentication_error",
        code="invalid_api_key",
        headers={"WWW-Authenticate": "Bearer"},
    )


def forbidden(message: str) -> ApiError:
    """A known client that may not do this."""
    return ApiError(403, message, type="permission_error", code="forbidden")


def not_found(message: str, param: str | None = None, code: str = "not_found") -> ApiError:
    """The thing named does not exist."""
    return invalid(message, param, code, status=404)


def body_too_large(limit: int) -> ApiError:
    """The connection is closed because the rest of the body is not read."""
    return _closing(413, f"The body is over {limit} bytes.", "body_too_large")


def body_late() -> ApiError:
    """The body stopped coming, or comes too slowly."""
    return _closing(408, "The body came too slowly.", "body_timeout")


def head_too_large(limit: int) -> ApiError:
    """Request line and headers are over their bound."""
    return _closing(431, f"The request's head is over {limit} bytes.", "headers_too_large")


def head_late(seconds: float) -> ApiError:
    """Request line and headers stopped coming, or come too slowly."""
    return _closing(408, f"The request's head did not come within {seconds:g} s.", "headers_timeout")


def not_http() -> ApiError:
    """What came cannot be read as a request."""
    return _closing(400, "This is not HTTP/1.1.", "invalid_http")


def overloaded(message: str, retry_after: float = 1.0) -> ApiError:
    """A bounded queue is full."""
    headers = _retry_after(retry_after)
    return ApiError(429, message, type="rate_limit_error", code="server_overloaded", headers=headers)


def unavailable(message: str, code: str = "server_unavailable", retry_after: float = 1.0) -> ApiError:
    """Draining, closed, or unable to write."""
    return ApiError(503, message, type="server_error", code=code, headers=_retry_after(retry_after))


def timed_out(message: str) -> ApiError:
    """The deadline passed before there was an answer."""
    return ApiError(504, message, type="timeout_error", code="timeout")


def internal() -> ApiError:
    """A bug of ours. The details are in the log, not in the answer."""
    return ApiError(500, "The server had an error.", type="server_error", code="internal_error")


def from_exception(error: Exception) -> ApiError:
    """What to tell the client about `error`; `internal()` for anything not raised on purpose."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, ServiceError):
        return _from_service(error)
    if isinstance(error, EngineError):
        return _from_engine(error)
    if isinstance(error, KnowledgeError):
        return _from_knowledge(error)
    if isinstance(error, RequestValidationError):
        return _from_validation(error.errors())
    if isinstance(error, HTTPException):
        return _from_http(error)
    return internal()


def install(app: FastAPI) -> None:
    """Answer every error raised by a route in OpenAI's shape."""

    async def answer(request: Request, error: Exception) -> Response:
        translated = from_exception(error)
        request.scope["kalmagrove.refusal"] = translated.code
        return translated.response()

    for kind in (HTTPException, RequestValidationError, ServiceError, EngineError, KnowledgeError):
        app.add_exception_handler(kind, answer)


def _closing(status: int, message: str, code: str) -> ApiError:
    return ApiError(status, message, type="invalid_request_error", code=code, headers={"Connection": "close"})


def _retry_after(seconds: float) -> dict[str, str]:
    return {"Retry-After": str(max(1, math.ceil(seconds)))}


def _from_service(error: ServiceError) -> ApiError:
    if isinstance(error, InvalidRequest):
        return invalid(str(error), error.param, error.code)
    if isinstance(error, VersionUnavailable):
        return invalid(str(error), "knowledge.min_version", "knowledge_version_unavailable", status=409)
    if isinstance(error, Overloaded):
        return overloaded(str(error), error.retry_after)
    if isinstance(error, DeadlinePassed):
        return timed_out(str(error))
    return internal()


def _from_engine(error: EngineError) -> ApiError:
    if isinstance(error, RequestTooLarge):
        return context_too_long(str(error), "prompt")
    if isinstance(error, DeadlineExceeded):
        return timed_out(str(error) or "The request's deadline passed.")
    if isinstance(error, EngineUnavailable):
        return unavailable(str(error) or "The engine takes no requests now.")
    return internal()


def _from_knowledge(error: KnowledgeError) -> ApiError:
    if isinstance(error, InvalidChange):
        return _from_problems(error.problems)
    if isinstance(error, InvalidLine):
        return invalid(str(error), error.field, "invalid_line")
    if isinstance(error, FactNotFound):
        return not_found(str(error), "id")
    if isinstance(error, UnknownVersion):
        return invalid(str(error), "version", "unknown_version")
    if isinstance(error, WriteFailed):
        return unavailable(f"The edit could not be written: {error}", "knowledge_write_failed", 5.0)
    if isinstance(error, StoreClosed):
        return unavailable("The knowledge takes no more edits.")
    return internal()


def _from_problems(problems: Sequence[Problem]) -> ApiError:
    """All problems of a batch, as far as one message should hold them."""
    params = [f"facts[{problem.index}].{problem.field}" for problem in problems]
    told = [f"{param}: {problem.message}" for param, problem in zip(params, problems, strict=True)]
    more = [f"and {len(told) - MAX_PROBLEMS} more"] if len(told) > MAX_PROBLEMS else []
    return ApiError(
        400,
        "; ".join([*told[:MAX_PROBLEMS], *more]),
        type="invalid_request_error",
        code="invalid_fact",
        param=params[0],
        longest=MAX_PROBLEMS * MAX_MESSAGE,
    )


def _from_http(error: HTTPException) -> ApiError:
    codes = {404: "not_found", 405: "method_not_allowed"}
    messages = {404: "There is no such endpoint.", 405: "This endpoint does not take this method."}
    return ApiError(
        error.status_code,
        messages.get(error.status_code, str(error.detail)),
        type="invalid_request_error" if error.status_code < 500 else "server_error",
        code=codes.get(error.status_code),
        headers=error.headers,
    )


def _from_validation(errors: Sequence[Mapping[str, Any]]) -> ApiError:
    """The first field's problem. Of the branches of a union the one that came nearest is what the client meant."""
    field = errors[0]["loc"][:2]
    branches: dict[object, Mapping[str, Any]] = {}
    for error in errors:
        if error["loc"][:2] == field:
            branches.setdefault(tuple(part for part in error["loc"] if isinstance(part, str)), error)
    first = max(branches.values(), key=_reach)
    kind, context = str(first["type"]), first.get("ctx") or {}
    param = context.get("param") or path_of(first["loc"])
    if kind == "extra_forbidden":
        return invalid(f"Unknown field: {param}", param, "unknown_parameter")
    if kind == "missing":
        message = f"Missing field: {param}" if param else "The request has no body."
        return invalid(message, param, "missing_parameter")
    code = "unsupported_parameter" if kind == "unsupported" else "invalid_value"
    message = str(first["msg"])
    return invalid(f"{param}: {message}" if param else message, param, code)


def _reach(error: Mapping[str, Any]) -> tuple[bool, int, list[int]]:
    """How far validation got before this error: past the type; then how deep, and past how many list items."""
    location = error["loc"]
    return not error["type"].endswith("_type"), len(location), [part for part in location if isinstance(part, int)]


def path_of(location: Sequence[str | int]) -> str | None:
    """("body", "facts", 3, "text") → "facts[3].text"; branch names that pydantic puts in for unions are dropped."""
    path = ""
    for part in location[1:]:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part.isidentifier() and part not in _UNION_BRANCHES:
            path += f".{part}" if path else part
        elif "[" not in part and "-" not in part and part not in _UNION_BRANCHES:
            path += f"[{part[:64]}]"
    return path or None


_UNION_BRANCHES = frozenset({"str", "int", "float", "bool", "list", "dict"})
