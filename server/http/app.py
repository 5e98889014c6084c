"""The whole service, behind one door or two: its parts, what surrounds every request, and its routes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from fastapi import APIRouter, Depends, FastAPI
from fastapi.routing import APIRoute

from server.http import translation
from server.http.auth import Authenticate
from server.http.cross_origin import AllowOrigins
from server.http.doors import Door, Elsewhere
from server.http.encoding import DecodeBody
from server.http.full import RefuseFull
from server.http.limits import LimitBody
from server.http.middleware import Admit, CancelOnDisconnect, Observe
from server.http.routes import (
    chat,
    completions,
    documents,
    facts,
    models,
    operations,
    rerank,
    responses,
    transfer,
    versions,
)
from server.http.routes.base import refuse_unknown_query
from server.http.routes.console import console_router
from server.services import Context, Lifecycle, Services
from server.settings import Settings

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]
_PUBLIC = (operations.router, models.router, rerank.router, chat.router, responses.router, completions.router)
_ADMIN = (operations.measurements, facts.router, versions.router, documents.router, transfer.router)
_ROUTERS: Mapping[Door, tuple[APIRouter, ...]] = {
    "whole": (*_PUBLIC, *_ADMIN),
    "public": _PUBLIC,
    "admin": (operations.router, *_ADMIN),
}


def create_app(settings: Settings, services: Services, lifecycle: Lifecycle | None = None) -> FastAPI:
    """An ASGI app. Its lifespan sweeps expired facts, follows the key files, and closes engine and store at the end.

    Where the settings put /admin apart, this is the rest, and `create_admin_app` makes the other half.
    """
    context = Context.of(settings, services, lifecycle or Lifecycle())

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        beside = (
            context.edits.keep_sweeping(settings.sweep_interval_s),
            context.page_making.keep_making(),
            services.keys.follow(),
            context.responses.keep_sweeping(),
        )
        tasks = [asyncio.create_task(work) for work in beside]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await context.close()

    return _app(context, "public" if settings.admin_apart else "whole", lifespan)


def create_admin_app(context: Context) -> FastAPI:
    """What operators call, on the parts of an app that `create_app` made, and only while that one's lifespan lasts.

    With the console it is everything: the page asks where it came from, and no page of another address may ask there.
    """
    return _app(context, "whole" if context.settings.console else "admin", None)


def _app(context: Context, door: Door, lifespan: Lifespan | None) -> FastAPI:
    app = FastAPI(
        title="KalmaGrove",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # it would send who came by TLS through a proxy on to http://, key and all
        dependencies=[Depends(refuse_unknown_query)],
    )
    app.state.context = context
    translation.install(app)
    # The last one added is the outermost.
    app.add_middleware(CancelOnDisconnect)
    app.add_middleware(DecodeBody, settings=context.settings)
    app.add_middleware(LimitBody, settings=context.settings)
    app.add_middleware(RefuseFull, generations=context.generations)
    origins = context.settings.allowed_origins
    app.add_middleware(Authenticate, keys=context.services.keys, origins=origins)
    app.add_middleware(Admit, lifecycle=context.lifecycle)
    app.add_middleware(Elsewhere, door=door)
    if origins:
        app.add_middleware(AllowOrigins, origins=origins)
    app.add_middleware(Observe, metrics=context.metrics, tracing=context.services.tracing)
    with_console = context.settings.console and door == "whole"
    for router in (*_ROUTERS[door], *([console_router()] if with_console else ())):
        app.include_router(router)
        _answer_head(app, router)
    return app


def _answer_head(app: FastAPI, router: APIRouter) -> None:
    """HEAD wherever there is GET; it is not documented once more."""
    for route in router.routes:
        if isinstance(route, APIRoute) and "GET" in (route.methods or ()):
            app.add_api_route(route.path, route.endpoint, methods=["HEAD"], include_in_schema=False)
