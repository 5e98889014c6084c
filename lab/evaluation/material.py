"""Questions of each set with what is mounted for them, made once and the same for every condition."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path

from kb.encoder.protocol import Encoder
from lab.questions.mounting import Distractors, Mounted
from lab.questions.question import Pool, Split
from lab.questions.sources import load_pool

SAME_RELATION = frozenset({"synthetic", "factbook"})
"""Sets whose distractors tell the same thing of other entities; elsewhere they are the nearest facts."""


@dataclass(slots=True)
class Material:
    """Held-out pools and their distractors, loaded when first needed."""

    encoder: Encoder
    data: Path | None
    seed: int
    _pools: dict[tuple[str, Split, int], tuple[Pool, Distractors]] = field(default_factory=dict)
    _mounted: dict[tuple[str, Split, int, int, bool], list[Mounted]] = field(default_factory=dict)

    def mounted(
        self, dataset: str, split: Split, questions: int, distractors: int, *, with_gold: bool = True
    ) -> list[Mounted]:
        """The set's first `questions` questions, each with gold (if wanted) and so many distractors."""
        key = (dataset, split, questions, distractors, with_gold)
        if key not in self._mounted:
            pool, index = self.pool(dataset, split, questions)
            rng = random.Random(f"{self.seed} {dataset} {split} {distractors}")
            same = dataset in SAME_RELATION
            self._mounted[key] = [
                index.mount(one, distractors, with_gold=with_gold, same_relation=same, rng=rng)
                for one in pool.questions[:questions]
            ]
        return self._mounted[key]

    def pool(self, dataset: str, split: Split, questions: int) -> tuple[Pool, Distractors]:
        """Raises what `load_pool` raises for a missing directory or file."""
        key = (dataset, split, questions)
        if key not in self._pools:
            pool = load_pool(dataset, self.data, split, questions=questions, seed=self.seed)
            self._pools[key] = (pool, Distractors(pool, self.encoder.embed))
        return self._pools[key]
