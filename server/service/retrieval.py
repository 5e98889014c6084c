"""Find facts for questions, in one published state of the knowledge."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from kan.knowledge.fit import Fit, fits
from kb.facts import SearchMethod
from kb.filters import Filter
from kb.index.search import relevance
from kb.index.segment import Vectors
from kb.mounting import to_mount
from kb.snapshot import Hit, Snapshot
from kb.store import Store
from server.engine.protocol import MountedFact
from server.metrics import Metrics
from server.service.access import EVERYTHING, Access
from server.service.embedding import Embedding, Windows
from server.service.errors import InvalidRequest
from server.service.lanes import Lanes
from server.service.options import KnowledgeOptions
from server.service.page_making import PageMaking
from server.service.pages import FactPages
from server.settings import Settings


@dataclass(frozen=True, slots=True)
class Criteria:
    """Which facts count as found, every field resolved."""

    namespace: str
    top_k: int
    min_score: float
    min_best_score: float
    """Nothing is found unless the best fact has this much."""
    max_gap: float = math.inf
    """How far behind the best one a fact may rank."""
    drop_covered: bool = False
    """Whether a fact that a better one covers is left out."""
    method: SearchMethod = "hybrid"
    where: Filter | None = None
    """What a fact's metadata must satisfy."""
    access: Access = EVERYTHING
    """In a namespace that this does not read there is nothing to find."""

    @classmethod
    def of(cls, wanted: KnowledgeOptions, settings: Settings, param: str = "knowledge.top_k") -> Criteria:
        """The server's defaults filled in. Raises InvalidRequest, naming `param`."""
        top_k = settings.top_k if wanted.top_k is None else wanted.top_k
        limit = settings.max_facts_per_request
        if top_k > limit:
            raise InvalidRequest(f"{param}: at most {limit} on this server", param)
        least = settings.min_score, settings.min_best_score
        if wanted.min_score is not None:
            least = wanted.min_score, wanted.min_score
        max_gap = settings.max_gap if wanted.max_gap is None else wanted.max_gap
        namespace, method = wanted.namespace or wanted.access.home, wanted.retrieval or settings.retrieval
        drop = wanted.drop_covered
        if (
            drop is None
        ):  # who says how far facts may lag gets all that lag no further; by meaning alone words are nothing
            drop = settings.drop_covered and wanted.max_gap is None and method != "dense"
        return cls(namespace, top_k, *least, max_gap, drop, method, wanted.where, wanted.access)


@dataclass(frozen=True, slots=True)
class Questions:
    """Questions of one request, embedded."""

    criteria: Criteria
    texts: Sequence[str]
    windows: Sequence[Windows] | None
    """One per question; None: there was nothing to find."""
    snapshot: Snapshot
    """The newest when they were asked."""
    seconds: float
    """What that took."""


@dataclass(frozen=True, slots=True)
class Retrieved:
    """Facts found in one snapshot, best first."""

    question: str
    version: int
    """Of the snapshot."""
    told_version: int
    """The newest that changed anything that the caller may know of."""
    hits: tuple[Hit, ...]
    fits: tuple[Fit, ...]
    """One per hit."""
    others: tuple[float, ...]
    """Scores of facts that were found as well, but are not worth mounting beside the others."""
    seconds: float
    left_out: tuple[Hit, ...] = ()
    """Would have been among the hits if their pages had been there."""


