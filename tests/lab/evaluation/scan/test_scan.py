"""Exact match on SCAN is what greedy decoding by the engine gives, and runs are told apart."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from rich.progress import Progress
from typer.testing import CliRunner

from kan.checkpoint.directory import Checkpoint
from kan.prompt import PromptBuilder
from kan.shipped import shipped_model
from lab.errors import PlanError
from lab.evaluation.scan.exact import drawn_commands, exact, taught_samples
from lab.evaluation.scan.run import Subject
from lab.evaluation.scan.runs import first_at
from lab.questions.scan import SPLITS
from lab.training.lm.run import train_lm
from lab.training.points import Point
from server.cli import app
from server.engine.protocol import FactTokens, GenerationRequest, MountedFact, SamplingParams
from tests.engine.harness import Fit, World, answer
from tests.lab.training.lm.plans import tiny_plan


@pytest.fixture(scope="module")
def shipped() -> Checkpoint:
    directory = shipped_model("kan-scan")
    assert directory is not None
    return Checkpoint.open(directory)


async def test_exact_match_is_what_the_engine_generates(shipped: Checkpoint) -> None:
    """Half of the replies are spoilt, so that both outcomes are compared."""
    subject = Subject(shipped)
    commands = drawn_commands("add-jump", 6, seed=1)
    samples = [*map(subject.samples.plain, commands), *taught_samples(subject.samples, commands, seed=1)]
    spoilt = random.Random(0).sample(range(len(samples)), len(samples) // 2)
    for place in spoilt:
        reply = list(samples[place].reply)
        reply[-2], reply[-1] = reply[-1], reply[-2]
        samples[place] = type(samples[place])(samples[place].prompt, reply, samples[place].facts)
    found = exact(subject.model, samples, subject.samples.preamble, lambda done: None)
    world = World(shipped, PromptBuilder.from_checkpoint(shipped))
    async with world.engine(dtype="float32") as engine:
        for one, right in zip(samples, found, strict=True):
            facts = tuple(MountedFact(FactTokens(str(fact), tuple(fact)), Fit(1.0)) for fact in one.facts)
            sampling = SamplingParams(temperature=0.0, max_tokens=64)
            request = GenerationRequest(f"scan-{id(one)}", tuple(one.prompt), facts, sampling)
            said = await answer(engine, request)
            assert (list(said.tokens) == list(one.reply)) == right
    assert set(found) == {True, False}


def test_what_is_tested() -> None:
    everything = drawn_commands("length", 0, seed=0)
    assert everything == list(SPLITS["length"]().test)
    some = drawn_commands("length", 50, seed=0)
    assert len({one.text for one in some}) == 50
    assert some == drawn_commands("length", 50, seed=0) != drawn_commands("length", 50, seed=1)
    with pytest.raises(PlanError, match="around-right"):
        drawn_commands("around-left", 0, seed=0)


def test_the_first_step_at_a_loss() -> None:
    curve = [Point(0, 3.0, 0.0), Point(50, 0.1, 0.5), Point(100, 0.04, 0.9), Point(150, 0.06, 0.9)]
    assert first_at(curve, 0.05) == 100
    assert first_at(curve, 0.01) is None


def test_the_command(shipped: Checkpoint, tiny: Checkpoint, tmp_path: Path) -> None:
    report = tmp_path / "scan.json"
    run = CliRunner().invoke(app, ["eval", "scan", "--questions", "40", "--taught", "--json", str(report)])
    assert run.exit_code == 0, run.output
    found = json.loads(report.read_text())
    assert found["fingerprint"] == shipped.fingerprint
    figures = found["findings"]["SCAN, add-jump: exact match"]
    assert figures["test part"]["n"] == 40
    assert figures["test part"]["mean"] >= 0.9
    refused = CliRunner().invoke(app, ["eval", "scan", str(tiny.directory)])
    assert (refused.exit_code, "vocabulary" in refused.stderr) == (2, True)
    unknown = CliRunner().invoke(app, ["eval", "scan", "--splits", "simple"])
    assert (unknown.exit_code, "add-jump" in unknown.stderr) == (2, True)


def test_runs_are_found_and_compared(tmp_path: Path) -> None:
    for group in (True, False):
        plan = tiny_plan(group=group, steps=2, taught=0.0)
        train_lm(plan, tmp_path / "runs" / str(group), Progress(disable=True))
    begun = tmp_path / "runs" / "begun"
    begun.mkdir()
    (begun / "plan.json").write_text((tmp_path / "runs" / "True" / "plan.json").read_text())
    report, plot = tmp_path / "runs.json", tmp_path / "runs.png"
    command = ["eval", "scan-runs", str(tmp_path / "runs"), "--questions", "8"]
    run = CliRunner().invoke(app, [*command, "--json", str(report), "--plot", str(plot)])
    assert run.exit_code == 0, run.output
    found = json.loads(report.read_text())
    assert found["unfinished"] == 1
    assert len(found["runs"]) == 2
    for one in found["runs"]:
        assert (one["split"], one["seed"], one["exact"]["n"], one["to_target"]) == ("add-jump", 0, 8, None)
        assert [point[0] for point in one["curve"]] == [0, 2]
    dense, group = sorted((one["parameters"] for one in found["runs"]), reverse=True)
    assert dense == 8 * group
    assert plot.read_bytes().startswith(b"\x89PNG")
    empty = CliRunner().invoke(app, ["eval", "scan-runs", str(tmp_path / "nothing")])
    assert (empty.exit_code, "holds no run" in empty.stderr) == (1, True)
