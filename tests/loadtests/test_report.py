"""A report that lacks measurements says so."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console

from loadtests.report import Report, print_report, write_json
from loadtests.stats import Estimate


def _report() -> Report:
    report = Report("ttft", "tiny", "http://127.0.0.1:1")
    report.add_series("slow (ms)", [300.0, 310.0, 320.0], wanted=3)
    report.add_series("fast (ms)", [50.0, 62.0], wanted=2)
    report.ratio("ratio", "slow (ms)", "fast (ms)")
    return report


def test_ratio_of_medians() -> None:
    assert _report().figures["ratio"] == 310.0 / 56.0
    assert not _report().failures


def test_too_few_values_fail_the_report() -> None:
    report = _report()
    report.add_series("cut short (ms)", [1.0], wanted=200)
    report.add_series("nothing (ms)", [], wanted=200)
    assert [f.split(":")[0] for f in report.failures] == ["cut short (ms)", "nothing (ms)"]
    report.ratio("impossible", "nothing (ms)", "fast (ms)")
    assert "impossible" not in report.figures


def test_json_and_table_hold_every_series(tmp_path: Path) -> None:
    report = _report()
    report.estimates["share (%)"] = Estimate(90.0, 59.6, 98.2)
    report.failures.append("something [broke]")
    path = tmp_path / "report.json"
    write_json(report, path)
    read = json.loads(path.read_text("utf-8"))
    assert read["series"]["slow (ms)"] == {"n": 3, "median": 310.0, "p99": 320.0, "minimum": 300.0, "maximum": 320.0}
    console = Console(record=True, width=120)
    print_report(report, console)
    text = console.export_text()
    assert "slow (ms)" in text
    assert "5.54" in text
    assert "90 [59.6, 98.2]" in text
    assert read["estimates"]["share (%)"] == {"value": 90.0, "low": 59.6, "high": 98.2}
    assert "something [broke]" in text
