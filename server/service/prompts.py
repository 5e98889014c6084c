"""From what the client sent to what the engine takes: facts found, text tokenised, room for the answer counted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from kan.prompt import ChatMessage, PromptBuilder
from kb.facts import DEFAULT_NAMESPACE
from server.engine.protocol import EngineInfo, MountedFact
from server.http.errors import ApiError, context_too_long, invalid
from server.http.schemas.knowledge import KnowledgeRequest
from server.service.knowledge import KnowledgeService, Query, Retrieved
from server.settings import Settings


class Source(Protocol):
    """What is to be continued."""

    @property
    def param(self) -> Literal["messages", "prompt"]:
        """The request field it came from."""
        ...

    def question(self, builder: PromptBuilder) -> str:
        """What retrieval looks for."""
        ...

    def tokens(self, builder: PromptBuilder, *, with_knowledge: bool) -> list[int]:
        """Tokens of the context. Raises ValueError if the model cannot take it."""
        ...


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages, at least one."""

    messages: tuple[ChatMessage, ...]
    param: Literal["messages"] = "messages"

    def question(self, builder: PromptBuilder) -> str:
        """The last thing the user said."""
        said = [message.content for message in self.messages if message.role == "user"]
        return said[-1] if said else self.messages[-1].content

    def tokens(self, builder: PromptBuilder, *, with_knowledge: bool) -> list[int]:
        """By the model's chat template."""
        return builder.chat(self.messages, with_knowledge=with_knowledge)


@dataclass(frozen=True, slots=True)
class Text:
    """A bare prompt: text, or token ids."""

    prompt: str | tuple[int, ...]
    param: Literal["prompt"] = "prompt"

    def question(self, builder: PromptBuilder) -> str:
        """The prompt's text."""
        return self.text(builder)

    def text(self, builder: PromptBuilder) -> str:
        """What `echo` gives back."""
        if isinstance(self.prompt, str):
            return self.prompt
        return builder.tokenizer.decode(self.prompt, skip_special=False)

    def own_tokens(self, builder: PromptBuilder) -> tuple[int, ...]:
        """The client's part of `tokens`, which is their end."""
        if isinstance(self.prompt, str):
            return tuple(builder.tokenizer.encode(self.prompt))
        return self.prompt

    def tokens(self, builder: PromptBuilder, *, with_knowledge: bool) -> list[int]:
        """As they are, after whatever must come before."""
        return builder.completion(self.prompt, with_knowledge=with_knowledge)


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt ready for the engine."""

    source: Source
    tokens: tuple[int, ...]
    """The context: what follows the facts, if any are mounted."""
    facts: tuple[MountedFact, ...]
    retrieved: Retrieved | None
    """None: knowledge was not wanted."""


class Preparer:
    """Makes prompts. Its methods block: they run on a reader thread."""

    def __init__(self, knowledge: KnowledgeService, builder: PromptBuilder, settings: Settings) -> None:
        self._knowledge = knowledge
        self._builder = builder
        self._settings = settings

    def prepare(self, source: Source, wanted: KnowledgeRequest) -> Prompt:
        """Without facts the prompt is the bare model's. Raises ApiError."""
        retrieved = None
        if wanted.enabled is not False:
            retrieved = self._knowledge.search(self.query(wanted, source.question(self._builder)))
        facts = self._knowledge.mount(retrieved) if retrieved else ()
        try:
            tokens = source.tokens(self._builder, with_knowledge=bool(facts))
        except ValueError as error:
            raise invalid(str(error), source.param, "invalid_value") from error
        if not tokens:
            raise invalid("The prompt has no tokens.", source.param, "invalid_value")
        return Prompt(source, tuple(tokens), facts, retrieved)

    def query(self, wanted: KnowledgeRequest, text: str, field: str = "knowledge.top_k") -> Query:
        """The request's knowledge with the server's defaults filled in. Raises ApiError, naming `field`."""
        top_k = self._settings.top_k if wanted.top_k is None else wanted.top_k
        limit = self._settings.max_facts_per_request
        if top_k > limit:
            raise invalid(f"{field}: at most {limit} on this server", field, "invalid_value")
        namespace, settings = wanted.namespace or DEFAULT_NAMESPACE, self._settings
        if wanted.min_score is not None:
            return Query(text, namespace, top_k, wanted.min_score, wanted.min_score)
        return Query(text, namespace, top_k, settings.min_score, settings.min_best_score)

    def room(self, info: EngineInfo, prompt: Prompt) -> int:
        """How many tokens of the context window are left for the answer. Raises ApiError if none are."""
        lengths = [len(mounted.fact.tokens) for mounted in prompt.facts]
        knowledge = info.knowledge_positions(len(self._builder.preamble), lengths)
        room = info.context_length - knowledge - len(prompt.tokens)
        if room < 1:
            raise _too_long(info, prompt, f"{knowledge + len(prompt.tokens)} tokens and an answer")
        return room

    def check_fits(self, info: EngineInfo, prompt: Prompt, room: int, max_tokens: int) -> None:
        """Raises ApiError if the client wants more tokens than there is room for: nothing is cut silently."""
        if max_tokens > room:
            taken = info.context_length - room
            raise _too_long(info, prompt, f"{taken + max_tokens} tokens ({max_tokens} of them for the answer)")


def _too_long(info: EngineInfo, prompt: Prompt, needed: str) -> ApiError:
    facts = f", {len(prompt.facts)} facts mounted," if prompt.facts else ""
    message = f"The model's context window has {info.context_length} tokens; this request{facts} needs {needed}."
    return context_too_long(message, prompt.source.param)
