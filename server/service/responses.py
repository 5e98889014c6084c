"""Answers that are kept for whoever made them: looked up, gone on from, deleted. What waits for the disk is bounded."""

from __future__ import annotations

import asyncio
import logging
import math
import re
import time
import uuid
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Literal, TypeVar

import orjson

from server.metrics import Metrics
from server.service.admission import Admission, Bounds, Key
from server.service.deadline import in_time
from server.service.errors import InvalidRequest, NoSuchResponse, Overloaded
from server.service.lanes import Lanes
from server.service.response_store import Kept, ResponseStore, ResponseStoreError
from server.settings import Settings

MAX_WAITING = 128
"""Reads and writes that wait for the disk."""
SAVE_PATIENCE_S = 5.0
"""How long an answer waits to be kept; then it is given without."""
SWEEP_S = 60.0
"""How often what is too old is deleted (it is not found from that moment on)."""
MAX_REFERRED_BYTES = 2**24
"""Read to find the items that one request refers to."""
Prefix = Literal["msg", "fc", "fco"]
Item = dict[str, Any]
_RESPONSE = re.compile("resp_[0-9a-f]{32}")
_ITEM = re.compile(r"(?:msg|fc|fco)_(?P<response>[0-9a-f]{32})[0-9a-f]{4}")
T = TypeVar("T")
logger = logging.getLogger("kalmagrove.responses")


def new_response_id() -> str:
    """Nobody can guess it."""
    return f"resp_{uuid.uuid4().hex}"


def item_id(response_id: str, prefix: Prefix, place: int) -> str:
    """Of the item at that place among a response's input and output. It tells whose it is, so no table has to."""
    return f"{prefix}_{response_id.removeprefix('resp_')}{place:04x}"


class Responses:
    """The store, for the event loop. `store` None: nothing is kept."""

    def __init__(
        self, store: ResponseStore | None, lanes: Lanes, metrics: Metrics, settings: Settings, *, shared: bool
    ) -> None:
        share = settings.key_share if shared else 1.0
        bounds = Bounds(slots=1, waiting=MAX_WAITING, per_caller=1 + math.ceil(MAX_WAITING * share), shared=shared)
        self._turns = Admission("stored responses", bounds, settings.key_weights)
        self._store = store
        self._lanes = lanes
        self._metrics = metrics
        self._timeout_s = settings.request_timeout_s
        if store is not None:
            metrics.responses_stored.set_function(lambda: store.held.count)
            metrics.responses_stored_bytes.set_function(lambda: store.held.bytes)

    def wanted(self, store: bool | None) -> bool:
        """Whether a response is to be kept, whose request says so, or says nothing. Raises InvalidRequest."""
        if store and self._store is None:
            raise InvalidRequest("store: this server keeps no responses", "store", "unsupported_value")
        return store is not False and self._store is not None

    async def keep(self, caller: str, response: dict[str, Any], before: list[Item]) -> bool:
        """Durable once it returns True. An answer is not lost because it cannot be kept: then it returns False."""
        assert self._store is not None
        try:
            async with asyncio.timeout(SAVE_PATIENCE_S):
                kept = await self._do(caller, partial(_keep, self._store, caller, response, before))
        except (Overloaded, ResponseStoreError, TimeoutError) as error:
            logger.error("a response could not be kept: %s: %s", type(error).__name__, error)
            kept = False
        if not kept:
            self._metrics.responses_not_kept.inc()
        return kept

    async def response(self, caller: str, response_id: str) -> bytes:
        """As it was answered: JSON. Raises NoSuchResponse."""
        return await self._find(caller, response_id, lambda store: store.response(caller, response_id))

    async def input(self, caller: str, response_id: str) -> list[Item]:
        """The items of the conversation before its output. Raises NoSuchResponse."""
        found = await self._find(caller, response_id, lambda store: store.input(caller, response_id))
        items: list[Item] = orjson.loads(found)
        return items

    async def conversation(self, caller: str, response_id: str) -> list[Item]:
        """All items that whoever goes on from it goes on from. Raises NoSuchResponse."""
        return await self._find(caller, response_id, lambda store: _conversation(store, caller, response_id))

    async def delete(self, caller: str, response_id: str) -> None:
        """Durable once it returns. Raises NoSuchResponse."""
        await self._find(caller, response_id, lambda store: store.delete(caller, response_id) or None)

    async def items(self, caller: str, ids: Iterable[str]) -> dict[str, Item]:
        """Those that there are. Raises InvalidRequest if there is too much to look through."""
        store, wanted = self._store, list(ids)
        if store is None or not wanted:
            return {}
        return await self._in_time(caller, lambda: _items(store, caller, wanted))

    async def keep_sweeping(self) -> None:
        """Until cancelled."""
        while self._store is not None:
            await asyncio.sleep(SWEEP_S)
            try:
                await self._lanes.responses.run(self._store.expire)
            except Exception as error:  # whatever it is, the next sweep may succeed
                logger.error("old responses could not be deleted: %s", type(error).__name__)

    def close(self) -> None:
        """Blocks."""
        if self._store is not None:
            self._store.close()

    async def _find(self, caller: str, response_id: str, read: Callable[[ResponseStore], T | None]) -> T:
        store = self._store
        possible = _RESPONSE.fullmatch(response_id)
        found = await self._in_time(caller, lambda: read(store)) if store is not None and possible else None
        if found is None:
            raise NoSuchResponse(response_id)
        return found

    async def _in_time(self, caller: str, work: Callable[[], T]) -> T:
        async with in_time(time.monotonic() + self._timeout_s):
            return await self._do(caller, work)

    async def _do(self, caller: str, work: Callable[[], T]) -> T:
        async with self._turns.enter(Key(caller)):
            return await self._lanes.responses.run(work)


def _keep(store: ResponseStore, caller: str, response: dict[str, Any], before: list[Item]) -> bool:
    return store.add(Kept(response["id"], caller, orjson.dumps(response), orjson.dumps(before)))


def _conversation(store: ResponseStore, caller: str, response_id: str) -> list[Item] | None:
    before, response = store.input(caller, response_id), store.response(caller, response_id)
    if before is None or response is None:
        return None
    return [*orjson.loads(before), *orjson.loads(response)["output"]]


def _items(store: ResponseStore, caller: str, ids: list[str]) -> dict[str, Item]:
    """Outputs are looked through first: they are short, and what clients mostly refer to."""
    found: dict[str, Item] = {}
    read = 0
    for wanted in ids:
        match = _ITEM.fullmatch(wanted)
        for part in (store.response, store.input):
            if match is None or wanted in found:
                break
            raw = part(caller, f"resp_{match['response']}") or b"[]"
            read += len(raw)
            if read > MAX_REFERRED_BYTES:
                raise InvalidRequest("input: refers to too many items; send them themselves", "input")
            some = orjson.loads(raw)
            for item in some["output"] if isinstance(some, dict) else some:
                found.setdefault(item["id"], item)
    return {wanted: found[wanted] for wanted in ids if wanted in found}
