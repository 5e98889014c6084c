"""The store, the encoder, the engine and the prompt, wired: find facts for a query, and change facts.

A large edit embeds and encodes first, both at once, and takes the writer's turn only to commit. A small one is encoded
while it is committed: what a request finds before its pages are made waits for them. The reply to either means:
durable, seen by every request admitted from now on, and encoded.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import TypeAlias, TypeVar

import numpy as np

from kan.knowledge.fit import Fit, fits
from kan.prompt import PromptBuilder
from kb.encoder.protocol import Encoder
from kb.errors import Problem
from kb.facts import Change, InvalidChange, KnowledgeError, Upsert
from kb.publishing import Published
from kb.snapshot import Hit, Snapshot
from kb.store import Commit, Prepared, Store
from kb.validation import validate_batch
from server.engine.protocol import Engine, EngineError, FactTokens, MountedFact
from server.http.errors import invalid
from server.metrics import Metrics
from server.threads import compute_alone

T = TypeVar("T")
Encoding: TypeAlias = "asyncio.Task[None]"
logger = logging.getLogger("kalmagrove.knowledge")

TEXTS_BETWEEN_STEPS = 4
"""So many texts are embedded on the engine's thread, in the midst of its steps: about the time of one step."""


@dataclass(frozen=True, slots=True)
class Query:
    """What to look for, every field resolved."""

    text: str
    namespace: str
    top_k: int
    min_score: float
    min_best_score: float
    """Nothing is found unless the best fact has this much."""


@dataclass(frozen=True, slots=True)
class Retrieved:
    """Facts found in one snapshot, best first."""

    version: int
    hits: tuple[Hit, ...]
    fits: tuple[Fit, ...]
    """One per hit."""
    seconds: float


@dataclass(frozen=True, slots=True)
class Edited:
    """An edit that is durable and visible."""

    version: int
    upserted: int
    deleted: int
    visible_ms: float


