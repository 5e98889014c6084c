"""`knowledge.grounded` and `knowledge.require_grounded`: an answer that no fact supports is not given."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kan.checkpoint.directory import Checkpoint
from kan.knowledge.grounding import Calibration, Grounding, GroundingError
from kan.knowledge.phi import Phi, PhiError, gap_phi, save_phi
from kb.encoder.minilm import MiniLMEncoder
from server.engine.protocol import TokenChunk
from server.loading import load_learned
from server.service.require_grounded import REFUSAL, require_grounded
from tests.server.support import Service, build_services, chat_body, error, events, running

SUPPORTED = "Who is the chief executive of Zorvex?"
FOREIGN = "How do I boil an egg?"
CALIBRATION = Grounding(Calibration((40.0, 0.0, 0.0, 0.0, 0.0), -20.0), Calibration((40.0, 0.0), -20.0))
"""Relevance alone: half at 0.5."""


@pytest.fixture
async def judged(tmp_path: Path, tiny: Checkpoint, encoder: MiniLMEncoder) -> AsyncGenerator[Service, None]:
    services = replace(build_services(tmp_path, tiny, encoder), grounding=CALIBRATION)
    async with running(services, min_score=-1.0, min_best_score=-1.0) as service:
        await service.put(
            ceo="The chief executive of Zorvex is Mara Lindqvist.", fare="A day pass costs twelve crowns."
        )
        yield service


def strict(**fields: Any) -> dict[str, Any]:
    return {"require_grounded": True, **fields}


async def test_every_answer_says_how_well_it_is_grounded(judged: Service) -> None:
    supported = (await judged.chat(SUPPORTED)).json()["knowledge"]
    foreign = (await judged.chat(FOREIGN)).json()["knowledge"]
    assert foreign["grounded"] < 0.1 < 0.9 < supported["grounded"]
    off = (await judged.chat(SUPPORTED, knowledge={"enabled": False})).json()
    assert "knowledge" not in off
    assert (await judged.chat(SUPPORTED, knowledge={"top_k": 0})).json()["knowledge"]["grounded"] == 0


async def test_an_ungrounded_answer_is_refused(judged: Service) -> None:
    plain = (await judged.chat(SUPPORTED)).json()["choices"][0]
    assert (await judged.chat(SUPPORTED, knowledge=strict())).json()["choices"][0] == plain
    body = (await judged.chat(FOREIGN, knowledge=strict())).json()
    (choice,) = body["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == (REFUSAL, "stop")
    assert body["usage"]["completion_tokens"] == 0
    assert [fact["attention"] > 0 for fact in body["knowledge"]["facts"]] == [True, True]
    await judged.engine.audit()


@pytest.mark.parametrize("question", [SUPPORTED, FOREIGN])
async def test_a_stream_says_the_same(judged: Service, question: str) -> None:
    whole = (await judged.chat(question, knowledge=strict(), n=2, seed=1)).json()
    stream = events(await judged.chat(question, knowledge=strict(), n=2, seed=1, stream=True))
    texts = ["", ""]
    for part in stream:
        for choice in part["choices"]:
            texts[choice["index"]] += choice["delta"].get("content") or ""
    assert texts == [choice["message"]["content"] for choice in whole["choices"]]
    last = [part["knowledge"] for part in stream if "knowledge" in part]
    assert [one["grounded"] for one in last] == [whole["knowledge"]["grounded"]]


async def test_with_nothing_mounted_the_model_is_not_asked(judged: Service) -> None:
    before = judged.engine.stats().steps
    body = (await judged.chat(FOREIGN, knowledge=strict(min_score=0.9))).json()
    assert body["choices"][0]["message"]["content"] == REFUSAL
    assert body["knowledge"]["grounded"] == 0
    assert judged.engine.stats().steps == before


async def test_prompts_of_one_request_are_judged_apart(judged: Service) -> None:
    body = {**chat_body(), "prompt": [SUPPORTED, FOREIGN], "knowledge": strict()}
    del body["messages"]
    choices = (await judged.http.post("/v1/completions", json=body)).json()["choices"]
    assert [choice["text"] == REFUSAL for choice in choices] == [False, True]


async def test_without_calibration_it_is_refused_by_name(service: Service) -> None:
    response = await service.chat(knowledge=strict())
    assert response.status_code == 400
    assert error(response)["param"] == "knowledge.require_grounded"


async def test_leaving_early_closes_the_streams_behind() -> None:
    closed = []

    async def chunks() -> AsyncGenerator[tuple[int, TokenChunk], None]:
        try:
            yield 0, TokenChunk("a", (1,), finish_reason="stop", attention=(0.5,))
            yield 1, TokenChunk("b", (1,), finish_reason="stop", attention=(0.5,))
        finally:
            closed.append(True)

    held = require_grounded(chunks(), 1, lambda prompt, shares: 1.0, 0.5)
    assert (await anext(held))[1].text == "a"
    await held.aclose()
    assert closed == [True]


def test_phi_by_its_setting(tmp_path: Path, tiny: Checkpoint) -> None:
    config = tiny.config
    built_in = gap_phi(config.num_layers, config.num_heads, config.head_dim)
    assert load_learned("none", tiny, "encoder") == (None, None)
    for name in ("gap", "auto"):  # nothing is shipped for the tiny model
        phi, grounding = load_learned(name, tiny, "encoder")
        assert phi is not None
        assert phi.digest == built_in.digest
        assert grounding is None

    path = tmp_path / "own.phi.safetensors"
    own = Phi(built_in.coefficients + 1, tiny.fingerprint, "encoder")
    save_phi(own, path)
    assert load_learned(str(path), tiny, "encoder")[1] is None
    calibration = tmp_path / "own.grounding.json"
    replace(CALIBRATION, model_fingerprint=tiny.fingerprint, phi_digest=own.digest).save(calibration)
    phi, grounding = load_learned(str(path), tiny, "encoder")
    assert phi is not None
    assert phi.digest == own.digest
    assert grounding is not None
    assert grounding.attended == CALIBRATION.attended

    with pytest.raises(PhiError, match=r"own\.phi\.safetensors.*another encoder"):
        load_learned(str(path), tiny, "another encoder")
    replace(CALIBRATION, model_fingerprint=tiny.fingerprint, phi_digest="other").save(calibration)
    with pytest.raises(GroundingError, match=r"own\.grounding\.json"):
        load_learned(str(path), tiny, "encoder")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(PhiError, match=r"own\.phi\.safetensors"):
        load_learned(str(path), tiny, "encoder")
