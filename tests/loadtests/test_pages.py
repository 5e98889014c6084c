"""The measurement of pages in few bits: what it measures is right, and bad input is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from loadtests import pages
from loadtests.pages import PagesPlan, run
from server.cli import app

SMALL = {"layers": 2, "heads": 2, "kv_heads": 1, "head_dim": 8}


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """What the measurement sets is not left to the tests that follow."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "READ_BYTES", 1)


def plan(**changed: object) -> PagesPlan:
    given = {"facts": 3, "tokens": 20, "rows": (1, 3), "rounds": 2, "seed": 1, "kernels": "torch", **SMALL}
    return PagesPlan(**{"dtype": torch.bfloat16, **given, **changed})  # type: ignore[arg-type]


def test_report() -> None:
    report = run(plan(), lambda *_: None)
    assert report.failures == []
    assert {name: one.n for name, one in report.series.items()} == {
        f"{rows} rows: {kind} (µs)": 2 for rows in (1, 3) for kind in pages.KINDS
    }
    own, *small = (report.figures[f"memory of a fact, {kind} (KiB)"] for kind in pages.KINDS)
    assert all(one < own for one in small), "20 tokens are two pages, and one small one"


def test_as_many_sets_as_there_is_to_read(monkeypatch: pytest.MonkeyPatch) -> None:
    assert plan().sets == 1
    monkeypatch.setattr(pages, "READ_BYTES", 10 * 3 * 2 * 2 * 2 * 16 * 8 * 2)
    assert plan().sets == 10


def test_a_wrong_result_is_no_evidence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "TOLERANCE", {"8 bits": 0.0, "4 bits": 1.0})
    first, *others = run(plan(), lambda *_: None).failures
    assert "8 bits differ by 0" in first
    assert all("8 bits" in one for one in others)


def test_the_command(tmp_path: Path) -> None:
    file = tmp_path / "pages.json"
    options = ["--facts", "1", "--tokens", "5", "--rows", "1", "--count", "1", "--json", str(file)]
    done = CliRunner().invoke(app, ["bench", "pages", *options])
    assert done.exit_code == 0, done.output
    assert json.loads(file.read_text())["figures"]["1 rows: own / 8 bits"] > 0


@pytest.mark.parametrize("options", [["--rows", "0"], ["--facts", "0"], ["--tokens", "a"], ["--kernels", "cuda"]])
def test_bad_input_is_refused(options: list[str]) -> None:
    assert CliRunner().invoke(app, ["bench", "pages", *options]).exit_code == 2
