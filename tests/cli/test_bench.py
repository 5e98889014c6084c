"""`bench` and `model` on a real server and a real checkpoint, tiny both."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from kan.checkpoint.directory import Checkpoint
from loadtests.client import Target
from loadtests.serving import ServerStartError, temporary_server
from server.cli import app


@pytest.mark.slow
def test_recency_of_the_real_server(server: Target, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    arguments = ["bench", "recency", "--server", server.url, "--count", "20", "--facts", "16", "--json", str(path)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    report = json.loads(path.read_text("utf-8"))
    assert report["figures"]["stale answers"] == 0
    assert report["series"]["edit acknowledged (ms)"]["n"] == 20
    assert "stale answers" in result.stdout


@pytest.mark.parametrize("scenario", ["ttft", "edit", "throughput"])
def test_every_scenario_measures_the_real_server(server: Target, scenario: str) -> None:
    arguments = ["bench", scenario, "--server", server.url, "--count", "3", "--facts", "16"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output


def test_no_server() -> None:
    result = CliRunner().invoke(app, ["bench", "ttft", "--server", "http://127.0.0.1:9"])
    assert result.exit_code == 1
    assert "ConnectError" in result.stderr
    assert "Traceback" not in result.output


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    with pytest.raises(ServerStartError, match="smollm2-135m"), temporary_server(tmp_path):
        pytest.fail("it started")


def test_model_info(tiny: Checkpoint) -> None:
    result = CliRunner().invoke(app, ["model", "info", str(tiny.directory)])
    assert result.exit_code == 0, result.output
    assert tiny.fingerprint[:16] in result.stdout


def test_model_info_of_nothing(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["model", "info", str(tmp_path)])
    assert result.exit_code == 1
    assert "manifest.json" in result.stderr


def test_model_import_of_nothing(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["model", "import", "no-such-file.gguf", "--data-dir", str(tmp_path)])
    assert result.exit_code == 1
    assert "no-such-file.gguf" in result.stderr
    assert not list(tmp_path.glob("models/*"))
