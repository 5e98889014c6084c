"""The real encoder."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from kb.encoder.minilm import MiniLMEncoder, packaged_model

SENTENCES = [
    "The chief executive of Zorvex is Mara Lindqvist.",
    "Who runs Zorvex?",
    "Trams of line 4 leave every twelve minutes.",
    "How often does line 4 run?",
    "Ümlauts, 漢字 and 🚋.",
    "x",
    "a much longer sentence that goes on and on " * 40,
]


@pytest.fixture(scope="module")
def minilm() -> MiniLMEncoder:
    return MiniLMEncoder()


@pytest.fixture(scope="module")
def fp32() -> MiniLMEncoder:
    return MiniLMEncoder(dtype=torch.float32)


@pytest.fixture(scope="module")
def reference() -> np.ndarray:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(packaged_model()), device="cpu", local_files_only=True)
    return np.asarray(model.encode(SENTENCES, show_progress_bar=False, normalize_embeddings=True))


def test_fp32_equals_sentence_transformers(fp32: MiniLMEncoder, reference: np.ndarray) -> None:
    found = fp32.embed(SENTENCES)
    assert found.dtype == np.float32
    assert found.shape == (len(SENTENCES), 384)
    np.testing.assert_allclose(found, reference, atol=2e-6)


def test_the_default_arithmetic_is_close(minilm: MiniLMEncoder, reference: np.ndarray) -> None:
    found = minilm.embed(SENTENCES)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    assert ((found * reference).sum(axis=1) > 0.999).all()
    scores, expected = found @ found.T, reference @ reference.T
    assert np.abs(scores - expected).max() < 0.01


def test_questions_find_their_facts(minilm: MiniLMEncoder) -> None:
    ceo, who, tram, often = minilm.embed(SENTENCES[:4])
    assert who @ ceo > who @ tram
    assert often @ tram > often @ ceo


def test_threads_do_not_disturb_each_other(minilm: MiniLMEncoder) -> None:
    alone = [minilm.embed([sentence]) for sentence in SENTENCES]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(minilm.embed, [[sentence] for sentence in SENTENCES] * 4))
    for number, vector in enumerate(together):
        np.testing.assert_allclose(vector, alone[number % len(SENTENCES)], atol=1e-6)


def test_the_fingerprint_tells_models_apart(minilm: MiniLMEncoder, fp32: MiniLMEncoder, tmp_path: Path) -> None:
    assert fp32.fingerprint == MiniLMEncoder(packaged_model(), dtype=torch.float32).fingerprint
    if torch.cpu._is_avx512_bf16_supported():
        assert minilm.fingerprint != fp32.fingerprint
    assert minilm.dimension == 384
    assert minilm.embed([]).shape == (0, 384)
    with pytest.raises(FileNotFoundError, match=r"modules\.json"):
        MiniLMEncoder(tmp_path)
