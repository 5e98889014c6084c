"""Traces by OpenTelemetry: a span per request, and one below it for each phase of its account.

Imported only where traces are wanted (the extra `otel`). Spans are made when a request has ended, of times that were
noted anyway: what serves it knows nothing of traces.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from typing import Any

import requests
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import (
    SpanKind,
    Status,
    StatusCode,
    Tracer,
    format_span_id,
    format_trace_id,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.datastructures import Headers
from starlette.types import Scope

from server.http.scope import account, request_id, started

PARTING_SECONDS = 2.0
MAX_ANSWER_BYTES = 64 * 1024
MAX_REASON = 100
"""Characters of a collector's status line that may get into the log."""
QUOTING = "opentelemetry.trace"
"""Loggers below it quote headers that are no trace, kilobytes of whatever anybody sends."""
_CONTEXT = TraceContextTextMapPropagator()


class Tracing:
    """Makes the spans of one server. Which of them are recorded is up to the client's flag and OTEL_TRACES_SAMPLER."""

    def __init__(self, processor: SpanProcessor) -> None:
        logging.getLogger(QUOTING).setLevel(logging.ERROR)
        named = {} if os.environ.get("OTEL_SERVICE_NAME") else {SERVICE_NAME: "kalmagrove"}
        self._provider = TracerProvider(resource=Resource.create(named), shutdown_on_exit=False)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("kalmagrove")

    @classmethod
    def exporting(cls) -> Tracing:
        """By OTLP over HTTP to where OTEL_EXPORTER_OTLP_ENDPOINT says, in batches, on a thread."""
        return cls(BatchSpanProcessor(OTLPSpanExporter(session=None if _brings_credentials() else _BriefSession())))

    def begin(self, scope: Scope) -> RequestTrace:
        """The span of a request that has its id; as part of the client's trace, if it names one."""
        return RequestTrace(self._tracer, scope)

    async def aclose(self) -> None:
        """Send what is left; what the collector does not take in time is lost."""
        ending = threading.Thread(target=self._provider.shutdown, daemon=True)  # tries for longer than we would wait
        ending.start()
        await asyncio.to_thread(ending.join, PARTING_SECONDS)


class _BriefSession(requests.Session):
    """Reads no more of a collector's answer than one needs: the exporter would take in, and log, whatever comes."""

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        response = super().send(request, **{**options, "stream": True})
        try:
            response._content = next(response.iter_content(MAX_ANSWER_BYTES), b"")
        finally:
            response.close()
        response.reason = response.reason[:MAX_REASON]
        return response


def _brings_credentials() -> bool:
    """OpenTelemetry's settings name a session that has them."""
    return any(name.startswith("OTEL_PYTHON_EXPORTER_OTLP_") and name.endswith("_PROVIDER") for name in os.environ)


class RequestTrace:
    """One request's span."""

    def __init__(self, tracer: Tracer, scope: Scope) -> None:
        self._tracer = tracer
        self._scope = scope
        self._epoch = time.time_ns() - time.monotonic_ns()
        headers = Headers(scope=scope)
        carrier = {name: headers[name] for name in ("traceparent", "tracestate") if name in headers}
        self._span = tracer.start_span(
            scope["method"],
            context=_CONTEXT.extract(carrier),
            kind=SpanKind.SERVER,
            start_time=self._at(started(scope)),
        )

    @property
    def trace_id(self) -> str:
        """32 hexadecimal digits."""
        return format_trace_id(self._span.get_span_context().trace_id)

    @property
    def response(self) -> str:
        """Value of W3C's `traceresponse` header, by which the client learns which span its request was."""
        own = self._span.get_span_context()
        return f"00-{self.trace_id}-{format_span_id(own.span_id)}-{own.trace_flags:02x}"

    def end(self, route: str, status: int) -> None:
        """The answer is complete."""
        if self._span.is_recording():
            self._describe(route, status)
            self._add_phases()
        self._span.end()

    def _describe(self, route: str, status: int) -> None:
        did = account(self._scope)
        known = {
            "http.request.method": self._scope["method"],
            "http.route": route,
            "http.response.status_code": status,
            "kalmagrove.request_id": request_id(self._scope),
            "kalmagrove.key_name": self._scope.get("kalmagrove.caller"),
            "kalmagrove.knowledge_version": did.knowledge_version,
            "kalmagrove.facts_mounted": did.facts_mounted,
            "kalmagrove.phases_dropped": did.dropped or None,
        }
        self._span.update_name(f"{self._scope['method']} {route}")
        self._span.set_attributes({name: value for name, value in known.items() if value is not None})
        if status >= 500:
            self._span.set_status(Status(StatusCode.ERROR))

    def _add_phases(self) -> None:
        inside = set_span_in_context(self._span)
        for phase in account(self._scope).phases:
            span = self._tracer.start_span(phase.name, context=inside, start_time=self._at(phase.began))
            span.end(self._at(phase.ended))

    def _at(self, seconds: float) -> int:
        """Nanoseconds since the epoch, of a time on time.monotonic()'s clock."""
        return self._epoch + int(seconds * 1e9)
