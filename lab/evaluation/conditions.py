"""The conditions of the main table: how the same mounted facts are given to the same model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from kan.knowledge.fit import Fit
from kan.knowledge.phi import gap_phi
from lab.evaluation.baselines import kblam_phi, oracle_phi, scaled_phi, with_temperature
from lab.evaluation.subject import Ask, Given, Setup, Subject
from lab.questions.mounting import Mounted

CONDITIONS = (
    "none",
    "prompt",
    "zero",
    "ceiling",
    "kblam",
    "scaled",
    "gap",
    "splines",
    "learned",
    "ceiling_phi",
    "oracle",
)
"""Names of all rows."""

View = Callable[[Mounted], Ask]


@dataclass(frozen=True, slots=True)
class Condition:
    """A row of the table: which engine, and what it is asked."""

    name: str
    meaning: str
    setup: Setup
    view: View
    uses_distractors: bool = True
    """False: the same for every number of distractors, so it is measured once."""
    uses_phi: bool = False
    """Whether it depends on the φ under test."""


@dataclass(frozen=True, slots=True)
class Tuned:
    """What the baselines' dev split chose."""

    kblam_constant: float = 100.0
    temperature: float = 1.0
    scale: float = 1.0


def conditions(subject: Subject, tuned: Tuned) -> list[Condition]:
    """All rows, those with the same engine next to each other."""
    config = subject.model.config
    plain = Setup(subject.model, None)
    learned = Setup(subject.model, subject.learned)
    kblam = Setup(subject.model, kblam_phi(subject.model, tuned.kblam_constant))
    scaled = Setup(with_temperature(subject.model, tuned.temperature), scaled_phi(subject.model, tuned.scale))
    oracle = Setup(subject.model, oracle_phi(subject.model))
    gap = Setup(subject.model, gap_phi(config.num_layers, config.num_heads, config.head_dim))
    splines = Setup(subject.model, replace(subject.learned, adapter=None))
    # The built-in φ under test needs no second row, nor does one that has no adapter.
    built_in = gap.phi is not None and gap.phi.digest == subject.learned.digest
    phi = "gap φ" if built_in else "learned φ"
    rows = [
        Condition("none", "no knowledge", plain, bare, uses_distractors=False),
        Condition("prompt", "facts in the prompt", plain, pasted),
        Condition("zero", "pages, φ=0", plain, mounted),
        Condition("ceiling", "gold alone, φ=0", plain, gold_alone, uses_distractors=False),
        Condition("kblam", f"pages, KBLaM C={tuned.kblam_constant:g}", kblam, mounted),
        Condition("scaled", f"pages, T={tuned.temperature:g} scale={tuned.scale:g}", scaled, mounted),
        Condition("gap", "pages, gap φ", gap, mounted),
        Condition("splines", f"pages, {phi}, adapter off", splines, mounted, uses_phi=True),
        Condition("learned", f"pages, {phi}", learned, mounted, uses_phi=True),
        Condition("ceiling_phi", f"gold alone, {phi}", learned, gold_alone, uses_distractors=False, uses_phi=True),
        Condition("oracle", "pages, only gold seen", oracle, gold_seen),
    ]
    double = {*(("gap",) if built_in else ()), *(("splines",) if subject.learned.adapter is None else ())}
    return [row for row in rows if row.name not in double]


def bare(mounted: Mounted) -> Ask:
    return Ask(mounted.question.text)


def mounted(mounted: Mounted) -> Ask:
    return Ask(mounted.question.text, _given(mounted))


def pasted(mounted: Mounted) -> Ask:
    return Ask(mounted.question.text, _given(mounted), mounted=False)


def gold_alone(mounted: Mounted) -> Ask:
    given = _given(mounted)
    return Ask(mounted.question.text, tuple(given[place] for place in mounted.gold))


def gold_seen(mounted: Mounted) -> Ask:
    """Relevance replaced by the truth; the oracle's φ hides what scores less than the best."""
    facts = [Given(text, Fit(1.0 if place in mounted.gold else -1.0)) for place, text in enumerate(mounted.facts)]
    return Ask(mounted.question.text, tuple(facts))


def _given(mounted: Mounted) -> tuple[Given, ...]:
    return tuple(map(Given, mounted.facts, mounted.fits))
