"""The layers: `cpu` knows nobody; `kan` and `kb` know neither each other nor `server`; inside `server` data flows
http → service → engine; `lab` has its doors. And nothing works at import."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FORBIDDEN = {
    "cpu": {"kan", "kb", "server", "lab", "loadtests", "sklearn", "scipy"},
    "kan": {"kb", "server", "lab", "loadtests", "sklearn", "scipy"},
    "kb": {"kan", "server", "lab", "loadtests", "sklearn", "scipy"},
    "server": {"lab", "tests", "sklearn", "scipy"},
    "server/service": {"server.http", "server.cli"},
    "server/engine": {"server.http", "server.service", "server.cli", "kb"},
    "server/engine/pages": {"server.engine.paged", "server.engine.vllm", "server.engine.decoding"},
    "server/engine/paged": {"server.engine.vllm"},
    "server/engine/vllm/plugin": {"server.service", "server.http", "server.cli", "server.settings"},
}
"""Of each folder, what nothing below it may import."""
DOORS = {"server/cli/train.py", "server/cli/eval.py", "server/cli/laboratory.py"}
"""To the laboratory."""


def imported(path: Path) -> Iterator[str]:
    """Modules that the module imports anywhere, functions and type checking included."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module
            yield node.module


def is_below(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_layers(folder: str) -> None:
    modules = sorted((ROOT / folder).rglob("*.py"))
    assert len(modules) > 2
    for path in modules:
        forbidden = FORBIDDEN[folder] - ({"lab"} if path.relative_to(ROOT).as_posix() in DOORS else set())
        broken = [name for name in imported(path) for package in forbidden if is_below(name, package)]
        assert not broken, path


def test_the_engine_protocol_is_light() -> None:
    """What the routes know of an engine must not pull in a model; of `kb`, schemas take the rules of ids, filters."""
    program = "import sys, server.engine.protocol, server.http.schemas.chat, server.settings; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    modules = set(loaded.stdout.split())
    heavy = {"torch", "faiss", "numpy", "transformers", "sentence_transformers", "gguf", "kan", "lab"}
    assert not heavy & modules
    assert {name for name in modules if is_below(name, "kb")} <= {"kb", "kb.facts", "kb.errors", "kb.filters"}
