"""Training φ: the differentiable attention is the served one, and what is learned is learned reproducibly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from kan.checkpoint.directory import Checkpoint
from kan.knowledge.adapter import Adapter
from kan.knowledge.fit import Fit
from kan.knowledge.phi import FEATURES, Phi, gap_phi, load_phi, zero_phi
from kan.model import Batch, KANModel
from kan.prompt import PromptBuilder
from kb.encoder.minilm import MiniLMEncoder
from lab.errors import PlanError, ResumeError
from lab.training.differentiable import DenseAttention, Rows, frozen_model
from lab.training.examples import Example
from lab.training.fact_bank import FactBank
from lab.training.objective import Objective
from lab.training.parameters import Parameters, Units
from lab.training.points import Point
from lab.training.run import without_kind
from lab.training.trainer import Trainer, TrainingOptions
from server.cli import app
from tests.kan.layout import Layout
from tests.lab.questions.invented import write_question_files

FACTS = ["Mara Lindqvist runs Zorvex.", "Kelmar is in Oslo, by the sea.", "The fare is 12 crowns."]


@pytest.fixture(scope="module")
def exact(tiny: Checkpoint) -> tuple[KANModel, KANModel, PromptBuilder]:
    weights = tiny.tensors()
    return (
        frozen_model(tiny.config, weights, torch.float64),
        KANModel(tiny.config, weights, dtype=torch.float64),
        PromptBuilder.from_checkpoint(tiny),
    )


@pytest.mark.parametrize("mounted", [(), (0,), (0, 1, 2), (2, 0)])
def test_training_attends_as_serving_does(
    exact: tuple[KANModel, KANModel, PromptBuilder], mounted: tuple[int, ...]
) -> None:
    frozen, model, prompt = exact
    question = prompt.tokenizer.encode("Who runs Zorvex?")
    phi = torch.randn(model.config.num_layers, model.config.num_heads, 1 + len(mounted), dtype=torch.float64) * 4
    phi[:, :, 0] = 0

    layout = Layout(model)
    preamble, _, _ = layout.run(list(prompt.preamble))
    start = len(prompt.preamble)
    parts = [layout.run(list(prompt.fact(FACTS[one])), start, [preamble])[0] for one in mounted]
    first = start + max((part.tokens for part in parts), default=0)
    _, wanted, _ = layout.run(question, first, [preamble, *parts], phi)

    bank = FactBank(frozen, prompt)
    bank.add(FACTS)
    other = [FACTS[1]]  # another sequence beside it, longer and shorter at once: padding must not be seen
    rows = Rows.of([question, question[:3]], [first, start + bank.length(FACTS[1])])
    width = 1 + max(len(mounted), 1)
    both = torch.zeros(*phi.shape[:2], 2, width, dtype=torch.float64)
    both[:, :, 0, : phi.shape[-1]] = phi
    knowledge = bank.knowledge([[FACTS[one] for one in mounted], other])
    batch = Batch(rows.tokens, rows.positions, DenseAttention(rows, knowledge, both))
    found = frozen.logits(frozen.forward(batch))[: len(question)]
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


class Facts:
    """A sampler of a fixed batch: what a step sees depends on the step alone."""

    def __init__(self, prompt: PromptBuilder, *, teacher: tuple[str, ...] | None = None) -> None:
        self._prompt = prompt
        self._teacher = teacher

    def batch(self, step: int, size: int) -> list[Example]:
        encode = self._prompt.tokenizer.encode
        return [
            Example(
                facts=tuple(FACTS[: 1 + (step + place) % 3]),
                fits=(Fit(0.8, 0.6, 0), Fit(0.5, 0.1, 0.4), Fit(0.3, 0.3, -0.1))[: 1 + (step + place) % 3],
                prompt=encode("Who runs it?"),
                reply=encode("Mara."),
                weights=[0.5 + place] * len(encode("Mara.")),
                teacher=self._teacher,
            )
            for place in range(size)
        ]


@pytest.fixture(scope="module")
def objective(exact: tuple[KANModel, KANModel, PromptBuilder]) -> Objective:
    frozen, _, prompt = exact
    bank = FactBank(frozen, prompt)
    bank.add(FACTS)
    return Objective(frozen, bank)


def trainer(objective: Objective, prompt: PromptBuilder, steps: int = 6) -> Trainer:
    options = TrainingOptions(steps=steps, batch_size=3, validate_every=2, validation_size=3, adapter_rank=2)
    sampler = Facts(prompt)
    return Trainer(zero_phi(2, 4), Units(12, torch.full((2, 1, 48), 1.5)), objective, sampler, sampler, options)


def test_gradient_is_the_slope_of_the_loss(
    exact: tuple[KANModel, KANModel, PromptBuilder], objective: Objective
) -> None:
    examples = Facts(exact[2]).batch(1, 2)
    shapes = ((2, 4, len(FEATURES), 17), (2, 48, 3), (2, 3, 48), (2, 1, 48))
    sizes = (3.0, 0.3, 0.3, 0.3)
    leaves = [
        (torch.randn(shape, dtype=torch.float64) * size).requires_grad_()
        for shape, size in zip(shapes, sizes, strict=True)
    ]

    def loss(moved: Sequence[torch.Tensor]) -> torch.Tensor:
        return objective(examples, Phi(moved[0], adapter=Adapter(*moved[1:]))).loss

    loss(leaves).backward()  # type: ignore[no-untyped-call]
    for place, leaf in enumerate(leaves):
        direction, step = torch.randn_like(leaf), 1e-5
        with torch.no_grad():
            above, below = (
                loss([one + way * step * direction if one is leaf else one for one in leaves]) for way in (1, -1)
            )
        slope = float((above - below) / (2 * step))
        assert leaf.grad is not None
        assert float((leaf.grad * direction).sum()) == pytest.approx(slope, rel=1e-3), place
        assert abs(slope) > 1e-6


def test_with_the_gold_fact_absent_facts_are_best_ignored(
    exact: tuple[KANModel, KANModel, PromptBuilder], objective: Objective
) -> None:
    examples = Facts(exact[2], teacher=()).batch(2, 3)
    shut = Phi(torch.full((2, 4, len(FEATURES), 17), -1e5, dtype=torch.float64))
    assert objective(examples, shut).loss.item() == pytest.approx(0, abs=1e-9)
    assert objective(examples, None).loss.item() > 1e-3


def test_a_teacher_is_followed_token_by_token(
    exact: tuple[KANModel, KANModel, PromptBuilder], objective: Objective
) -> None:
    """What the frozen model gives with the teacher's facts alone costs nothing, whatever else is mounted and unseen."""
    examples = Facts(exact[2], teacher=(FACTS[0],)).batch(2, 3)
    alone = [replace(one, facts=one.teacher or (), fits=one.fits[:1]) for one in examples]
    assert objective(alone, None).loss.item() == pytest.approx(0, abs=1e-9)
    assert objective(examples, None).loss.item() > 1e-3
    mixed = [examples[0], replace(examples[1], teacher=None), replace(examples[2], teacher=())]
    each = [objective([one], None).loss.item() for one in mixed]
    assert objective(mixed, None).loss.item() == pytest.approx(sum(each) / 3)
    assert objective(mixed, None).reply_loss == pytest.approx(sum(each[:2]) / 2)


