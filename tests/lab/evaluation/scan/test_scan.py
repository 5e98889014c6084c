"""Exact match on SCAN is what greedy decoding by the engine gives, and runs are told apart."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.progress import Progress
from typer.testing import CliRunner

from kan.checkpoint.directory import Checkpoint
from kan.prompt import ChatMessage, PromptBuilder
from kan.shipped import shipped_model
from lab.errors import PlanError
from lab.evaluation.scan.exact import drawn_commands, exact, taught_samples
from lab.evaluation.scan.run import Subject
from lab.evaluation.scan.runs import first_at
from lab.evaluation.scan.stored import ScanRun, configuration_of, merged, read_runs, write_runs
from lab.evaluation.statistics import Estimate
from lab.questions.scan import SPLITS
from lab.training.lm.run import train_lm
from lab.training.lm.sample import Sample
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


async def test_of_equally_likely_words_the_first_is_right_as_for_the_engine(
    shipped: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing exchanges the words of the command, so actions tie; in their logits' last bits the later ones lead."""
    subject = Subject(shipped)
    samples = subject.samples
    prompt = samples.prompt.chat([ChatMessage("user", "twice and thrice")], with_knowledge=False)
    world = World(shipped, PromptBuilder.from_checkpoint(shipped))
    sampling = SamplingParams(temperature=0.0, max_tokens=1)
    async with world.engine(dtype="float32") as engine:
        said = await answer(engine, GenerationRequest("tie", tuple(prompt), (), sampling))
    (first,) = said.tokens
    tied = sorted({int(word) for word in subject.checkpoint.config.vocabulary_action.table[:, first]})
    assert (len(tied) > 1, tied[0]) == (True, first)
    plain = subject.model.logits
    monkeypatch.setattr(
        subject.model, "logits", lambda hidden: plain(hidden) + 1e-5 * torch.arange(plain(hidden).shape[1])
    )
    found = exact(subject.model, [Sample(prompt, [word]) for word in tied], samples.preamble, lambda done: None)
    assert found == [True] + [False] * (len(tied) - 1)


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
        plan = tiny_plan(group=group, steps=2, taught=0.0).model_copy(update={"name": "group" if group else "dense"})
        train_lm(plan, tmp_path / "runs" / str(group), Progress(disable=True))
    begun = tmp_path / "runs" / "begun"
    begun.mkdir()
    (begun / "plan.json").write_text((tmp_path / "runs" / "True" / "plan.json").read_text())
    report, plot = tmp_path / "runs.json", tmp_path / "runs.png"
    command = ["eval", "scan-runs", str(tmp_path / "runs"), "--questions", "8"]
    run = CliRunner().invoke(app, [*command, "--json", str(report), "--plot", str(plot)])
    assert run.exit_code == 0, run.output
    found = json.loads(report.read_text())
    assert (found["target_loss"], found["unfinished"], len(found["runs"])) == (0.05, 1, 2)
    assert len(report.read_text().splitlines()) == 2 + len(found["runs"])
    for one in found["runs"]:
        assert (one["split"], one["seed"], one["exact"]["n"], one["to_target"]) == ("add-jump", 0, 8, None)
        assert [step for step, _ in one["curve"]] == [0, 2]
    dense, group = sorted((one["parameters"] for one in found["runs"]), reverse=True)
    assert dense == 8 * group
    assert plot.read_bytes().startswith(b"\x89PNG")
    empty = CliRunner().invoke(app, ["eval", "scan-runs", str(tmp_path / "nothing")])
    assert (empty.exit_code, "holds no run" in empty.stderr) == (1, True)

    shutil.rmtree(tmp_path / "runs" / "False")  # as on another machine: what is known of it stays
    again = CliRunner().invoke(app, [*command, "--json", str(report)])
    assert (again.exit_code, "1 of these stood in" in " ".join(again.output.split())) == (0, True)
    assert json.loads(report.read_text())["runs"] == found["runs"]


def one_run(**changed: Any) -> ScanRun:
    known = {"model": "a", "split": "length", "seed": 0, "steps": 9, "parameters": 5, "to_target": None}
    return ScanRun(**{**known, "exact": Estimate(0.5, 0.1, 0.9, 8), "curve": [(0, 3.25), (25, 0.04)], **changed})


def test_what_is_known_is_kept_and_what_is_stale_is_told() -> None:
    old, other = one_run(configuration="x"), one_run(seed=1, configuration="x")
    new = replace(old, steps=10)
    assert merged([new], [old, other]) == ([new, other], [])
    changed = replace(new, configuration="y")
    assert merged([changed], [old, other]) == ([changed], [other])
    assert merged([changed], [replace(other, model="b")]) == ([changed, replace(other, model="b")], [])
    assert merged([], [other, old]) == ([old, other], [])


def test_runs_stored_without_their_configuration_are_told_apart_by_steps_and_parameters() -> None:
    measured, unnamed = one_run(configuration="x"), one_run(seed=1)
    assert merged([measured], [unnamed])[1] == []
    assert merged([measured], [replace(unnamed, steps=10)])[1] == [replace(unnamed, steps=10)]
    assert merged([measured], [replace(unnamed, parameters=6)])[1] == [replace(unnamed, parameters=6)]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "docs" / "scan.json"
    assert read_runs(path) == []
    runs = [one_run(configuration="x"), one_run(seed=1, to_target=25)]
    write_runs(runs, 1, path)
    assert read_runs(path) == runs
    write_runs([], 0, path)
    assert read_runs(path) == []


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "JSON"),
        ('{"target_loss": 0.05}', "unfinished"),
        ('{"target_loss": 0.1, "unfinished": 0, "runs": []}', "0.1"),
        ("[]", ""),
    ],
)
def test_a_file_of_something_else_is_not_written_over(text: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "scan.json"
    path.write_text(text)
    refused = CliRunner().invoke(app, ["eval", "scan-runs", str(tmp_path / "runs"), "--json", str(path)])
    assert (refused.exit_code, told in refused.stderr, path.read_text()) == (1, True, text)


def test_configurations_differ_by_all_but_split_and_seed() -> None:
    plan = tiny_plan()
    assert configuration_of(plan) == configuration_of(plan.changed(split="length", seed=4))
    assert len({configuration_of(one) for one in (plan, plan.changed(steps=7), tiny_plan(group=False))}) == 3
