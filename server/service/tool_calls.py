"""Calls of functions, in an answer as the model writes it: the grammar that makes them right, and how they are read.

The grammar leaves no freedom in how a call is spelled, so that reading one needs no guesses (see `kan/tools.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from kan.tools import ARGUMENTS, CALL, CALL_END, NAME, Tool
from server.service.forms import Form
from server.service.lark import json_rule, quoted

MAX_CALLS = 16
"""Of one answer."""
_END = f"}}\n{CALL_END}"
"""Behind a call's arguments, which have no line break."""


@dataclass(frozen=True, slots=True)
class Offered:
    """Functions that may be called, or of which one must be."""

    tools: tuple[Tool, ...]
    must_call: bool
    parallel: bool
    """Whether there may be several calls."""
    params: tuple[str, ...]
    """Of each function's parameters: the request field."""

    @property
    def forms(self) -> list[Form]:
        """Of the arguments."""
        return [Form("json", tool.parameters, param) for tool, param in zip(self.tools, self.params, strict=True)]


def lark_of_calls(offered: Offered, answer: str | None) -> str:
    """The grammar of answers. `answer`: that of those that call nothing; None: any text, also before a call."""
    calls = f'("\\n" {quoted(CALL)} body){{0,{MAX_CALLS - 1}}}' if offered.parallel else ""
    rules = [f"opened: {quoted(CALL)}"]
    start = f"opened body {calls}"
    if not offered.must_call and answer is None:
        rules = [f"opened[lazy]: TEXT {quoted(CALL)}", r"TEXT: /(.|\n)*/"]
        start = f"TEXT | {start}"
    elif not offered.must_call and answer is not None:
        rules += [f"answer: %lark {{\n{answer}\n}}"]  # its rules may be called what ours are
        start = f"answer | {start}"
    named = [
        f"call{place}: {quoted(f'{NAME}{tool.name}{ARGUMENTS}')} {json_rule(tool.parameters)} {quoted('}')}"
        for place, tool in enumerate(offered.tools)
    ]
    either = " | ".join(f"call{place}" for place in range(len(offered.tools)))
    body = rf'body: "\n" ({either}) {quoted(_END[1:])}'
    return "\n".join(["%llguidance {}", f"start: {start}", body, *named, *rules])


@dataclass(frozen=True, slots=True)
class Said:
    """Text that is no call."""

    text: str


@dataclass(frozen=True, slots=True)
class Called:
    """A call begins. Calls are numbered from 0."""

    number: int
    name: str


@dataclass(frozen=True, slots=True)
class Argued:
    """More of a call's arguments: JSON, piece by piece."""

    number: int
    text: str


Event: TypeAlias = Said | Called | Argued


class CallReader:
    """Reads one answer, however it is cut into pieces. What comes together is told together."""

    def __init__(self) -> None:
        self.calls = 0
        """So far."""
        self._held = ""
        self._place: Literal["text", "name", "arguments"] = "text"

    def feed(self, text: str) -> Iterator[Event]:
        """What became certain."""
        self._held += text
        moved = True
        while moved and self._held:
            if self._place == "text":
                events, moved = self._text()
            elif self._place == "name":
                events, moved = self._name()
            else:
                events, moved = self._arguments()
            yield from events

    def finish(self) -> Iterator[Event]:
        """What was held back: nothing more will come."""
        held, self._held = self._held, ""
        if self._place == "text" and held and not (self.calls and not held.strip()):
            yield Said(held)
        elif self._place == "arguments" and held:
            yield Argued(self.calls - 1, held.partition(_END[:2])[0])

    def _text(self) -> tuple[list[Event], bool]:
        """White space is told with what comes behind it: before a call it is no text."""
        before, found, behind = self._held.partition(CALL)
        if found:
            self._held, self._place = behind, "name"
            return _said(before.rstrip()), True
        told = before[: len(before) - _possible_start(before, CALL)].rstrip()
        self._held = before[len(told) :]
        return _said(told), False

    def _name(self) -> tuple[list[Event], bool]:
        head, found, behind = self._held.partition(ARGUMENTS)
        if not found:
            return [], False
        self._held, self._place = behind, "arguments"
        self.calls += 1
        return [Called(self.calls - 1, head.partition(NAME)[2])], True

    def _arguments(self) -> tuple[list[Event], bool]:
        arguments, found, behind = self._held.partition(_END)
        if found:
            self._held, self._place = behind, "text"
        else:
            kept = _possible_start(arguments, _END)
            self._held = arguments[len(arguments) - kept :]
            arguments = arguments[: len(arguments) - kept]
        return ([Argued(self.calls - 1, arguments)] if arguments else []), bool(found)


def _said(text: str) -> list[Event]:
    return [Said(text)] if text else []


def _possible_start(text: str, wanted: str) -> int:
    """Length of the longest end of `text` with which `wanted` begins."""
    lengths = range(min(len(wanted) - 1, len(text)), 0, -1)
    return next((length for length in lengths if text.endswith(wanted[:length])), 0)
