"""Questions longer than the encoder reads: nothing is cut silently."""

from __future__ import annotations

import numpy as np
import pytest

from kb.encoder.minilm import MiniLMEncoder
from server.service.embedding import MAX_WINDOWS, QUESTION_SENTENCES, PackagedTokenizer
from tests.server.support import QUESTION, Service

NOISE = "The weather was fine and the gulls slept on the warm stones of the pier. "


@pytest.mark.parametrize("count", [1, 253, 254, 255, 600, 254 * MAX_WINDOWS])
def test_windows_cover_a_text(count: int) -> None:
    tokenizer = PackagedTokenizer()
    words = [f"w{number}" for number in range(count // 2)] or ["w"]
    text = " ".join(words)
    windows = tokenizer.windows(text)
    assert len(windows) <= MAX_WINDOWS + QUESTION_SENTENCES + 2
    assert max(tokenizer.count(windows)) <= tokenizer.max_tokens
    assert (windows == (text,)) == (tokenizer.count([text])[0] <= tokenizer.max_tokens)
    assert all(window in text for window in windows)
    if tokenizer.count([text])[0] <= 254 * MAX_WINDOWS:
        assert not set(words) - {word for window in windows for word in window.split()}


@pytest.mark.parametrize(
    "text",
    ["x" * 3_000_000, "ü🚋 " * 9_000, "\n" * 9_000, " " * 9_000, "a\n" * 9_000, "Who? " * 9_000, "?" * 90_000],
    ids=["word", "emoji", "lines", "spaces", "short lines", "questions", "marks"],
)
def test_windows_of_strange_texts(text: str) -> None:
    tokenizer = PackagedTokenizer()
    windows = tokenizer.windows(text)
    assert 1 <= len(windows) <= MAX_WINDOWS + QUESTION_SENTENCES + 2
    assert max(tokenizer.count(windows)) <= tokenizer.max_tokens


@pytest.mark.parametrize("place", ["first", "middle", "last", "last line"])
async def test_a_question_is_found_wherever_it_stands(informed: Service, place: str) -> None:
    before, after = {"first": (0, 120), "middle": (60, 60), "last": (120, 0), "last line": (120, 0)}[place]
    between = "\n" if place == "last line" else " "
    text = f"{NOISE * before}{between}{QUESTION}{between}{NOISE * after}".strip()
    hits = (await informed.http.post("/admin/kb/search", json={"query": text, "top_k": 3})).json()["hits"]
    assert hits[0]["fact"]["id"] == "ceo"
    assert hits[0]["score"] > 0.45


async def test_what_fits_is_embedded_as_it_stands(informed: Service, encoder: MiniLMEncoder) -> None:
    questions = [QUESTION, f"{QUESTION} {'amber ' * 180}"]
    windows = await informed.context.embedding.of_questions("me", questions)
    assert [one.texts for one in windows] == [(question,) for question in questions]
    np.testing.assert_allclose(np.concatenate([one.vectors for one in windows]), encoder.embed(questions), atol=1e-6)
