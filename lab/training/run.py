"""`kalmagrove train`, wired: questions, the real encoder and index, the frozen model, the trainer."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from rich.progress import Progress

from kan.checkpoint.directory import Checkpoint
from kan.knowledge.phi import Phi, save_phi, zero_phi
from kan.prompt import PromptBuilder
from kb.encoder.minilm import MiniLMEncoder
from lab.errors import PlanError
from lab.evaluation.conditions import mounted as asked_of
from lab.evaluation.subject import Subject
from lab.questions.mounting import Distractors
from lab.questions.question import Question, Split
from lab.questions.sources import kind_of, load_pool
from lab.training.blend import blended
from lab.training.card import LICENCES, ModelCard, write_card
from lab.training.curve import plot_curve
from lab.training.device import training_device
from lab.training.differentiable import frozen_model
from lab.training.examples import Sampler, Source, gold_alone, mounted_at_random
from lab.training.fact_bank import FactBank
from lab.training.objective import Objective
from lab.training.parameters import Units
from lab.training.points import Point
from lab.training.refit import Mounting, RefitOptions, refit
from lab.training.teacher import own_replies, replies_of
from lab.training.trainer import Trainer, TrainingOptions
from server.engine.dtype import choose_dtype
from server.loading import load_learned

WEIGHTS: Mapping[str, float] = {
    "synthetic": 0.20,
    "factbook": 0.15,
    "counterfact": 0.15,
    "squad": 0.25,
    "two_fact": 0.25,
}
"""How often each set is drawn, unless a run says otherwise."""
MOUNTINGS = 2
"""Of every question, for a refit."""
STATE = "state.pt"
TEACHER = "teacher.json"
FOLLOWED = "followed.json"
PHI = "phi.safetensors"
CARD = "phi.md"
CURVE = "curve.png"


@dataclass(frozen=True, slots=True)
class PhiRun:
    """Where a run reads and writes, and how large its pools of questions are."""

    data: Path
    output: Path
    checkpoint: Checkpoint
    questions: int
    dev_questions: int
    options: TrainingOptions
    start: str = "gap"
    """The φ to begin with: as in the setting KALMAGROVE_PHI."""
    weights: Mapping[str, float] = field(default_factory=lambda: WEIGHTS)
    """How often each set is drawn."""
    followed: frozenset[str] = frozenset()
    """Sets whose replies are those of `start`, given the right facts alone, and not the data's."""

    def __post_init__(self) -> None:
        if barred := sorted(set(self.weights) - set(LICENCES)):
            known = ", ".join(LICENCES)
            raise PlanError(f"{', '.join(barred)}: not known, or not to be trained on; there are {known}")
        if strange := sorted(self.followed - set(self.weights)):
            raise PlanError(f"{', '.join(strange)}: to be followed, but not among the sets that are drawn")


def without_kind(weights: Mapping[str, float], kind: str) -> dict[str, float]:
    """The shares of the other kinds' sets, which keep their proportions and add up to one. Raises PlanError."""
    kinds = {kind_of(name) for name in weights}
    if kind not in kinds:
        raise PlanError(f"{kind}: no set of this kind is drawn; there are {', '.join(sorted(kinds))}")
    if len(kinds) == 1:
        raise PlanError(f"{kind}: without it there is nothing to learn from")
    kept = {name: share for name, share in weights.items() if kind_of(name) != kind}
    return {name: share / sum(kept.values()) for name, share in kept.items()}


def train_phi(run: PhiRun, progress: Progress) -> None:
    """Train, or go on with what `run.output` holds. Raises DataError, PhiError, GroundingError, ValueError
    or OSError for what cannot be used."""
    run.output.mkdir(parents=True, exist_ok=True)
    encoder = MiniLMEncoder()
    start = _named(run.start, run.checkpoint, encoder)
    prompt = PromptBuilder.from_checkpoint(run.checkpoint)
    sources: dict[Split, list[Source]] = {
        "train": _sources(run, "train", run.questions, encoder, progress),
        "dev": _sources(run, "dev", run.dev_questions, encoder, progress),
    }
    taught = _taught(run, start, encoder, [source for split in sources.values() for source in split], progress)
    trainer = _trainer(run, start, prompt, sources, taught, progress)
    state = run.output / STATE
    if state.exists():
        trainer.resume(state)
    task = progress.add_task("training", total=run.options.steps, completed=trainer.step)

    def advance(point: Point) -> None:
        progress.update(task, completed=point.step, description=f"training (loss {point.loss:.2f})")

    started = time.monotonic()
    trainer.run(lambda: _save(run, trainer), advance)
    card = ModelCard(
        model=run.checkpoint.config.name,
        start=run.start,
        phi=trainer.phi,
        sets={source.pool.dataset: (len(source.pool.questions), len(source.pool.facts)) for source in sources["train"]},
        weights=run.weights,
        options=run.options,
        curve=trainer.curve,
        minutes=(time.monotonic() - started) / 60,
        device=training_device().type,
    )
    write_card(card, run.output / CARD)


