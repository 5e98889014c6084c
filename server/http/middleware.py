"""What happens around every request, as plain ASGI: its id, the access log, its metrics, and the end of it when the
client leaves."""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from typing import TYPE_CHECKING

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.http.errors import ApiError, internal, unavailable
from server.http.scope import account, note_refusal, request_id, route_of, started
from server.metrics import Metrics
from server.service.account import Account
from server.services import Lifecycle

if TYPE_CHECKING:
    from server.http.tracing import RequestTrace, Tracing

PROBES = frozenset({"/health", "/ready", "/metrics"})
"""Answered while the server drains or is full."""
CLIENT_LEFT = 499
"""Logged and counted in place of a status where no response was begun."""
METHOD_NOT_ALLOWED = 405
_SANE_ID = re.compile(r"[\x21-\x7e]{1,128}")
access = logging.getLogger("kalmagrove.access")
errors = logging.getLogger("kalmagrove.errors")


class Observe:
    """Outermost: gives the request its id and its account, answers 500 for bugs, counts, logs and traces."""

    def __init__(self, app: ASGIApp, metrics: Metrics, tracing: Tracing | None = None) -> None:
        self.app = app
        self._metrics = metrics
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        scope["kalmagrove.request_id"] = given if _SANE_ID.fullmatch(given) else uuid.uuid4().hex
        scope["kalmagrove.started"] = time.monotonic()
        scope["kalmagrove.account"] = Account()
        trace = self._tracing.begin(scope) if self._tracing and scope["path"] not in PROBES else None
        status = 0

        async def observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = request_id(scope)
                if trace:
                    headers["traceresponse"] = trace.response
            await send(message)

        with self._metrics.in_flight.track_inprogress():
            try:
                await self.app(scope, receive, observed)
            except Exception:
                errors.exception("request %s failed", request_id(scope))
                if status:
                    raise  # too late for an answer: the connection is cut, which no client takes for success
                error = internal()
                note_refusal(scope, error.code)
                await error.response()(scope, receive, observed)
            finally:
                self._record(scope, status or CLIENT_LEFT, trace)

    def _record(self, scope: Scope, status: int, trace: RequestTrace | None) -> None:
        route = route_of(scope)
        seconds = time.monotonic() - started(scope)
        # Of methods that no route takes there are dozens: they are not told apart.
        method = "any" if route == "none" or status == METHOD_NOT_ALLOWED else scope["method"]
        self._metrics.requests.labels(route, method, status).inc()
        self._metrics.request_seconds.labels(route).observe(seconds)
        if "kalmagrove.refusal" in scope:
            self._metrics.refusals.labels(scope["kalmagrove.refusal"]).inc()
        if trace:
            trace.end(route, status)
        if access.isEnabledFor(logging.INFO):
            access.info("request", extra={"fields": _access_fields(scope, route, status, seconds, trace)})


def _access_fields(
    scope: Scope, route: str, status: int, seconds: float, trace: RequestTrace | None
) -> dict[str, object]:
    """Of one request."""
    did = account(scope)
    ttft = did.first_token_at - started(scope) if did.first_token_at is not None else None
    fields = {
        "request_id": request_id(scope),
        "method": scope["method"],
        "route": route,
        "status": status,
        "key_name": scope.get("kalmagrove.caller"),
        "knowledge_version": did.knowledge_version,
        "facts_mounted": did.facts_mounted,
        "ttft_ms": None if ttft is None else round(ttft * 1000, 1),
        "total_ms": round(seconds * 1000, 1),
        "trace_id": trace.trace_id if trace else None,
    }
    return {name: value for name, value in fields.items() if value is not None}


class Admit:
    """503 while the server drains, or more connections are busy than may be; running requests go on, probes pass."""

    def __init__(self, app: ASGIApp, lifecycle: Lifecycle) -> None:
        self.app = app
        self._lifecycle = lifecycle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in PROBES:
            await self.app(scope, receive, send)
        elif (error := self._refusal(scope)) is not None:
            error.headers = {**(error.headers or {}), "Connection": "close"}
            note_refusal(scope, error.code)
            await error.response()(scope, receive, send)
        else:
            await self._run(scope, receive, send)

    def _refusal(self, scope: Scope) -> ApiError | None:
        if self._lifecycle.draining:
            return unavailable("The server is shutting down.", "server_draining", 5.0)
        if scope.get("state", {}).get("crowded"):
            return unavailable("Too many connections are busy.", "too_many_connections")
        return None

    async def _run(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._lifecycle.running += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self._lifecycle.running -= 1


class CancelOnDisconnect:
    """A client that leaves cancels its request, whatever it is doing: queued, looking up, computing or streaming.

    Reads ahead of the app by one message, so that it learns of the disconnect while the app is busy.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        working = asyncio.current_task()
        assert working is not None
        watch = _Watch(receive, send, working)
        reader = asyncio.create_task(watch.read())
        try:
            await self.app(scope, watch.receive, watch.send)
        except asyncio.CancelledError:
            if not watch.cancelled or working.cancelling() > 1:
                raise  # somebody else's cancellation, perhaps besides ours
        finally:
            reader.cancel()
            if watch.cancelled:
                working.uncancel()


class _Watch:
    """One request's channels, with an ear to the disconnect."""

    def __init__(self, receive: Receive, send: Send, working: asyncio.Task[None]) -> None:
        self._receive = receive
        self._send = send
        self._working = working
        self._messages: asyncio.Queue[Message | Exception] = asyncio.Queue(1)
        self._finished = False
        self.cancelled = False

    async def read(self) -> None:
        """Passes messages on until the client has left, then cancels the work if there is any left."""
        while True:
            try:
                message = await self._receive()
            except Exception as error:  # the body is over its bound, or stopped coming
                await self._messages.put(error)
                return
            if message["type"] == "http.disconnect":
                break
            await self._messages.put(message)
        if not self._finished:
            self.cancelled = True
            self._working.cancel()

    async def receive(self) -> Message:
        message = await self._messages.get()
        if isinstance(message, Exception):
            raise message
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self._finished = True  # what comes now is the ordinary end of the connection
        await self._send(message)
