"""A fast deterministic encoder, and the store opened with it."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from kb.store import Store


class HashEncoder:
    """A pseudo-random unit vector per text; equal texts get equal vectors."""

    fingerprint = "hash-encoder-1"

    def __init__(self, dimension: int = 16) -> None:
        self.dimension = dimension
        self.embedded: list[str] = []

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.embedded.extend(texts)
        rows = np.stack([self._row(text) for text in texts])
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

    def _row(self, text: str) -> NDArray[np.float64]:
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
        return np.random.default_rng(seed).standard_normal(self.dimension)


@pytest.fixture
def encoder() -> HashEncoder:
    return HashEncoder()


@pytest.fixture
def store(tmp_path: Path, encoder: HashEncoder) -> Iterator[Store]:
    with Store.open(tmp_path / "kb", encoder) as opened:
        yield opened


@pytest.fixture(scope="session")
def make_encoder() -> Callable[[], HashEncoder]:
    return HashEncoder


@pytest.fixture(scope="session")
def editor_program() -> Path:
    """The program that edits a store in another process."""
    return Path(__file__).with_name("editor_program.py")


@pytest.fixture(scope="session")
def failing_disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library to preload, under which fsync and fdatasync fail while the file $FAILING_DISK exists."""
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc")
    source = Path(__file__).with_name("failing_disk.c")
    library = tmp_path_factory.mktemp("preload") / "failing_disk.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"], check=True, timeout=60)
    return library
