"""GET /health and /ready at every door, /metrics where operators call: cheap, and never waiting for the engine."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response
from typing_extensions import TypedDict

from kb.following import Contact
from server.http.doors import METRICS_PATH
from server.http.errors import unavailable
from server.http.routes.base import json_response
from server.http.schemas.errors import ErrorResponse
from server.metrics import CONTENT_TYPE
from server.services import ContextDep

router = APIRouter()
measurements = APIRouter()


class Health(TypedDict):
    """The process lives."""

    status: str


class Ready(TypedDict):
    """Requests would be served now, from this version of the knowledge."""

    status: str
    model: str
    knowledge_version: int
    knowledge_log: Contact
    """Lost, or diverged: answers come from this version as long as that lasts, and edits are refused."""
    lag_versions: int
    """How far behind the log this version is, as far as is known; of servers that share one."""
    lag_seconds: float
    """Since all of the log was last known to be published here; 0 if it is."""


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
    reply = Ready(
        status="ready",
        model=context.services.model_name,
        knowledge_version=store.snapshot.version,
        knowledge_log=log.contact,
        lag_versions=log.versions_behind,
        lag_seconds=round(log.seconds_behind, 3),
    )
    return json_response(reply)


@measurements.get(METRICS_PATH, responses={200: {"content": {"text/plain": {}}}})
async def metrics(context: ContextDep) -> Response:
    """For Prometheus."""
    return Response(context.metrics.render(), headers={"Content-Type": CONTENT_TYPE})
