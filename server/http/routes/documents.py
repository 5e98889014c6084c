"""/admin/kb/documents: texts that are split into facts, and replaced and deleted as a whole."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Annotated

from fastapi import Path, Query
from starlette.responses import Response

from kb.documents import ID_CHARS, DocumentConflict, documents
from kb.facts import NAME_PATTERN, Delete
from server.http.errors import invalid
from server.http.routes.base import json_response, strict_router
from server.http.schemas.admin import Deleted, DocumentInput, DocumentList, PutDocuments, SplitUpserted
from server.http.schemas.knowledge import Namespace, Version
from server.service.access import Access
from server.service.account import Account
from server.service.admission import Key
from server.service.documents import Text
from server.services import AccessDep, AccountDep, CallerDep, Context, ContextDep

router = strict_router()

DocumentId = Annotated[str, Path(min_length=1, max_length=ID_CHARS, pattern=f"^{NAME_PATTERN}$")]
NamespaceQuery = Annotated[Namespace | None, Query()]


@router.put("/admin/kb/documents", responses={200: {"model": SplitUpserted}})
async def put_documents(
    body: PutDocuments, context: ContextDep, caller: CallerDep, account: AccountDep, access: AccessDep
) -> Response:
    """Split documents into facts, in place of those that they had, all or none. Only facts whose text changed are
    encoded. 409 if one of the documents is not at the version that its `if_version` expects."""
    texts = [_text(one, access) for one in body.documents]
    return await put_texts(context, caller, account, access, texts, "documents")


@router.get("/admin/kb/documents", responses={200: {"model": DocumentList}})
async def list_documents(
    context: ContextDep,
    caller: CallerDep,
    access: AccessDep,
    namespace: NamespaceQuery = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: Annotated[str | None, Query(max_length=4096)] = None,
) -> Response:
    """Documents of a namespace by id."""
    snapshot = context.services.store.snapshot
    name = namespace or access.home
    shown = access.shown(name, snapshot)
    async with context.reads.enter(Key(caller)):
        page = await context.lanes.reads.run(lambda: documents(shown, name, limit, cursor, time.time()))
    reply = DocumentList(
        version=access.version(snapshot),
        documents=[
            {
                "id": one.id,
                "namespace": name,
                "title": one.title,
                "facts": one.facts,
                "version": one.version,
                "created_at": one.created_at,
            }
            for one in page.documents
        ],
        next_cursor=page.next_cursor,
    )
    return json_response(reply)


@router.delete("/admin/kb/documents/{id}", responses={200: {"model": Deleted}})
async def delete_document(
    id: DocumentId,
    context: ContextDep,
    caller: CallerDep,
    account: AccountDep,
    access: AccessDep,
    namespace: NamespaceQuery = None,
    if_version: Annotated[Version | None, Query(ge=1)] = None,
) -> Response:
    """Delete all facts of a document. 409 if it is not at version `if_version`."""
    name = namespace or access.home
    access.require_edits([Delete(id, name)], lambda _: "namespace")
    edited = await context.documents.delete(caller, name, id, if_version, account)
    return json_response(Deleted(version=edited.version, deleted=edited.deleted, visible_ms=edited.visible_ms))


async def put_texts(
    context: Context, caller: str, account: Account, access: Access, texts: Sequence[Text], param: str
) -> Response:
    """The edit, and its reply. Raises ApiError (409) and NotAllowed, naming `param`[index]."""
    access.require_editable([text.namespace for text in texts], lambda index: f"{param}[{index}].namespace")
    try:
        done = await context.documents.put(caller, texts, param, account, access)
    except DocumentConflict as error:
        raise invalid(str(error), f"{param}[{error.index}].if_version", "version_conflict", status=409) from error
    reply = SplitUpserted(
        version=done.edited.version,
        upserted=done.edited.upserted,
        deleted=done.edited.deleted,
        visible_ms=done.edited.visible_ms,
        documents=[
            {"id": one.id, "namespace": one.namespace, "facts": one.facts, "encoded": one.encoded}
            for one in done.documents
        ],
    )
    return json_response(reply)


def _text(document: DocumentInput, access: Access) -> Text:
    return Text(
        document.id,
        access.home if document.namespace is None else document.namespace,
        document.text,
        document.format,
        document.metadata,
        document.expires_at,
        document.if_version,
    )
