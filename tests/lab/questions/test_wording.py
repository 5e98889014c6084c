"""How questions are put."""

from __future__ import annotations

import random

from lab.questions.question import SPLITS
from lab.questions.wording import choose


def test_test_has_wordings_that_training_has_not() -> None:
    wordings = tuple("abcdefgh")
    seen = {split: {choose(wordings, split, random.Random(n)) for n in range(200)} for split in SPLITS}
    assert seen["train"] == seen["dev"] == set("abcdef")
    assert seen["test"] == set("abcdefgh")
