"""The commands that `serve` prints are shell and carry valid JSON."""

from __future__ import annotations

import json
import shlex

from server.cli.demo_hint import demo_hint
from server.http.schemas.admin import PutFacts
from server.http.schemas.chat import ChatRequest


def _commands(hint: str) -> list[list[str]]:
    lines = hint.replace("\\\n", "").splitlines()
    return [shlex.split(line) for line in lines if line.strip().startswith("curl")]


def test_bodies_are_what_the_server_takes() -> None:
    ask, edit = _commands(demo_hint("http://127.0.0.1:8000", "http://127.0.0.1:8001", "smollm2-135m", keys=False))
    ChatRequest.model_validate(json.loads(ask[-1]))
    PutFacts.model_validate(json.loads(edit[-1]))
    assert "http://127.0.0.1:8000/v1/chat/completions" in ask
    assert "http://127.0.0.1:8001/admin/kb/facts" in edit


def test_keys_come_from_the_environment() -> None:
    ask, edit = _commands(demo_hint("http://127.0.0.1:8000", "http://127.0.0.1:8000", "smollm2-135m", keys=True))
    assert "Authorization: Bearer $KALMAGROVE_API_KEY" in ask
    assert "Authorization: Bearer $KALMAGROVE_ADMIN_KEY" in edit
