"""Traces: what a request did, as spans; the client's trace followed; nothing at all where nobody asked for it."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from rich.console import Console

from kan.checkpoint.directory import Checkpoint
from kb.encoder.minilm import MiniLMEncoder
from server.http.tracing import Tracing
from server.loading import StartupError, load, tracing_of
from server.service.account import MAX_PHASES, Account
from server.settings import Settings
from tests.server.support import FACTS, Service, build_services, chat_body, running

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
CHAT = ["queue", "retrieval", "queue", "prefill", "decode"]


@pytest.fixture
def spans() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
async def traced(
    tmp_path: Path, tiny: Checkpoint, encoder: MiniLMEncoder, spans: InMemorySpanExporter
) -> AsyncIterator[Service]:
    services = replace(build_services(tmp_path, tiny, encoder), tracing=Tracing(SimpleSpanProcessor(spans)))
    async with running(services, max_batch_facts=512) as service:
        await service.put(**FACTS)
        spans.clear()
        yield service


def tree(spans: InMemorySpanExporter) -> tuple[ReadableSpan, list[ReadableSpan]]:
    """The one request's span, and those below it in the order of their beginnings."""
    (top,) = (span for span in spans.get_finished_spans() if span.kind is SpanKind.SERVER)
    below = [span for span in spans.get_finished_spans() if span is not top]
    assert top.context is not None
    assert all(span.parent is not None and span.parent.span_id == top.context.span_id for span in below)
    assert all(top.start_time <= s.start_time <= s.end_time <= top.end_time + 1_000_000 for s in below)  # type: ignore[operator]
    return top, sorted(below, key=lambda span: span.start_time or 0)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_completion(traced: Service, spans: InMemorySpanExporter, stream: bool) -> None:
    response = await traced.chat(stream=stream)
    top, below = tree(spans)
    assert [span.name for span in below] == CHAT
    assert all(one.end_time <= next.start_time for one, next in pairwise(below))  # type: ignore[operator]
    assert top.name == "POST /v1/chat/completions"
    attributes = dict(top.attributes or {})
    assert attributes["http.response.status_code"] == 200
    assert attributes["kalmagrove.request_id"] == response.headers["x-request-id"]
    assert (attributes["kalmagrove.knowledge_version"], attributes["kalmagrove.facts_mounted"]) == (1, 1)
    assert top.resource.attributes["service.name"] == "kalmagrove"
    told = json.dumps([span.to_json() for span in spans.get_finished_spans()])
    assert not any(word in told for word in ("Zorvex", "Mara", "ceo"))


async def test_every_choice_has_its_own(traced: Service, spans: InMemorySpanExporter) -> None:
    await traced.chat(n=3)
    names = [span.name for span in tree(spans)[1]]
    assert {name: names.count(name) for name in set(names)} == {"queue": 6, "retrieval": 1, "prefill": 3, "decode": 3}


async def test_edits(traced: Service, spans: InMemorySpanExporter) -> None:
    await traced.put(new="The new bridge opens in May.")
    names = [span.name for span in tree(spans)[1]]
    assert sorted(names) == ["commit", "embed", "encode", "queue"]
    spans.clear()
    await traced.put(**{f"many-{i}": f"Bridge {i} opens in May." for i in range(40)})
    names = [span.name for span in tree(spans)[1]]
    assert sorted(names) == ["commit", "embed", "embed"]


async def test_the_clients_trace_goes_on(traced: Service, spans: InMemorySpanExporter) -> None:
    given = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "vendor=1"}
    response = await traced.http.post("/v1/chat/completions", json=chat_body(), headers=given)
    top, _ = tree(spans)
    assert top.parent is not None
    assert f"{top.parent.span_id:016x}" == PARENT
    assert top.context is not None
    assert response.headers["traceresponse"] == f"00-{TRACE}-{top.context.span_id:016x}-01"
    assert {f"{span.context.trace_id:032x}" for span in spans.get_finished_spans() if span.context} == {TRACE}
    assert top.context.trace_state["vendor"] == "1"


@pytest.mark.parametrize("bad", ["nonsense", f"00-{'0' * 32}-{PARENT}-01", f"00-{TRACE}-{PARENT}"])
async def test_what_is_no_trace_begins_a_new_one(traced: Service, spans: InMemorySpanExporter, bad: str) -> None:
    await traced.http.get("/v1/models", headers={"traceparent": bad})
    top, below = tree(spans)
    assert top.parent is None
    assert below == []


