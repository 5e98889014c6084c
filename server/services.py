"""What the routes work with, put together once per app."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Annotated

from fastapi import Depends
from starlette.requests import Request

from kan.knowledge.grounding import Grounding
from kan.prompt import PromptBuilder
from kb.encoder.protocol import Encoder
from kb.store import Store
from server.engine.protocol import Engine, EngineInfo
from server.http.errors import not_found
from server.http.keys import Keys, KeyWeights
from server.http.scope import access, account
from server.metrics import Metrics
from server.service.access import Access
from server.service.account import Account
from server.service.admission import Admission, Bounds
from server.service.completions import Completions
from server.service.documents import Documents
from server.service.edits import Edits
from server.service.embedding import Embedding, EncoderTokenizer
from server.service.grammars import GrammarCompiler
from server.service.lanes import Lanes
from server.service.page_making import PageMaking
from server.service.pages import FactPages
from server.service.prompts import Prompts
from server.service.response_store import ResponseStore
from server.service.responses import Responses
from server.service.retrieval import Retrieval
from server.service.splitting import Splitter
from server.service.versions import Versions
from server.settings import Settings

if TYPE_CHECKING:
    from server.http.tracing import Tracing

READS_AT_ONCE = 8
"""So many that there is one to keep for who has none."""
MAX_WAITING_READS = 60
"""Searches, lists, embeddings, token counts; and grammars, the new ones apart."""
IMPORTS = Bounds(slots=4, waiting=0, per_caller=1, shared=False)
"""Bodies that are streamed in, one of each caller: a slow one holds up nobody else's."""
EXPORTS = Bounds(slots=16, waiting=0, per_caller=4, shared=False)
"""Answers that are streamed out: whoever reads one slowly holds up no searches."""


@dataclass(frozen=True, slots=True)
class Services:
    """The parts a server is made of. The app closes engine and stores when it ends."""

    engine: Engine
    store: Store
    encoder: Encoder
    encoder_tokenizer: EncoderTokenizer
    prompt: PromptBuilder
    model_name: str
    embedding_model_name: str = "all-minilm-l6-v2"
    keys: Keys = field(default_factory=Keys)
    grounding: Grounding | None = None
    """None: no calibration for this model and φ."""
    responses: ResponseStore | None = None
    """None: no responses are kept."""
    tracing: Tracing | None = None
    """None: nobody wants traces."""


@dataclass(slots=True)
class Lifecycle:
    """Whether the server still takes work. Owned by the event loop."""

    draining: bool = False
    running: int = 0
    """Requests that were let in and are not answered to the end; probes do not count."""


