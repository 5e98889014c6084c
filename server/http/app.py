"""The whole service: its parts, what surrounds every request, and its routes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from fastapi import FastAPI

from server.http import errors
from server.http.auth import Authenticate
from server.http.limits import Gate, LimitBody
from server.http.middleware import CancelOnDisconnect, Observe, RefuseWhileDraining
from server.http.routes import chat, completions, facts, models, operations, transfer
from server.metrics import Metrics
from server.service.completions import Completions
from server.service.knowledge import KnowledgeService
from server.service.prompts import Preparer
from server.services import Context, Lifecycle, Services
from server.settings import Settings

MAX_READS = 64
"""Searches, lists, exports and embeddings in progress."""


def create_app(settings: Settings, services: Services, lifecycle: Lifecycle | None = None) -> FastAPI:
    """An ASGI app. Its lifespan sweeps expired facts, and closes engine and store at the end."""
    context = _context(settings, services, lifecycle or Lifecycle())

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        sweeper = asyncio.create_task(_sweep(context))
        try:
            yield
        finally:
            sweeper.cancel()
            with suppress(asyncio.CancelledError):
                await sweeper
            await close(context)

    app = FastAPI(title="KalmaGrove", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.context = context
    errors.install(app)
    # The last one added is the outermost.
    app.add_middleware(CancelOnDisconnect)
    app.add_middleware(
        LimitBody,
        max_bytes=settings.max_body_bytes,
        max_import_bytes=settings.max_import_bytes,
        idle_timeout_s=settings.body_idle_timeout_s,
    )
    app.add_middleware(Authenticate, keys=services.keys)
    app.add_middleware(RefuseWhileDraining, lifecycle=context.lifecycle)
    app.add_middleware(Observe, metrics=context.metrics)
    for module in (operations, models, chat, completions, facts, transfer):
        app.include_router(module.router)
    return app


async def close(context: Context) -> None:
    """Stop the engine, let commits under way finish, and release the store."""
    await context.services.engine.aclose()
    await context.knowledge.close()
    await asyncio.to_thread(context.services.store.close)


def _context(settings: Settings, services: Services, lifecycle: Lifecycle) -> Context:
    metrics = Metrics(services.engine, services.store)
    knowledge = KnowledgeService(
        services.store,
        services.encoder,
        services.engine,
        services.prompt,
        metrics,
        max_fact_tokens=settings.max_fact_tokens,
    )
    preparer = Preparer(knowledge, services.prompt, settings)
    return Context(
        settings=settings,
        services=services,
        metrics=metrics,
        knowledge=knowledge,
        preparer=preparer,
        completions=Completions(services.engine, knowledge, preparer, metrics, settings, services.grounding),
        edits=Gate(settings.max_pending_edits, "edits"),
        reads=Gate(MAX_READS, "reads"),
        imports=Gate(1, "imports"),
        lifecycle=lifecycle,
        started_at=int(time.time()),
    )


async def _sweep(context: Context) -> None:
    while True:
        await asyncio.sleep(context.settings.sweep_interval_s)
        await context.knowledge.sweep()
