"""Everything Prometheus may ask. One registry per app; names are part of the interface and stay."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from kb.store import Store
from server.engine.protocol import Engine

SECONDS = tuple(
    milliseconds / 1000
    for milliseconds in (
        *(1, 2, 3, 5, 7, 10, 15, 20, 25, 30, 35, 40, 45, 50, 55, 60, 65, 70, 75, 80, 85, 90, 95, 100),
        *(110, 120, 135, 150, 175, 200, 250, 300, 400, 500, 750),
        *(1_000, 2_000, 5_000, 10_000, 30_000, 60_000, 120_000),
    )
)
"""Buckets that resolve the budgets: 100 ms to the first token, 100 ms for an edit."""
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """The service's own measurements; the engine's and the store's are read from them at scrape time."""

    def __init__(self, engine: Engine, store: Store, waiting: Callable[[], int]) -> None:
        """`waiting`: how many sequences have not been admitted."""
        self._engine = engine
        self.registry = CollectorRegistry()
        self.requests = self._counter("http_requests", "HTTP requests answered", "route", "method", "status")
        self.request_seconds = self._histogram("http_request_seconds", "HTTP request, last byte sent", "route")
        self.refusals = self._counter("refusals", "Requests refused, by error code", "reason")
        self.cancellations = self._counter("cancellations", "Requests whose client left, by stage", "stage")
        self.queue_seconds = self._histogram(
            "queue_seconds", "Waiting for admission, and in the engine for pages", "endpoint"
        )
        self.retrieval_seconds = self._histogram("retrieval_seconds", "Query embedding and search")
        self.first_token_seconds = self._histogram("time_to_first_token_seconds", "Request to first token", "endpoint")
        self.inter_token_seconds = self._histogram("inter_token_seconds", "Between chunks of one choice", "endpoint")
        self.end_to_end_seconds = self._histogram(
            "end_to_end_seconds", "Request to last token, finished requests", "endpoint"
        )
        self.edit_visible_seconds = self._histogram(
            "edit_visible_seconds", "Edit request to durable and visible; small edits never wait for large ones", "size"
        )
        self.facts_mounted = self._counter("facts_mounted", "Facts mounted by requests")
        self.facts_left_out = self._counter("facts_left_out", "Facts not mounted because their pages were not made yet")
        self.jobs_dropped = self._counter("jobs_dropped", "Jobs not begun when their client left, by lane", "lane")
        self.sweep_failures = self._counter("sweep_failures", "Removals of expired facts that failed")
        self.responses_not_kept = self._counter(
            "responses_not_kept", "Responses that could not be kept, and were given"
        )
        self.responses_stored = Gauge("kalmagrove_responses_stored", "Responses that are kept", registry=self.registry)
        self.responses_stored_bytes = Gauge(
            "kalmagrove_responses_stored_bytes", "What they take on disk", registry=self.registry
        )
        self.in_flight = Gauge("kalmagrove_http_requests_in_flight", "HTTP requests", registry=self.registry)
        self.registry.register(_Engine(engine, waiting))
        self.registry.register(_Knowledge(store))
        # With our prefix: an engine's own exposition may bring the plain names.
        ProcessCollector(namespace="kalmagrove", registry=self.registry)

    def render(self) -> bytes:
        """The exposition text."""
        return generate_latest(self.registry) + self._engine.exposition()

    def _counter(self, name: str, help: str, *labels: str) -> Counter:
        return Counter(f"kalmagrove_{name}", help, labels, registry=self.registry)

    def _histogram(self, name: str, help: str, *labels: str) -> Histogram:
        return Histogram(f"kalmagrove_{name}", help, labels, buckets=SECONDS, registry=self.registry)


class _Engine(Collector):
    def __init__(self, engine: Engine, waiting: Callable[[], int]) -> None:
        self._engine = engine
        self._waiting = waiting

    def collect(self) -> Iterator[Metric]:
        stats, info = self._engine.stats(), self._engine.info
        what = {"model": info.name, "dtype": info.dtype, "kernels": info.kernels}
        yield InfoMetricFamily("kalmagrove_engine", "What computes, and what on", value=what)
        yield _gauge("engine_healthy", "1 while the engine makes forward progress", self._engine.healthy())
        yield _gauge("requests_waiting", "Sequences waiting to be decoded", self._waiting() + stats.waiting)
        yield _gauge("requests_running", "Sequences being decoded", stats.running)
        pages = GaugeMetricFamily("kalmagrove_pages", "KV pages, by use", labels=["use"])
        pages.add_metric(["free"], stats.pages_free)
        pages.add_metric(["context"], stats.pages_context)
        pages.add_metric(["knowledge"], stats.pages_knowledge)
        yield pages
        yield _gauge("pages_capacity", "KV pages in all", stats.pages_total)
        yield _counter("page_hits", "Mounted facts found in memory", stats.page_hits)
        yield _counter("page_misses", "Mounted facts read from disk or encoded again", stats.page_misses)
        yield _gauge("facts_with_pages", "Facts whose pages are in memory or on disk", stats.facts_with_pages)
        yield _counter("facts_encoded", "Facts run through the model", stats.facts_encoded)
        yield _counter("prompt_tokens", "Prompt tokens computed", stats.prompt_tokens)
        yield _counter("generated_tokens", "Tokens generated", stats.generated_tokens)
        yield _counter("preemptions", "Sequences put back because pages ran out", stats.preemptions)
        yield _counter("engine_cancellations", "Sequences cancelled", stats.cancellations)
        yield _counter("engine_jobs_dropped", "Computations dropped because the client had left", stats.jobs_dropped)
        yield _counter("engine_steps", "Engine steps", stats.steps)


class _Knowledge(Collector):
    def __init__(self, store: Store) -> None:
        self._store = store

    def collect(self) -> Iterator[Metric]:
        snapshot = self._store.snapshot
        yield _gauge("kb_version", "Published version of the knowledge", snapshot.version)
        yield _gauge("kb_facts", "Facts held", snapshot.count())
        yield _gauge("kb_texts", "Distinct texts of facts, each of which has pages once", len(self._store.texts))
        yield _gauge("kb_tombstones", "Deleted rows that the index still holds", snapshot.tombstones)
        yield _gauge("kb_segments", "Immutable segments of the index", snapshot.segments)
        yield _counter("kb_merges", "Background merges of index segments", self._store.merges)
        log = self._store.log_state
        yield _gauge("knowledge_log_connected", "1 while the log can be followed", log.contact == "connected")
        yield _gauge("knowledge_lag_versions", "Versions of the log that are not published here", log.versions_behind)
        yield _gauge(
            "knowledge_lag_seconds", "Since all of the log was last known to be published here", log.seconds_behind
        )
        yield _counter("knowledge_followed", "Versions published here that others made", self._store.followed)


def _gauge(name: str, help: str, value: float) -> Metric:
    return GaugeMetricFamily(f"kalmagrove_{name}", help, value=value)


def _counter(name: str, help: str, value: float) -> Metric:
    return CounterMetricFamily(f"kalmagrove_{name}", help, value=value)
