"""`train lm`: reproducible, resumable bit for bit, and it learns."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from rich.progress import Progress
from typer.testing import CliRunner

from kan.checkpoint.directory import Checkpoint
from kan.knowledge.phi import load_phi
from kan.symmetry.parameters import count
from lab.errors import PlanError, ResumeError
from lab.training.lm.configuration import CONFIGURATIONS, LMPlan, read_plan
from lab.training.lm.curve import read_csv
from lab.training.lm.run import STATE, train_lm
from lab.training.lm.trainer import LMTrainer
from server.cli import app
from tests.lab.training.lm.plans import tiny_plan


class Interrupted(Exception):
    pass


def train(plan: LMPlan, output: Path) -> Checkpoint:
    return train_lm(plan, output, Progress(disable=True))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_resumed_run_ends_as_an_uninterrupted_one(
    precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = tiny_plan(precision=precision)
    whole = train(plan, tmp_path / "whole")

    one_step = LMTrainer._one_step

    def cut_off(trainer: LMTrainer) -> object:
        if trainer.step == 5:  # one step after the last state that was saved
            raise Interrupted
        return one_step(trainer)

    monkeypatch.setattr(LMTrainer, "_one_step", cut_off)
    with pytest.raises(Interrupted):
        train(plan, tmp_path / "cut")
    assert torch.load(tmp_path / "cut" / STATE)["step"] == 4
    monkeypatch.setattr(LMTrainer, "_one_step", one_step)
    resumed = train(plan, tmp_path / "cut")

    assert resumed.fingerprint == whole.fingerprint
    assert (tmp_path / "cut" / "curve.csv").read_text() == (tmp_path / "whole" / "curve.csv").read_text()
    first, last = (torch.load(tmp_path / name / STATE) for name in ("whole", "cut"))
    assert first["options"] == last["options"]
    for one, other in zip(first["optimizer"]["state"].values(), last["optimizer"]["state"].values(), strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_run_that_ended_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = tiny_plan(steps=2)
    first = train(plan, tmp_path)
    monkeypatch.setattr(LMTrainer, "__init__", None)
    assert train(plan, tmp_path) == first
    found = tmp_path / "tiny.phi.safetensors"
    phi = load_phi(found, plan.config, model_fingerprint=first.fingerprint, encoder_fingerprint="")
    assert phi.is_zero


def test_other_seeds_are_other_runs(tmp_path: Path) -> None:
    plan = tiny_plan(steps=2)
    fingerprints = {train(plan.changed(seed=seed), tmp_path / str(seed)).fingerprint for seed in (0, 1)}
    assert len(fingerprints) == 2


def test_a_state_of_another_run_or_a_damaged_one_is_refused(tmp_path: Path) -> None:
    train(tiny_plan(steps=2), tmp_path)
    with pytest.raises(ResumeError, match="another plan"):
        train(tiny_plan(steps=3), tmp_path)
    (tmp_path / "tiny.md").unlink()
    state = tmp_path / STATE
    state.write_bytes(state.read_bytes()[:-500])
    with pytest.raises(ResumeError, match="cannot be read"):
        train(tiny_plan(steps=2), tmp_path)


def test_it_learns(tmp_path: Path) -> None:
    train(tiny_plan(steps=60, batch_size=16, validate_every=30, learning_rate=0.01, taught=0.0), tmp_path)
    start, *_, end = read_csv(tmp_path / "curve.csv")
    assert (start.step, end.step) == (0, 60)
    assert end.loss < 0.5 * start.loss


def test_the_configurations_differ_in_the_constraint_alone() -> None:
    group, dense, small = (read_plan(name) for name in ("scan-group", "scan-dense", "scan-dense-small"))
    shared = {"hidden_size", "intermediate_size", "num_layers", "num_heads", "head_dim", "rope_theta"}
    assert group.model.model_dump(include=shared) == dense.model.model_dump(include=shared)
    assert group.training == dense.training == small.training
    assert count(dense.config).free == count(group.config).dense
    assert 1 <= count(small.config).free / count(group.config).free < 1.15
    for path in CONFIGURATIONS.glob("*.toml"):
        assert read_plan(path.stem).name == path.stem


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("head_dim = 16", "head_dim = 15"),
        ("taught = 0.7", "taught = 2"),
        ("taught = 0.7", "teached = 0.7"),
        ("steps = 6", "steps = 0"),
        ("steps = 6", 'steps = "6"'),
        ('split = "add-jump"', 'split = "add-hop"'),
        ('"dax"', '"dux"'),
        ('name = "tiny"', 'name = "../tiny"'),
    ],
)
def test_what_cannot_be_is_named(tmp_path: Path, line: str, named: str) -> None:
    text = (CONFIGURATIONS / "kan-scan.toml").read_text()
    text = text.replace('name = "kan-scan"', 'name = "tiny"').replace("head_dim = 64", "head_dim = 16")
    text = text.replace("steps = 3000", "steps = 6")
    assert line in text
    path = tmp_path / "plan.toml"
    path.write_text(text.replace(line, named))
    word = named.split()[0].strip('"')
    with pytest.raises(PlanError, match=word):
        _ = read_plan(str(path)).config


def test_the_command(tmp_path: Path) -> None:
    plan = tmp_path / "plan.toml"
    text = (CONFIGURATIONS / "scan-group.toml").read_text()
    text = text.replace("hidden_size = 128", "hidden_size = 16").replace("size = 256", "size = 16")
    text = text.replace("validation_size = 128", "validation_size = 2")
    plan.write_text(text.replace("head_dim = 64", "head_dim = 16") + "batch_size = 2\n")
    changed = ["--split", "length", "--steps", "2", "--seed", "7"]
    run = CliRunner().invoke(app, ["train", "lm", str(plan), "--out", str(tmp_path / "run"), *changed])
    assert run.exit_code == 0, run.output
    checkpoint = Checkpoint.open(tmp_path / "run" / "scan-group")
    assert checkpoint.source == "trained from scratch on SCAN, length, seed 7"
    assert {"curve.csv", "curve.png", "state.pt", "scan-group.md"} <= {one.name for one in (tmp_path / "run").iterdir()}
    refused = CliRunner().invoke(app, ["train", "lm", "nothing", "--out", str(tmp_path / "none")])
    assert (refused.exit_code, "kan-scan" in refused.stderr) == (2, True)
