"""GET /health and /ready at every door, /metrics where operators call: cheap, and never waiting for the engine."""

from __future__ import annotations

from typing import NotRequired

from fastapi import APIRouter
from starlette.responses import Response
from typing_extensions import TypedDict

from kb.following import Contact
from server.http.doors import METRICS_PATH
from server.http.errors import unavailable
from server.http.routes.base import json_response
from server.http.schemas.errors import ErrorResponse
from server.metrics import CONTENT_TYPE
from server.services import AccessDep, ContextDep

router = APIRouter()
measurements = APIRouter()


class Health(TypedDict):
    """The process lives."""

    status: str


class Ready(TypedDict):
    """Requests would be served now, from this version of the knowledge."""

    status: str
    model: str
    knowledge_log: Contact
    """Lost, or diverged: answers come from this version as long as that lasts, and edits are refused."""
    lag_seconds: float
    """Since all of the log was last known to be published here; 0 if it is."""
    knowledge_version: NotRequired[int]
    """Left out, as the next, where keys are bound to namespaces: it tells of edits everywhere."""
    lag_versions: NotRequired[int]
    """How far behind the log this version is, as far as is known; of servers that share one."""


@router.get("/health", responses={200: {"model": Health}})
async def health() -> Response:
    """Whether the process answers at all."""
    return json_response(Health(status="ok"))


@router.get("/ready", responses={200: {"model": Ready}, 503: {"model": ErrorResponse}})
async def ready(context: ContextDep) -> Response:
    """Whether requests are served: the engine makes forward progress and the server is not draining.

    A store that cannot be written, or whose log is lost, does not count: questions are still answered.
    """
    if context.lifecycle.draining:
        raise unavailable("The server is shutting down.", "server_draining", 5.0)
    if not context.services.engine.healthy():
        raise unavailable("The engine makes no progress.", "engine_unhealthy", 5.0)
    store = context.services.store
    log = store.log_state
    told = Ready(
        status="ready",
        model=context.services.model_name,
        knowledge_log=log.contact,
        lag_seconds=round(log.seconds_behind, 3),
    )
    if not context.services.keys.bound():
        told["knowledge_version"] = store.snapshot.version
        told["lag_versions"] = log.versions_behind
    return json_response(told)


@measurements.get(METRICS_PATH, responses={200: {"content": {"text/plain": {}}}})
async def metrics(context: ContextDep, access: AccessDep) -> Response:
    """For Prometheus. They are about everything: 403 for a key that is bound to namespaces."""
    access.require_whole()
    return Response(context.metrics.render(), headers={"Content-Type": CONTENT_TYPE})
