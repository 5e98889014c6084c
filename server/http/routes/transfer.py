"""/admin/kb/import and /admin/kb/export: facts as NDJSON, streamed both ways in bounded memory."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace
from functools import partial
from itertools import chain, islice
from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from kb.errors import InvalidChange, InvalidLine, KnowledgeError
from kb.ndjson import NumberedBatch, export_lines, read_batches
from server.engine.protocol import EngineError
from server.http.errors import ApiError
from server.http.routes.base import ERRORS
from server.http.schemas.admin import ImportProgress
from server.http.schemas.knowledge import Namespace
from server.http.streaming import LineStream, line
from server.http.translation import from_exception
from server.service.access import Access
from server.service.account import Account
from server.service.admission import Key
from server.service.errors import ServiceError
from server.services import AccessDep, AccountDep, CallerDep, Context, ContextDep

BATCH_LINES = 64
"""Facts per commit of an import: small, so that single edits and questions get their turn in between."""
BLOCK_BYTES = 32 * 1024
EXPORT_LINES = 256
PROGRESS_SECONDS = 1.0
"""Rare enough that a client may send all before it reads any: the answer fits the socket's buffer."""
NDJSON_TYPES = frozenset({"application/x-ndjson", "application/ndjson", "application/jsonl"})

_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/x-ndjson": {"schema": {"type": "string"}}},
    }
}
router = APIRouter(responses=ERRORS)


@router.post(
    "/admin/kb/import",
    openapi_extra=_BODY,
    responses={200: {"content": {"application/x-ndjson": {}}, "description": "Progress, one object a line."}},
)
async def import_facts(
    request: Request,
    context: ContextDep,
    caller: CallerDep,
    account: AccountDep,
    access: AccessDep,
    namespace: Annotated[Namespace | None, Query()] = None,
) -> Response:
    """Upsert (or delete) a fact per line, in atomic batches. The last line of the answer has `done` or `error`.

    If nothing was answered yet, an error is an ordinary error response. Batches committed before it stay: `imported`
    says how many facts.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in NDJSON_TYPES:
        message = "The body must be application/x-ndjson."
        raise ApiError(415, message, type="invalid_request_error", code="unsupported_media_type")
    batches = _batches(request.stream(), context, namespace or access.home)
    parts = _progress(batches, context, caller, access, account)
    return await LineStream.start(parts)


@router.get(
    "/admin/kb/export",
    responses={200: {"content": {"application/x-ndjson": {}}, "description": "One fact a line."}},
)
async def export_facts(
    context: ContextDep,
    caller: CallerDep,
    access: AccessDep,
    namespace: Annotated[Namespace | None, Query()] = None,
) -> Response:
    """Every fact (that the key may read) of one version, which X-Knowledge-Version names. What `import` takes."""
    snapshot = context.services.store.snapshot
    names = access.readable(namespace, snapshot)
    facts = chain.from_iterable(snapshot.facts(name, time.time()) for name in names)
    lines = export_lines(facts)

    async def parts() -> AsyncGenerator[bytes, None]:
        async with context.exports.enter(Key(caller)):
            while part := await context.lanes.reads.run(lambda: b"".join(islice(lines, EXPORT_LINES))):
                yield part

    response = await LineStream.start(parts())
    response.headers["X-Knowledge-Version"] = str(access.version(snapshot))
    return response


async def _progress(
    batches: AsyncIterator[NumberedBatch], context: Context, caller: str, access: Access, account: Account
) -> AsyncGenerator[bytes, None]:
    """Apply the body batch by batch, and tell now and then how far it got."""
    imported = 0
    version = access.version(context.services.store.snapshot)
    told = time.monotonic()
    async with context.imports.enter(Key(caller)):
        try:
            async for batch in batches:
                access.require_edits(batch.changes, lambda _: "namespace")
                try:
                    edited = await context.edits.apply(caller, batch.changes, account)
                except InvalidChange as error:  # what only the model's tokenizer or the clock can tell
                    first = error.problems[0]
                    raise InvalidLine(batch.last_line, first.field, f"or shortly before: {first.message}") from error
                imported, version = imported + len(batch.changes), edited.version
                if time.monotonic() - told > PROGRESS_SECONDS:
                    told = time.monotonic()
                    yield line(ImportProgress(version=version, imported=imported, done=False))
        except (ApiError, ServiceError, KnowledgeError, EngineError) as error:
            refusal = from_exception(error)
            refusal.body |= {"imported": imported, "version": version}
            raise refusal from error
    yield line(ImportProgress(version=version, imported=imported, done=True))


def _end_of_block(data: bytes, longest_line: int) -> int:
    """Where to cut: after the last whole line of the first block; 0 while there is too little.

    A line that is too long is cut where it stands: the parser then says which one it is.
    """
    if len(data) <= BLOCK_BYTES:
        return 0
    end = (data.rfind(b"\n", 0, BLOCK_BYTES) + 1) or (data.find(b"\n") + 1)
    return end or (len(data) if len(data) > longest_line else 0)


async def _batches(body: AsyncIterator[bytes], context: Context, namespace: str) -> AsyncIterator[NumberedBatch]:
    """Cuts the body at line ends into blocks, which are parsed on a thread."""
    limits = replace(context.services.store.limits, batch_changes=BATCH_LINES)
    lines_before = 0
    rest = b""

    def parsed(block: bytes) -> list[NumberedBatch]:
        try:
            return list(
                read_batches(
                    [block],
                    limits=limits,
                    namespace=namespace,
                    longest_line=context.settings.max_line_bytes,
                )
            )
        except InvalidLine as error:
            raise InvalidLine(lines_before + error.line, error.field, error.message) from error

    async for chunk in body:
        rest += chunk
        while end := _end_of_block(rest, context.settings.max_line_bytes):
            block, rest = rest[:end], rest[end:]
            for batch in await context.lanes.reads.run(partial(parsed, block)):
                yield NumberedBatch(batch.changes, lines_before + batch.last_line)
            lines_before += block.count(b"\n")
    for batch in await context.lanes.reads.run(partial(parsed, rest)):
        yield NumberedBatch(batch.changes, lines_before + batch.last_line)
