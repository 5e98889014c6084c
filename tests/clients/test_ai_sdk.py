"""Vercel's AI SDK, on node."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.clients.ticket import MODEL

NODE = Path(__file__).parent / "node"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("node") is None or not (NODE / "node_modules").is_dir(),
        reason="needs node, and what make test-clients installs with npm",
    ),
]


@pytest.mark.feature("Vercel AI SDK", "streaming", "forms", "tools", "streamed tools", "responses")
def test_the_default_model(url: str) -> None:
    """Text, streams, objects, tools in several steps, and an answer that is sent back by reference."""
    run = subprocess.run(["node", "ask.mjs", url, MODEL], cwd=NODE, capture_output=True, text=True, timeout=240)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert (found["text"], found["usage"]) == ("string", 8)
    assert found["reference"] is True
    assert {"start", "text-start", "text-delta", "text-end", "finish"} <= set(found["streamed"])
    assert "error" not in found["streamed"]
    assert found["object"]["line"] in ("amber", "cobalt")
    assert (found["steps"], found["streamedSteps"]) == (2, 2)
    assert len(found["sold"]) == 4
    assert all(isinstance(ticket["child"], bool) for ticket in found["sold"])
    assert found["refused"]["status"] == 400
    assert "web_search" in found["refused"]["message"]
