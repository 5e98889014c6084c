"""`kalmagrove eval knowledge`: what it refuses, and the smoke run on the real model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from kan.checkpoint.directory import Checkpoint
from kan.knowledge.grounding import Grounding
from server.cli import app
from tests.lab.questions.invented import write_question_files


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--data is needed for edits, counterfact, locality"),
        (["--data", "nowhere"], "nowhere is no directory"),
        (["--parts", "table", "--sets", "trivia"], "trivia is unknown"),
        (["--parts", "nothing"], "nothing is unknown"),
        (["--parts", "table", "--conditions", "magic"], "magic is unknown"),
        (["--parts", "table", "--distractors", "0,many"], "no list of numbers"),
        (["--parts", "table", "--distractors", "99"], "0 to 63"),
        (["--parts", "table", "--resume"], "--resume needs the --json"),
    ],
)
def test_refusals(arguments: list[str], said: str) -> None:
    result = CliRunner().invoke(app, ["eval", "knowledge", *arguments])
    assert result.exit_code == 2, result.output
    assert said in result.stderr


@pytest.mark.slow
def test_a_run_leaves_a_report_a_picture_and_a_grounding_score(tiny: Checkpoint, tmp_path: Path) -> None:
    report, picture, grounding = (tmp_path / name for name in ("report.json", "report.png", "grounding.json"))
    command = ["eval", "knowledge", "--model", str(tiny.directory), "--phi", "gap", "--sets", "synthetic"]
    command += ["--parts", "table,grounding", "--conditions", "none,learned", "--distractors", "0,2"]
    command += ["--questions", "3", "--max-tokens", "4", "--json", str(report)]
    result = CliRunner().invoke(app, [*command, "--plot", str(picture), "--grounding", str(grounding)])
    assert result.exit_code == 0, result.output
    assert "synthetic: answer contains gold" in result.stdout
    content = json.loads(report.read_text("utf-8"))
    assert [cell["condition"] for cell in content["cells"]] == ["none", "learned", "learned"]
    assert content["versions"]["torch"]
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert Grounding.load(grounding).model_fingerprint == tiny.fingerprint

    resumed = CliRunner().invoke(app, [*command, "--resume", "--parts", "table"])
    assert resumed.exit_code == 0, resumed.output
    seconds = [cell["seconds"] for cell in json.loads(report.read_text("utf-8"))["cells"]]
    assert seconds == [cell["seconds"] for cell in content["cells"]], "a finished cell was measured again"
    other = CliRunner().invoke(app, [*command, "--resume", "--seed", "2"])
    assert (other.exit_code, "other options" in other.stderr) == (1, True)


def test_a_phi_is_asked_what_it_was_trained_without(tiny: Checkpoint, tmp_path: Path) -> None:
    """Two φs that differ from the shipped one; the third is not trained yet. A φ made anew is measured anew."""
    model, report = ["--model", str(tiny.directory)], tmp_path / "report.json"

    def make(kind: str, share: str) -> None:
        blend = ["train", "blend", *model, "--start", "none", "--share", share, "--out", str(tmp_path / kind)]
        assert CliRunner().invoke(app, blend).exit_code == 0

    def measured() -> dict[tuple[str, str], float]:
        command = ["eval", "left-out", str(tmp_path), "--data", str(tmp_path), *model, "--questions", "3"]
        command += ["--sets", "synthetic,two_fact,factbook", "--distractors", "2", "--max-tokens", "4"]
        done = CliRunner().invoke(app, [*command, "--json", str(report)])
        assert done.exit_code == 0, done.output
        assert "factbook: not trained yet" in " ".join((done.stdout + done.stderr).split())
        cells = json.loads(report.read_text("utf-8"))["cells"]
        return {(cell["set"], cell["condition"]): cell["seconds"] for cell in cells}

    write_question_files(tmp_path)
    make("all", "0.5")
    make("invented", "0.25")
    first = measured()
    rows = ("prompt", "learned", "all_kinds")  # `gap` is what this model is served with
    invented = {(name, row) for name in ("synthetic", "two_fact") for row in (*rows, "left_out")}
    assert set(first) == invented | {("factbook", row) for row in rows}
    found = json.loads(report.read_text("utf-8"))["findings"]
    assert list(found) == [f"{name}: the short φ without its kind" for name in ("synthetic", "two_fact")]
    assert found["two_fact: the short φ without its kind"]["- pages, short φ of all kinds, 2 distractors"]["n"] == 3
    make("invented", "0.75")
    again = measured()
    assert {key for key in first if first[key] != again[key]} <= {key for key in first if key[1] == "left_out"}


@pytest.mark.slow
@pytest.mark.smollm2
def test_phi_beats_no_phi(smollm2: Checkpoint) -> None:
    """What CI watches: the φ that is served by default must answer clearly more than none."""
    result = CliRunner().invoke(
        app, ["eval", "knowledge", "--smoke", "--model", str(smollm2.directory)], env={"COLUMNS": "200"}
    )
    assert result.exit_code == 0, result.output
    assert "passed" in result.stdout