@dataclass(frozen=True, slots=True)
class Context:
    """Services, and what the app builds from them."""

    settings: Settings
    services: Services
    metrics: Metrics
    lanes: Lanes
    pages: FactPages
    page_making: PageMaking
    embedding: Embedding
    retrieval: Retrieval
    versions: Versions
    prompts: Prompts
    grammars: GrammarCompiler
    edits: Edits
    documents: Documents
    completions: Completions
    responses: Responses
    generations: Admission
    reads: Admission
    imports: Admission
    exports: Admission
    lifecycle: Lifecycle
    started_at: int

    @classmethod
    def of(cls, settings: Settings, services: Services, lifecycle: Lifecycle) -> Context:
        """Everything wired; starts threads."""
        store, engine = services.store, services.engine
        settings = _that_fit(settings, engine.info, services.prompt)
        shared, weights = not services.keys.open(), KeyWeights(services.keys, settings.key_weights)
        admission = partial(_admission, settings, weights, shared=shared)
        generations = admission("requests", settings.max_running, settings.max_waiting)
        metrics = Metrics(engine, store, lambda: generations.waiting)
        lanes, versions = Lanes(metrics), Versions(store, settings.max_waiting)
        pages = FactPages(store, engine, services.prompt)
        requests = settings.max_running + settings.max_waiting + READS_AT_ONCE + MAX_WAITING_READS
        embedding = Embedding(services.encoder, services.encoder_tokenizer, engine, lanes, requests, weights)
        page_making = PageMaking(store, engine, pages, lanes)
        retrieval = Retrieval(store, embedding, pages, page_making, lanes, metrics)
        prompts = Prompts(retrieval, services.prompt, engine.info, lanes, settings)
        edits = Edits(store, engine, pages, lanes, metrics, settings, weights, shared=shared)
        splitter = Splitter(services.prompt, settings.max_fact_tokens, store.limits)
        reads = admission("reads", READS_AT_ONCE, MAX_WAITING_READS)
        return cls(
            settings=settings,
            services=services,
            metrics=metrics,
            lanes=lanes,
            pages=pages,
            page_making=page_making,
            embedding=embedding,
            retrieval=retrieval,
            versions=versions,
            prompts=prompts,
            grammars=GrammarCompiler(engine, lanes, reads, admission("new grammars", READS_AT_ONCE, MAX_WAITING_READS)),
            edits=edits,
            documents=Documents(store, edits, splitter, settings),
            completions=Completions(
                engine, generations, versions, prompts, retrieval, metrics, settings, services.grounding
            ),
            responses=Responses(services.responses, lanes, metrics, settings, shared=shared),
            generations=generations,
            reads=reads,
            imports=Admission("imports", IMPORTS, weights),
            exports=Admission("exports", EXPORTS, weights),
            lifecycle=lifecycle,
            started_at=int(time.time()),
        )

    @property
    def fingerprint(self) -> str:
        """OpenAI's system_fingerprint: changes with the model."""
        return f"kg_{self.services.engine.info.model_fingerprint[:12]}"

    def require_model(self, name: str) -> None:
        """Raises ApiError (404) if the request names another model."""
        if name != self.services.model_name:
            message = f"The model {name!r} does not exist; this server has {self.services.model_name!r}."
            raise not_found(message, "model", "model_not_found")

    def require_embedding_model(self, name: str) -> None:
        """Raises ApiError (404) if the request names another one."""
        known = self.services.embedding_model_name
        if name != known:
            message = f"There is no embedding model {name!r}; this server has {known!r}."
            raise not_found(message, "model", "model_not_found")

    async def close(self) -> None:
        """Stop the engine, let commits under way finish, and release the store, whatever fails on the way."""
        async with AsyncExitStack() as closing:  # the last one named is the first
            if self.services.tracing is not None:  # its collector may be away: nothing waits for it
                closing.push_async_callback(self.services.tracing.aclose)
            closing.push_async_callback(asyncio.to_thread, self.services.store.close)
            closing.push_async_callback(asyncio.to_thread, self.responses.close)
            closing.push_async_callback(self.lanes.close)
            closing.push_async_callback(self.edits.finish)
            closing.push_async_callback(self.services.engine.aclose)


def _that_fit(settings: Settings, info: EngineInfo, prompt: PromptBuilder) -> Settings:
    """Facts short enough for the model: what follows the longest has as much of its context left at the least."""
    most = max(1, (info.context_length - len(prompt.preamble)) // 2)
    return settings.model_copy(update={"max_fact_tokens": min(settings.max_fact_tokens, most)})


def _admission(
    settings: Settings, weights: Mapping[str, float], what: str, slots: int, waiting: int, *, shared: bool
) -> Admission:
    """`shared`: several callers are told apart; one alone may have it all."""
    share = settings.key_share if shared else 1.0
    bounds = Bounds(slots=slots, waiting=waiting, per_caller=slots + math.ceil(waiting * share), shared=shared)
    return Admission(what, bounds, weights)


async def _context(request: Request) -> Context:
    context: Context = request.app.state.context
    return context


async def _caller(request: Request) -> str:
    return str(request.scope["kalmagrove.caller"])


async def _access(request: Request) -> Access:
    return access(request.scope)


async def _account(request: Request) -> Account:
    return account(request.scope)


ContextDep = Annotated[Context, Depends(_context)]
CallerDep = Annotated[str, Depends(_caller)]
"""The name of the key that was shown."""
AccessDep = Annotated[Access, Depends(_access)]
"""What that key may read and edit."""
AccountDep = Annotated[Account, Depends(_account)]
"""What the request does, for log and traces."""