def test_a_teacher_may_have_a_phi_and_an_adapter_of_its_own(exact: tuple[KANModel, KANModel, PromptBuilder]) -> None:
    """With its facts and its φ nothing is lost; a batch that mixes teachers is the mean of its examples."""
    frozen, _, prompt = exact
    bank = FactBank(frozen, prompt)
    bank.add(FACTS)
    adapter = Adapter(*(torch.randn(shape) * 0.3 for shape in ((2, 48, 3), (2, 3, 48), (2, 1, 48))))
    guide = Phi(torch.randn(2, 4, len(FEATURES), 17, dtype=torch.float64), adapter=adapter)
    objective = Objective(frozen, bank, guide)
    followed, own, plain = (
        replace(one, teacher=teacher, teacher_fits=fits)
        for one, teacher, fits in zip(
            Facts(prompt).batch(2, 3), ((FACTS[0],), (FACTS[0],), None), ((Fit(0.4),), (), ()), strict=True
        )
    )
    alone = replace(followed, facts=(FACTS[0],), fits=(Fit(0.4),))
    assert objective([alone], guide).loss.item() == pytest.approx(0, abs=1e-9)
    assert objective([alone], None).loss.item() > 1e-3
    assert objective([replace(own, facts=(FACTS[0],), fits=(Fit(0.4),))], guide).loss.item() > 1e-3
    mixed = [own, followed, plain]
    each = [objective([one], guide).loss.item() for one in mixed]
    assert objective(mixed, guide).loss.item() == pytest.approx(sum(each) / 3)


def test_weights_count_tokens(exact: tuple[KANModel, KANModel, PromptBuilder], objective: Objective) -> None:
    """With all the weight on one token, the loss is that token's; the scale of the weights is nothing."""
    (example,) = Facts(exact[2]).batch(1, 1)
    count = len(example.reply)
    single = [
        float(objective([replace(example, weights=[float(place == one) for place in range(count)])], None).loss)
        for one in range(count)
    ]
    assert float(objective([replace(example, weights=[3.0] * count)], None).loss) == pytest.approx(sum(single) / count)
    assert max(single) > min(single)


def test_units_change_nothing() -> None:
    """What a run starts from is what its parameters mean, whatever their units."""
    noise = [torch.randn(shape) for shape in ((2, 48, 3), (2, 3, 48), (2, 1, 48))]
    start = Phi(torch.randn(2, 4, len(FEATURES), 5), "model", "encoder", Adapter(*noise))
    found = Parameters(start, Units(12, torch.rand(2, 1, 48) + 0.1), 0, 0).phi
    for name, tensor in start.tensors().items():
        torch.testing.assert_close(found.tensors()[name], tensor, rtol=1e-5, atol=1e-5)
    assert Parameters(replace(start, adapter=None), Units(12, torch.ones(2, 1, 48)), 0, 0).phi.adapter is None


