"""/admin/kb: facts, one by one and in batches; search; versions."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, TypeVar

from fastapi import Path, Query
from starlette.responses import Response

from kb.facts import Delete, Fact, Upsert, VersionConflict, VersionGone
from kb.filters import parse_filter
from kb.log.batch import Entry
from kb.log.history import FactVersion
from kb.metadata import decode_metadata
from server.http.errors import invalid, not_found
from server.http.routes.base import json_response, strict_router
from server.http.routes.documents import put_texts
from server.http.schemas.admin import (
    MAX_FILTER_CHARACTERS,
    AccessView,
    Deleted,
    FactContent,
    FactDetail,
    FactHistory,
    FactInput,
    FactKey,
    FactPage,
    FactVersionView,
    FactView,
    LogPage,
    PutFacts,
    RollbackRequest,
    RollbackResponse,
    SearchRequest,
    SearchResponse,
    SplitUpserted,
    Upserted,
    VersionDiff,
    VersionResponse,
)
from server.http.schemas.knowledge import FactId, Namespace, Version
from server.service.access import EVERYTHING, Access
from server.service.admission import Key
from server.service.documents import Text
from server.service.errors import NotAllowed
from server.service.retrieval import Criteria
from server.services import AccessDep, AccountDep, CallerDep, Context, ContextDep

T = TypeVar("T")
router = strict_router()

IdPath = Annotated[FactId, Path()]
NamespaceQuery = Annotated[Namespace | None, Query()]
Limit = Annotated[int, Query(ge=1, le=1000)]
Cursor = Annotated[FactId | None, Query()]
Before = Annotated[Version | None, Query()]
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
    page = await _read(context, caller, lambda: shown.list(name, limit, cursor, time.time(), where))
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


@router.get("/admin/kb/facts/{id}/history", responses={200: {"model": FactHistory}})
async def fact_history(
    id: IdPath,
    context: ContextDep,
    caller: CallerDep,
    access: AccessDep,
    namespace: NamespaceQuery = None,
    limit: Limit = 100,
    before: Before = None,
) -> Response:
    """What was ever said under this id, newest first."""
    store, name = context.services.store, namespace or access.home
    readable = access.reads(name)
    found = await _read(
        context, caller, lambda: store.past.history(name, id, limit, before) if readable else [], access
    )
    if not found and before is None:
        raise not_found(f"No version that is kept tells of a fact {id!r} in namespace {name!r}.", "id")
    reply = FactHistory(
        id=id,
        namespace=name,
        versions=[_past(entry) for entry in found],
        next_before=found[-1].version if len(found) == limit else None,
    )
    return json_response(reply)


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


@router.get("/admin/kb/version", responses={200: {"model": VersionResponse}})
async def version(context: ContextDep, access: AccessDep) -> Response:
    """The published state, as far as the key may know of it; and what it may read and edit."""
    snapshot = context.services.store.snapshot
    counts = {name: snapshot.count(name) for name in access.readable(None, snapshot)}
    reply = VersionResponse(
        version=access.version(snapshot),
        facts=sum(counts.values()),
        namespaces=counts,
        tombstones=sum(snapshot.indexes[name].tombstones for name in counts),
        pages_made=round(context.page_making.share, 6) if access.whole else None,
        access=_access_view(access),
    )
    return json_response(reply)


@router.get("/admin/kb/history", responses={200: {"model": LogPage}})
async def history(
    context: ContextDep, caller: CallerDep, access: AccessDep, limit: Limit = 100, before: Before = None
) -> Response:
    """The store's versions, newest first; for a key that is bound to namespaces what they did there."""
    store = context.services.store
    found = await _read(context, caller, lambda: store.past.log_entries(limit, before, access.seen), access)
    reply = LogPage(
        versions=[
            {
                "version": entry.version,
                "at": entry.created_at,
                "kind": entry.kind,
                "upserted": entry.upserted,
                "deleted": entry.deleted,
            }
            for entry in found
        ],
        next_before=found[-1].version if len(found) == limit else None,
    )
    return json_response(reply)


@router.get("/admin/kb/diff", responses={200: {"model": VersionDiff}})
async def diff(
    before: Annotated[Version, Query()],
    after: Annotated[Version, Query()],
    context: ContextDep,
    caller: CallerDep,
    access: AccessDep,
    limit: Limit = 100,
    cursor: Annotated[FactKey | None, Query()] = None,
) -> Response:
    """How the facts of version `after` differ from those of version `before`, which may be the newer one.

    `limit` bounds the facts that are looked at: those that were changed and changed back are not told. Nor is what the
    key may not read.
    """
    store = context.services.store
    start = None if cursor is None else (cursor.partition("/")[0], cursor.partition("/")[2])
    for one in (before, after):
        access.require_version(one, store.snapshot)
    found = await _read(
        context, caller, lambda: store.past.differences(before, after, limit, start, access.read), access
    )
    reply = VersionDiff(
        before=before,
        after=after,
        changes=[
            {
                "id": one.key[1],
                "namespace": one.key[0],
                "before": _content(one.before),
                "after": _content(one.after),
            }
            for one in found.differences
        ],
        next_cursor=None if found.next_after is None else "/".join(found.next_after),
    )
    return json_response(reply)


@router.post("/admin/kb/rollback", responses={200: {"model": RollbackResponse}})
async def rollback(
    body: RollbackRequest, context: ContextDep, caller: CallerDep, account: AccountDep, access: AccessDep
) -> Response:
    """Make the facts what they were at an older version, as a new version; all that the key may edit."""
    store = context.services.store
    access.require_version(body.version, store.snapshot)
    if access.edit == frozenset():
        raise NotAllowed("This key may not edit.", None)
    with _what_is_kept(access):
        edited = await context.edits.rollback(caller, body.version, account, access.edit)
    changed = edited.upserted + edited.deleted > 0
    reply = RollbackResponse(
        # One that changed nothing here is none that the key may know of.
        version=edited.version if changed else access.version(store.snapshot),
        upserted=edited.upserted,
        deleted=edited.deleted,
        visible_ms=edited.visible_ms,
    )
    return json_response(reply)


def _text(fact: FactInput, access: Access) -> Text:
    namespace = access.home if fact.namespace is None else fact.namespace
    about = fact.metadata, fact.expires_at, fact.if_version
    return Text(fact.id, namespace, fact.text, "text", *about, single=True)


async def _read(context: Context, caller: str, function: Callable[[], T], access: Access = EVERYTHING) -> T:
    async with context.reads.enter(Key(caller)):
        with _what_is_kept(access):
            return await context.lanes.reads.run(function)


@contextmanager
def _what_is_kept(access: Access) -> Iterator[None]:
    """Which versions there are of everybody's is nothing for a key that is bound."""
    try:
        yield
    except VersionGone as error:
        raise error if access.whole else VersionGone(error.version, None) from error


def _access_view(access: Access) -> AccessView:
    read, edit = (None if names is None else sorted(names) for names in (access.read, access.edit))
    return {"read": read, "edit": edit, "home": access.home}


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


def _content(entry: Entry | None) -> FactContent | None:
    if entry is None:
        return None
    return {
        "text": entry.text or "",
        "metadata": decode_metadata(entry.metadata or "{}"),
        "expires_at": entry.expires_at,
    }


def _past(entry: FactVersion) -> FactVersionView:
    return {
        "version": entry.version,
        "at": entry.created_at,
        "kind": entry.kind,
        "operation": entry.op,
        "text": entry.text,
        "metadata": None if entry.metadata is None else dict(entry.metadata),
        "expires_at": entry.expires_at,
    }