class Retrieval:
    """First embed (`ask`, on the event loop), then search (`found`, which blocks). Time may pass in between."""

    def __init__(
        self,
        store: Store,
        embedding: Embedding,
        pages: FactPages,
        page_making: PageMaking,
        lanes: Lanes,
        metrics: Metrics,
    ) -> None:
        self._store = store
        self._embedding = embedding
        self._pages = pages
        self._page_making = page_making
        self._lanes = lanes
        self._metrics = metrics

    async def ask(self, caller: str, criteria: Criteria, texts: Sequence[str]) -> Questions:
        """Embed the questions, unless there is nothing to find."""
        started, snapshot = time.perf_counter(), self._store.snapshot
        findable = _findable(criteria, snapshot)
        windows = await self._embedding.of_questions(caller, texts) if findable else None
        return Questions(criteria, texts, windows, snapshot, time.perf_counter() - started)

    def outdated(self, questions: Questions) -> bool:
        """Whether there was nothing to find when they were asked, and now there is."""
        return questions.windows is None and _findable(questions.criteria, self._store.snapshot)

    def found(self, questions: Questions, place: int, began: float, cold_tokens: float = math.inf) -> Retrieved:
        """Facts for one of the questions, looked for since `began` (on time.perf_counter()'s clock). Blocks. The
        snapshot is pinned here, so it is never older than the request. Facts without pages have `cold_tokens` together
        at most; others are left out."""
        others: tuple[float, ...] = ()
        mounted: tuple[Hit, ...] = ()
        left_out: tuple[Hit, ...] = ()
        found: tuple[Fit, ...] = ()
        snapshot = questions.snapshot
        if questions.windows is not None:
            wanted, snapshot = questions.criteria, self._store.snapshot
            hits, vector, text = _best_window(snapshot, wanted, questions.windows[place])
            worth = to_mount(text, hits, max_gap=wanted.max_gap, drop_covered=wanted.drop_covered)
            others = tuple(hit.score for hit in hits if hit not in worth)
            mounted, left_out = self._affordable(worth, cold_tokens)
            found = fits_of(vector, mounted)
        seconds = questions.seconds + time.perf_counter() - began
        self._metrics.retrieval_seconds.observe(seconds)
        versions = snapshot.version, questions.criteria.access.version(snapshot)
        return Retrieved(questions.texts[place], *versions, mounted, found, others, seconds, left_out)

    async def search(self, caller: str, criteria: Criteria, text: str) -> Retrieved:
        """Both, for one question."""
        questions = await self.ask(caller, criteria, [text])
        return await self._lanes.reads.run(partial(self.found, questions, 0, time.perf_counter()))

    def mount(self, retrieved: Retrieved) -> tuple[MountedFact, ...]:
        """The facts as the engine takes them. Blocks. What is on disk of them is read while the prompt is made and
        waits for its turn."""
        facts = [self._pages.tokens(hit.fact.text) for hit in retrieved.hits]
        self._pages.expect(facts)
        each = zip(facts, retrieved.fits, retrieved.hits, strict=True)
        return tuple(MountedFact(fact, fit, hit.fact.version) for fact, fit, hit in each)

    def _affordable(self, hits: Sequence[Hit], cold_tokens: float) -> tuple[tuple[Hit, ...], tuple[Hit, ...]]:
        """Those to mount and those to leave out; the latter's pages are made next."""
        kept: list[Hit] = []
        left: list[Hit] = []
        for hit in hits:
            cost = 0 if self._pages.made(hit.fact.text) else len(self._pages.tokens(hit.fact.text).tokens)
            (kept if cost <= cold_tokens else left).append(hit)
            cold_tokens -= cost if cost <= cold_tokens else 0
        if left:
            self._page_making.want_first([hit.fact.text for hit in left])
            self._metrics.facts_left_out.inc(len(left))
        return tuple(kept), tuple(left)

    def release(self, retrieved: Retrieved) -> None:
        """The request that mounted these facts has ended."""
        self._pages.forget_read(retrieved.version, retrieved.hits)


def _findable(criteria: Criteria, snapshot: Snapshot) -> bool:
    readable = criteria.access.reads(criteria.namespace)
    return criteria.top_k > 0 and readable and snapshot.count(criteria.namespace) > 0


def fits_of(question: Vectors, mounted: Sequence[Hit]) -> tuple[Fit, ...]:
    """How the facts that were found fit the question, whose vector this is: float32 [dim]."""
    if not mounted:
        return ()
    vectors = np.stack([hit.vector for hit in mounted])
    return fits(question, vectors, [hit.lexical for hit in mounted], [hit.fact.text for hit in mounted])


def _best_window(snapshot: Snapshot, wanted: Criteria, windows: Windows) -> tuple[list[Hit], Vectors, str]:
    """What the window finds whose best fact is the most relevant, its vector and its text."""
    bounds = (wanted.min_score, time.time(), wanted.min_best_score)
    search = partial(snapshot.search, method=wanted.method, where=wanted.where)
    found = [
        (search(wanted.namespace, vector, wanted.top_k, *bounds, text=text), vector, text)
        for text, vector in zip(windows.texts, windows.vectors, strict=True)
    ]

    def best(one: tuple[list[Hit], Vectors, str]) -> float:
        return max((relevance(hit.score, hit.lexical, wanted.method) for hit in one[0]), default=-math.inf)

    return max(found, key=best)
