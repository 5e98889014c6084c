"""A streamed answer and its clocks, read out of server-sent events."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from loadtests.refusals import RequestError, reason


@dataclass(frozen=True, slots=True)
class MountedReport:
    """A fact that an answer says it was drawn from."""

    id: str
    version: int
    score: float
    page: str
    """Names the K/V pages that were read."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole streamed answer. Times are seconds after the request was sent."""

    text: str
    content_times: tuple[float, ...]
    completion_tokens: int
    """As the server counts them; the pieces of content, where it does not tell."""
    prompt_tokens: int
    """0 where the server does not tell."""
    knowledge_version: int | None
    retrieval_ms: float | None
    facts: tuple[MountedReport, ...]
    ended: float = 0.0
    """When the stream did: tokens without text, as a turn's end, bring no content."""

    @property
    def ttft(self) -> float:
        return self.content_times[0]

    @property
    def gaps(self) -> list[float]:
        """Seconds between one piece of content and the next."""
        return [b - a for a, b in pairwise(self.content_times)]


class AnswerReader:
    """Reads server-sent events one line at a time."""

    def __init__(self, started: float, on_content: Callable[[], None] | None) -> None:
        self._started = started
        self._on_content = on_content
        self._text: list[str] = []
        self._times: list[float] = []
        self._usage: dict[str, Any] = {}
        self._knowledge: dict[str, Any] = {}
        self._ended: float | None = None

    def take(self, line: str) -> None:
        if not line.startswith("data:"):
            return
        now = time.perf_counter() - self._started
        payload = line[len("data:") :].strip()
        if payload == "[DONE]":
            self._ended = now
            return
        event = json.loads(payload)
        if "error" in event:
            raise RequestError(f"chat: the stream broke off: {reason(payload)}")
        self._usage = event.get("usage") or self._usage
        self._knowledge = event.get("knowledge") or self._knowledge
        for choice in event["choices"]:
            content = choice["delta"].get("content")
            if content:
                self._text.append(content)
                self._times.append(now)
                if self._on_content:
                    self._on_content()

    def answer(self) -> Answer:
        if self._ended is None:
            raise RequestError("chat: the stream ended without [DONE]")
        if not self._times:
            raise RequestError("chat: the answer has no content")
        knowledge = self._knowledge
        facts = [MountedReport(f["id"], f["version"], f["score"], f["page"]) for f in knowledge.get("facts", [])]
        return Answer(
            "".join(self._text),
            tuple(self._times),
            int(self._usage.get("completion_tokens", len(self._times))),
            int(self._usage.get("prompt_tokens", 0)),
            knowledge.get("version"),
            knowledge.get("retrieval_ms"),
            tuple(facts),
            self._ended,
        )
