"""A tiny model whose answers mean nothing, and engines for it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from kan.checkpoint.directory import Checkpoint
from kan.knowledge.phi import gap_phi
from lab.evaluation.subject import Respondent, Subject
from tests.kb.hashing import HashEncoder


@pytest.fixture(scope="module")
def subject(tiny: Checkpoint) -> Subject:
    config = tiny.config
    phi = gap_phi(config.num_layers, config.num_heads, config.head_dim)
    return Subject.load(tiny, HashEncoder(), replace(phi, coefficients=2 * phi.coefficients), "double gap", "float64")


@pytest.fixture
def respondent(subject: Subject, tmp_path: Path) -> Iterator[Respondent]:
    one = Respondent(subject, tmp_path / "pages", max_tokens=6)
    yield one
    asyncio.run(one.aclose())
