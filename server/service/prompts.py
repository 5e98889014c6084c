"""From what the client sent to what the engine takes: facts found, text tokenised, room for the answer counted."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol

from kan.prompt import PromptBuilder
from kan.tools import ChatMessage, Tool
from server.engine.protocol import EngineInfo, MountedFact
from server.service.embedding import SHORT_CHARACTERS, TEXTS_BETWEEN_STEPS
from server.service.errors import ContextTooLong, InvalidRequest
from server.service.follow_up import in_context
from server.service.lanes import Lane, Lanes
from server.service.options import KnowledgeOptions
from server.service.retrieval import Criteria, Questions, Retrieval, Retrieved
from server.settings import Settings

LONG = 16_384
"""Characters (or token ids) from which on splitting a text takes long enough to be kept from shorter ones' way."""


@dataclass(frozen=True, slots=True)
class Echo:
    """The client's own part of a prompt, to be given back."""

    text: str
    tokens: tuple[int, ...]
    """The end of the prompt's."""


class Source(Protocol):
    """What is to be continued. Methods that take the builder block for as long as it takes to split the text."""

    @property
    def param(self) -> str:
        """The request field it came from."""
        ...

    @property
    def length(self) -> int:
        """In characters, or in token ids if that is what the client sent."""
        ...

    def least_tokens(self, longest: int) -> int:
        """It cannot have fewer, no token being longer than `longest` bytes."""
        ...

    def question(self, builder: PromptBuilder, *, follow_up: bool) -> str:
        """What retrieval looks for; follow_up: in the light of what was said before."""
        ...

    def tokens(self, builder: PromptBuilder, *, with_knowledge: bool) -> list[int]:
        """Tokens of the context. Raises ValueError if the model cannot take it."""
        ...

    def own_tokens(self, builder: PromptBuilder) -> list[int]:
        """What the client's part of them is without knowledge. Raises ValueError likewise."""
        ...

    def echoed(self, builder: PromptBuilder) -> Echo | None:
        """What is given back of it; None: nothing was asked for."""
        ...


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages, at least one."""

    messages: tuple[ChatMessage, ...]
    continued: bool = False
    """Whether the last message is the beginning of the answer."""
    tools: tuple[Tool, ...] = ()
    """What the assistant may call."""
    param: str = "messages"
    """The request field they came from."""

    @property
    def length(self) -> int:
        called = (call.arguments for message in self.messages for call in message.tool_calls)
        described = (tool.json for tool in self.tools)
        return sum(map(len, (*(message.content for message in self.messages), *called, *described)))

    def least_tokens(self, longest: int) -> int:
        return -(-self.length // longest)

    def question(self, builder: PromptBuilder, *, follow_up: bool) -> str:
        """The last thing the user said."""
        said = [message.content for message in self.messages if message.role == "user"] or [self.messages[-1].content]
        return in_context(said) if follow_up else said[-1]

    def tokens(self, builder: PromptBuilder, *, with_knowledge: bool) -> list[int]:
        """By the model's chat template."""
        return builder.chat(self.messages, with_knowledge=with_knowledge, continued=self.continued, tools=self.tools)

    def own_tokens(self, builder: PromptBuilder) -> list[int]:
        """All of them."""
        return self.tokens(builder, with_knowledge=False)

    def echoed(self, builder: PromptBuilder) -> None:
        return None