@pytest.mark.parametrize(
    "given",
    [
        {"traceparent": "nightjar" * 200},
        {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "nightjar"},
        {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": f"a=1{' ' * 8000}nightjar"},
        {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "nightjar=1," * 3000},
    ],
    ids=["no parent", "no member", "long member", "many"],
)
async def test_what_is_no_trace_is_not_logged(
    traced: Service, caplog: pytest.LogCaptureFixture, given: dict[str, str]
) -> None:
    with caplog.at_level("INFO"):
        assert (await traced.http.get("/v1/models", headers=given)).status_code == 200
    assert [record.name for record in caplog.records if record.name.startswith("opentelemetry")] == []
    assert "nightjar" not in caplog.text


async def test_a_client_may_ask_not_to_be_recorded(traced: Service, spans: InMemorySpanExporter) -> None:
    given = {"traceparent": f"00-{TRACE}-{PARENT}-00"}
    response = await traced.http.post("/v1/chat/completions", json=chat_body(), headers=given)
    assert response.headers["traceresponse"].startswith(f"00-{TRACE}-")
    assert spans.get_finished_spans() == ()


async def test_failures_and_probes(
    traced: Service, spans: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in ("/health", "/ready", "/metrics"):
        assert "traceresponse" not in (await traced.http.get(path)).headers
    assert spans.get_finished_spans() == ()
    await traced.http.get("/nowhere/ceo")
    top, _ = tree(spans)
    assert (top.name, top.status.status_code) == ("GET none", StatusCode.UNSET)
    spans.clear()

    def broken(self: object, request: object) -> None:
        raise RuntimeError("Mara")

    monkeypatch.setattr(type(traced.engine), "generate", broken)
    assert (await traced.chat()).status_code == 500
    top, below = tree(spans)
    assert top.status.status_code is StatusCode.ERROR
    assert [span.name for span in below] == ["queue", "retrieval"]
    assert "Mara" not in top.to_json()


def test_phases_are_bounded() -> None:
    account = Account()
    for _ in range(MAX_PHASES + 5):
        account.spent("commit", 1.0, 2.0)
    assert (len(account.phases), account.dropped) == (MAX_PHASES, 5)


def test_without_settings_nothing_is_imported() -> None:
    program = (
        "import sys, server.serve; from server.loading import tracing_of; from server.settings import Settings; "
        "assert tracing_of(Settings()) is None; print([m for m in sys.modules if m.startswith('opentelemetry.sdk') "
        "or m.startswith('opentelemetry.exporter') or m.startswith('google.protobuf') or m == 'server.http.tracing'])"
    )
    clean = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=clean)
    assert done.stdout.strip() == "[]"


def test_what_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "server.http.tracing", None)
    with pytest.raises(StartupError, match=r"kalmagrove\[otel\]"):
        load(Settings(data_dir=tmp_path, otel="on"), Console(quiet=True))


@contextmanager
def collector() -> Iterator[tuple[str, list[ExportTraceServiceRequest]]]:
    """What an OTLP collector is to a client: its URL, and what it got."""
    received: list[ExportTraceServiceRequest] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            received.append(ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with serving(Handler) as url:
        yield url, received


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Its URL."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


async def test_a_collector_that_does_not_answer_delays_no_end(
    tmp_path: Path, tiny: Checkpoint, encoder: MiniLMEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.http.tracing.PARTING_SECONDS", 0.1)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "60")
        async with running(replace(build_services(tmp_path, tiny, encoder), tracing=Tracing.exporting())) as service:
            assert (await service.http.get("/v1/models")).status_code == 200
            began = time.monotonic()
            assert service.context.services.tracing is not None
            await service.context.services.tracing.aclose()
            assert time.monotonic() - began < 20  # not the collector's minute


async def test_what_is_left_is_exported_before_the_end(
    tmp_path: Path, tiny: Checkpoint, encoder: MiniLMEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with collector() as (endpoint, received):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        monkeypatch.setenv("OTEL_SERVICE_NAME", "grove-1")
        tracing = tracing_of(Settings())
        assert tracing is not None
        async with running(replace(build_services(tmp_path, tiny, encoder), tracing=tracing)) as service:
            response = await service.chat()
    resources = [resource for request in received for resource in request.resource_spans]
    names = {attribute.value.string_value for r in resources for attribute in r.resource.attributes}
    spans = [span for resource in resources for scope in resource.scope_spans for span in scope.spans]
    trace = response.headers["traceresponse"].split("-")[1]
    assert "grove-1" in names
    assert {span.name for span in spans if span.trace_id.hex() == trace} == {"POST /v1/chat/completions", *CHAT}


MEGABYTE = b"x" * 2**20


def test_of_a_collectors_answer_little_is_read(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """However much it sends, and whatever it calls that."""
    sent, over = [], threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(404, "nightjar" * 1000)
            self.end_headers()
            try:
                for _ in range(256):
                    self.wfile.write(MEGABYTE)
                    sent.append(MEGABYTE)
            except OSError:
                pass
            over.set()

        def log_message(self, *_: object) -> None:
            pass

    with serving(Handler) as endpoint:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        tracing = Tracing.exporting()
        with tracing._tracer.start_as_current_span("one"):
            pass
        asyncio.run(tracing.aclose())
        assert over.wait(30)
    assert len(sent) < 64
    assert caplog.text.count("nightjar") < 20
