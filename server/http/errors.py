"""Every answer that is not success, as OpenAI's error object; the functions here make them, `translation.py` chooses.

{"error": {"message": …, "type": …, "param": "facts[3].text" | null, "code": …}}

ApiError                    what HTTP itself refuses (an HTTPException: FastAPI lets it through while it reads a body)
├─ invalid                  400  invalid_json, unknown_parameter, invalid_value, … (415 unsupported_media_type)
├─ not_http                 400  invalid_http; closes
├─ unauthenticated          401  invalid_api_key
├─ forbidden                403  forbidden
├─ not_found                404  not_found, model_not_found (405 method_not_allowed)
├─ head_late, body_late     408  headers_timeout, body_timeout; close
├─ body_too_large           413  body_too_large; closes
├─ overloaded               429  server_overloaded, Retry-After
├─ head_too_large           431  headers_too_large; closes
├─ internal                 500  internal_error: a bug; the log has the details
├─ unavailable              503  server_draining, too_many_connections, engine_unhealthy, …, Retry-After
└─ timed_out                504  timeout
RequestValidationError      400  what pydantic finds in a body or query
ServiceError
├─ InvalidRequest           400  with its own code
│  └─ ContextTooLong        400  context_length_exceeded
├─ NoSuchResponse           404  not_found
├─ NotAllowed               403  forbidden
├─ VersionUnavailable       409  knowledge_version_unavailable
├─ Overloaded               429  server_overloaded, Retry-After
└─ DeadlinePassed           504  timeout
EngineError                 500  internal_error
├─ RequestTooLarge          400  context_length_exceeded
├─ GrammarTooComplex        400  grammar_too_complex
├─ EngineUnavailable        503  server_unavailable, Retry-After
└─ DeadlineExceeded         504  timeout
KnowledgeError              500  internal_error (StoreCorrupt too)
├─ InvalidChange            400  invalid_fact
├─ InvalidLine              400  invalid_line
├─ UnknownVersion           400  unknown_version
├─ VersionGone              410  version_gone
├─ InvalidFilter            400  invalid_value
├─ FactNotFound             404  not_found
├─ DocumentNotFound         404  not_found
├─ VersionConflict          409  version_conflict
├─ DocumentConflict         409  version_conflict
├─ Outdated                 409  version_conflict
├─ WriteFailed              503  knowledge_write_failed, Retry-After
│  └─ WriteUnknown          503  knowledge_write_unknown, Retry-After
├─ StoreUnavailable         503  knowledge_unavailable, Retry-After
└─ StoreClosed              503  server_unavailable, Retry-After
ResponseStoreError          503  response_store_failed, Retry-After
any other exception         500  internal_error
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.responses import Response

MAX_MESSAGE = 500
"""Messages may quote what the client sent; no longer than this."""


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


def forbidden(message: str, param: str | None = None) -> ApiError:
    """A known client that may not do this."""
    return ApiError(403, message, type="permission_error", code="forbidden", param=param)


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


def _closing(status: int, message: str, code: str) -> ApiError:
    return ApiError(status, message, type="invalid_request_error", code=code, headers={"Connection": "close"})


def _retry_after(seconds: float) -> dict[str, str]:
    return {"Retry-After": str(max(1, math.ceil(seconds)))}
