"""Read your writes: wait until the knowledge is published at the version that the client has seen."""

from __future__ import annotations

import asyncio
import contextlib

from kb.publishing import Published
from kb.store import Store
from server.service.access import EVERYTHING, Access
from server.service.errors import Overloaded, VersionUnavailable


class Versions:
    """Belongs to one event loop."""

    def __init__(self, store: Store, max_waiting: int) -> None:
        self._store = store
        self._max_waiting = max_waiting
        self._waiting: dict[asyncio.Future[None], tuple[int, Access]] = {}
        """Done once the version is published."""
        self._loop: asyncio.AbstractEventLoop | None = None
        store.subscribe(self._follow)

    async def wait_for(self, version: int, seconds: float, access: Access = EVERYTHING) -> None:
        """Return as soon as the published version, as far as the caller may know of it, is at least `version`.

        Raises VersionUnavailable if it is not in time, Overloaded if too many wait already.
        """
        if access.version(self._store.snapshot) >= version:
            return
        if len(self._waiting) >= self._max_waiting:
            raise Overloaded("Too many requests wait for a version of the knowledge. Try again shortly.")
        self._loop = asyncio.get_running_loop()
        reached: asyncio.Future[None] = self._loop.create_future()
        self._waiting[reached] = version, access
        self._store.look_now()
        try:
            self._wake()  # it may have come before anybody knew who waits
            async with asyncio.timeout(seconds):
                await reached
        except TimeoutError:
            newest = access.version(self._store.snapshot)
            raise VersionUnavailable(f"The knowledge is at version {newest}, not yet at {version}.") from None
        finally:
            del self._waiting[reached]

    def _follow(self, published: Published) -> None:
        """On the writer's thread."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has closed: nobody waits
                self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        snapshot = self._store.snapshot
        for reached, (version, access) in self._waiting.items():
            if version <= access.version(snapshot) and not reached.done():
                reached.set_result(None)
