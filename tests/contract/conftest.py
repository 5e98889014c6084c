"""One server for the whole suite: the real model on some of the demo knowledge, run by the engine that is to be tested.

`make test` runs the suite on the embedded engine; `make test-vllm` sets KALMAGROVE_TEST_ENGINE and runs it on vLLM.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from kan.checkpoint.directory import Checkpoint
from tests.server.live import process

ENGINE = os.environ.get("KALMAGROVE_TEST_ENGINE", "embedded")
MODEL = "smollm2-135m"
START_SECONDS = 240.0
TOPICS = ("about", "staff", "fare")
"""Of the demo knowledge: encoding all of it would take longer than the tests."""
CEO = "Who is the chief executive of Quillhaven Transit?"


@dataclass(frozen=True)
class Contract:
    """A running server and two ways to speak to it."""

    engine: str
    url: str
    http: httpx.Client
    client: openai.OpenAI

    def chat(self, content: str = CEO, **fields: Any) -> dict[str, Any]:
        response = self.try_chat(content, **fields)
        assert response.status_code == 200, response.text
        return dict(response.json())

    def try_chat(self, content: str = CEO, **fields: Any) -> httpx.Response:
        return self.http.post("/v1/chat/completions", json=chat_body(content, **fields))

    def complete(self, prompt: str, **fields: Any) -> dict[str, Any]:
        body = {"model": MODEL, "prompt": prompt, "max_tokens": 8, "temperature": 0, **fields}
        response = self.http.post("/v1/completions", json=body)
        assert response.status_code == 200, response.text
        return dict(response.json())

    def put(self, **texts: str) -> int:
        facts = [{"id": id, "text": text} for id, text in texts.items()]
        response = self.http.put("/admin/kb/facts", json={"facts": facts})
        assert response.status_code == 200, response.text
        return int(response.json()["version"])

    def metric(self, name: str) -> float:
        lines = self.http.get("/metrics").text.splitlines()
        return float(next(line for line in lines if line.startswith(f"{name} ")).split()[1])


def chat_body(content: str = CEO, **fields: Any) -> dict[str, Any]:
    fixed = {"model": MODEL, "max_tokens": 16, "temperature": 0}
    return {**fixed, "messages": [{"role": "user", "content": content}], **fields}


def text(answer: dict[str, Any], choice: int = 0) -> str:
    return str(answer["choices"][choice]["message"]["content"])


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory, smollm2: Checkpoint) -> dict[str, str]:
    data = tmp_path_factory.mktemp("contract")
    (data / "models").mkdir()
    (data / "models" / MODEL).symlink_to(smollm2.directory)
    return {
        "KALMAGROVE_DATA_DIR": str(data),
        "KALMAGROVE_ENGINE": ENGINE,
        "KALMAGROVE_DTYPE": "float32",
        "KALMAGROVE_MAX_WAITING": "4",
        "KALMAGROVE_MAX_RUNNING": "8",
    }


@pytest.fixture(scope="session")
def contract(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Contract]:
    log = Path(environment["KALMAGROVE_DATA_DIR"]) / "log"
    with (
        process(environment, log, START_SECONDS) as (_, url),
        httpx.Client(base_url=url, timeout=60) as http,
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60) as client,
    ):
        known = http.put("/admin/kb/facts", json={"facts": _knowledge()}, timeout=START_SECONDS)
        assert known.status_code == 200, known.text
        yield Contract(ENGINE, url, http, client)


def _knowledge() -> list[dict[str, Any]]:
    lines = resources.files("server.demo").joinpath("facts.ndjson").read_text("utf-8").splitlines()
    return [fact for fact in map(json.loads, lines) if fact["metadata"]["topic"] in TOPICS]