def refit_phi(run: PhiRun, options: RefitOptions, progress: Progress) -> None:
    """Refit the splines of `run.start` and write phi.safetensors. Raises as `train_phi`."""
    run.output.mkdir(parents=True, exist_ok=True)
    encoder = MiniLMEncoder()
    start = _named(run.start, run.checkpoint, encoder)
    rng = random.Random(run.options.seed)
    mounted = [
        mounted_at_random(source.distractors, question, rng)
        for source in _sources(run, "train", run.questions, encoder, progress)
        for question in source.pool.questions
        for _ in range(MOUNTINGS)
    ]
    mountings = [Mounting(one.fits, one.gold) for one in mounted]
    save_phi(refit(start, mountings, run.checkpoint.config.head_dim, options), run.output / PHI)


def blend_phi(checkpoint: Checkpoint, start: str, rest: str, share: float, adapter_share: float, output: Path) -> None:
    """Write phi.safetensors: part of the φ that `start` names, the rest of `rest`; see `blended`.

    Raises as `train_phi`.
    """
    output.mkdir(parents=True, exist_ok=True)
    encoder = MiniLMEncoder()
    phi, other = (_named(name, checkpoint, encoder) for name in (start, rest))
    save_phi(blended(phi, other, share, adapter_share), output / PHI)


def _named(name: str, checkpoint: Checkpoint, encoder: MiniLMEncoder) -> Phi:
    config, fingerprint = checkpoint.config, encoder.model_fingerprint
    phi, _ = load_learned(name, checkpoint, fingerprint)
    return replace(
        phi or zero_phi(config.num_layers, config.num_heads),
        model_fingerprint=checkpoint.fingerprint,
        encoder_fingerprint=fingerprint,
    )


def _sources(run: PhiRun, split: Split, questions: int, encoder: MiniLMEncoder, progress: Progress) -> list[Source]:
    task = progress.add_task(f"reading and embedding the {split} questions", total=len(run.weights))
    sources = []
    for name, weight in run.weights.items():
        pool = load_pool(name, run.data, split, questions=questions, seed=run.options.seed)
        sources.append(Source(pool, Distractors(pool, encoder.embed), weight))
        progress.advance(task)
    return sources


def _taught(
    run: PhiRun, start: Phi, encoder: MiniLMEncoder, sources: list[Source], progress: Progress
) -> dict[Question, str]:
    """What the frozen model replies to questions that come without a reply, and `start` to those of sets followed."""
    followed = {
        question: asked_of(gold_alone(source.distractors, question))
        for source in sources
        if source.pool.dataset in run.followed
        for question in source.pool.questions
    }
    questions = [one for source in sources for one in source.pool.questions if not one.reply and one not in followed]
    task = progress.add_task("asking the model", total=len(questions) + len(followed))

    def advance(asked: int) -> None:
        progress.advance(task, asked)

    async def ask() -> dict[Question, str]:
        subject = Subject.load(run.checkpoint, encoder, None, "none")
        own = await own_replies(subject, questions, run.output / TEACHER, advance)
        return own | await replies_of(subject, start, followed, run.output / FOLLOWED, advance)

    return asyncio.run(ask())


def _trainer(
    run: PhiRun,
    start: Phi,
    prompt: PromptBuilder,
    sources: Mapping[Split, list[Source]],
    taught: Mapping[Question, str],
    progress: Progress,
) -> Trainer:
    config = run.checkpoint.config
    # A GPU multiplies plain matrices in bf16 as well as a CPU that can; nothing else differs.
    device = training_device()
    dtype = torch.bfloat16 if device.type == "cuda" else choose_dtype("auto")
    model = frozen_model(config, run.checkpoint.tensors(), dtype, device)
    bank = FactBank(model, prompt)
    texts = {fact.text for split in sources.values() for source in split for fact in source.pool.facts}
    task = progress.add_task("encoding facts", total=len(texts))
    bank.add(texts, lambda facts: progress.advance(task, facts))
    train, dev = (
        Sampler(
            sources[split],
            prompt,
            config.eos_token_ids[0],
            seed=run.options.seed,
            taught=taught,
            followed=run.followed,
        )
        for split in ("train", "dev")
    )
    units = Units(config.head_dim, bank.magnitude())
    held_out = sum(len(source.pool.questions) for source in sources["dev"])
    options = replace(run.options, validation_size=min(run.options.validation_size, held_out))
    return Trainer(start, units, Objective(model, bank, start), train, dev, options)


def _save(run: PhiRun, trainer: Trainer) -> None:
    trainer.save(run.output / STATE)
    save_phi(trainer.phi, run.output / PHI)
    plot_curve(trainer.curve, run.output / CURVE)
