"""Uvicorn, as it is configured and stopped here."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from resource import RLIM_INFINITY, RLIMIT_NOFILE, getrlimit, setrlimit

import uvicorn
from fastapi import FastAPI

from server.http.protocol import SPARE_CONNECTIONS, protocol
from server.services import Context
from server.settings import Settings

POLL_SECONDS = 0.05
PARTING_SECONDS = 2.0
"""For streams that were cut off to tell their clients so."""
OTHER_FILES = 256
"""The log, the index, pages, the event loop's own."""
logger = logging.getLogger("kalmagrove.connections")


def configuration(app: FastAPI) -> uvicorn.Config:
    """Of a server of what `create_app` made."""
    context: Context = app.state.context
    return uvicorn.Config(
        app,
        http=protocol(context.settings, context.metrics.refusals),  # type: ignore[arg-type]  # a factory, which is all that is asked of a class
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=5,
    )


def allow_files(settings: Settings) -> None:
    """Let the process open as many files as it may have connections: at the system's bound nobody gets in any more."""
    wanted = settings.max_connections + SPARE_CONNECTIONS + OTHER_FILES
    soft, hard = getrlimit(RLIMIT_NOFILE)
    if soft == RLIM_INFINITY or soft >= wanted:
        return
    most = wanted if hard == RLIM_INFINITY else min(wanted, hard)
    setrlimit(RLIMIT_NOFILE, (most, hard))
    if most < wanted:
        logger.warning("only %d files may be open, which is too few for max_connections", most)


class DrainingServer(uvicorn.Server):
    """Uvicorn, with a longer goodbye: running requests may end, new ones are told to go elsewhere."""

    def __init__(self, config: uvicorn.Config, context: Context, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._context = context
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Refuse what is new; wait for running requests; cut those that take too long, with an error they can see.

        The listener stays open meanwhile: who comes is told to go, rather than left to guess.
        """
        self._context.lifecycle.draining = True
        if not await self._idle_within(self._context.settings.drain_timeout_s):
            await self._context.services.engine.aclose()
            await self._idle_within(PARTING_SECONDS)
        await super().shutdown(sockets)

    async def _idle_within(self, seconds: float) -> bool:
        """True once no request is running; False if that takes longer, or somebody insists on the end."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while self._context.lifecycle.running and not self.force_exit:
            if loop.time() >= deadline:
                return False
            await asyncio.sleep(POLL_SECONDS)
        return not self._context.lifecycle.running
