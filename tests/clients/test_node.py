"""The official client and LangChain, on node. Each script is one run of all that it can do."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.clients.fact import ANSWER, CITED, QUESTION, REFUSED
from tests.clients.ticket import MODEL

NODE = Path(__file__).parent / "node"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("node") is None or not (NODE / "node_modules").is_dir(),
        reason="needs node, and what make test-clients installs with npm",
    ),
]


def run(script: str, url: str) -> dict[str, Any]:
    command = ["node", script, url, MODEL, QUESTION, ANSWER]
    done = subprocess.run(command, cwd=NODE, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert (found["said"], found["streamed"]) == (ANSWER, ANSWER)
    tickets = [found["form"], *found["calls"], *found["streamedCalls"]]
    assert len(tickets) >= 3
    assert all(set(one) == {"line", "child"} and one["line"] in ("amber", "cobalt") for one in tickets)
    assert found["after"] == "string"
    assert found["dimensions"] == [384, 384]
    return found


@pytest.mark.feature("openai-node", "chat", "streaming", "embeddings", "forms", "tools", "streamed tools")
@pytest.mark.feature("openai-node", "responses", "knowledge", "citations")
def test_openai(informed: str) -> None:
    found = run("openai.mjs", informed)
    assert (found["cited"], found["facts"], found["reason"]) == ([CITED], ["ceo"], "tool_calls")
    assert found["deltas"] > 1
    assert found["events"][0] == "response.created"
    assert found["events"][-1] in ("response.completed", "response.incomplete")


@pytest.mark.feature("LangChain (JavaScript)", "chat", "streaming", "embeddings", "forms", "tools", "streamed tools")
@pytest.mark.feature("LangChain (JavaScript)", "responses", "knowledge")
def test_langchain(informed: str) -> None:
    found = run("langchain.mjs", informed)
    assert found["response"]
    assert REFUSED in found["refused"]
