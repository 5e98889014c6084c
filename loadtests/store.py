"""The knowledge store alone, at some size: import, search, edits, start, memory and disk. No server takes part.

Facts are one sentence each, about companies whose names differ in a letter or a word.
"""

from __future__ import annotations

import gc
import os
import random
import resource
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np

from cpu.cores import effective_cores
from cpu.threads import compute_alone
from kb.encoder.minilm import MiniLMEncoder
from kb.encoder.protocol import Encoder
from kb.facts import SearchMethod, Upsert
from kb.importing import imported
from kb.index.merging import Merged
from kb.index.segment import Vectors
from kb.index.stored import SegmentStore
from kb.store import Store
from lab.questions.names import companies
from lab.questions.question import Fact, Question
from loadtests.derived import DerivedEncoder
from loadtests.report import Report
from loadtests.scenario import Progress
from loadtests.streaming import STREAMS, beside_streams

TOP_K: Final = 8
NAMESPACE: Final = "default"
_IMPORT: Final = 1000
"""Facts of one batch of the import."""
_ENCODED: Final = 8192
"""Texts that the encoder's own rate is taken from."""
_IDLE: Final = "idle"
_METHODS: Final[tuple[SearchMethod, ...]] = ("dense", "lexical", "hybrid")
_WARM_UP: Final = 3
_SETTLED_SECONDS: Final = 600.0
_CHUNK: Final = 1 << 14


@dataclass(frozen=True, slots=True)
class StorePlan:
    """facts: in the store; count: measurements per series; embedded: of so many facts at most the vectors are computed,
    those of the others derived; max_seconds: after which nothing more is begun; data_dir: of a server that streams
    beside, None: no such series."""

    facts: int
    count: int
    seed: int
    embedded: int = 1 << 62
    max_seconds: float = 3600.0
    data_dir: Path | None = None


class Scene:
    """A store being filled, and what is asked of it."""

    def __init__(self, plan: StorePlan, directory: Path, encoder: Encoder, report: Report) -> None:
        self.report = report
        self._plan = plan
        self._directory = directory
        self._encoder = encoder
        told = companies(plan.facts, plan.seed)
        self._facts = [fact for fact, _ in told]
        self._questions = self._chosen(told)
        self._deadline = time.monotonic() + plan.max_seconds

    def measure(self, progress: Progress) -> None:
        """Everything, in the order of a store's life."""
        derived = isinstance(self._encoder, DerivedEncoder)
        own = None if derived else self._encoder_alone()
        before = _resident()  # with all that the encoder keeps for itself by now
        store = self._open()
        self._import(store, own, progress)
        with _noted(self.report, "until the index has settled after that (s)"):
            _settle(store)
        self.report.figures["memory per fact (bytes, mapped files apart)"] = (_resident() - before) / self._plan.facts
        # As a server does once it has started.
        gc.collect()
        gc.freeze()
        try:
            self._measure_filled(store, progress)
        finally:
            gc.unfreeze()

    def _measure_filled(self, store: Store, progress: Progress) -> None:
        self._both(store, _IDLE, progress)
        with _merging(store, self._directory.with_name("merged"), self._encoder.dimension):
            self._both(store, "while the index is merged", progress)
        if self._plan.data_dir is not None:
            with beside_streams(self._plan.data_dir) as streams:
                self._both(store, f"beside {STREAMS} streams", progress)
            if streams.failure is not None:
                self.report.failures.append(f"the streams ended: {streams.failure}")
        _settle(store)
        self._start_killed()
        with _noted(self.report, "closing (s)"):
            store.close()
        with _noted(self.report, "start after closing (s)"):
            self._open().close()
        self._disk()

    def _open(self) -> Store:
        return Store.open(self._directory, self._encoder)

    def _chosen(self, told: Sequence[tuple[Fact, Question]]) -> list[str]:
        picked = random.Random(self._plan.seed).choices(told, k=self._plan.count + _WARM_UP)
        return [question.text for _, question in picked]

    def _both(self, store: Store, when: str, progress: Progress) -> None:
        self._search(store, when, progress)
        self._edit(store, when, progress)

    def _in_time(self, what: str, count: int, progress: Progress) -> Iterator[int]:
        """0 to count - 1, as long as there is time."""
        for turn in range(count):
            if time.monotonic() > self._deadline:
                return
            progress(what, turn, count)
            yield turn

    def _encoder_alone(self) -> float:
        """Texts a second: with all threads at one text, or with a thread for each of several, whichever is faster."""
        sample = [fact.text for fact in self._facts[:_ENCODED]]
        self._encoder.embed(sample[:_IMPORT])
        cores = effective_cores()
        started = time.perf_counter()
        self._encoder.embed(sample)
        together = time.perf_counter()
        with ThreadPoolExecutor(cores, initializer=compute_alone) as threads:
            list(threads.map(self._encoder.embed, [sample[core::cores] for core in range(cores)]))
        return len(sample) / min(together - started, time.perf_counter() - together)

    def _batches(self, progress: Progress) -> Iterator[list[Upsert]]:
        for start in range(0, len(self._facts), _IMPORT):
            progress("facts", start, len(self._facts))
            some = enumerate(self._facts[start : start + _IMPORT], start)
            yield [Upsert(f"c{place:08d}", NAMESPACE, fact.text) for place, fact in some]

    def _import(self, store: Store, own: float | None, progress: Progress) -> None:
        """`own`: texts a second of the encoder alone; None: most vectors are derived, so the import has no rate."""
        started = time.perf_counter()
        for _ in imported(store, self._batches(progress)):
            pass
        rate = len(self._facts) / (time.perf_counter() - started)
        if isinstance(self._encoder, DerivedEncoder):
            self.report.figures["facts whose vectors are derived"] = self._encoder.derived
            self.report.figures["imported, those vectors derived (facts/s)"] = rate
        if own is not None:
            self.report.figures["imported (facts/s)"] = rate
            self.report.figures["the encoder alone (texts/s)"] = own
            self.report.figures["import against the encoder alone"] = rate / own

    def _search(self, store: Store, when: str, progress: Progress) -> None:
        vectors = self._encoder.embed(self._questions)
        exact = _nearest(store, vectors) if when == _IDLE else None
        right = asked = 0
        times: dict[str, list[float]] = {method: [] for method in _METHODS}
        for turn in self._in_time(f"searches, {when}", len(self._questions), progress):
            text, vector = self._questions[turn], vectors[turn]
            asked += 1
            for method in _METHODS:
                started = time.perf_counter()
                hits = store.snapshot.search(NAMESPACE, vector, TOP_K, -1.0, time.time(), text=text, method=method)
                if turn >= _WARM_UP:
                    times[method].append((time.perf_counter() - started) * 1e3)
                if method == "dense" and exact is not None:
                    right += sum(hit.score >= exact[turn] - 1e-6 for hit in hits)
        for name, series in times.items():
            self.report.add_series(f"search, {name}, {when} (ms)", series, self._plan.count)
        if exact is not None and asked:
            self.report.figures[f"recall of {TOP_K} against exact, dense"] = right / (TOP_K * asked)

    def _edit(self, store: Store, when: str, progress: Progress) -> None:
        """Durable and visible; the embedding included."""
        times = []
        draw = random.Random(self._plan.seed)
        for turn in self._in_time(f"edits, {when}", self._plan.count + _WARM_UP, progress):
            place = draw.randrange(len(self._facts))
            change = Upsert(f"c{place:08d}", NAMESPACE, f"{self._facts[place].text} It was told {when} in {turn}.")
            started = time.perf_counter()
            store.apply([change])
            if turn >= _WARM_UP:
                times.append((time.perf_counter() - started) * 1e3)
        self.report.add_series(f"edit of one fact, {when} (ms)", times, self._plan.count)

    def _start_killed(self) -> None:
        """What a process that was killed leaves on disk is what lies there now."""
        with TemporaryDirectory(dir=self._directory.parent) as left:
            shutil.copytree(self._directory, left, dirs_exist_ok=True)
            with _noted(self.report, "start after kill -9 (s)"):
                Store.open(Path(left), self._encoder).close()

    def _disk(self) -> None:
        sizes = {path: path.stat().st_size for path in self._directory.rglob("*") if path.is_file()}
        index = sum(size for path, size in sizes.items() if path.parent != self._directory)
        self.report.figures["disk per fact (bytes): log, vectors, state"] = (sum(sizes.values()) - index) / len(
            self._facts
        )
        self.report.figures["disk per fact (bytes): index segments"] = index / len(self._facts)
        most = 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        self.report.figures["memory of the process at most, two stores and mapped files together (bytes)"] = most


