"""Locust's scenarios against a real server of the shipped model."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest

from kan.checkpoint.directory import Checkpoint
from tests.test_imports import ROOT


@pytest.mark.slow
def test_locust_runs_all_scenarios(smollm2: Checkpoint, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "smollm2-135m").symlink_to(smollm2.directory)
    command = [sys.executable, "-m", "loadtests.locust.run", "--data-dir", tmp_path, "--out", out, "--seconds", "10"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    seen = {row["Name"]: int(row["Request Count"]) for row in _stats(out / "mixed_stats.csv")}
    wanted = {"chat", "stream, whole", "stream, first token", "stream, left", "PUT fact"}
    assert wanted <= seen.keys()
    assert all(seen[name] > 0 for name in wanted)
    medians = {row["Name"]: float(row["Median Response Time"]) for row in _stats(out / "mixed_stats.csv")}
    assert medians["stream, whole"] > medians["stream, first token"] > 0
    assert {"overload", "overload, refused"} <= {row["Name"] for row in _stats(out / "overload_stats.csv")}
    for name in ("mixed", "overload"):
        assert "<html" in (out / f"{name}.html").read_text("utf-8")
        assert (out / f"{name}.png").stat().st_size > 5_000


def _stats(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
