"""From whatever was raised to what the client is told; what it is not told goes to the log, with the request's id."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from kb.documents import DocumentConflict, DocumentNotFound, Outdated
from kb.errors import (
    FactNotFound,
    InvalidChange,
    InvalidLine,
    KnowledgeError,
    Problem,
    StoreClosed,
    StoreUnavailable,
    UnknownVersion,
    VersionConflict,
    VersionGone,
    WriteFailed,
    WriteUnknown,
)
from kb.filters import InvalidFilter
from server.engine.protocol import (
    DeadlineExceeded,
    EngineError,
    EngineUnavailable,
    GrammarTooComplex,
    RequestTooLarge,
)
from server.http.errors import (
    MAX_MESSAGE,
    ApiError,
    context_too_long,
    forbidden,
    internal,
    invalid,
    not_found,
    overloaded,
    timed_out,
    unavailable,
)
from server.http.scope import note_refusal, request_id
from server.service.errors import (
    DeadlinePassed,
    InvalidRequest,
    NoSuchResponse,
    NotAllowed,
    Overloaded,
    ServiceError,
    VersionUnavailable,
)
from server.service.response_store import ResponseStoreError

MAX_PROBLEMS = 20
"""So many bad facts of a batch are named; the rest is counted."""
LOGGED = frozenset({500, 503})
DELIBERATE = (ServiceError, EngineError, KnowledgeError, ResponseStoreError)
"""Raised on purpose: what they say quotes no request."""
logger = logging.getLogger("kalmagrove.errors")


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
    if isinstance(error, ResponseStoreError):
        return unavailable("The stored responses cannot be read or written now.", "response_store_failed", 5.0)
    if isinstance(error, RequestValidationError):
        return _from_validation(error.errors())
    if isinstance(error, HTTPException):
        return _from_http(error)
    return internal()


def refuse(scope: Scope, error: Exception) -> ApiError:
    """What to tell the client; the log gets what it is not told."""
    told = from_exception(error)
    note_refusal(scope, told.code)
    hidden = error.__cause__ if isinstance(error, ApiError) else error
    if hidden is not None and told.status_code in LOGGED:
        bug = hidden if told.status_code == 500 else None
        # Other exceptions may quote the request; ours that end in such an answer do not.
        said = f": {hidden}" if isinstance(hidden, DELIBERATE) else ""
        logger.error("request %s: %s%s", request_id(scope), type(hidden).__name__, said, exc_info=bug)
    return told


def install(app: FastAPI) -> None:
    """Answer every error raised by a route in OpenAI's shape."""

    async def answer(request: Request, error: Exception) -> Response:
        return refuse(request.scope, error).response()

    for kind in (HTTPException, RequestValidationError, *DELIBERATE):
        app.add_exception_handler(kind, answer)


def _from_service(error: ServiceError) -> ApiError:
    if isinstance(error, InvalidRequest):
        return invalid(str(error), error.param, error.code)
    if isinstance(error, NoSuchResponse):
        return not_found(str(error), "id")
    if isinstance(error, NotAllowed):
        return forbidden(str(error), error.param)
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
    if isinstance(error, GrammarTooComplex):
        return invalid(f"The answer's form cannot be kept to: {error}.", None, "grammar_too_complex")
    if isinstance(error, DeadlineExceeded):
        return timed_out("The request's deadline passed.")
    if isinstance(error, EngineUnavailable):
        return unavailable("The engine takes no requests now.")
    return internal()


def _from_knowledge(error: KnowledgeError) -> ApiError:
    if isinstance(error, InvalidChange):
        return _from_problems(error.problems)
    if isinstance(error, InvalidLine):
        return invalid(str(error), error.field, "invalid_line")
    if isinstance(error, (FactNotFound, DocumentNotFound)):
        return not_found(str(error), "id")
    if isinstance(error, VersionConflict):
        told = [(f"facts[{one.index}].if_version", str(one)) for one in error.conflicts]
        return _listed(409, "version_conflict", told)
    if isinstance(error, (DocumentConflict, Outdated)):
        return invalid(str(error), "if_version", "version_conflict", status=409)
    if isinstance(error, InvalidFilter):
        return invalid(str(error), error.path, "invalid_value")
    if isinstance(error, UnknownVersion):
        return invalid(str(error), "version", "unknown_version")
    if isinstance(error, VersionGone):
        return invalid(str(error), "version", "version_gone", status=410)
    return _from_store(error)


def _from_store(error: KnowledgeError) -> ApiError:
    """What is nobody's mistake."""
    if isinstance(error, StoreUnavailable):
        message = "The knowledge's log cannot be reached: no edits and no history now. Questions are answered."
        return unavailable(message, "knowledge_unavailable", 2.0)
    if isinstance(error, WriteUnknown):
        message = "Whether the edit was written is not known: the log was lost meanwhile. Look before it is sent again."
        return unavailable(message, "knowledge_write_unknown", 5.0)
    if isinstance(error, WriteFailed):
        return unavailable("The edit could not be written; it is not visible.", "knowledge_write_failed", 5.0)
    if isinstance(error, StoreClosed):
        return unavailable("The knowledge takes no more edits.")
    return internal()


def _from_problems(problems: Sequence[Problem]) -> ApiError:
    told = [(f"facts[{problem.index}].{problem.field}", problem.message) for problem in problems]
    return _listed(400, "invalid_fact", told)


def _listed(status: int, code: str, told: Sequence[tuple[str, str]]) -> ApiError:
    """What is wrong with the facts of a batch, each param with its message, as far as one message should hold them."""
    more = [f"and {len(told) - MAX_PROBLEMS} more"] if len(told) > MAX_PROBLEMS else []
    return ApiError(
        status,
        "; ".join([*(f"{param}: {message}" for param, message in told[:MAX_PROBLEMS]), *more]),
        type="invalid_request_error",
        code=code,
        param=told[0][0],
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
