"""The native model that comes with the package: loaded by name, served, and taught by live edits."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from kan.shipped import shipped_model
from kb.encoder.minilm import MiniLMEncoder
from server.cli import app
from server.loading import load
from server.settings import Settings
from tests.server.support import Service, running

NAME = "kan-scan"


@pytest.fixture
async def scan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Service]:
    """As `kalmagrove serve` with KALMAGROVE_MODEL=kan-scan loads it, into a data directory without models."""
    services = load(Settings(model=NAME, data_dir=tmp_path, cache_gib=0.05), Console(quiet=True))
    async with running(services) as service:
        yield service
        await service.engine.audit()


async def ask(service: Service, command: str, **fields: object) -> list[str]:
    body = {"model": NAME, "temperature": 0, "messages": [{"role": "user", "content": command}], **fields}
    response = await service.http.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    choice = response.json()["choices"][0]
    assert choice["finish_reason"] == "stop"
    return str(choice["message"]["content"]).split()


async def test_it_knows_what_it_was_trained_on_and_what_follows_by_symmetry(scan: Service) -> None:
    assert await ask(scan, "walk") == ["I_WALK"]
    assert await ask(scan, "jump twice") == ["I_JUMP"] * 2
    around = ["I_TURN_RIGHT", "I_JUMP"] * 4
    assert await ask(scan, "look thrice after jump around right") == [*around, *["I_LOOK"] * 3]


async def test_a_new_verb_is_taught_changed_and_forgotten_by_edits(scan: Service) -> None:
    """`zup` was in no training sample."""
    before = await ask(scan, "zup twice")
    await scan.put(zup="zup means I_RUN")
    assert await ask(scan, "zup twice") == ["I_RUN"] * 2
    await scan.put(zup="zup means I_LOOK")
    assert await ask(scan, "zup twice") == ["I_LOOK"] * 2
    assert await ask(scan, "zup left and walk") == ["I_TURN_LEFT", "I_LOOK", "I_WALK"]
    assert (await scan.http.delete("/admin/kb/facts/zup")).status_code == 200
    assert await ask(scan, "zup twice") == before != ["I_LOOK"] * 2


async def test_several_facts_are_told_apart(scan: Service) -> None:
    """A command with two taught verbs needs both facts, of which one may rank far behind the other."""
    await scan.put(dax="dax means I_RUN", wif="wif means I_JUMP", walk="walk means I_LOOK")
    assert await ask(scan, "dax twice and wif", knowledge={"max_gap": 4}) == ["I_RUN", "I_RUN", "I_JUMP"]
    assert await ask(scan, "walk left") == ["I_TURN_LEFT", "I_LOOK"]
    assert await ask(scan, "walk left", knowledge={"enabled": False}) == ["I_TURN_LEFT", "I_WALK"]


def test_the_command_line_knows_its_name(tmp_path: Path) -> None:
    run = CliRunner().invoke(app, ["model", "params", NAME, "--data-dir", str(tmp_path)])
    assert run.exit_code == 0, run.output
    assert "124,208" in run.output
    assert shipped_model("../shipped") is shipped_model("kan") is None


def test_its_phi_is_none(tmp_path: Path, encoder: MiniLMEncoder) -> None:
    from kan.checkpoint.directory import Checkpoint
    from server.loading import load_learned

    directory = shipped_model(NAME)
    assert directory is not None
    phi, grounding = load_learned("auto", Checkpoint.open(directory), encoder.model_fingerprint)
    assert phi is not None
    assert phi.is_zero
    assert grounding is None
    assert sum(file.stat().st_size for file in directory.iterdir()) < 1_000_000
