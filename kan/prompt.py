"""Conversations and facts as the token sequences a model was trained on.

With knowledge, the model reads preamble, facts, rest: preamble and rest are one rendered conversation, cut inside its
system message. Facts sit between the two on pages of their own, in no order.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, NoReturn

import jinja2
from jinja2 import meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from kan.config import KANConfig
from kan.tokenizer import Tokenizer
from kan.tools import CALL, Tool, in_words
from kan.tools import ChatMessage as ChatMessage  # part of what this module offers

if TYPE_CHECKING:
    from kan.checkpoint.directory import Checkpoint

INSTRUCTION = "Answer the question using the known facts.\nFacts:\n"


class PromptBuilder:
    """Renders for one model. Immutable after construction, so any number of threads may share it.

    A model without a chat template has a bare preamble and serves completions only.
    Raises ValueError for a template that does not parse, or that has no place for a system message.
    """

    def __init__(
        self, tokenizer: Tokenizer, chat_template: str | None, *, bos_token: str = "", eos_token: str = ""
    ) -> None:
        self.tokenizer = tokenizer
        self._variables = {"bos_token": bos_token, "eos_token": eos_token}
        self._template = None if chat_template is None else _compile(chat_template)
        self._shows_tools = chat_template is not None and _shows_tools(chat_template)
        if self._template is None:
            self._opening, self._closing = INSTRUCTION, ""
            preamble = [*tokenizer.prefix, *tokenizer.encode(INSTRUCTION)]
        else:
            mask = _Mask()
            opened = self._render([ChatMessage("system", INSTRUCTION + mask.cut)], mask, generate=False)
            self._opening, self._closing = _halves(opened, mask)
            preamble = self._tokens(self._opening)
        self.preamble: tuple[int, ...] = tuple(preamble)
        """Tokens before the first fact; the same for every request."""
        self.preamble_fingerprint: str = _digest(",".join(map(str, self.preamble)))

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint) -> PromptBuilder:
        """Raises ValueError if tokenizer or template are unusable, or have more tokens than the model."""
        tokenizer = Tokenizer(checkpoint.tokenizer_path)
        return cls.for_model(checkpoint.config, tokenizer, checkpoint.chat_template())

    @classmethod
    def for_model(cls, config: KANConfig, tokenizer: Tokenizer, chat_template: str | None) -> PromptBuilder:
        """The same for parts that are no checkpoint yet."""
        rows = config.vocab_size
        if tokenizer.vocab_size > rows:
            raise ValueError(f"the tokenizer has {tokenizer.vocab_size} tokens, the model {rows} rows for them")
        bos = [] if config.bos_token_id is None else [config.bos_token_id]
        return cls(
            tokenizer,
            chat_template,
            bos_token=tokenizer.decode(bos, skip_special=False),
            eos_token=tokenizer.decode(config.eos_token_ids[:1], skip_special=False),
        )

    def fact(self, text: str) -> tuple[int, ...]:
        """Tokens of one fact's line, without white space around `text`: it would join the neighbours'.

        Raises ValueError if nothing else is in it.
        """
        return tuple(self.tokenizer.encode(_line(text)))

    def fact_key(self, model_fingerprint: str, text: str) -> str:
        """Name (hex) of the fact's page content: equal keys mean equal keys and values in the cache."""
        return _digest(f"{model_fingerprint}\n{self.preamble_fingerprint}\n{_line(text)}")

    def preamble_key(self, model_fingerprint: str) -> str:
        """The same for the preamble's own content: no fact has it, since a fact's line is not empty."""
        return _digest(f"{model_fingerprint}\n{self.preamble_fingerprint}\n")

    def chat(
        self,
        messages: Sequence[ChatMessage],
        *,
        with_knowledge: bool,
        continued: bool = False,
        tools: Sequence[Tool] = (),
    ) -> list[int]:
        """Tokens of a conversation up to where the assistant is to speak; `continued`: to go on speaking, in its last
        message. It may call the `tools`.

        With knowledge: only what follows the facts, that is the rest of the system message (the client's own
        system text, if the conversation begins with one) and everything after it.
        Raises ValueError for an empty conversation, and for whatever the template refuses.
        """
        if not messages:
            raise ValueError("messages must not be empty")
        if self._template is None:
            raise ValueError("this model has no chat template; only plain completions are possible")
        if not self._shows_tools:
            messages, tools = in_words(messages, tools), ()
        mask = _Mask([*_texts(messages), *(tool.json for tool in tools)])
        if not with_knowledge:
            return self._tokens(self._open(messages, mask, continued, tools), mask)
        return self._chat_after_facts(messages, mask, continued, tools)

    def completion(self, prompt: str | Sequence[int], *, with_knowledge: bool) -> list[int]:
        """Tokens of a bare prompt: text (after BOS, if the model wants one), or token ids taken as they are.

        With knowledge: the system message that holds the facts is closed first, and there is no second BOS.
        Raises ValueError for a token id outside the vocabulary.
        """
        before = self._tokens(self._closing) if with_knowledge else []
        if isinstance(prompt, str):
            before = before if with_knowledge else list(self.tokenizer.prefix)
            return before + self.tokenizer.encode(prompt)
        for index in prompt:
            if not 0 <= index < self.tokenizer.vocab_size:
                raise ValueError(f"token id {index} is outside the vocabulary ({self.tokenizer.vocab_size})")
        return [*before, *prompt]

    def _chat_after_facts(
        self, messages: Sequence[ChatMessage], mask: _Mask, continued: bool, tools: Sequence[Tool]
    ) -> list[int]:
        has_system = messages[0].role == "system"
        # As with facts: white space next to the cut would be tokenized together with the fact's line break.
        own = messages[0].content.strip() if has_system else ""
        system = ChatMessage("system", INSTRUCTION + mask.cut + own)
        rendered = self._open([system, *messages[has_system:]], mask, continued, tools)
        opening, rest = _halves(rendered, mask)
        if opening != self._opening:
            raise ValueError("the chat template puts text before the system message that depends on the conversation")
        return self._tokens(rest, mask)

    def _open(self, messages: Sequence[ChatMessage], mask: _Mask, continued: bool, tools: Sequence[Tool]) -> str:
        """Rendered up to where the assistant's next word belongs."""
        if not continued:
            return self._render(messages, mask, generate=True, tools=tools)
        *before, last = messages
        rendered = self._render(
            [*before, replace(last, content=last.content + mask.end)], mask, generate=False, tools=tools
        )
        if rendered.count(mask.end) != 1:
            raise ValueError("the chat template does not show the last message as it is, so it cannot be continued")
        return rendered.partition(mask.end)[0]

    def _render(
        self, messages: Sequence[ChatMessage], mask: _Mask, *, generate: bool, tools: Sequence[Tool] = ()
    ) -> str:
        assert self._template is not None
        try:
            return self._template.render(
                messages=[self._hide(_turn(message), mask) for message in messages],
                tools=[self._hide(tool.as_openai, mask) for tool in tools] or None,
                documents=None,
                add_generation_prompt=generate,
                **self._variables,
            )
        except Exception as error:  # a template is somebody else's program: it may fail in any way
            raise ValueError(f"the chat template refuses these messages: {error}") from error

    def _hide(self, value: Any, mask: _Mask) -> Any:
        """Control tokens that are spelled anywhere within."""
        if isinstance(value, str):
            return self.tokenizer.control_pattern.sub(lambda found: mask.hide(found.group()), value)
        if isinstance(value, Mapping):
            return {self._hide(key, mask): self._hide(one, mask) for key, one in value.items()}
        if isinstance(value, list):
            return [self._hide(one, mask) for one in value]
        return value

    def _tokens(self, rendered: str, mask: _Mask | None = None) -> list[int]:
        """Control tokens where the template wrote them; everything else as plain text, contents unmasked."""
        ids: list[int] = []
        for piece in self.tokenizer.split_special(rendered):
            if isinstance(piece, int):
                ids.append(piece)
            else:
                ids += self.tokenizer.encode(mask.reveal(piece) if mask else piece)
        return ids


