"""The constants of the baselines, chosen on the dev split: the same chance as a learned φ has, and no test data."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from lab.evaluation.baselines import kblam_phi, scaled_phi, with_temperature
from lab.evaluation.cells import Outcome
from lab.evaluation.conditions import Tuned, mounted
from lab.evaluation.material import Material
from lab.evaluation.subject import Respondent, Setup, Subject
from lab.questions.mounting import Mounted

KBLAM_CONSTANTS = (0.1, 1.0, 10.0, 100.0, 1000.0)
TEMPERATURES = (0.4, 0.6, 0.8, 1.0)
SCALES = (0.3, 1.0, 3.0)

Tell = Callable[[str], None]


def dev_questions(material: Material, sets: Sequence[str], distractors: Sequence[int], questions: int) -> list[Mounted]:
    """About `questions` dev questions, evenly over the sets and the numbers of distractors (0 decides nothing)."""
    counts = [count for count in distractors if count] or list(distractors)
    each = max(1, questions // (len(sets) * len(counts)))
    chosen = []
    for dataset, (turn, count) in itertools.product(sets, enumerate(counts)):
        found = material.mounted(dataset, "dev", each * len(counts), count)
        chosen += found[turn * each : (turn + 1) * each]
    return chosen


async def tune(subject: Subject, respondent: Respondent, questions: Sequence[Mounted], tell: Tell) -> Tuned:
    """The best of each grid by the share of replies that contain the answer; the first among equals."""

    async def score(name: str, setup: Setup) -> float:
        replies = await respondent.answers(setup, [mounted(one) for one in questions])
        right = [Outcome.of(one.question, reply).right for one, reply in zip(questions, replies, strict=True)]
        tell(f"{name}: {sum(right)} of {len(right)}")
        return sum(right) / len(right)

    kblam = {
        constant: await score(f"kblam C={constant:g}", Setup(subject.model, kblam_phi(subject.model, constant)))
        for constant in KBLAM_CONSTANTS
    }
    scaled = {
        (heat, scale): await score(
            f"scaled T={heat:g} scale={scale:g}",
            Setup(with_temperature(subject.model, heat), scaled_phi(subject.model, scale)),
        )
        for heat, scale in itertools.product(TEMPERATURES, SCALES)
    }
    temperature, scale = max(scaled, key=lambda pair: scaled[pair])
    return Tuned(max(kblam, key=lambda constant: kblam[constant]), temperature, scale)
