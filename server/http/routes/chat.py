"""POST /v1/chat/completions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from starlette.requests import Request
from starlette.responses import Response

from kan.tools import ChatMessage, Tool, ToolCall
from server.engine.protocol import Grammar, SamplingParams
from server.http.chat_reply import ChatReply
from server.http.routes.base import json_response, streamable, strict_router
from server.http.schemas.chat import ChatCompletion, ChatRequest
from server.http.schemas.knowledge import KnowledgeRequest
from server.http.schemas.messages import Message
from server.http.schemas.tools import NamedTool
from server.http.scope import access, account, request_id, started
from server.http.streaming import EventStream
from server.service.prompts import Conversation
from server.service.run import Job
from server.service.tool_calls import Offered
from server.services import CallerDep, ContextDep

NO_PARAMETERS = {"type": "object", "properties": {}, "additionalProperties": False}
router = strict_router()


@router.post("/v1/chat/completions", responses=streamable(ChatCompletion))
async def chat_completions(body: ChatRequest, request: Request, context: ContextDep, caller: CallerDep) -> Response:
    """Answer a conversation from live knowledge."""
    context.require_model(body.model)
    offered = _offered(body)
    grammar = await context.grammars.compile(caller, body.form, offered)
    reply = ChatReply(context, body, calls=offered is not None)
    tools = offered.tools if offered else ()
    job = Job(
        request_id=request_id(request.scope),
        caller=caller,
        endpoint="chat",
        started=started(request.scope),
        sources=(conversation(body.messages, tools, continued=bool(body.continue_final_message)),),
        choices=body.choices,
        knowledge=(body.knowledge or KnowledgeRequest()).options(access(request.scope)),
        account=account(request.scope),
        sampling=lambda room: _sampling(body, min(room, context.settings.default_max_tokens), grammar),
    )
    if body.stream:
        return await EventStream.start(reply.events(job), context.settings.stream_keep_alive_s)
    return json_response(await reply.whole(job))


def conversation(messages: Sequence[Message], tools: tuple[Tool, ...] = (), *, continued: bool = False) -> Conversation:
    """OpenAI renamed the system role for newer models; it means the same."""
    turns = (
        ChatMessage(
            "system" if message.role == "developer" else message.role,
            message.text,
            tuple(ToolCall(call.function.name, call.function.arguments) for call in message.tool_calls or ()),
        )
        for message in messages
    )
    return Conversation(tuple(turns), continued, tools)


def _offered(body: ChatRequest) -> Offered | None:
    """What may be called: with a named function, nothing else is worth showing."""
    if not body.tools or body.tool_choice == "none":
        return None
    named = body.tool_choice.function.name if isinstance(body.tool_choice, NamedTool) else None
    chosen = [(place, one.function) for place, one in enumerate(body.tools) if named in (None, one.function.name)]
    return Offered(
        tools=tuple(Tool(one.name, one.description or "", one.parameters or NO_PARAMETERS) for _, one in chosen),
        must_call=named is not None or body.tool_choice == "required",
        parallel=body.parallel_tool_calls is not False,
        params=tuple(f"tools[{place}].function.parameters" for place, _ in chosen),
    )


def _sampling(body: ChatRequest, max_tokens: int, grammar: Grammar | None) -> SamplingParams:
    """`max_tokens`: if the client does not say."""
    return replace(body.sampling(body.token_limit or max_tokens, body.alternatives, None), grammar=grammar)
