"""How far what is mounted moves a long reply."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kan.checkpoint.directory import Checkpoint
from kan.knowledge.phi import zero_phi
from kb.encoder.minilm import MiniLMEncoder
from lab.evaluation import reading
from lab.evaluation.material import Material
from lab.evaluation.statistics import Estimate
from lab.evaluation.subject import Subject
from tests.lab.questions.invented import write_question_files


async def test_gold_alone_is_read_as_it_is_and_distractors_and_bias_move_it(tiny: Checkpoint, tmp_path: Path) -> None:
    subject = Subject.load(tiny, MiniLMEncoder(), None, "none", "float32")
    material = Material(subject.encoder, write_question_files(tmp_path), seed=1)
    mounted = {count: material.mounted("prose", "test", 6, count) for count in (0, 3)}
    zero = zero_phi(tiny.config.num_layers, tiny.config.num_heads)
    strange = replace(zero, coefficients=torch.full_like(zero.coefficients, -3.0))
    told: list[int] = []
    alone, among = await reading.measure(subject, mounted, {"zero": None, "learned": strange}, tmp_path, told.append)
    means = [one.figures["zero"] for one in (alone, among)]
    assert all(isinstance(one, Estimate) and one.n > 0 for one in means)
    assert means[0].mean == pytest.approx(0, abs=1e-5)  # type: ignore[union-attr]
    assert means[1].mean > 1e-4  # type: ignore[union-attr]
    assert alone.figures["learned - zero"].mean > 1e-4  # type: ignore[union-attr]
    assert sum(told) >= 6