def run(plan: StorePlan, progress: Progress) -> Report:
    """In a temporary directory. Raises OSError."""
    encoder: Encoder = MiniLMEncoder()
    if plan.facts > plan.embedded:
        encoder = DerivedEncoder(encoder, plan.embedded)
    report = Report("store", f"{plan.facts} facts", f"no server, {encoder.dimension} numbers")
    with TemporaryDirectory(prefix="kalmagrove-store-") as directory:
        Scene(plan, Path(directory) / "kb", encoder, report).measure(progress)
    return report


@contextmanager
def _noted(report: Report, name: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    report.figures[name] = time.perf_counter() - started


@contextmanager
def _merging(store: Store, directory: Path, dimension: int) -> Iterator[None]:
    """All segments are merged into one on disk, again and again, as now and then happens; it is thrown away."""
    over = threading.Event()

    def merge() -> None:
        segments = SegmentStore(directory, "thrown away", dimension)
        while not over.is_set():
            segments.installed(segments.write(NAMESPACE, Merged.of(store.snapshot.indexes[NAMESPACE].parts)))
            segments.keep(())

    thread = threading.Thread(target=merge)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _nearest(store: Store, questions: Vectors) -> Any:
    """float32 [questions]: the TOP_K-th best inner product with each, of all vectors that the store searches."""
    best = np.full((len(questions), TOP_K), -np.inf, np.float32)
    for part in store.snapshot.indexes[NAMESPACE].parts:
        rows = np.flatnonzero(part.mask())
        for start in range(0, len(rows), _CHUNK):
            scores = questions @ part.segment.vectors(rows[start : start + _CHUNK]).T
            best = np.sort(np.concatenate((best, scores), axis=1), axis=1)[:, -TOP_K:]
    return best[:, 0]


def _settle(store: Store) -> None:
    deadline = time.monotonic() + _SETTLED_SECONDS
    while any(index.merge_plan() for index in store.snapshot.indexes.values()) and time.monotonic() < deadline:
        time.sleep(0.05)


def _resident() -> float:
    """Bytes that are this process's own, files that are mapped apart."""
    for line in Path(f"/proc/{os.getpid()}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return 1024.0 * int(line.split()[1])
    return 0.0
