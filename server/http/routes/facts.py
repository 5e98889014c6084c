"""/admin/kb: facts, one by one and in batches; search."""

from __future__ import annotations

import time
from typing import Annotated

from fastapi import Path, Query
from starlette.responses import Response

from kb.facts import Delete, Fact, Upsert, VersionConflict
from kb.filters import parse_filter
from server.http.errors import invalid, not_found
from server.http.routes.base import json_response, strict_router
from server.http.routes.documents import put_texts
from server.http.routes.reading import Limit, NamespaceQuery, read
from server.http.schemas.admin import (
    MAX_FILTER_CHARACTERS,
    Deleted,
    FactDetail,
    FactInput,
    FactPage,
    FactView,
    PutFacts,
    SearchRequest,
    SearchResponse,
    SplitUpserted,
    Upserted,
)
from server.http.schemas.knowledge import FactId, Version
from server.service.access import Access
from server.service.admission import Key
from server.service.documents import Text
from server.service.retrieval import Criteria
from server.services import AccessDep, AccountDep, CallerDep, ContextDep

router = strict_router()

IdPath = Annotated[FactId, Path()]
Cursor = Annotated[FactId | None, Query()]
FilterQuery = Annotated[str | None, Query(max_length=MAX_FILTER_CHARACTERS, description="A filter as JSON.")]
IfVersion = Annotated[Version | None, Query(ge=1)]


@router.put("/admin/kb/facts", responses={200: {"model": Upserted | SplitUpserted}})
async def put_facts(
    body: PutFacts,
    context: ContextDep,
    caller: CallerDep,
    account: AccountDep,
    access: AccessDep,
    split: Annotated[bool, Query()] = False,
) -> Response:
    """Add or replace facts, all or none. The reply means: durable, and seen by every request from now on.

    409 if one of them is not at the version that its `if_version` expects. With `split`, a text that is too long
    becomes several facts, as a document of this id does.
    """
    limit = context.settings.max_batch_facts
    if len(body.facts) > limit:
        raise invalid(f"facts: at most {limit} in one edit", "facts", "invalid_value")
    if split:
        return await put_texts(context, caller, account, access, [_text(fact, access) for fact in body.facts], "facts")
    changes = [
        Upsert(
            fact.id,
            access.home if fact.namespace is None else fact.namespace,
            fact.text,
            fact.metadata or {},
            fact.expires_at,
            fact.if_version,
        )
        for fact in body.facts
    ]
    access.require_edits(changes, lambda index: f"facts[{index}].namespace")
    edited = await context.edits.apply(caller, changes, account)
    reply = Upserted(version=edited.version, upserted=edited.upserted, visible_ms=edited.visible_ms)
    return json_response(reply)


@router.get("/admin/kb/facts", responses={200: {"model": FactPage}})
async def list_facts(
    context: ContextDep,
    caller: CallerDep,
    access: AccessDep,
    namespace: NamespaceQuery = None,
    limit: Limit = 100,
    cursor: Cursor = None,
    filter: FilterQuery = None,
) -> Response:
    """Facts of a namespace by id, those that pass the filter."""
    where = None if filter is None else parse_filter(filter)
    snapshot = context.services.store.snapshot
    name = namespace or access.home
    shown = access.shown(name, snapshot)
    page = await read(context, caller, lambda: shown.list(name, limit, cursor, time.time(), where))
    reply = FactPage(
        version=access.version(snapshot),
        facts=[_view(fact) for fact in page.facts],
        next_cursor=page.next_cursor,
    )
    return json_response(reply)


@router.get("/admin/kb/facts/{id}", responses={200: {"model": FactDetail}})
async def get_fact(id: IdPath, context: ContextDep, access: AccessDep, namespace: NamespaceQuery = None) -> Response:
    """One fact."""
    name = namespace or access.home
    fact = access.shown(name, context.services.store.snapshot).get(name, id, time.time())
    if fact is None:
        raise not_found(f"There is no fact {id!r} in namespace {name!r}.", "id")
    return json_response({**_view(fact), "page": context.pages.key(fact.text)})


@router.delete("/admin/kb/facts/{id}", responses={200: {"model": Deleted}})
async def delete_fact(
    id: IdPath,
    context: ContextDep,
    caller: CallerDep,
    account: AccountDep,
    access: AccessDep,
    namespace: NamespaceQuery = None,
    if_version: IfVersion = None,
) -> Response:
    """Delete one fact. No request admitted after the reply can see it. 409 if it is not at version `if_version`."""
    changes = [Delete(id, namespace or access.home, if_version)]
    access.require_edits(changes, lambda _: "namespace")
    try:
        edited = await context.edits.apply(caller, changes, account)
    except VersionConflict as error:
        raise invalid(str(error), "if_version", "version_conflict", status=409) from error
    return json_response(Deleted(version=edited.version, deleted=edited.deleted, visible_ms=edited.visible_ms))


@router.post("/admin/kb/search", responses={200: {"model": SearchResponse}})
async def search(
    body: SearchRequest, context: ContextDep, caller: CallerDep, account: AccountDep, access: AccessDep
) -> Response:
    """What retrieval finds for a query."""
    if body.min_version is not None:
        await context.versions.wait_for(body.min_version, context.settings.min_version_wait_s, access)
    criteria = Criteria.of(body.options(access), context.settings, param="top_k")
    async with context.reads.enter(Key(caller)):
        with account.during("retrieval"):
            found = await context.retrieval.search(caller, criteria, body.query)
    account.knowledge_version = found.version
    reply = SearchResponse(
        version=found.told_version,
        retrieval_ms=round(found.seconds * 1000, 3),
        hits=[
            {"fact": _view(hit.fact), "score": round(hit.score, 6), "lexical": round(hit.lexical, 6)}
            for hit in found.hits
        ],
    )
    return json_response(reply)


def _text(fact: FactInput, access: Access) -> Text:
    namespace = access.home if fact.namespace is None else fact.namespace
    about = fact.metadata, fact.expires_at, fact.if_version
    return Text(fact.id, namespace, fact.text, "text", *about, single=True)


def _view(fact: Fact) -> FactView:
    return {
        "id": fact.id,
        "namespace": fact.namespace,
        "text": fact.text,
        "metadata": dict(fact.metadata),
        "expires_at": fact.expires_at,
        "version": fact.version,
        "created_at": fact.created_at,
    }