@dataclass(frozen=True, slots=True)
class Text:
    """A bare prompt: text, or token ids."""

    prompt: str | tuple[int, ...]
    echo: bool = False
    param: Literal["prompt"] = "prompt"

    @property
    def length(self) -> int:
        return len(self.prompt)

    def least_tokens(self, longest: int) -> int:
        return -(-self.length // longest) if isinstance(self.prompt, str) else self.length

    def question(self, builder: PromptBuilder, *, follow_up: bool) -> str:
        """The prompt's text."""
        return self._text(builder)

    def own_tokens(self, builder: PromptBuilder) -> list[int]:
        """The end of `tokens`."""
        return builder.tokenizer.encode(self.prompt) if isinstance(self.prompt, str) else list(self.prompt)

    def tokens(self, builder: PromptBuilder, *, with_knowledge: bool) -> list[int]:
        """As they are, after whatever must come before."""
        return builder.completion(self.prompt, with_knowledge=with_knowledge)

    def echoed(self, builder: PromptBuilder) -> Echo | None:
        return Echo(self._text(builder), tuple(self.own_tokens(builder))) if self.echo else None

    def _text(self, builder: PromptBuilder) -> str:
        if isinstance(self.prompt, str):
            return self.prompt
        return builder.tokenizer.decode(self.prompt, skip_special=False)


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt ready for the engine."""

    source: Source
    tokens: tuple[int, ...]
    """The context: what follows the facts, if any are mounted."""
    facts: tuple[MountedFact, ...]
    retrieved: Retrieved | None
    """None: knowledge was not wanted."""
    echo: Echo | None


class Prompts:
    """Belongs to one event loop; text is split on other threads. Raises ServiceError."""

    def __init__(
        self, retrieval: Retrieval, builder: PromptBuilder, info: EngineInfo, lanes: Lanes, settings: Settings
    ) -> None:
        self._retrieval = retrieval
        self._builder = builder
        self._info = info
        self._lanes = lanes
        self._settings = settings

    def require_readable(self, source: Source) -> None:
        """Raises ContextTooLong for what is too long to be worth splitting: every token spells so many bytes at most,
        so characters bound tokens from below."""
        least = source.least_tokens(self._builder.tokenizer.longest_token)
        if least > self._info.context_length:
            raise self._too_long(f"this request has at least {least}", source.param)

    def slow_to_ask(self, sources: Sequence[Source], wanted: KnowledgeOptions) -> bool:
        """Whether embedding the questions may take seconds: whoever waits for it should hold nothing meanwhile."""
        return wanted.enabled and (len(sources) > TEXTS_BETWEEN_STEPS or _length(sources) > SHORT_CHARACTERS)

    async def ask(self, caller: str, sources: Sequence[Source], wanted: KnowledgeOptions) -> Questions:
        """The questions, embedded. Raises InvalidRequest."""
        criteria = Criteria.of(wanted, self._settings)
        follow_up = self._settings.follow_up if wanted.follow_up is None else wanted.follow_up
        texts = partial(_questions, sources, self._builder, follow_up)
        short = _length(sources) <= SHORT_CHARACTERS
        found = texts() if short else await self._lane(sources).run(texts)
        return await self._retrieval.ask(caller, criteria, found)

    async def make(
        self, caller: str, sources: Sequence[Source], wanted: KnowledgeOptions, asked: Questions | None = None
    ) -> tuple[Prompt, ...]:
        """Without facts a prompt is the bare model's. `asked`: the questions, if they are embedded already. Raises
        InvalidRequest."""
        if wanted.enabled and (asked is None or self._retrieval.outdated(asked)):
            asked = await self.ask(caller, sources, wanted)
        lane, began = self._lane(sources), time.perf_counter()
        jobs = [partial(self._prompt, one, asked, place, began) for place, one in enumerate(sources)]
        return tuple([await lane.run(job) for job in jobs])

    async def tokens(self, source: Source) -> list[int]:
        """Of the client's part alone. Raises InvalidRequest."""
        self.require_readable(source)
        with _explained(source):
            return await self._lanes.reads.run(partial(source.own_tokens, self._builder))

    def room(self, prompt: Prompt) -> int:
        """How many tokens of the context window are left for the answer. Raises ContextTooLong if none are."""
        lengths = [len(mounted.fact.tokens) for mounted in prompt.facts]
        knowledge = self._info.knowledge_positions(len(self._builder.preamble), lengths)
        room = self._info.context_length - knowledge - len(prompt.tokens)
        if room < 1:
            raise self._needs(prompt, f"{knowledge + len(prompt.tokens)} tokens and an answer")
        return room

    def require_room(self, prompt: Prompt, room: int, max_tokens: int) -> None:
        """Raises ContextTooLong if the client wants more tokens than there is room for: nothing is cut silently."""
        if max_tokens > room:
            taken = self._info.context_length - room
            raise self._needs(prompt, f"{taken + max_tokens} tokens ({max_tokens} of them for the answer)")

    def _lane(self, sources: Sequence[Source]) -> Lane:
        return self._lanes.reads if _length(sources) > LONG else self._lanes.questions

    def _prompt(self, source: Source, questions: Questions | None, place: int, began: float) -> Prompt:
        """Blocks."""
        retrieved = self._found(questions, place, began) if questions else None
        facts = self._retrieval.mount(retrieved) if retrieved else ()
        with _explained(source):
            tokens = source.tokens(self._builder, with_knowledge=bool(facts))
        if not tokens:
            raise InvalidRequest("The prompt has no tokens.", source.param)
        return Prompt(source, tuple(tokens), facts, retrieved, source.echoed(self._builder))

    def _found(self, questions: Questions, place: int, began: float) -> Retrieved:
        return self._retrieval.found(questions, place, began, self._settings.cold_tokens)

    def _needs(self, prompt: Prompt, needed: str) -> ContextTooLong:
        facts = f", {len(prompt.facts)} facts mounted," if prompt.facts else ""
        return self._too_long(f"this request{facts} needs {needed}", prompt.source.param)

    def _too_long(self, what: str, param: str) -> ContextTooLong:
        return ContextTooLong(f"The model's context window has {self._info.context_length} tokens; {what}.", param)


def _length(sources: Sequence[Source]) -> int:
    return sum(source.length for source in sources)


def _questions(sources: Sequence[Source], builder: PromptBuilder, follow_up: bool) -> list[str]:
    return [source.question(builder, follow_up=follow_up) for source in sources]


@contextmanager
def _explained(source: Source) -> Iterator[None]:
    """What the model cannot take is the client's mistake."""
    try:
        yield
    except ValueError as error:
        raise InvalidRequest(str(error), source.param) from error
