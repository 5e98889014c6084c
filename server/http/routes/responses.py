"""/v1/responses: OpenAI's newer way to ask, on the same path as chat completions."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from typing import Annotated, Literal

from fastapi import Query
from starlette.requests import Request
from starlette.responses import Response

from kan.tools import Tool
from server.http.asked import NO_PARAMETERS, Asked, job_of
from server.http.conversation_items import NewId, check_calls, of_sent, of_text, turns
from server.http.errors import invalid, not_found
from server.http.response_reply import Draft, ResponseReply
from server.http.routes.base import json_response, streamable, strict_router
from server.http.schemas.items import ReferenceItem, SentItem
from server.http.schemas.responses import (
    DeletedResponse,
    EchoedTool,
    ItemList,
    ResponseObject,
    ResponseRequest,
    ResponseTool,
)
from server.http.streaming import EventStream
from server.service.errors import NoSuchResponse
from server.service.responses import Item, Prefix, item_id, new_response_id
from server.service.tool_calls import Offered
from server.services import CallerDep, Context, ContextDep

MAX_CONVERSATION = 4096
"""Items of a conversation, those of earlier responses included."""
router = strict_router()


@router.post("/v1/responses", responses=streamable(ResponseObject, "an event as JSON"))
async def create_response(body: ResponseRequest, request: Request, context: ContextDep, caller: CallerDep) -> Response:
    """Answer a conversation from live knowledge; the answer can be gone on from."""
    context.require_model(body.model)
    keep = context.responses.wanted(body.store)
    response_id = new_response_id()
    places = itertools.count()

    def new_id(kind: Prefix) -> str:
        return item_id(response_id, kind, next(places))

    earlier = await _earlier(context, caller, body.previous_response_id)
    if isinstance(body.input, str):
        items = [*earlier, of_text(body.input, new_id)]
    else:
        items = [*earlier, *await _sent(context, caller, body.input, earlier, new_id)]
    if len(items) > MAX_CONVERSATION:
        raise invalid(f"input: a conversation has at most {MAX_CONVERSATION} items", "input", "invalid_value")
    check_calls(items, len(earlier))
    asked = _asked(body, items)
    job = await job_of(asked, request, context, caller)
    draft = Draft(_head(body, response_id, keep=keep), items, next(places), keep)
    reply = ResponseReply(context, body, draft, calls=asked.offered is not None)
    if body.stream:
        return await EventStream.start(reply.events(job), context.settings.stream_keep_alive_s, reply.failure)
    return json_response(await reply.whole(job))


@router.get("/v1/responses/{id}", responses={200: {"model": ResponseObject}})
async def get_response(id: str, context: ContextDep, caller: CallerDep) -> Response:
    """A response that this key made, as it was answered."""
    return Response(await context.responses.response(caller, id), media_type="application/json")


@router.delete("/v1/responses/{id}", responses={200: {"model": DeletedResponse}})
async def delete_response(id: str, context: ContextDep, caller: CallerDep) -> Response:
    """Forget it. What was gone on from it keeps its own copy of the conversation."""
    await context.responses.delete(caller, id)
    return json_response(DeletedResponse(id=id, object="response", deleted=True))


@router.get("/v1/responses/{id}/input_items", responses={200: {"model": ItemList}})
async def list_input_items(
    id: str,
    context: ContextDep,
    caller: CallerDep,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    order: Literal["asc", "desc"] = "desc",
    after: Annotated[str | None, Query(max_length=256)] = None,
) -> Response:
    """The conversation that a response answers, item by item."""
    items = await context.responses.input(caller, id)
    if order == "desc":
        items.reverse()
    if after is not None:
        places = [place for place, item in enumerate(items) if item["id"] == after]
        if not places:
            raise not_found("There is no such item.", "after")
        items = items[places[0] + 1 :]
    page = items[:limit]
    first, last = (page[0]["id"], page[-1]["id"]) if page else (None, None)
    more = len(items) > limit
    return json_response(ItemList(object="list", data=page, first_id=first, last_id=last, has_more=more))


async def _earlier(context: Context, caller: str, previous: str | None) -> list[Item]:
    if previous is None:
        return []
    try:
        return await context.responses.conversation(caller, previous)
    except NoSuchResponse as error:
        message = f"Previous response with id {error.response_id[:80]!r} not found."
        raise invalid(message, "previous_response_id", "previous_response_not_found") from None


async def _sent(
    context: Context, caller: str, items: Sequence[SentItem], earlier: Sequence[Item], new_id: NewId
) -> list[Item]:
    """What the client sent, in the form that is kept. Raises ApiError for a reference to what is not there."""
    referred: dict[str, int] = {}
    known = {item["id"] for item in earlier}
    for place, item in enumerate(items):
        if isinstance(item, ReferenceItem):
            if item.id in known or item.id in referred:
                raise invalid(
                    f"input[{place}].id: is in the conversation already", f"input[{place}].id", "invalid_value"
                )
            referred[item.id] = place
    found = await context.responses.items(caller, referred)
    for wanted, place in referred.items():
        if wanted not in found:
            message = f"Item with id {wanted[:80]!r} not found. Items of responses that are not stored are not kept."
            raise not_found(message, f"input[{place}].id")
    sent = (found[item.id] if isinstance(item, ReferenceItem) else of_sent(item, new_id) for item in items)
    return [item for item in sent if item is not None]


def _asked(body: ResponseRequest, items: Sequence[Item]) -> Asked:
    messages = turns(body.instructions, items)
    if not messages:
        raise invalid("input: has nothing to answer", "input", "invalid_value")
    return Asked(
        endpoint="responses",
        messages=messages,
        param="input",
        knowledge=body.knowledge,
        sampling=lambda most: body.sampling(body.max_output_tokens or most, body.alternatives, None),
        form=body.form,
        offered=_offered(body),
    )


def _offered(body: ResponseRequest) -> Offered | None:
    chosen = body.callable
    if not chosen:
        return None
    return Offered(
        tools=tuple(Tool(one.name, one.description or "", one.parameters or NO_PARAMETERS) for _, one in chosen),
        must_call=body.must_call,
        parallel=body.may_call_again,
        params=tuple(f"tools[{place}].parameters" for place, _ in chosen),
    )


def _head(body: ResponseRequest, response_id: str, *, keep: bool) -> ResponseObject:
    choice = body.tool_choice or "auto"
    return {
        "id": response_id,
        "object": "response",
        "created_at": int(time.time()),
        "completed_at": None,
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "metadata": body.metadata or {},
        "model": body.model,
        "output": [],
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": body.previous_response_id,
        "store": keep,
        "temperature": 1.0 if body.temperature is None else body.temperature,
        "text": {"format": {**body.format}},
        "tool_choice": choice if isinstance(choice, str) else choice.model_dump(),
        "tools": [_echoed(tool) for tool in body.tools or ()],
        "top_logprobs": body.top_logprobs or 0,
        "top_p": 1.0 if body.top_p is None else body.top_p,
        "truncation": "disabled",
        "usage": None,
    }


def _echoed(tool: ResponseTool) -> EchoedTool:
    return {
        "type": "function",
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.parameters,
        "strict": tool.strict is not False,
    }
