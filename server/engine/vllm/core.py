"""One AsyncLLM at a time. When its processes die, it is shut down and replaced, within a bound."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from server.engine.protocol import EngineUnavailable

log = logging.getLogger("kalmagrove.vllm")

WATCH_SECONDS = 0.25
MAX_RESTARTS = 3
RESTART_WINDOW_SECONDS = 600.0
"""More than MAX_RESTARTS within it: something is wrong that a restart does not mend."""


class Core:
    """Owned by the event loop. `create` blocks for as long as vLLM takes to start (tens of seconds)."""

    def __init__(self, create: Callable[[], Any], on_death: Callable[[], None]) -> None:
        self._create = create
        self._on_death = on_death
        self._llm: Any = create()
        self._restarts: deque[float] = deque(maxlen=MAX_RESTARTS)
        self._watcher: asyncio.Task[None] | None = None
        self._closed = False
        self._failure: str | None = None

    @property
    def alive(self) -> bool:
        return not self._closed and self._llm is not None and not self._llm.errored

    @property
    def blocks(self) -> int:
        """KV blocks in all; 0 while there is no engine."""
        return int(self._llm.vllm_config.cache_config.num_gpu_blocks or 0) if self.alive else 0

    def use(self) -> Any:
        """The AsyncLLM. Raises EngineUnavailable while there is none."""
        if self._closed:
            raise EngineUnavailable("the engine is shut down")
        self._watch()
        if not self.alive:
            raise EngineUnavailable(self._failure or "vLLM's engine died and is being restarted")
        return self._llm

    async def aclose(self) -> None:
        """Stop vLLM's processes. Idempotent."""
        self._closed = True
        if self._watcher is not None:
            await asyncio.gather(self._watcher, return_exceptions=True)
        await self._shut_down()

    def _watch(self) -> None:
        if self._watcher is None:
            self._watcher = asyncio.get_running_loop().create_task(self._replace_the_dead())

    async def _replace_the_dead(self) -> None:
        while not self._closed and self._failure is None:
            await asyncio.sleep(WATCH_SECONDS)
            if not self.alive and not self._closed:
                await self._replace()

    async def _replace(self) -> None:
        now = time.monotonic()
        self._on_death()
        if len(self._restarts) == MAX_RESTARTS and now - self._restarts[0] < RESTART_WINDOW_SECONDS:
            self._failure = f"vLLM's engine died {MAX_RESTARTS + 1} times within {RESTART_WINDOW_SECONDS:g} s"
            log.critical("%s; it is not restarted again", self._failure)
            return
        self._restarts.append(now)
        log.error("vLLM's engine died; it is being restarted (%d within the window)", len(self._restarts))
        await self._shut_down()
        try:
            self._llm = await asyncio.to_thread(self._create)
        except Exception:  # whatever keeps it from starting: the bound decides when to give up
            log.exception("vLLM's engine could not be restarted")
            return
        log.warning("vLLM's engine is back after %.1f s", time.monotonic() - now)
        if self._closed:
            await self._shut_down()

    async def _shut_down(self) -> None:
        llm, self._llm = self._llm, None
        if llm is not None:
            await asyncio.to_thread(llm.shutdown)