def test_training_lowers_the_loss(exact: tuple[KANModel, KANModel, PromptBuilder], objective: Objective) -> None:
    run = trainer(objective, exact[2], steps=20)
    run.run(lambda: None, lambda point: None)
    assert run.curve.validation[-1].loss < run.curve.validation[0].loss - 0.01
    assert [point.step for point in run.curve.validation] == list(range(0, 21, 2))


def test_a_resumed_run_is_the_uninterrupted_one(
    exact: tuple[KANModel, KANModel, PromptBuilder], objective: Objective, tmp_path: Path
) -> None:
    whole = trainer(objective, exact[2])
    whole.run(lambda: None, lambda point: None)

    class CutOffError(Exception):
        pass

    def cut_off(point: Point) -> None:
        if point.step == 5:
            raise CutOffError

    state = tmp_path / "state.pt"
    first = trainer(objective, exact[2])
    with pytest.raises(CutOffError):
        first.run(lambda: first.save(state), cut_off)
    second = trainer(objective, exact[2])
    second.resume(state)
    assert second.step == 4  # the last one saved
    second.run(lambda: second.save(state), lambda point: None)
    assert second.phi.digest == whole.phi.digest
    assert second.phi.adapter is not None
    assert bool(second.phi.adapter.up.any())
    assert second.curve == whole.curve

    with pytest.raises(ResumeError, match="other options"):
        trainer(objective, exact[2], steps=7).resume(state)


def test_a_kind_is_left_out_with_all_its_sets() -> None:
    weights = {"synthetic": 2.0, "squad": 1.0, "two_fact": 5.0, "prose": 1.0, "factbook": 2.0}
    assert without_kind(weights, "invented") == {"squad": 0.25, "prose": 0.25, "factbook": 0.5}
    assert without_kind(weights, "squad") == pytest.approx({"synthetic": 2 / 9, "two_fact": 5 / 9, "factbook": 2 / 9})
    for kind, why in (("news", "no set of this kind"), ("synthetic", "there are factbook, invented, squad")):
        with pytest.raises(PlanError, match=why):
            without_kind(weights, kind)
    with pytest.raises(PlanError, match="nothing to learn from"):
        without_kind({"synthetic": 1.0, "two_fact": 1.0}, "invented")


@pytest.mark.slow
def test_from_the_command_line(tiny: Checkpoint, tmp_path: Path) -> None:
    """Real encoder and index, invented questions, a model that learns nothing: files, resuming, refusals."""
    data, out = tmp_path / "data", tmp_path / "run"
    data.mkdir()
    command = ["train", "phi", "--data", str(data), "--out", str(out), "--model", str(tiny.directory)]
    command += ["--steps", "3", "--batch-size", "2", "--questions", "5", "--dev-questions", "2"]
    refused = CliRunner().invoke(app, command)
    assert refused.exit_code == 1
    write_question_files(data)
    for _ in range(2):  # the second run finds that there is nothing left to do
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 0, done.output
    fingerprints = {
        "model_fingerprint": tiny.fingerprint,
        "encoder_fingerprint": MiniLMEncoder().model_fingerprint,
    }
    phi = load_phi(out / "phi.safetensors", tiny.config, **fingerprints)
    assert phi.digest in (out / "phi.md").read_text("utf-8")
    assert (out / "curve.png").read_bytes().startswith(b"\x89PNG")

    more = [*command[:5], str(tmp_path / "more"), *command[6:], "--start", str(out / "phi.safetensors")]
    for sets, why in (("news=1", "not to be trained on"), ("squad", "name=share"), ("squad=0", "above 0")):
        refused = CliRunner().invoke(app, [*more, "--sets", sets])
        assert refused.exit_code != 0
        assert why in " ".join(refused.output.split())
    done = CliRunner().invoke(app, [*more, "--sets", "encyclopedia=3,prose=1"])
    assert done.exit_code == 0, done.output
    card = (tmp_path / "more" / "phi.md").read_text("utf-8")
    assert "Started from φ" in card
    assert "| encyclopedia | 75% |" in card
    refit = ["train", "refit", *command[2:4], "--model", str(tiny.directory), "--questions", "5"]
    done = CliRunner().invoke(app, [*refit, "--start", "gap", "--out", str(tmp_path / "refit")])
    assert done.exit_code == 0, done.output
    other = load_phi(tmp_path / "refit" / "phi.safetensors", tiny.config, **fingerprints)
    assert other.digest != phi.digest
    blend = ["train", "blend", "--model", str(tiny.directory), "--start", str(tmp_path / "refit" / "phi.safetensors")]
    done = CliRunner().invoke(app, [*blend, "--share", "0", "--out", str(tmp_path / "blend")])
    assert done.exit_code == 0, done.output
    untrained = load_phi(tmp_path / "blend" / "phi.safetensors", tiny.config, **fingerprints)
    assert torch.equal(
        untrained.coefficients, gap_phi(*untrained.coefficients.shape[:2], tiny.config.head_dim).coefficients
    )
    missing = CliRunner().invoke(
        app, [*command[:5], str(tmp_path / "none"), *command[6:], "--start", str(tmp_path / "absent")]
    )
    assert missing.exit_code == 1
