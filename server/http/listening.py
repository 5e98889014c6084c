"""Uvicorn, as it is configured and stopped here."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import uvicorn

from server.http.protocol import protocol
from server.services import Context
from server.settings import Settings

POLL_SECONDS = 0.05
PARTING_SECONDS = 2.0
"""For streams that were cut off to tell their clients so."""


def configuration(app: object, settings: Settings) -> uvicorn.Config:
    """Of a server of `app`."""
    return uvicorn.Config(
        app,  # type: ignore[arg-type]
        http=protocol(settings),  # type: ignore[arg-type]  # a factory, which is all that is asked of a class
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=5,
    )


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
