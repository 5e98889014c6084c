"""`kalmagrove bench attention`: what it makes of measurements, and one small run."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from loadtests.attention import run
from loadtests.attention.measure import Measured, Shape, crossing, exponent
from loadtests.attention.partial import Partial
from loadtests.attention.run import AttentionPlan, report_of
from server.cli import app


def test_exponents_are_those_of_a_power_law() -> None:
    seconds = {n: 3e-9 * n**1.5 for n in (1024, 4096, 8192, 65536)} | {512: 1.0}
    assert exponent(seconds, 1024) == pytest.approx(1.5)
    with pytest.raises(ValueError, match="two lengths"):
        exponent(seconds, 65536)


def test_crossing_is_where_it_stays_faster() -> None:
    full = {1: 1.0, 2: 2.0, 4: 4.0, 8: 8.0}
    assert crossing({1: 0.5, 2: 3.0, 4: 3.0, 8: 3.0}, full) == 4
    assert crossing({1: 0.5, 2: 1.0, 4: 3.0, 8: 3.0}, full) == 1
    assert crossing({1: 0.5, 2: 1.0, 4: 3.0, 8: 9.0}, full) is None


def test_what_a_report_says() -> None:
    lengths = (4096, 8192)
    full = Measured({n: 1e-9 * n**2 for n in lengths}, {n: 1e-6 * n for n in lengths}, dict.fromkeys(lengths, 2**21))
    ours = Measured({4096: 0.02, 8192: 0.02}, {4096: 0.001, 8192: 0.1}, dict.fromkeys(lengths, 2**20))
    plan = AttentionPlan(4096, 8192, 16, 2048, 1, Shape())
    report = report_of(plan, {"full": full, "sqrt": ours})
    assert report.figures["exponent, prefill, full"] == pytest.approx(2)
    assert report.figures["full / sqrt, prefill, 8192 tokens"] == pytest.approx(1e-9 * 8192**2 / 0.02)
    assert report.figures["sqrt is faster from, prefill (tokens)"] == 8192
    assert "sqrt is faster from, decode step (tokens)" not in report.figures
    assert report.samples["working memory, full (KiB per row)"] == [2048, 2048]


def test_a_run_leaves_a_report_and_a_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    arguments = [
        "bench",
        "attention",
        "--shortest",
        "512",
        "--longest",
        "1100",
        "--blocks",
        "2",
        "--threshold",
        "0",
        "--heads",
        "2",
        "--kv-heads",
        "1",
        "--head-dim",
        "32",
    ]
    arguments += ["--json", str(tmp_path / "a.json"), "--plot", str(tmp_path / "a.png")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "a.json").read_text())
    assert report["samples"]["tokens"] == [512, 1024]
    for kernels in ("", ", native") if torch.cpu._is_avx512_bf16_supported() else ("",):
        assert all(value > 0 for value in report["samples"][f"prefill, sqrt{kernels} (ms)"])
        assert f"full / sqrt, decode step{kernels}, 1024 tokens" in report["figures"]
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "a.png"]


def measured(calls: list[str]) -> Callable[..., Measured]:
    def measure(plan: AttentionPlan, name: str, *_: object) -> Measured:
        if name in calls:
            raise KeyboardInterrupt
        calls.append(name)
        return Measured(*({n: 1.0 / len(calls) for n in plan.lengths} for _ in range(3)))

    return measure


def test_a_run_that_was_cut_off_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, path, calls = AttentionPlan(512, 1024, 2, 0, 1, Shape()), tmp_path / "deep" / "a.partial.jsonl", ["full"]
    monkeypatch.setattr(run, "_measured", measured(calls))
    with pytest.raises(KeyboardInterrupt):
        run.run(plan, lambda *_: None, path)
    calls[:] = ["sqrt"]
    path.write_text(path.read_text() + '{"name": "fu')  # while it was written
    with pytest.raises(ValueError, match="other options"):
        run.run(replace(plan, blocks=3), lambda *_: None, path)
    report = run.run(plan, lambda *_: None, path)
    assert calls[:2] == ["sqrt", "full"]
    assert report.samples["prefill, sqrt (ms)"] == [500.0, 500.0]
    assert not path.exists()


@pytest.mark.parametrize("behind", ["{}\n", "[\n", '{"name": "full", "measured": {"prefill": 3}}\n'])
def test_what_cannot_be_read_is_told(tmp_path: Path, behind: str) -> None:
    path = tmp_path / "a.partial.jsonl"
    Partial(path, {"plan": 1})
    path.write_text(path.read_text() + behind)
    with pytest.raises(ValueError, match="remove it"):
        Partial(path, {"plan": 1})


def test_lengths_that_cannot_be_measured_are_refused() -> None:
    result = CliRunner().invoke(app, ["bench", "attention", "--shortest", "1000"])
    assert result.exit_code == 2
    assert "lengths must double" in result.stderr
