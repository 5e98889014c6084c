"""The measurement of equivariant layers: what it measures is right, and bad input is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from loadtests import layers
from loadtests.layers import LayerPlan, run
from server.cli import app


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """What the measurement sets is not left to the tests that follow."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "STACK_BYTES", 4 * 3 * 32 * 32)
    report = run(LayerPlan("cyclic(4)", (32,), (1, 3), 2, 1), lambda *_: None)
    assert report.failures == []
    assert {name: one.n for name, one in report.series.items()} == {
        f"width 32, rows {rows}: {kind} (µs)": 2 for rows in (1, 3) for kind in ("dense", "blocked", "transformed")
    }
    read = [
        report.figures[f"width 32, rows 1: weights read by a layer, {kind} (MiB)"] for kind in ("dense", "compressed")
    ]
    assert read[0] == 4 * read[1]


def test_bfloat16_is_measured_against_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "STACK_BYTES", 0)
    report = run(LayerPlan("cyclic(4)", (32,), (1, 2), 1, 1, "bfloat16"), lambda *_: None)
    assert (report.failures, "bfloat16" in report.server) == ([], True)
    assert report.figures["width 32, rows 1: weights read by a layer, dense (MiB)"] == 2 * 32 * 32 / 2**20
    errors = [
        report.figures[f"width 32, rows 2: greatest error, {kind}"] for kind in ("dense", "blocked", "transformed")
    ]
    assert min(errors) > 1e-4  # so it was not computed in float32
    monkeypatch.setattr(layers, "TOLERANCES", {"bfloat16": 1e-4})
    assert len(run(LayerPlan("cyclic(4)", (32,), (2,), 1, 1, "bfloat16"), lambda *_: None).failures) == 3


def test_a_wrong_product_is_no_evidence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "STACK_BYTES", 0)
    monkeypatch.setattr(layers, "FourierLinear", lambda group, weight: layers.Linear(-layers.dense(group, weight)))
    report = run(LayerPlan("cyclic(4)", (32,), (1,), 1, 1), lambda *_: None)
    assert len(report.failures) == 1
    assert "transformed differs" in report.failures[0]


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "STACK_BYTES", 0)
    file = tmp_path / "layers.json"
    options = ["--group", "symmetric(3)", "--widths", "24", "--rows", "2", "--count", "1", "--json", str(file)]
    done = CliRunner().invoke(app, ["bench", "layers", *options])
    assert done.exit_code == 0, done.output
    assert json.loads(file.read_text())["figures"]["width 24, rows 2: dense / blocked"] > 0


@pytest.mark.parametrize(
    "options", [["--group", "Z2"], ["--widths", "1025"], ["--rows", "0"], ["--rows", "a"], ["--dtype", "int8"]]
)
def test_bad_input_is_refused(options: list[str]) -> None:
    assert CliRunner().invoke(app, ["bench", "layers", *options]).exit_code == 2
