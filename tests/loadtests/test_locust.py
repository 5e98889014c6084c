"""Locust's scenarios against a real server of the shipped model."""

from __future__ import annotations

import csv
import os
import signal
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


SLOW_TO_END = """
import pathlib, signal, sys, time
def report(*_):
    time.sleep(0.3)
    pathlib.Path(sys.argv[1]).write_text("the report")
    sys.exit(0)
signal.signal(signal.SIGINT, report)
print("running", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_who_ends_the_load_still_gets_its_report(tmp_path: Path, number: signal.Signals) -> None:
    """As the terminal's Ctrl-C does it: to the whole group. Locust takes its time over the report."""
    report = tmp_path / "report.html"
    code = (
        "import os, signal, sys; from loadtests.locust.run import run_to_report; from loadtests.serving import _leave;"
        "signal.signal(signal.SIGTERM, _leave);"
        "signal.signal(signal.SIGINT, signal.default_int_handler);"  # whoever runs tests in the background ignores it
        f"run_to_report([sys.executable, '-c', {SLOW_TO_END!r}, {str(report)!r}], os.environ)"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    ) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == b"running\n"
        os.killpg(run.pid, number)
        assert run.wait(20) != 0
    assert report.read_text() == "the report"


def _stats(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