class _Mask:
    """Private-use characters that stand for control tokens spelled in contents while a template is rendered.

    They survive what templates do to text (trim, upper, split), and begin with 64 random bits: no content
    can hold them by design or accident.
    """

    def __init__(self, contents: Iterable[str] = ()) -> None:
        together = "\n".join(contents)
        self._nonce = _random_private_text()
        while self._nonce in together:
            self._nonce = _random_private_text()
        self.cut = self._nonce + "\uf8fe"
        """Marks where the facts go."""
        self.end = self._nonce + "\uf8fd"
        """Marks where a message ends that is to be continued."""
        self._hidden: list[str] = []

    def hide(self, spelled: str) -> str:
        if spelled not in self._hidden:
            self._hidden.append(spelled)
        return f"{self._nonce}{chr(0xE100 + self._hidden.index(spelled))}"

    def reveal(self, text: str) -> str:
        for place, spelled in enumerate(self._hidden):
            text = text.replace(f"{self._nonce}{chr(0xE100 + place)}", spelled)
        return text


def _texts(messages: Iterable[ChatMessage]) -> Iterator[str]:
    for message in messages:
        yield message.content
        yield from (call.text for call in message.tool_calls)


def _turn(message: ChatMessage) -> dict[str, Any]:
    turn: dict[str, Any] = {"role": message.role, "content": message.content}
    return {**turn, "tool_calls": [call.as_openai for call in message.tool_calls]} if message.tool_calls else turn


def _shows_tools(template: str) -> bool:
    """Whether it shows them in the form that `kan/tools.py` knows."""
    return CALL in template and "tools" in meta.find_undeclared_variables(_environment().parse(template))


def _random_private_text() -> str:
    return "".join(chr(0xE000 + byte) for byte in secrets.token_bytes(8))


def _halves(rendered: str, mask: _Mask) -> tuple[str, str]:
    if rendered.count(mask.cut) != 1:
        raise ValueError("the chat template has no place for a system message, so facts cannot be mounted")
    before, _, after = rendered.partition(mask.cut)
    return before, after


def _line(text: str) -> str:
    if not (stripped := text.strip()):
        raise ValueError("a fact must not be blank")
    return f"- {stripped}\n"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _environment() -> jinja2.Environment:
    """The one that transformers gives to chat templates."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda pattern: datetime.now().strftime(pattern)
    return environment


def _compile(source: str) -> jinja2.Template:
    try:
        return _environment().from_string(source)
    except jinja2.TemplateError as error:
        raise ValueError(f"the chat template does not parse: {error}") from error


def _to_json(value: object, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)
