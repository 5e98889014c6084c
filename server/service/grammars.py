"""From what a client says of an answer's form to the grammar that an engine follows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from server.engine.protocol import Engine, Grammar, GrammarError, GrammarTooExpensive
from server.service.admission import Admission, Key
from server.service.deadline import in_time
from server.service.errors import InvalidRequest
from server.service.forms import Form
from server.service.lanes import Lanes
from server.service.lark import lark_of
from server.service.tool_calls import Offered, lark_of_calls

MAX_CHARACTERS = 2**18
"""Of a grammar."""
MAX_TRIED = 200
"""Parts of a schema that are tried to find the one that is wrong."""
MAX_TRYING_S = 2.0
_COMPILER_SAYS = "failed to compile JSON schema: "


class GrammarCompiler:
    """Compiles on a thread of its own, in turns: a pathological grammar holds up other new ones, and nothing else, not
    even those that are known."""

    def __init__(self, engine: Engine, lanes: Lanes, reads: Admission, news: Admission) -> None:
        """`reads` let in what is written and looked up, `news` what must be compiled."""
        self._engine = engine
        self._lanes = lanes
        self._reads = reads
        self._news = news

    async def compile(
        self, caller: str, deadline: float, form: Form | None, offered: Offered | None = None
    ) -> Grammar | None:
        """What the answer must follow; None: nothing. Raises InvalidRequest, naming the part of a schema that is wrong;
        Overloaded; DeadlinePassed."""
        if form is None and offered is None:
            return None
        async with in_time(deadline):
            async with self._reads.enter(Key(caller)):
                known = await self._lanes.reads.run(partial(self._known, form, offered))
            if known is not None:
                return known
            async with self._news.enter(Key(caller)):
                return await self._lanes.grammars.run(partial(self._compile, form, offered))

    def _known(self, form: Form | None, offered: Offered | None) -> Grammar | None:
        """None as well: it cannot even be written. Blocks."""
        try:
            return self._engine.compiled(_written(form, offered))
        except (ValueError, RecursionError):
            return None

    def _compile(self, form: Form | None, offered: Offered | None) -> Grammar:
        """Blocks."""
        try:
            return self._engine.compile(_written(form, offered))
        except (ValueError, RecursionError) as error:
            forms = [*(offered.forms if offered else ()), *([form] if form else ())]
            if isinstance(error, GrammarTooExpensive):  # so would be its parts, one by one
                raise InvalidRequest(f"{forms[0].param}: {error}", forms[0].param, "invalid_grammar") from error
            guilty = next((one for one in forms if self._complaint(one)), forms[-1])
            raise self._refusal(guilty, str(error)) from error

    def _refusal(self, form: Form, told: str) -> InvalidRequest:
        param = form.param
        if form.kind == "json" and isinstance(form.value, Mapping):
            told = self._complaint(form) or told
            path, told = blamed(form.value, lambda part: self._complaint(Form("json", part, "")), told)
            param += path
        return InvalidRequest(f"{param}: {_said(told)}", param, "invalid_grammar")

    def _complaint(self, form: Form) -> str | None:
        """What is wrong with it; None: nothing."""
        try:
            self._engine.compile(lark_of(form))
        except (ValueError, RecursionError) as error:
            return str(error)
        return None


def _written(form: Form | None, offered: Offered | None) -> str:
    """The grammar of both. Raises ValueError, RecursionError."""
    answer = None if form is None else lark_of(form)
    source = (answer or "") if offered is None else lark_of_calls(offered, answer)
    if len(source) > MAX_CHARACTERS:
        raise GrammarError(f"the grammar has {len(source)} characters; at most {MAX_CHARACTERS} are taken")
    return source


def blamed(schema: Mapping[str, Any], complaint: Callable[[Any], str | None], told: str) -> tuple[str, str]:
    """The innermost part that is wrong by itself, as a path, and what is wrong with it; `told` of all of it."""
    shared = {name: schema[name] for name in ("$defs", "definitions", "$schema") if name in schema}
    path, part, tried = "", schema, 0
    last = time.monotonic() + MAX_TRYING_S
    while True:
        for step, child in _parts(part):
            tried += 1
            if tried > MAX_TRIED or time.monotonic() > last:
                return path, told
            wrong = complaint({**shared, **child} if isinstance(child, Mapping) else child)
            if wrong is not None:
                path, part, told = path + step, child, wrong
                break
        else:
            return path, told


def _parts(schema: Any) -> Iterator[tuple[str, Any]]:
    """Schemas within a schema, with their steps on the path."""
    if not isinstance(schema, Mapping):
        return
    for name in ("properties", "patternProperties", "$defs", "definitions"):
        named = schema.get(name)
        if isinstance(named, Mapping):
            yield from ((f".{name}.{key}", child) for key, child in named.items())
    for name in ("prefixItems", "anyOf", "oneOf", "allOf"):
        listed = schema.get(name)
        if isinstance(listed, list):
            yield from ((f".{name}[{place}]", child) for place, child in enumerate(listed))
    for name in ("items", "additionalProperties"):
        if isinstance(schema.get(name), Mapping):
            yield f".{name}", schema[name]


def _said(message: str) -> str:
    """What the compiler found, without where in our own grammar that was."""
    return message.partition(_COMPILER_SAYS)[2].partition("\n")[0] or message
