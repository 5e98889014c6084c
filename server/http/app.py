"""The whole service: its parts, what surrounds every request, and its routes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import APIRouter, Depends, FastAPI
from fastapi.routing import APIRoute

from server.http import translation
from server.http.auth import Authenticate
from server.http.limits import LimitBody
from server.http.middleware import Admit, CancelOnDisconnect, Observe
from server.http.routes import chat, completions, facts, models, operations, transfer
from server.http.routes.base import refuse_unknown_query
from server.services import Context, Lifecycle, Services
from server.settings import Settings


def create_app(settings: Settings, services: Services, lifecycle: Lifecycle | None = None) -> FastAPI:
    """An ASGI app. Its lifespan sweeps expired facts, follows the key files, and closes engine and store at the end."""
    context = Context.of(settings, services, lifecycle or Lifecycle())

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        beside = (context.edits.keep_sweeping(settings.sweep_interval_s), services.keys.follow())
        tasks = [asyncio.create_task(work) for work in beside]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await context.close()

    app = FastAPI(
        title="KalmaGrove",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        dependencies=[Depends(refuse_unknown_query)],
    )
    app.state.context = context
    translation.install(app)
    # The last one added is the outermost.
    app.add_middleware(CancelOnDisconnect)
    app.add_middleware(LimitBody, settings=settings)
    app.add_middleware(Authenticate, keys=services.keys)
    app.add_middleware(Admit, lifecycle=context.lifecycle)
    app.add_middleware(Observe, metrics=context.metrics)
    for module in (operations, models, chat, completions, facts, transfer):
        app.include_router(module.router)
        _answer_head(app, module.router)
    return app


def _answer_head(app: FastAPI, router: APIRouter) -> None:
    """HEAD wherever there is GET; it is not documented once more."""
    for route in router.routes:
        if isinstance(route, APIRoute) and "GET" in (route.methods or ()):
            app.add_api_route(route.path, route.endpoint, methods=["HEAD"], include_in_schema=False)
