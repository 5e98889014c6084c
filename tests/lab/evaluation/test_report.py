"""The report as JSON, as tables and as a picture."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from rich.console import Console

from lab.errors import PlotError
from lab.evaluation.plot import require_matplotlib, write_plot
from lab.evaluation.report import Findings, Report, print_report, write_json
from lab.evaluation.statistics import Bin, bootstrap
from tests.lab.evaluation.invented import cell


@pytest.fixture
def report() -> Report:
    cells = [
        *(cell(name, [True, False, name == "learned"], count) for name in ("prompt", "learned") for count in (0, 7)),
        cell("none", [False] * 3, 0),
    ]
    meanings = {"none": "no knowledge", "prompt": "facts in the prompt", "learned": "pages, learned φ"}
    found = Findings("grounded: a title", {"AUROC": 0.9, "share": bootstrap([True])}, [Bin(0.1, 0.2, 3)])
    return Report({"command": "kalmagrove eval knowledge"}, None, meanings, cells, [found])


def test_a_report_as_json(report: Report, tmp_path: Path) -> None:
    write_json(report, tmp_path / "new" / "report.json")
    content = json.loads((tmp_path / "new" / "report.json").read_text("utf-8"))
    assert content["command"] == "kalmagrove eval knowledge"
    learned = next(one for one in content["cells"] if (one["condition"], one["distractors"]) == ("learned", 7))
    assert learned["contains"]["mean"] == pytest.approx(2 / 3, abs=1e-4)
    assert content["learned_of_ceiling"] == {"synthetic": {"0": None, "7": None}}
    assert learned["above_prompt"]["mean"] == pytest.approx(1 / 3, abs=1e-4)
    assert content["findings"]["grounded: a title"]["AUROC"] == 0.9
    assert content["findings"]["grounded: a title"]["reliability"][0]["n"] == 3


def test_a_report_as_tables(report: Report) -> None:
    console = Console(record=True, width=160, file=open("/dev/null", "w", encoding="utf-8"))  # noqa: SIM115
    print_report(report, console)
    text = console.export_text()
    for shown in ("facts in the prompt", "learned - prompt", "numbers and identifiers", "AUROC", "67 ["):
        assert shown in text
    console.file.close()


def test_a_report_as_a_picture(report: Report, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    write_plot(report, tmp_path / "report.png")
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(PlotError, match="nothing was measured"):
        write_plot(Report({}), tmp_path / "none.png")


def test_a_picture_needs_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(PlotError, match=r"kalmagrove\[train\]"):
        require_matplotlib()
