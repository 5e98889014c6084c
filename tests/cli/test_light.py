"""The command line answers at once: nothing heavy is imported before a command needs it."""

from __future__ import annotations

import subprocess
import sys
import time

HEAVY = (
    "torch",
    "transformers",
    "sentence_transformers",
    "faiss",
    "sqlalchemy",
    "fastapi",
    "pydantic",
    "numpy",
    "httpx",
)
SECONDS = 3.0
"""Ten times what it takes on an idle machine: enough to notice PyTorch, too much to fail on a busy one."""


def test_nothing_heavy_is_imported() -> None:
    program = f"import sys, server.cli; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_is_quick_and_names_every_command() -> None:
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "server.cli", "--help"], capture_output=True, text=True, check=True)
    assert time.perf_counter() - started < SECONDS
    for command in ("serve", "kb", "model", "key", "bench"):
        assert f" {command} " in done.stdout
