"""A conversation that is to be answered, whichever API asked: chat completions and responses come together here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from starlette.requests import Request

from kan.tools import ChatMessage
from server.engine.protocol import SamplingParams
from server.http.schemas.knowledge import KnowledgeRequest
from server.http.scope import access, account, request_id, started
from server.service.forms import Form
from server.service.prompts import Conversation
from server.service.run import Job
from server.service.tool_calls import Offered
from server.services import Context

NO_PARAMETERS = {"type": "object", "properties": {}, "additionalProperties": False}
"""Of a function that takes none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a client asked for, in the service's terms."""

    endpoint: str
    """For the metrics."""
    messages: tuple[ChatMessage, ...]
    param: str
    """The request field they came from."""
    knowledge: KnowledgeRequest | None
    sampling: Callable[[int], SamplingParams]
    """Engine parameters without the grammar, given the most tokens of an answer whose request does not say."""
    form: Form | None = None
    offered: Offered | None = None
    """What may be called; None: nothing."""
    continued: bool = False
    """Whether the last message is the beginning of the answer."""
    choices: int = 1


async def job_of(asked: Asked, request: Request, context: Context, caller: str) -> Job:
    """What the service runs. Raises ServiceError for a form that cannot be kept to."""
    deadline = started(request.scope) + context.settings.request_timeout_s
    grammar = await context.grammars.compile(caller, deadline, asked.form, asked.offered)
    default = context.settings.default_max_tokens
    return Job(
        request_id=request_id(request.scope),
        caller=caller,
        endpoint=asked.endpoint,
        started=started(request.scope),
        sources=(
            Conversation(
                asked.messages, asked.continued, asked.offered.tools if asked.offered else (), param=asked.param
            ),
        ),
        choices=asked.choices,
        knowledge=(asked.knowledge or KnowledgeRequest()).options(access(request.scope)),
        account=account(request.scope),
        sampling=lambda room: replace(asked.sampling(min(room, default)), grammar=grammar),
    )