class KnowledgeService:
    """Owns the threads that touch the store: readers (queries), preparers (edits), one writer."""

    def __init__(
        self,
        store: Store,
        encoder: Encoder,
        engine: Engine,
        prompt: PromptBuilder,
        metrics: Metrics,
        *,
        max_fact_tokens: int,
    ) -> None:
        self.store = store
        self._encoder = encoder
        self._engine = engine
        self._prompt = prompt
        self._metrics = metrics
        self._max_fact_tokens = max_fact_tokens
        self._readers = ThreadPoolExecutor(2, "kalmagrove-reader", compute_alone)
        # Apart from the readers, so that a large edit never makes a question wait for its embedding.
        self._preparer = ThreadPoolExecutor(2, "kalmagrove-prepare", compute_alone)
        self._writer = ThreadPoolExecutor(1, "kalmagrove-writer", compute_alone)
        self._published = asyncio.Condition()
        self._commits: set[asyncio.Task[Commit]] = set()
        self._gone: SimpleQueue[str] = SimpleQueue()  # texts to forget, from the writer's thread
        self._unsubscribe = store.subscribe(self._note_gone)

    async def read(self, function: Callable[[], T]) -> T:
        """Run something short that blocks (a search, a page of an export) on a reader thread."""
        return await _on(self._readers, function)

    async def embed(self, texts: int, function: Callable[[], T]) -> T:
        """Run something that blocks while it embeds so many texts.

        A few are fastest on the engine's thread, which has every core; many would make its streams wait.
        """
        if 0 < texts <= TEXTS_BETWEEN_STEPS:
            return await self._engine.run(function)
        return await _on(self._preparer, function)

    def search(self, query: Query) -> Retrieved:
        """Embed and search. Blocks: call it through `embed`. The snapshot is pinned after the embedding, so it is
        never older than the request."""
        started = time.perf_counter()
        hits: list[Hit] = []
        found: tuple[Fit, ...] = ()
        snapshot = self.store.snapshot
        if query.top_k > 0 and snapshot.count(query.namespace) > 0:
            vector = self._encoder.embed([query.text])[0]
            snapshot = self.store.snapshot
            bounds = (query.min_score, time.time(), query.min_best_score)
            hits = snapshot.search(query.namespace, vector, query.top_k, *bounds)
            found = fits(vector, np.stack([hit.vector for hit in hits])) if hits else ()
        seconds = time.perf_counter() - started
        self._metrics.retrieval_seconds.observe(seconds)
        return Retrieved(snapshot.version, tuple(hits), found, seconds)

    def mount(self, retrieved: Retrieved) -> tuple[MountedFact, ...]:
        """The facts as the engine takes them."""
        return tuple(
            MountedFact(self._tokens(hit.fact.text), *fit, version=hit.fact.version)
            for hit, fit in zip(retrieved.hits, retrieved.fits, strict=True)
        )

    def page(self, text: str) -> str:
        """The name of the K/V pages of a fact with this text."""
        return self._prompt.fact_key(self._engine.info.model_fingerprint, text)

    async def wait_for_version(self, version: int, seconds: float) -> None:
        """Return as soon as the published version is at least `version`. Raises ApiError (409) if it is not in time."""
        if self.store.snapshot.version >= version:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds), self._published:
                await self._published.wait_for(lambda: self.store.snapshot.version >= version)
                return
        raise invalid(
            f"The knowledge is at version {self.store.snapshot.version}, not yet at {version}.",
            "knowledge.min_version",
            "knowledge_version_unavailable",
            status=409,
        )

    async def apply(self, changes: Sequence[Change]) -> Edited:
        """All changes or none. Raises KnowledgeError, EngineError."""
        started = time.perf_counter()
        checked, facts = await _on(self._preparer, partial(self._check, changes))
        prepared, encoding = await self._prepare(checked, facts)
        return await self._commit(started, partial(self.store.commit, prepared), checked, encoding)

    async def rollback(self, version: int) -> Edited:
        """Facts as they were at `version`, as a new version. Their pages are made when they are first mounted."""
        return await self._commit(time.perf_counter(), partial(self.store.rollback, version), ())

    async def sweep(self) -> None:
        """Remove expired facts for good; a failure is logged and tried again next time."""
        try:
            await _on(self._writer, partial(self.store.sweep_expired, time.time()))
            await self._follow_published()
        except KnowledgeError:
            self._metrics.sweep_failures.inc()
            logger.exception("expired facts could not be removed")

    async def release(self, retrieved: Retrieved) -> None:
        """Called when a request that mounted facts ends: what was deleted meanwhile may have been encoded again for
        it, and must not stay behind."""
        snapshot = self.store.snapshot
        if snapshot.version == retrieved.version:
            return
        gone = [hit.fact.text for hit in retrieved.hits if not _holds(snapshot, hit)]
        if gone:
            await self._forget(gone)

    async def close(self) -> None:
        """Finish commits under way, then stop the threads. The store is not closed."""
        await asyncio.gather(*self._commits, return_exceptions=True)
        self._unsubscribe()
        for executor in (self._readers, self._preparer, self._writer):
            await asyncio.to_thread(executor.shutdown)

    def _tokens(self, text: str) -> FactTokens:
        return FactTokens(self.page(text), self._prompt.fact(text))

    def _check(self, changes: Sequence[Change]) -> tuple[Sequence[Change], list[FactTokens]]:
        """The changes, valid, and the facts to encode. Before any work: a refused edit must cost nothing."""
        checked = validate_batch(changes, self.store.limits)
        facts: list[FactTokens] = []
        problems: list[Problem] = []
        for index, change in enumerate(checked):
            if isinstance(change, Upsert):
                tokens = self._tokens(change.text)
                if len(tokens.tokens) > self._max_fact_tokens:
                    message = f"has {len(tokens.tokens)} tokens; at most {self._max_fact_tokens} are allowed"
                    problems.append(Problem(index, "text", message))
                facts.append(tokens)
        if problems:
            raise InvalidChange(problems)
        return checked, facts

    async def _prepare(self, changes: Sequence[Change], facts: list[FactTokens]) -> tuple[Prepared, Encoding | None]:
        """Embed and encode side by side; the encoding of a small edit may still be under way when this returns.

        If the embedding fails, or the client leaves, encoding stops too.
        """
        encoding = asyncio.create_task(self._engine.encode(facts)) if facts else None
        try:
            prepared = await self.embed(len(facts), partial(self.store.prepare, changes))
            if encoding and (encoding.done() or len(facts) > TEXTS_BETWEEN_STEPS):
                await encoding
        except BaseException:
            if encoding:
                encoding.cancel()
                await asyncio.gather(encoding, return_exceptions=True)
            await asyncio.shield(self._forget_unheld(changes))
            raise
        return prepared, encoding

    async def _commit(
        self,
        started: float,
        commit: Callable[[], Commit],
        changes: Sequence[Change],
        encoding: Encoding | None = None,
    ) -> Edited:
        """Shielded: once the writer has begun, a client that leaves must not keep the rest from happening."""
        task = asyncio.create_task(self._commit_and_publish(commit, changes, encoding))
        self._commits.add(task)
        task.add_done_callback(self._commits.discard)
        done = await asyncio.shield(task)
        seconds = time.perf_counter() - started
        self._metrics.edit_visible_seconds.observe(seconds)
        return Edited(done.version, done.upserted, done.deleted, round(seconds * 1000, 3))

    async def _commit_and_publish(
        self, commit: Callable[[], Commit], changes: Sequence[Change], encoding: Encoding | None
    ) -> Commit:
        try:
            done = await _on(self._writer, commit)
        except Exception:
            if encoding:
                await asyncio.gather(encoding, return_exceptions=True)
            await self._forget_unheld(changes)
            await self._follow_published()  # of an earlier edit that was logged but not acknowledged, for example
            raise
        await self._follow_published()
        if encoding:
            await _settled(encoding)
        return done

    def _note_gone(self, published: Published) -> None:
        for text in published.gone_texts:
            self._gone.put(text)

    async def _follow_published(self) -> None:
        async with self._published:
            self._published.notify_all()
        gone = [self._gone.get_nowait() for _ in range(self._gone.qsize())]
        if gone:
            with contextlib.suppress(EngineError):  # closed: it holds nothing any more
                await self._forget(gone)

    async def _forget_unheld(self, changes: Sequence[Change]) -> None:
        """A refused edit leaves no pages behind, except of facts that are as the edit wanted them already.

        A text that another fact holds is forgotten too: it is encoded again when that fact is next mounted.
        """
        snapshot = self.store.snapshot
        upserts = [change for change in changes if isinstance(change, Upsert)]
        held = [snapshot.find(change.namespace, change.id or "") for change in upserts]
        unheld = [
            change.text for change, fact in zip(upserts, held, strict=True) if fact is None or fact.text != change.text
        ]
        if unheld:
            with contextlib.suppress(EngineError):  # closed: it holds nothing any more
                await self._forget(unheld)

    async def _forget(self, texts: Sequence[str]) -> None:
        self._engine.forget([self.page(text) for text in texts])


async def _on(executor: Executor, function: Callable[[], T]) -> T:
    return await asyncio.get_running_loop().run_in_executor(executor, function)


async def _settled(encoding: Encoding) -> None:
    """Wait for the pages of an edit that is already durable and visible: whatever happens to them, it stays done.

    Pages that could not be made now are made when the fact is first mounted, like those of a fact long unused.
    """
    try:
        await encoding
    except EngineError:
        logger.warning("the pages of an edit will be made when they are first mounted", exc_info=True)


def _holds(snapshot: Snapshot, hit: Hit) -> bool:
    held = snapshot.get(hit.fact.namespace, hit.fact.id, time.time())
    return held is not None and held.text == hit.fact.text
