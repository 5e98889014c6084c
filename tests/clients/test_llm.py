"""Simon Willison's `llm`, as a command: another server is a few lines of YAML."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.clients.ticket import MODEL, QUESTION, Ticket

pytest.importorskip("llm")
pytestmark = pytest.mark.slow


@pytest.fixture
def home(tmp_path: Path, url: str) -> Path:
    named = f"- model_id: {MODEL}\n  model_name: {MODEL}\n  api_base: {url}\n  supports_schema: true\n"
    (tmp_path / "extra-openai-models.yaml").write_text(named)
    return tmp_path


def llm(home: Path, *arguments: str) -> str:
    own = {**os.environ, "LLM_USER_PATH": str(home), "OPENAI_API_KEY": "none"}
    command = [sys.executable, "-m", "llm", "-m", MODEL, *arguments]
    done = subprocess.run(command, env=own, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.feature("llm", "chat", "streaming")
def test_chat(home: Path) -> None:
    short = (QUESTION, "-o", "max_tokens", "8", "-o", "temperature", "0")
    assert llm(home, *short, "--no-stream") == llm(home, *short) != ""


@pytest.mark.feature("llm", "forms")
def test_a_schema(home: Path) -> None:
    schema = json.dumps(Ticket.model_json_schema())
    assert Ticket.model_validate_json(llm(home, QUESTION, "--schema", schema))
