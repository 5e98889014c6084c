"""Uvicorn, as it is configured and stopped here."""

from __future__ import annotations

import asyncio
import logging
import math
import socket
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from resource import RLIM_INFINITY, RLIMIT_NOFILE, getrlimit, setrlimit
from typing import Literal

import uvicorn
from fastapi import FastAPI

from server.http.certificate import Certificate
from server.http.handshake import secured
from server.http.protocol import SPARE_CONNECTIONS, protocol
from server.services import Context
from server.settings import Settings

POLL_SECONDS = 0.05
PARTING_SECONDS = 2.0
"""For streams that were cut off to tell their clients so."""
FLUSH_SECONDS = 3
"""After that, for clients of all listeners together to read what was sent."""
OTHER_FILES = 256
"""The log, the index, pages, the event loop's own."""
logger = logging.getLogger("kalmagrove.connections")


class _Config(uvicorn.Config):
    def load(self) -> None:
        """TLS is ours to begin: uvicorn would leave it to the event loop, which bounds nothing."""
        super().load()
        if self.ssl is not None:
            self.http_protocol_class = partial(secured, self.ssl, self.http_protocol_class)  # type: ignore[arg-type,assignment]
            self.ssl = None


def configuration(
    app: FastAPI, lifespan: Literal["on", "off"] = "on", certificate: Certificate | None = None
) -> uvicorn.Config:
    """Of a server of what `create_app` made; without its own lifespan of what `create_admin_app` did."""
    context: Context = app.state.context
    settings = context.settings
    return _Config(
        app,
        http=protocol(settings, context.metrics.refusals),  # type: ignore[arg-type]  # a factory, which is all that is asked of a class
        ws="none",
        lifespan=lifespan,
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_keep_alive=math.ceil(settings.keep_alive_s),
        timeout_graceful_shutdown=FLUSH_SECONDS,
        ssl_context_factory=(lambda *_: certificate.context) if certificate else None,
    )


def allow_files(settings: Settings) -> Settings:
    """Let the process open as many files as it may have connections: at the system's bound nobody gets in any more.

    Where the system allows fewer, the settings that come back have fewer connections: those who connect and say nothing
    would take the files of the log and of the other listener.
    """
    listeners = 2 if settings.admin_apart else 1
    wanted = listeners * (settings.max_connections + SPARE_CONNECTIONS) + OTHER_FILES
    soft, hard = getrlimit(RLIMIT_NOFILE)
    if soft == RLIM_INFINITY or soft >= wanted:
        return settings
    most = wanted if hard == RLIM_INFINITY else min(wanted, hard)
    setrlimit(RLIMIT_NOFILE, (most, hard))
    if most == wanted:
        return settings
    fewer = max(1, (most - OTHER_FILES) // listeners - SPARE_CONNECTIONS)
    logger.warning("only %d files may be open: max_connections is %d, not %d", most, fewer, settings.max_connections)
    return settings.model_copy(update={"max_connections": fewer})


class Companion(uvicorn.Server):
    """A second listener, which starts and stops when the first one says so."""

    def __init__(self, config: uvicorn.Config, listener: socket.socket) -> None:
        super().__init__(config)
        self._listener = listener
        self._begun = asyncio.Event()
        self._serving: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().startup(sockets)
        finally:
            self._begun.set()

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """None: the first one does."""
        yield

    async def begin(self) -> None:
        """Returns once it listens. Raises OSError."""
        self._serving = asyncio.create_task(self.serve([self._listener]))
        await self._begun.wait()
        if not self.started:
            await self._serving

    async def end(self) -> None:
        """Connections may end their answers, within the configuration's bound. Idempotent."""
        self.should_exit = True
        if self._serving is not None:
            await self._serving


class DrainingServer(uvicorn.Server):
    """Uvicorn, with a longer goodbye: running requests may end, new ones are told to go elsewhere."""

    def __init__(
        self, config: uvicorn.Config, context: Context, on_ready: Callable[[], None], beside: Companion | None = None
    ) -> None:
        super().__init__(config)
        self._context = context
        self._on_ready = on_ready
        self._beside = beside

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Raises OSError if a listener cannot listen."""
        try:
            await super().startup(sockets)
            if self._beside is not None:
                await self._beside.begin()
        except OSError:
            await self.lifespan.shutdown()
            raise
        if self.started:
            self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Refuse what is new; wait for running requests; cut those that take too long, with an error they can see.

        Listeners stay open meanwhile: who comes is told to go, rather than left to guess.
        """
        self._context.lifecycle.draining = True
        if not await self._idle_within(self._context.settings.drain_timeout_s):
            await self._context.services.engine.aclose()
            await self._idle_within(PARTING_SECONDS)
        if self._beside is not None:
            await self._end_beside(self._beside)
        await super().shutdown(sockets)

    async def _end_beside(self, beside: Companion) -> None:
        """Before the lifespan ends, which closes what it works with. Clients here have the same seconds as those there,
        not as many again: who stops the process does not wait for ever."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + FLUSH_SECONDS
        for connection in list(self.server_state.connections):
            connection.shutdown()
        await beside.end()
        self.config.timeout_graceful_shutdown = max(0, round(deadline - loop.time()))

    async def _idle_within(self, seconds: float) -> bool:
        """True once no request is running; False if that takes longer, or somebody insists on the end."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while self._context.lifecycle.running and not self.force_exit:
            if loop.time() >= deadline:
                return False
            await asyncio.sleep(POLL_SECONDS)
        return not self._context.lifecycle.running
