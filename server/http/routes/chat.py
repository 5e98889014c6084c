"""POST /v1/chat/completions."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response

from kan.tools import ChatMessage, Tool, ToolCall
from server.http.asked import NO_PARAMETERS, Asked, job_of
from server.http.chat_reply import ChatReply
from server.http.routes.base import json_response, streamable, strict_router
from server.http.schemas.chat import ChatCompletion, ChatRequest
from server.http.schemas.messages import Message
from server.http.schemas.tools import NamedTool, several_calls
from server.http.streaming import EventStream
from server.service.tool_calls import Offered
from server.services import CallerDep, ContextDep

router = strict_router()


@router.post("/v1/chat/completions", responses=streamable(ChatCompletion))
async def chat_completions(body: ChatRequest, request: Request, context: ContextDep, caller: CallerDep) -> Response:
    """Answer a conversation from live knowledge."""
    context.require_model(body.model)
    asked = _asked(body)
    job = await job_of(asked, request, context, caller)
    reply = ChatReply(context, body, calls=asked.offered is not None)
    if body.stream:
        return await EventStream.start(reply.events(job), context.settings.stream_keep_alive_s)
    return json_response(await reply.whole(job))


def turns(messages: Sequence[Message]) -> tuple[ChatMessage, ...]:
    """OpenAI renamed the system role for newer models; it means the same."""
    return tuple(
        ChatMessage(
            "system" if message.role == "developer" else message.role,
            message.text,
            tuple(ToolCall(call.function.name, call.function.arguments) for call in message.tool_calls or ()),
        )
        for message in messages
    )


def _asked(body: ChatRequest) -> Asked:
    return Asked(
        endpoint="chat",
        messages=turns(body.messages),
        param="messages",
        knowledge=body.knowledge,
        sampling=lambda most: body.sampling(body.token_limit or most, body.alternatives, None),
        form=body.form,
        offered=_offered(body),
        continued=bool(body.continue_final_message),
        choices=body.choices,
    )


def _offered(body: ChatRequest) -> Offered | None:
    """What may be called: a named function once, and nothing else is worth showing."""
    if not body.tools or body.tool_choice == "none":
        return None
    named = body.tool_choice.function.name if isinstance(body.tool_choice, NamedTool) else None
    chosen = [(place, one.function) for place, one in enumerate(body.tools) if named in (None, one.function.name)]
    return Offered(
        tools=tuple(Tool(one.name, one.description or "", one.parameters or NO_PARAMETERS) for _, one in chosen),
        must_call=named is not None or body.tool_choice == "required",
        parallel=several_calls(body.parallel_tool_calls, named=named is not None),
        params=tuple(f"tools[{place}].function.parameters" for place, _ in chosen),
    )
