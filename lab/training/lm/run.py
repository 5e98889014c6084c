"""`kalmagrove train lm`, wired: a plan, the samples of its task, the trainer, and what comes of it.

plan.json                  what is trained
state.pt                   to go on from
curve.csv, curve.png
<name>/                    the checkpoint, as a server loads it
<name>.phi.safetensors     if facts were mounted: the φ that they were mounted with, which is zero
<name>.md                  its card, written last
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from rich.progress import Progress

from kan.checkpoint.directory import Checkpoint, write_checkpoint
from kan.knowledge.pages import write_whole
from kan.knowledge.phi import save_phi, zero_phi
from kan.prompt import PromptBuilder
from kan.tokenizer import Tokenizer
from lab.errors import ResumeError
from lab.questions.scan import SPLITS
from lab.questions.scan_words import TEMPLATE, tokenizer_json
from lab.training.device import training_device
from lab.training.lm.card import LMCard, write_card
from lab.training.lm.configuration import LMPlan
from lab.training.lm.curve import draw_curve, write_csv
from lab.training.lm.scan import ScanSamples
from lab.training.lm.trainer import LMTrainer
from lab.training.points import Point

PLAN = "plan.json"
STATE = "state.pt"
TABLE = "curve.csv"
CURVE = "curve.png"


def train_lm(plan: LMPlan, output: Path, progress: Progress) -> Checkpoint:
    """Train, or go on with what `output` holds; nothing is left to do for a run that ended.

    Raises PlanError, ResumeError, CheckpointError or OSError.
    """
    config, device = plan.config, training_device()
    _begin(plan, output)
    if (output / f"{plan.name}.md").is_file():
        return Checkpoint.open(output / plan.name)
    prompt = PromptBuilder.for_model(config, Tokenizer(tokenizer_json()), TEMPLATE)
    split = SPLITS[plan.task.split]()
    samples = ScanSamples(split.train, prompt, config.eos_token_ids[0], share=plan.task.taught, seed=plan.training.seed)
    trainer = LMTrainer(config, samples, plan.training, device)
    state = output / STATE
    if state.exists():
        trainer.resume(state)
    first, started = trainer.step, time.monotonic()
    task = progress.add_task("training", total=plan.training.steps, completed=trainer.step)

    def advance(point: Point) -> None:
        progress.update(task, completed=point.step, description=f"training (loss {point.loss:.3f})")

    def save() -> None:
        trainer.save(state)
        write_csv(trainer.curve, plan.training, output / TABLE)

    trainer.run(save, advance)
    seconds_per_step = (time.monotonic() - started) / max(1, trainer.step - first)
    draw_curve(trainer.curve, output / CURVE)
    checkpoint = write_checkpoint(
        output / plan.name,
        config,
        trainer.weights,
        tokenizer_json(),
        TEMPLATE,
        source=f"trained from scratch on SCAN, {plan.task.split}, seed {plan.training.seed}",
        overwrite=True,
    )
    if plan.task.taught:
        phi = replace(zero_phi(config.num_layers, config.num_heads), model_fingerprint=checkpoint.fingerprint)
        save_phi(phi, output / f"{plan.name}.phi.safetensors")
    card = LMCard(plan, checkpoint, trainer.curve, len(split.train), seconds_per_step, device.type)
    write_card(card, output / f"{plan.name}.md")
    return checkpoint


def _begin(plan: LMPlan, output: Path) -> None:
    """Note the plan. Raises ResumeError if the directory holds a run with another one."""
    output.mkdir(parents=True, exist_ok=True)
    path, text = output / PLAN, plan.model_dump_json(indent=2) + "\n"
    if not path.exists():
        write_whole(path, text.encode("utf-8"))
    elif path.read_text("utf-8") != text:
        raise ResumeError(f"{output}: a run with another plan; it cannot be changed half-way")
