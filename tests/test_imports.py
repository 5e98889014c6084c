"""The layers: `kan` and `kb` know neither each other nor `server`; `server` wires them. And nothing works at import."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FORBIDDEN = {"kan": {"kb", "server", "loadtests"}, "kb": {"kan", "server", "loadtests"}, "server": {"tests"}}


def imported(path: Path) -> Iterator[str]:
    """Top-level packages that the module imports anywhere, functions and type checking included."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module
            yield node.module.partition(".")[0]


@pytest.mark.parametrize("package", FORBIDDEN)
def test_layers(package: str) -> None:
    modules = sorted((ROOT / package).rglob("*.py"))
    assert len(modules) > 5
    for path in modules:
        assert not FORBIDDEN[package].intersection(imported(path)), path


def test_the_engine_protocol_is_light() -> None:
    """What the routes know of an engine must not pull in a model."""
    program = "import sys, server.engine.protocol, server.schemas.chat, server.settings; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    heavy = {"torch", "faiss", "transformers", "sentence_transformers", "gguf", "kan", "kb"}
    assert not heavy.intersection(loaded.stdout.split())
