"""Java's HttpClient on its defaults: it offers to upgrade to HTTP/2 and sends its body along."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from tests.clients.fact import ANSWER, CITED, FORCED, QUESTION
from tests.clients.ticket import MODEL, Ticket

PROGRAM = Path(__file__).parent / "java" / "Ask.java"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("java") is None, reason="java is not installed (Debian's default-jdk-headless)"),
]
USER = [{"role": "user", "content": QUESTION}]
SCHEMA = Ticket.model_json_schema()
FORM = {"type": "json_schema", "json_schema": {"name": "ticket", "schema": SCHEMA}}
ASKED: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/chat/completions", {"messages": USER, **FORCED}),
    "stream": ("/chat/completions", {"messages": USER, **FORCED, "stream": True}),
    "form": ("/chat/completions", {"messages": USER, "response_format": FORM}),
    "response": ("/responses", {"input": QUESTION, "max_output_tokens": 4}),
    "embeddings": ("/embeddings", {"input": "a tram", "model": "all-minilm-l6-v2"}),
    "large": ("/chat/completions", {"messages": [*USER, {"role": "user", "content": "tram " * 3000}], "max_tokens": 1}),
}


@pytest.mark.feature(
    "Java HttpClient", "chat", "streaming", "embeddings", "forms", "responses", "knowledge", "citations"
)
def test_every_call(informed: str) -> None:
    lines = [f"{name} {path} {json.dumps({'model': MODEL, **body})}" for name, (path, body) in ASKED.items()]
    command = ["java", str(PROGRAM), informed]
    run = subprocess.run(command, input="\n".join(lines), capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    said: dict[str, list[str]] = defaultdict(list)
    for line in run.stdout.splitlines():
        name, _, rest = line.partition(" ")
        said[name].append(rest)
    assert {name: some[0] for name, some in said.items()} == dict.fromkeys(ASKED, "200"), run.stdout
    read = {name: json.loads(said[name][1]) for name in ASKED if name != "stream"}
    message = read["chat"]["choices"][0]["message"]
    assert message["content"] == ANSWER
    assert [one["url_citation"]["url"] for one in message["annotations"]] == [CITED]
    assert read["chat"]["knowledge"]["facts"][0]["id"] == "ceo"
    assert said["stream"][-1] == "data: [DONE]"
    events = [json.loads(line.removeprefix("data: ")) for line in said["stream"][1:-1] if line.startswith("data: ")]
    assert "".join(event["choices"][0]["delta"].get("content") or "" for event in events) == ANSWER
    assert Ticket.model_validate_json(read["form"]["choices"][0]["message"]["content"])
    assert read["response"]["status"] in ("completed", "incomplete")
    assert len(read["embeddings"]["data"][0]["embedding"]) == 384
    assert read["large"]["usage"]["prompt_tokens"] > 3000
