"""/admin/kb: the store's versions, what each of them says, and the way back to one."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Query
from starlette.responses import Response

from kb.log.batch import Entry
from kb.log.history import FactVersion
from kb.metadata import decode_metadata
from server.http.errors import not_found
from server.http.routes.base import json_response, strict_router
from server.http.routes.reading import Limit, NamespaceQuery, read, what_is_kept
from server.http.schemas.admin import (
    AccessView,
    FactContent,
    FactHistory,
    FactKey,
    FactVersionView,
    LogPage,
    RollbackRequest,
    RollbackResponse,
    VersionDiff,
    VersionResponse,
)
from server.http.schemas.knowledge import FactId, Version
from server.service.access import Access
from server.service.errors import NotAllowed
from server.services import AccessDep, AccountDep, CallerDep, ContextDep

router = strict_router()

Before = Annotated[Version | None, Query()]


@router.get("/admin/kb/facts/{id}/history", responses={200: {"model": FactHistory}})
async def fact_history(
    id: Annotated[FactId, Path()],
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
    found = await read(context, caller, lambda: store.past.history(name, id, limit, before) if readable else [], access)
    if not found and before is None:
        raise not_found(f"No version that is kept tells of a fact {id!r} in namespace {name!r}.", "id")
    reply = FactHistory(
        id=id,
        namespace=name,
        versions=[_past(entry) for entry in found],
        next_before=found[-1].version if len(found) == limit else None,
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
    found = await read(context, caller, lambda: store.past.log_entries(limit, before, access.seen), access)
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
    found = await read(
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
    with what_is_kept(access):
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


def _access_view(access: Access) -> AccessView:
    read, edit = (None if names is None else sorted(names) for names in (access.read, access.edit))
    return {"read": read, "edit": edit, "home": access.home}


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
